"""Word of a withdrawal for one device: the hospital leaves it, a device at work looks at it before every step it takes.

A message reaches a device that is at work only when it has done its work. So a withdrawal appends the ids of the
withdrawn records to a file, and the device that is making something of one of them stops. In the simulation both lie
in one workspace, `notices/<slot>`; a real device is told so by whatever radio it has.

The hospital appends under an exclusive lock, and a device holds a shared one while it puts a model in use: when the
word has been left, no model is put in use any more that was made without it.
"""

import fcntl
import os
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from shared.errors import ConsentError
from shared.stopping import stopped_by

FOLDER = "notices"  # in a workspace
PATIENCE_S = 1.0  # how long consent waits for a device that is putting a model in use, and no longer
POLL_S = 0.005


class WithdrawnError(ConsentError):
    """The patient has withdrawn what something was being made of; nothing of it is kept."""


@dataclass(frozen=True)
class Notice:
    """The word left for one device.

    Attributes:
        path: its file, which need not be there; None for a device that nobody leaves word for.
    """

    path: Path | None = None

    def leave(self, records: Iterable[str]) -> None:
        """Add withdrawn records, durable when this returns; those that stand there already stay.

        Raises:
            OSError: the file cannot be written.
        """
        assert self.path is not None
        self.path.parent.mkdir(exist_ok=True)
        with self.path.open("ab") as file:
            _wait_for(file.fileno())
            if new := sorted(set(records) - self.records()):
                # The first line break ends what a process that was killed has left of a line.
                file.write("".join(["\n", *(f"{record}\n" for record in new)]).encode())
                file.flush()
                os.fsync(file.fileno())

    def records(self) -> frozenset[str]:
        """Return the ids of the withdrawn records, as far as the word has come."""
        if self.path is None:
            return frozenset()
        try:
            return frozenset(self.path.read_bytes().decode(errors="replace").split("\n")) - {""}
        except FileNotFoundError:
            return frozenset()

    def refuse(self, used: Collection[str]) -> None:
        """See that no record that is used has been withdrawn.

        Raises:
            WithdrawnError: one has.
        """
        if not self.records().isdisjoint(used):
            raise WithdrawnError("the patient withdrew meanwhile; nothing was made of it")

    @contextmanager
    def heeded(self, used: Collection[str]) -> Iterator[None]:
        """End a training inside the block, within a step, once one of the records that it uses is withdrawn.

        Raises:
            WithdrawnError: one is.
        """
        self.refuse(used)
        with stopped_by(lambda: self.refuse(used)):
            yield

    @contextmanager
    def closed(self, used: Collection[str]) -> Iterator[None]:
        """Let no word in while the block stores what was made of the records; it is for what takes no time.

        Raises:
            WithdrawnError: one of them is withdrawn, and the block is not entered.
        """
        if self.path is None:
            yield
            return
        self.path.parent.mkdir(exist_ok=True)
        with self.path.open("ab") as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_SH)
            self.refuse(used)
            yield


def _wait_for(descriptor: int) -> None:
    """Take the lock, or go without it: consent waits for no device for long."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(POLL_S)
