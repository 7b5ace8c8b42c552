"""Signals that end a process in order: what was begun is cleaned up, and one line is said."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class _Told:
    """Whether a signal has said that this process is to end."""

    to_end = False


def heed() -> None:
    """End now if a signal said so and the exception was lost: NumPy's C code swallows some that are raised under it."""
    if _Told.to_end:
        _Told.to_end = False
        raise KeyboardInterrupt


@contextmanager
def signals_interrupt() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end what runs as Ctrl-C does; what `nohup` has switched off stays off.

    Long work calls `heed` now and then, as every progress bar does.
    """

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        _Told.to_end = True
        raise KeyboardInterrupt

    numbers = [n for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        _Told.to_end = False
        for number, handler in before.items():
            signal.signal(number, handler)
