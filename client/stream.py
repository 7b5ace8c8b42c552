"""Samples as they come, and the windows that are cut from them: a ring buffer, a hop, gaps that no window spans.

Where samples come from is `client/sources.py`'s. Samples are (12, n) float32 in millivolts at 500 Hz, leads as in
`settings.LEADS`; NaN is a sample that is missing.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shared.errors import StreamError
from shared.settings import LEADS, SAMPLING_HZ, SEGMENT_SAMPLES

Samples = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Chunk:
    """Samples that came at once.

    Attributes:
        at: number of the first one since the stream began; one that was skipped is a gap.
        samples: (12, n); n is 0 where nothing came for a while.
    """

    at: int
    samples: Samples


@dataclass(frozen=True)
class Window:
    """One window to judge: (12, 500), whose first sample is number `at`. The samples are the buffer's: copy to keep."""

    at: int
    samples: Samples


@dataclass(frozen=True)
class Gap:
    """Samples that never came: from number `since` up to `until`; equal where it is not known how many."""

    since: int
    until: int


class Cutter:
    """Cuts windows from chunks; each begins `hop` samples after the one before."""

    def __init__(self, *, hop: int) -> None:
        self._hop = hop
        self._ring = np.zeros((len(LEADS), 2 * SEGMENT_SAMPLES), dtype=np.float32)  # every sample twice, 500 apart
        self._next = 0  # number of the sample that is expected
        self._begin = 0  # where the stretch without a gap began
        self._stalled = False

    def cut(self, chunk: Chunk) -> Iterator[Window | Gap]:
        """Return what the chunk completes, in order.

        Raises:
            StreamError: a chunk of another shape than (12, n), or of samples that have come already.
        """
        if chunk.samples.ndim != 2 or len(chunk.samples) != len(LEADS):
            raise StreamError(f"samples of shape {chunk.samples.shape} came, expected ({len(LEADS)}, n)", "leads")
        if chunk.at < self._next:
            raise StreamError(f"sample {chunk.at} came again, expected {self._next} or later", "format")
        silent = chunk.samples.shape[1] == 0
        if chunk.at != self._next or (silent and not self._stalled):
            yield Gap(self._next, chunk.at)
            self._next = self._begin = chunk.at
        self._stalled = silent
        done, count = 0, chunk.samples.shape[1]
        while done < count:
            step = min(count - done, self._due() - self._next, SEGMENT_SAMPLES)
            self._write(chunk.samples[:, done : done + step])
            done += step
            if self._next == self._due(passed=True):
                yield Window(self._next - SEGMENT_SAMPLES, self._latest())

    def _due(self, *, passed: bool = False) -> int:
        """Return the number of the sample before which the next window ends; `passed`: or the one that ends now."""
        filled = self._next - self._begin - SEGMENT_SAMPLES
        if filled < 0:
            return self._begin + SEGMENT_SAMPLES
        steps = filled // self._hop + (0 if passed else 1)
        return self._begin + SEGMENT_SAMPLES + steps * self._hop

    def _write(self, samples: Samples) -> None:
        count, place = samples.shape[1], self._next % SEGMENT_SAMPLES
        first = min(count, SEGMENT_SAMPLES - place)
        for start in (place, place + SEGMENT_SAMPLES):
            self._ring[:, start : start + first] = samples[:, :first]
        for start in (0, SEGMENT_SAMPLES):
            self._ring[:, start : start + count - first] = samples[:, first:]
        self._next += count

    def _latest(self) -> Samples:
        place = self._next % SEGMENT_SAMPLES
        return self._ring[:, place : place + SEGMENT_SAMPLES]


def paced(
    chunks: Iterable[Chunk],
    *,
    speed: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Chunk]:
    """Give each chunk when its last sample would have come, `speed` times as fast as real time."""
    began = clock()
    for chunk in chunks:
        due = began + (chunk.at + chunk.samples.shape[1]) / SAMPLING_HZ / speed
        if (wait := due - clock()) > 0:
            sleep(wait)
        yield chunk
