"""Which of the hospital's own files hold public patients' records, by what each file says that it was made of."""

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from server.versions import RECORDS
from server.workspace import Workspace
from shared.ptbxl_cache import names_in


@dataclass(frozen=True)
class Held:
    """A folder or file that is made of records.

    Attributes:
        path: where.
        kind: a general model's package, the corpus's signals, or a network on its way.
        records: of which; None where it does not say, because it is damaged or was not written to the end.
    """

    path: Path
    kind: Literal["model", "signals", "slice"]
    records: tuple[str, ...] | None

    def holds(self, records: Collection[str]) -> bool:
        """Return whether it may have been made of one of the records."""
        return self.records is None or not set(self.records).isdisjoint(records)

    @property
    def files(self) -> dict[Path, int]:
        """Return how many bytes each of its files has."""
        files = sorted(self.path.iterdir()) if self.path.is_dir() else [self.path]
        return {file: file.stat().st_size for file in files}


def public_files(workspace: Workspace) -> Iterator[Held]:
    """Give everything in a workspace that is made of corpus or control patients' records."""
    for folder in sorted(workspace.models.iterdir()):
        yield Held(folder, "model", _names(folder / RECORDS))
    for path in sorted([*workspace.cache.glob("*.samples"), *workspace.cache.glob("*.part")]):
        yield Held(path, "signals", names_in(path))
    for path in sorted(set(workspace.slices.glob("*")) - set(workspace.slices.glob("*.json"))):
        yield Held(path, "slice", _names(path.with_suffix(".json")))


def _names(path: Path) -> tuple[str, ...] | None:
    """Return the records that a file names: a list, or one under "records"; None where it cannot be read."""
    try:
        found = json.loads(path.read_text())
        return tuple(map(str, found["records"] if isinstance(found, dict) else found))
    except (OSError, ValueError, KeyError, TypeError):
        return None
