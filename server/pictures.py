"""The one picture of a control patient's ECG that a run's report draws, and when it has to go.

A picture outlives its run, and consent may not. So `figures.npz` keeps which record is drawn, and what was drawn of a
record that is no longer consented to is removed, page and all; the page is built again without it.
"""

import io
from collections.abc import Iterable
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from server.registry import Registry
from shared.files import write_atomically

FIGURES, PAGE = "figures.npz", "report.html"


def withhold(reports: Path, registry: Registry) -> list[Path]:
    """Remove the pictures of records that are no longer consented to, and the pages that show them.

    Returns:
        The folders of the reports whose page has to be built again.
    """
    consented = {row.id for row in registry.records(role="control")}
    changed = [path.parent for path in sorted(reports.glob(f"*/{FIGURES}")) if not _shown(path) <= consented]
    for folder in changed:
        (folder / PAGE).unlink(missing_ok=True)
        write_atomically(folder / FIGURES, packed({}.items()))
    return changed


def _shown(path: Path) -> set[str]:
    """Return the record that a file of figures shows; one that does not say whose shows nobody's that is known."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {str(file["record"]) if "record" in file.files else ""} if file.files else set()
    except (OSError, ValueError, BadZipFile, EOFError):
        return set()  # no picture can be made of it


def packed(arrays: Iterable[tuple[str, npt.NDArray[np.generic]]]) -> bytes:
    """Return arrays as the bytes of an .npz file."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **dict(arrays))
    return buffer.getvalue()
