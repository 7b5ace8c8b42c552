"""Writes what `lethe paper` found into a folder: tables, the list of extracted points, pictures, JSON."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from shared.files import write_atomically
from simulations.outlet import try_folder
from simulations.paper_pictures import pictures
from simulations.paper_tables import listing, markdown
from simulations.table1 import Outcome


@contextmanager
def ready(folder: Path) -> Iterator[None]:
    """Make the folder if need be, and write to it: better now than after a quarter of an hour.

    Folders that were made for it go again where the block within ends without a file in them, as where it is refused.

    Raises:
        DataError: it is no folder, or nothing can be written there.
    """
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        with suppress(OSError):  # what is wrong with it, writing tells
            folder.mkdir(parents=True, exist_ok=True)
        try_folder(folder, folder)
        yield
    finally:
        with suppress(OSError):  # something is in it
            for place in missing:
                place.rmdir()


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
