"""Samples for the wearable's tests: made up, and written as the sources expect them."""

from collections.abc import Iterable

import numpy as np

from client.sources import generated
from client.stream import Chunk, Samples
from shared.settings import LEADS, SAMPLING_HZ


def signal(seconds: float) -> Samples:
    """A made-up rhythm, (12, samples), in millivolts."""
    return np.concatenate([chunk.samples for chunk in generated(seconds)], axis=1)


def chunked(samples: Samples, *, size: int = 125) -> Iterable[Chunk]:
    return (Chunk(at, samples[:, at : at + size]) for at in range(0, samples.shape[1], size))


def as_table(samples: Samples, *, names: Iterable[str] = LEADS, times: np.ndarray | None = None) -> str:
    """The samples as comma-separated lines under a header."""
    columns = list(names)
    rows = samples[[LEADS.index(name) for name in columns]].T
    if times is not None:
        columns, rows = ["time", *columns], np.column_stack([times, rows])
    lines = [",".join(columns), *(",".join(f"{value:.6g}" for value in row) for row in rows)]
    return "\n".join(lines) + "\n"


def seconds_of(samples: Samples) -> np.ndarray:
    return np.arange(samples.shape[1]) / SAMPLING_HZ
