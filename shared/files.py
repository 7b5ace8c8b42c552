"""Writing files so that a crash, a kill or a full disk leaves the old content or the new, never half."""

import fcntl
import glob
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}")  # as `tempfile` names them


def write_atomically(path: Path, data: bytes) -> None:
    """Replace `path` by `data`, durable when this returns; the parent folder must exist.

    An OSError names `path`: writing and flushing do not say where, and the rest names a file of a moment.
    """
    try:
        descriptor, temporary = _temporary(path)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
                temporary.replace(path)  # as long as it is locked: `sweep` may be at work
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise
    flush_folder(path.parent)


def is_file(path: Path) -> bool:
    """Return whether there is such a file; a name that no file can have is none."""
    try:
        return path.is_file()
    except OSError:
        return False


def _temporary(path: Path) -> tuple[int, Path]:
    """Make a temporary file beside `path`, locked for as long as its writer lives."""
    while True:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with suppress(OSError):  # a file system without locks: `sweep` gets none either, and leaves it
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return descriptor, Path(name)
        os.close(descriptor)  # swept before it was locked


def sweep(folder: Path, *, spare: Path) -> None:
    """Remove the temporary files that killed processes left in `folder`, but for those below `spare`."""
    for path in folder.rglob(".*"):
        if _TEMPORARY.fullmatch(path.name) and path.is_file() and not path.is_relative_to(spare):
            with _locked(path) as ours:
                if ours:
                    path.unlink(missing_ok=True)


def flush_folder(folder: Path) -> None:
    """Make renames and removals in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def folder_beside(final: Path, *, mode: int = 0o777) -> Iterator[Path]:
    """Give a new hidden folder beside `final`, to be filled and moved there; what is not moved goes with this block.

    It is locked while its process lives. Folders that killed processes left beside the same place go first.
    """
    for left in final.parent.glob(f".{glob.escape(final.name)}.{'[0-9a-f]' * 8}.partial"):
        with _locked(left) as ours:
            if ours:
                shutil.rmtree(left, ignore_errors=True)
    beside = final.parent / f".{final.name}.{os.urandom(4).hex()}.partial"
    try:  # from here on: a signal may come right after the folder is there
        beside.mkdir(mode)
        with _locked(beside):
            yield beside
    finally:
        shutil.rmtree(beside, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Lock a file or folder, and tell whether that was possible: not where a process holds it, or it is gone."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        yield False
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = True
        except OSError:
            ours = False
        yield ours
    finally:
        os.close(descriptor)
