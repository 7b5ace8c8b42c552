"""Word of a withdrawal for one device: the hospital leaves it, a device at work looks at it before every step it takes.

A message reaches a device that is at work only when it has done its work. So a withdrawal appends the ids of the
withdrawn records to a file, and the device that is making something of one of them stops. In the simulation both lie
in one workspace, `notices/<slot>`; a real device is told so by whatever radio it has.

The hospital appends under an exclusive lock, and a device holds a shared one while it decides to put a model in use:
when the word has been left, none is put in use any more that was made without it. Neither waits long for the other, and
word that cannot be left or read holds nothing up: every message names the records anew. Who leaves it is told.
"""

import fcntl
import os
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from shared.errors import ConsentError
from shared.files import flush_folder
from shared.stopping import stopped_by

FOLDER = "notices"  # in a workspace
PATIENCE_S = 1.0  # how long either waits for the other; then it goes on, and looks or leaves word all the same
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
            _wait_for(file.fileno(), fcntl.LOCK_EX)
            if new := sorted(set(records) - self.records()):
                file.truncate(self.path.read_bytes().rfind(b"\n") + 1)  # a line that a killed process left unfinished
                file.write("".join(f"{record}\n" for record in new).encode())
                file.flush()
                os.fsync(file.fileno())
        self._date_to_today()
        flush_folder(self.path.parent)

    def lift(self, records: Iterable[str]) -> None:
        """Take back the word about records that consent is given for again, durable when this returns.

        A line is blanked in its place: what else stands there is never, even for a moment, not there.

        Raises:
            OSError: the file cannot be written.
        """
        if self.path is None or not self.path.exists():
            return
        with self.path.open("rb+") as file:
            _wait_for(file.fileno(), fcntl.LOCK_EX)
            lifted, at = {record.encode() for record in records}, 0
            for line in file.read().splitlines(keepends=True):
                if line.rstrip(b"\n") in lifted:
                    os.pwrite(file.fileno(), b"\n" * len(line), at)
                at += len(line)
            os.fsync(file.fileno())
        self._date_to_today()

    def _date_to_today(self) -> None:
        """Blur the file's time: the minute of a withdrawal would lead to its entry in the ledger."""
        assert self.path is not None
        today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0).timestamp()
        os.utime(self.path, (today, today))

    def records(self) -> frozenset[str]:
        """Return the ids of the withdrawn records, as far as word has come and can be read; a line ends one."""
        with suppress(OSError):
            if self.path is not None:
                return frozenset(self.path.read_bytes().decode(errors="replace").split("\n")[:-1]) - {""}
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
        with ExitStack() as stack:
            with suppress(OSError):  # without a file to lock, or the right to, there is still what can be read
                if self.path is not None:
                    self.path.parent.mkdir(exist_ok=True)
                    file = stack.enter_context(self.path.open("ab"))
                    _wait_for(file.fileno(), fcntl.LOCK_SH)
            self.refuse(used)
            yield


def _wait_for(descriptor: int, lock: int) -> None:
    """Take the lock, or go without it."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, lock | fcntl.LOCK_NB)
            return
        time.sleep(POLL_S)
