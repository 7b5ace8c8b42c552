"""Where a command's result is to go: tried before anything is computed, minutes or a quarter of an hour earlier."""

from pathlib import Path

from shared.errors import DataError
from shared.files import write_atomically


def try_file(path: Path | None) -> None:
    """See that a file can be written there; it is not touched if it exists. Nothing is asked of None.

    Raises:
        DataError: it cannot, or something else than a file is there.
    """
    if path is None:
        return
    if path.exists() and not path.is_file():
        raise DataError(f"{path} is no file, expected one that may be replaced, or none; name another with --out")
    try_folder(path.parent, path)


def try_folder(folder: Path, wanted: Path) -> None:
    """Write to a folder and clean up.

    Raises:
        DataError: nothing can be written there; names what was `wanted`.
    """
    probe = folder / ".lethe-probe"
    try:
        write_atomically(probe, b"")
        probe.unlink()
    except OSError as error:
        raise DataError(
            f"{wanted} cannot be written ({error.strerror or error}), expected a folder of one's own to put it in; "
            "name another with --out, or make the folder or change its rights"
        ) from error
