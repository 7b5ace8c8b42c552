"""PTB-XL's layout on disk -> records with superclasses, patients and folds, and their signals.

Layout: `ptbxl_database.csv`, `scp_statements.csv`, `records500/…` and `records100/…` in WFDB, `SHA256SUMS.txt`
(Wagner et al., Scientific Data 7:154, 2020). The two tables are read by `shared/ptbxl_tables.py`, one signal by
`shared/waveforms.py`, many are kept by `shared/ptbxl_cache.py`; who is trained on what is the caller's.
Nothing is left out without being counted: see `Index.left_out` and `Signals.left_out`.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import ArrayLike, NDArray

from shared.errors import DataError, UsageError
from shared.ptbxl_cache import VERSION as READING
from shared.ptbxl_cache import Source, copies, open_cache
from shared.ptbxl_tables import REASONS, Index, LeftOut, Record, index
from shared.settings import SEGMENT_SAMPLES, Task
from shared.waveforms import BadRecord, files_digest, read_waveform

__all__ = [
    "REASONS",
    "BadRecord",
    "Index",
    "LeftOut",
    "Record",
    "Signals",
    "checksums",
    "for_task",
    "index",
    "listed_files",
    "load",
    "read_signal",
    "record_digest",
    "verify_checksums",
    "without_copies",
]

CHECKSUMS = "SHA256SUMS.txt"


@dataclass(frozen=True)
class Signals:
    """The signals of N records, memory-mapped; row k everywhere is `records[k]`."""

    records: tuple[Record, ...]
    left_out: tuple[LeftOut, ...]
    samples: NDArray[np.int16]  # (N, 12, 5000), counts
    mv_per_count: NDArray[np.float32]  # (N, 12)
    digest: str  # of these records' ids, patients, labels and files: the data's lineage
    unit: str  # "mV", or "NU" for signals that are standardised already

    @property
    def labels(self) -> NDArray[np.float32]:
        """Return the superclasses, multi-hot, (N, 5)."""
        return np.array([record.labels for record in self.records], dtype=np.float32)

    def millivolts(self, row: int) -> NDArray[np.float32]:
        """Return one record's signal (12, 5000) in `unit`."""
        scaled: NDArray[np.float32] = self.samples[row] * self.mv_per_count[row][:, None]
        return scaled

    def crops(self, rows: ArrayLike, starts: ArrayLike) -> NDArray[np.float32]:
        """Return 500 samples of each of `rows` (B,) from each of `starts` (B,) on, in `unit`: (B, 12, 500).

        Raises:
            UsageError: a crop that would not lie within its record.
        """
        rows, starts = np.asarray(rows), np.asarray(starts)
        last = self.samples.shape[2] - SEGMENT_SAMPLES
        if rows.size and (min(starts.min(), rows.min()) < 0 or starts.max() > last):
            raise UsageError(
                f"crops start at {starts.min()} to {starts.max()}, expected 0 to {last}, in row {rows.min()} or later"
            )
        windows = np.lib.stride_tricks.sliding_window_view(self.samples, SEGMENT_SAMPLES, axis=2)
        counts = windows[rows, :, starts]
        scaled: NDArray[np.float32] = np.multiply(counts, self.mv_per_count[rows][:, :, None], dtype=np.float32)
        return scaled


def for_task(records: Iterable[Record], task: Task) -> tuple[tuple[Record, ...], tuple[LeftOut, ...]]:
    """Return the records a task can use, and the others: `single` needs exactly one superclass a record."""
    kept, left_out = [], []
    for record in records:
        if task == "single" and len(record.superclasses) > 1:
            seen = f"record {record.id} has the superclasses {', '.join(record.superclasses)}, expected one"
            left_out.append(LeftOut(record.id, "several superclasses", seen))
        else:
            kept.append(record)
    return tuple(kept), tuple(left_out)


def read_signal(folder: Path, record: Record) -> tuple[NDArray[np.float32], str]:
    """Return a record's signal (12, 5000), leads as in `settings.LEADS`, at 500 Hz, and its unit.

    The unit is "mV" (microvolts and volts are converted), or "NU" for signals that are standardised already.

    Raises:
        BadRecord: the record cannot be used; its `reason` is one of `REASONS`.
    """
    waveform = read_waveform(folder / record.path, hz=record.hz, name=record.id)
    return waveform.millivolts(), waveform.unit


def record_digest(folder: Path, record: Record) -> str:
    """Return the sha256 over the record's header and every signal file that it names."""
    return files_digest(folder / f"{record.path}.hea")


