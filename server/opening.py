"""How SQLite opens the registry's file: to read and write where that can be, else to read what is there."""

import os
from pathlib import Path


def mode(path: Path) -> str:
    """Return the query of the file's URI. A missing file is an error whatever it says, never a new, empty registry.

    SQLite in WAL mode writes beside the file even to read it: locks (`-shm`), and from what others have committed
    since (`-wal`). In a folder where nothing can be written these may be read, if they are there. If there is no log,
    the file is all there is and nobody is writing to it: then, and only then, is it opened as one that cannot change.
    """
    if os.access(path, os.W_OK) and os.access(path.parent, os.W_OK):
        return "mode=rw"
    log = path.with_name(f"{path.name}-wal")
    return "mode=ro" if log.exists() and log.stat().st_size else "mode=ro&immutable=1"
