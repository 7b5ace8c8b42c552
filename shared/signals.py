"""What is done to a signal before a network sees it: checks, smoothing, scaling, segments, spectrum.

Pure functions of NumPy arrays; time runs along the last axis. Reading files is `shared/waveforms.py`'s, and the
same smoothing and scaling inside a network are `shared/model.py`'s.
"""

import numpy as np
from numpy.typing import NDArray

from shared.errors import UsageError
from shared.settings import SAMPLING_HZ, SEGMENT_SAMPLES

FloatArray = NDArray[np.floating]


def odd_window(window_ms: float, *, hz: int = SAMPLING_HZ) -> int:
    """Return the samples of a centred window: `window_ms` rounded to samples, one more when that is even.

    10 ms at 500 Hz are 5 samples, 8 ms (4 samples) are 5 as well, 0 ms is 1: the signal itself.
    """
    return max(1, round(window_ms * hz / 1000)) // 2 * 2 + 1


def blank_leads(signal: FloatArray) -> tuple[int, ...]:
    """Return which of the leads of `signal` (leads, samples) never change, all-zero ones included."""
    return tuple(int(lead) for lead in np.flatnonzero((signal == signal[:, :1]).all(axis=1)))


def moving_average(signals: FloatArray, *, window_ms: float, hz: int = SAMPLING_HZ) -> FloatArray:
    """Return the centred moving average along the last axis, in the shape and type of `signals`.

    Args:
        signals: (..., samples).
        window_ms: rounded to an odd number of samples, see `odd_window`. At the edges the mean is over the
            samples that exist, as in `AvgPool1d(window, 1, window // 2, count_include_pad=False)`.
        hz: samples a second.

    Raises:
        UsageError: the window is negative or longer than the signal.
    """
    samples = signals.shape[-1]
    window = odd_window(window_ms, hz=hz)
    if window_ms < 0 or window > samples:
        raise UsageError(
            f"a moving average over {window_ms:g} ms does not fit into {samples} samples at {hz} Hz; "
            f"choose 0 to {1000 * samples / hz:g} ms"
        )
    sums = np.zeros((*signals.shape[:-1], samples + 1))  # float64: differences of sums must not lose digits
    np.cumsum(signals, axis=-1, dtype=np.float64, out=sums[..., 1:])
    centres = np.arange(samples)
    first = np.maximum(centres - window // 2, 0)
    last = np.minimum(centres + window // 2 + 1, samples)
    means = (sums[..., last] - sums[..., first]) / (last - first)
    smoothed: FloatArray = means.astype(signals.dtype, copy=False)
    return smoothed


def lead_sd(signals: FloatArray) -> NDArray[np.float32]:
    """Return each lead's standard deviation over all signals and samples: (..., 12, samples) -> (12,)."""
    others = (*range(signals.ndim - 2), signals.ndim - 1)
    return np.asarray(np.std(signals, axis=others, dtype=np.float64), dtype=np.float32)


def segments(record: FloatArray) -> FloatArray:
    """Cut a record into one-second segments without copying: (12, 5000) -> (10, 12, 500), a view."""
    leads, samples = record.shape
    if samples % SEGMENT_SAMPLES:
        raise UsageError(f"a record of {samples} samples is no whole number of {SEGMENT_SAMPLES}-sample segments")
    return record.reshape(leads, -1, SEGMENT_SAMPLES).swapaxes(0, 1)


def spectrum(segment: FloatArray, *, hz: int = SAMPLING_HZ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the frequencies (251,) in hertz and the amplitudes (12, 251) of a segment (12, 500).

    An amplitude is that of the sinusoid at this frequency, in the segment's unit: a sine of 1 mV at 20 Hz
    gives 1 at 20 Hz. The constant and the highest frequency have no mirror image and count once.
    """
    samples = segment.shape[-1]
    magnitude = np.asarray(np.abs(np.fft.rfft(segment, axis=-1)), dtype=np.float64) * 2 / samples
    magnitude[..., 0] /= 2
    if samples % 2 == 0:
        magnitude[..., -1] /= 2
    return np.asarray(np.fft.rfftfreq(samples, 1 / hz), dtype=np.float64), magnitude
