"""Kills the process that it is in, as `kill -9` does, right before one of its steps on the disk of a workspace.

A step is a file that is opened to be written, a rename, a removal, a new folder, or a commit of the registry; word of
how far a run is (`flower/`) does not count. What came before a step is on the disk and what comes after it is not, so
that to go through all steps is to be killed between any two of them.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import sqlalchemy as sa

CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree"}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Steps:
    """Counts the steps of this process inside a folder, from now on to its end.

    Attributes:
        count: steps so far.
    """

    def __init__(self, folder: Path, *, fatal: int = 0, note: Path | None = None) -> None:
        """Begin to count.

        Args:
            folder: steps elsewhere do not count.
            fatal: the number of the step before which the process is killed; 0 for none.
            note: a file outside the folder, into which that step is written.
        """
        self.count, self._folder, self._fatal, self._note = 0, os.fspath(folder), fatal, note
        sys.addaudithook(self._heard)  # Python tells it of every operation before it is carried out
        sa.event.listen(sa.Engine, "commit", lambda _: self._step("commit"))

    def _heard(self, event: str, told: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(told[2], int) and told[2] & WRITES and self._inside(told[0]):
            self._step(f"open {told[0]}")
        elif event in CHANGES and self._inside(told[0]) and not (event == "os.mkdir" and Path(told[0]).exists()):
            self._step(f"{event} {told[0]}")

    def _inside(self, path: object) -> bool:
        if not isinstance(path, str | os.PathLike):
            return False
        name = str(os.fspath(path))
        return name.startswith(self._folder) and not name.startswith(f"{self._folder}/flower/")

    def _step(self, what: str) -> None:
        self.count += 1
        if self.count == self._fatal:
            if self._note is not None:
                self._note.write_text(what.replace(self._folder, ""), encoding="utf-8")
            os.kill(os.getpid(), signal.SIGKILL)
