"""What a training looks at after every step, set by whoever has a reason to end it; `shared.training.fit` looks."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


def _nothing() -> None: ...


_look: Callable[[], None] = _nothing


@contextmanager
def stopped_by(look: Callable[[], None]) -> Iterator[None]:
    """Have every training inside the block, in whatever thread, call `look` after each step; what it raises ends it.

    There is one for the process, as there is one number of threads: a process trains for one device at a time.
    """
    global _look
    before, _look = _look, look
    try:
        yield
    finally:
        _look = before


def stop_if_asked() -> None:
    """Raise what the training in hand is to end with, if it is; for loops that train."""
    _look()
