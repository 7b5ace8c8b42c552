"""Where a device's signal comes from: in the simulation, a feed that names the WFDB records it will record.

The feed belongs to the simulated world, not to the server; a real device has a sensor in this file's place.
"""

import json
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from shared.errors import DataError
from shared.ptbxl import BadRecord, Record, read_signal, record_digest
from shared.settings import SUPERCLASSES
from shared.signals import segments


@dataclass(frozen=True)
class Recording:
    """One record as the device keeps it.

    Attributes:
        id: the record's id.
        recorded_at: when, ISO 8601, or "".
        segments: (10, 12, 500) float32 millivolts.
        labels: (5,) float32, one a superclass.
    """

    id: str
    recorded_at: str
    segments: npt.NDArray[np.float32]
    labels: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Feed:
    """What a simulated sensor will record, and of whom."""

    folder: Path
    pseudonym: str
    entries: tuple[dict[str, Any], ...]

    @classmethod
    def open(cls, path: Path) -> "Feed":
        """Read a feed file.

        Raises:
            DataError: there is none, or it is damaged.
        """
        try:
            content = json.loads(path.read_text())
            return cls(Path(content["data"]), str(content["pseudonym"]), tuple(map(_entry, content["records"])))
        except (OSError, ValueError, LookupError, TypeError, OverflowError, RecursionError) as error:
            raise DataError(f"no usable feed at {path} ({error!r}); enrol the patient again") from error

    def record(self, wanted: Collection[str]) -> tuple[list[Recording], Counter[str]]:
        """Record what is wanted of the feed; the counter says why records were left out."""
        found: list[Recording] = []
        left_out: Counter[str] = Counter()
        for entry in self.entries:
            if entry["id"] not in wanted:
                continue
            try:
                found.append(self._one(entry))
            except BadRecord as error:
                left_out[error.reason] += 1
        return found, left_out

    def _one(self, entry: dict[str, Any]) -> Recording:
        """Read one record and check that it is the one that was enrolled."""
        folder = Path(entry.get("data", self.folder))  # what came later may lie elsewhere
        record = Record(
            id=entry["id"],
            patient="",
            path=entry["path"],
            superclasses=entry["superclasses"],
            fold=0,
            recorded_at=entry["recorded_at"],
            hz=entry["hz"],
        )
        if record_digest(folder, record) != entry["sha256"]:
            raise DataError(f"record {record.id} has changed since it was enrolled; restore the file or enrol it anew")
        signal, _ = read_signal(folder, record)
        labels = np.array([name in record.superclasses for name in SUPERCLASSES], dtype=np.float32)
        return Recording(record.id, record.recorded_at, segments(signal), labels)


def _entry(told: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a feed says of one record, each part as what it is used as."""
    names = [*("id", "path", "recorded_at", "sha256"), *(["data"] if "data" in told else [])]
    texts = {name: str(told[name]) for name in names}
    return {**texts, "superclasses": tuple(map(str, told["superclasses"])), "hz": int(told["hz"])}
