"""Ctrl-C ends a stream as its own end does: what is open is told, and the exit code is that of success.

A service manager's SIGTERM and a terminal's SIGHUP do the same. A second one interrupts whatever is going on.
"""

import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

from client.stream import Chunk

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopping:
    """Whether somebody has asked the stream to end."""

    def __init__(self) -> None:
        self._asked = self._waiting = False

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """Take signals for that while the block runs; what `nohup` has switched off stays off."""
        numbers = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        before = {number: signal.signal(number, self._hear) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def until(self, chunks: Iterable[Chunk]) -> Iterator[Chunk]:
        """Give chunks on until then; a wait for the next one is cut short."""
        source = iter(chunks)
        while not self._asked:
            try:
                self._waiting = True
                chunk = next(source)
            except (StopIteration, KeyboardInterrupt):
                return
            finally:
                self._waiting = False
            yield chunk

    def _hear(self, _number: int, _frame: FrameType | None) -> None:
        again, self._asked = self._asked, True
        if again or self._waiting:
            raise KeyboardInterrupt
