"""From probabilities of single windows to episodes: a mean over windows, and alarms that do not flicker.

Pure: what is said of each window goes in, what began or ended comes out.
"""

from collections import deque
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from shared.settings import SAMPLING_HZ, SUPERCLASSES, Streaming

Probabilities = npt.NDArray[np.float32]
QUIET = "NORM"  # being healthy is no episode


@dataclass(frozen=True)
class Episode:
    """A stretch in which the averaged probability of a class stayed high.

    Attributes:
        label: the class.
        since, until: numbers of the first and the last sample (exclusive) of the windows in it.
        peak: the highest average.
        windows: how many.
    """

    label: str
    since: int
    until: int
    peak: float
    windows: int = 1


class Smoother:
    """The mean of the last conclusive windows, and which episodes are going on."""

    def __init__(self, settings: Streaming) -> None:
        self._settings = settings
        self._last: deque[tuple[int, Probabilities]] = deque(maxlen=settings.smoothing_windows)
        # Windows that cannot be judged may lie between; a mean of what is older says nothing of now.
        self._reach = round(2 * settings.smoothing_windows * settings.hop_s * SAMPLING_HZ)
        self._doubtful = 0
        self.open: dict[str, Episode] = {}

    def add(self, probabilities: Probabilities, *, since: int, until: int) -> tuple[Probabilities, list[Episode]]:
        """Take in a conclusive window; return the mean, and the episodes that ended. None begins on half a mean."""
        while self._last and self._last[0][0] <= since - self._reach:
            self._last.popleft()
        self._last.append((since, probabilities))
        self._doubtful = 0
        mean: Probabilities = np.stack([one for _, one in self._last]).mean(axis=0)
        whole = len(self._last) == self._settings.smoothing_windows
        ended = []
        for label, value in zip(SUPERCLASSES, map(float, mean), strict=True):
            before = self.open.get(label)
            if before is not None and value >= self._settings.alarm_off:
                peak = max(before.peak, value)
                self.open[label] = replace(before, until=until, peak=peak, windows=before.windows + 1)
            elif before is not None:
                ended.append(self.open.pop(label))
            elif whole and value >= self._settings.alarm_on and label != QUIET:
                self.open[label] = Episode(label, since, until, value)
        return mean, ended

    def doubt(self) -> list[Episode]:
        """Take in a window that cannot be judged; after as many as are averaged nothing is known any more."""
        self._doubtful += 1
        return self.reset() if self._doubtful == self._settings.smoothing_windows else []

    def reset(self) -> list[Episode]:
        """Forget what was, and return the episodes that ended with it."""
        ended = self.ongoing()
        self._last.clear()
        self.open.clear()
        self._doubtful = 0
        return ended

    def ongoing(self) -> list[Episode]:
        """Return the episodes that are going on."""
        return list(self.open.values())