def load(
    records: Index | Sequence[Record],
    *,
    folder: Path,
    cache: Path,
    enrolled: Mapping[str, str] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Signals:
    """Open the signals of exactly these records, reading the files only when they or the list have changed.

    A record whose files are not those that were enrolled is left out, unread; so is a copy of another one's.

    Args:
        records: whose signals; no other record's are in `cache` afterwards.
        folder: the data set.
        cache: a folder for the cache alone.
        enrolled: record id -> the sha256 that its files must have (`record_digest`); None takes what is there.
        progress: told how many records have been read, if any are.

    Raises:
        DataError: none can be used, two carry one id, units differ, or the cache cannot be written.
    """
    asked = records.records if isinstance(records, Index) else tuple(records)
    if len({record.id for record in asked}) < len(asked):
        raise DataError("a record was asked for twice, expected every record once; give each once")
    root = folder.resolve()
    digests: Mapping[str, str | None] = enrolled if enrolled is not None else dict.fromkeys(r.id for r in asked)
    sources = [Source(record.id, record.patient, root / record.path, record.hz, digests[record.id]) for record in asked]
    opened = open_cache(sources, folder=cache, progress=progress)
    used = tuple(asked[row] for row in opened.rows)
    return Signals(
        records=used,
        left_out=tuple(LeftOut(asked[one.row].id, one.reason, one.detail) for one in opened.refused),
        samples=opened.samples,
        mv_per_count=opened.mv_per_count,
        digest=_digest(used, opened.files),
        unit=opened.unit,
    )


def without_copies(
    records: Sequence[Record], digests: Mapping[str, str]
) -> tuple[tuple[Record, ...], tuple[LeftOut, ...]]:
    """Return the records that are no copies, and those that are; `digests` are `record_digest`s by record id.

    A copy would be in a model after its original is withdrawn, and held out while the original is trained on.
    """
    again = copies([(record.id, record.patient, digests[record.id]) for record in records])
    kept = tuple(record for place, record in enumerate(records) if place not in again)
    return kept, tuple(LeftOut(records[place].id, "same recording", why) for place, why in sorted(again.items()))


def _digest(records: Sequence[Record], files: Sequence[str]) -> str:
    """Return the sha256 over everything that a model made of these records depends on, in their order."""
    rows = [
        [record.id, record.patient, record.superclasses, record.hz, sha256]
        for record, sha256 in zip(records, files, strict=True)
    ]
    return hashlib.sha256(json.dumps([READING, rows]).encode()).hexdigest()


def checksums(text: str) -> dict[str, str]:
    """Return file -> sha256 from the text of a SHA256SUMS.txt.

    Raises:
        DataError: a line that is no checksum and name, or a name that leaves the folder.
    """
    found = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        digest, _, name = line.strip().partition(" ")
        name = name.strip().removeprefix("*")
        path = PurePosixPath(name)
        sound = len(digest) == 64 and set(digest.lower()) <= set("0123456789abcdef")
        if not (sound and name and name.isprintable()) or path.is_absolute() or ".." in path.parts or "\\" in name:
            raise DataError(
                f"line {number} of {CHECKSUMS} is {line[:80]!r}, expected a sha256 and a file within the folder; "
                "fetch the list again"
            )
        found[name] = digest.lower()
    return found


def listed_files(folder: Path, *, hz: int | None = None) -> int:
    """Return how many files `verify_checksums` will read."""
    try:
        return len(_listed(folder, hz=hz))
    except (OSError, UnicodeDecodeError):
        return 0


def _listed(folder: Path, *, hz: int | None) -> dict[str, str]:
    """Return file -> sha256 of SHA256SUMS.txt, without the records of the other rate than `hz`."""
    other = f"records{ {500: 100, 100: 500}.get(hz or 0) }/"
    text = (folder / CHECKSUMS).read_text(encoding="utf-8")
    return {name: sha256 for name, sha256 in checksums(text).items() if not name.startswith(other)}


def verify_checksums(
    folder: Path, *, hz: int | None = None, progress: Callable[[int], None] | None = None
) -> list[str]:
    """Return what is wrong with the files that SHA256SUMS.txt lists, a line each; [] when all is well.

    `hz` leaves the other rate's records out; `progress` is told how many files have been read.
    """
    try:
        listed = _listed(folder, hz=hz)
    except (OSError, UnicodeDecodeError) as error:
        return [f"{CHECKSUMS} cannot be read ({type(error).__name__}), expected one line a file"]
    problems = []
    for done, name in enumerate(listed, start=1):
        try:
            with (folder / name).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != listed[name]:
                    problems.append(f"{name} has changed: its sha256 is not the listed one")
        except OSError as error:
            problems.append(f"{name} cannot be read ({error.strerror})")
        if progress is not None:
            progress(done)
    return problems
