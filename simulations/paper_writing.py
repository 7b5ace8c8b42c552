"""Writes what `lethe paper` found into a folder: tables, the list of extracted points, pictures, JSON."""

import json
from pathlib import Path

from shared.errors import DataError
from shared.files import write_atomically
from simulations.paper_pictures import pictures
from simulations.paper_tables import listing, markdown
from simulations.table1 import Outcome


def ready(folder: Path) -> None:
    """Make the folder if need be, and write to it: better now than after a quarter of an hour.

    Raises:
        DataError: it is no folder, or nothing can be written there.
    """
    probe = folder / ".lethe-paper"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(probe, b"")
        probe.unlink()
    except OSError as error:
        raise DataError(
            f"nothing can be written to {folder} ({error.strerror or error}), expected a folder of one's own; "
            "name another with --out, or change its rights"
        ) from error


def write(outcome: Outcome, folder: Path) -> list[Path]:
    """Write every file and return their paths; files of an earlier run of the same names are replaced."""
    drawn = pictures(outcome)
    texts = {name: svg for name, (svg, _) in drawn.items()}
    texts["paper.json"] = json.dumps(outcome.result, indent=2, ensure_ascii=False) + "\n"
    texts["extracted.md"] = listing(outcome.result["points"])
    texts["paper.md"] = markdown(outcome.result, {name: caption for name, (_, caption) in drawn.items()})
    for name, text in texts.items():
        write_atomically(folder / name, text.encode())
    return [folder / name for name in texts]
