"""What samples from anywhere must be, twelve leads, once each, at 500 Hz; and how they are handed on."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from client.stream import Chunk
from shared.errors import StreamError
from shared.settings import LEADS, SAMPLING_HZ

CHUNK = 125  # samples given at once, a quarter of a second
RATE_TOLERANCE = 0.02  # of the sampling rate: a window of a second is that of a second, by so much


def chunks(since: int, samples: npt.NDArray[np.float32]) -> Iterator[Chunk]:
    """Give samples (12, n) on, a quarter of a second at a time."""
    for start in range(0, samples.shape[1], CHUNK):
        yield Chunk(since + start, samples[:, start : start + CHUNK])


def columns(names: Sequence[str], *, of: str) -> list[int]:
    """Return where the leads are among the columns.

    Raises:
        StreamError: one is missing, or is there twice.
    """
    missing = [lead for lead in LEADS if names.count(lead) != 1]
    if missing:
        here = sum(lead in names for lead in LEADS)
        raise StreamError(
            f"{of} has {here} of the leads, expected {len(LEADS)}: {', '.join(missing)} missing or there twice", "leads"
        )
    return [names.index(lead) for lead in LEADS]


def refuse_rate(hz: float, *, of: str) -> None:
    """Refuse another sampling rate.

    Raises:
        StreamError: it is not 500 Hz.
    """
    if abs(hz / SAMPLING_HZ - 1) > RATE_TOLERANCE:
        raise StreamError(f"{of} has {hz:g} samples a second, expected {SAMPLING_HZ}; resample it first", "rate")
