"""Synthetic 12-lead ECG: a moving dipole per beat, seen through a patient's own chest.

A beat is a sum of Gaussian kernels in time, each with a direction in space (x to the left, y to the feet, z to
the back, millivolts). A patient turns, scales and jitters the kernels and has electrodes slightly elsewhere
(Dower's matrix with jitter); a finding adds to the kernels in proportion to its severity. Who has which finding
when, and the files, are `simulations/cohort.py`'s. It is a teaching model: it looks right and proves nothing.
Source: Dower et al. 1980 for the matrix; McSharry et al. 2003 for kernels along the beat.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.settings import LEADS, RECORD_SAMPLES, SAMPLING_HZ

Floats = NDArray[np.float64]

KERNELS = ("P", "Q", "R", "S", "L", "ST", "T1", "T2")  # L: the end of a widened QRS
# seconds from the R peak, width in seconds, then x, y, z in mV
BEAT = np.array(
    [
        [-0.165, 0.022, 0.07, 0.11, -0.015],
        [-0.028, 0.010, -0.11, -0.04, -0.20],
        [0.000, 0.013, 1.05, 0.85, 0.30],
        [0.030, 0.013, -0.20, -0.10, 0.55],
        [0.055, 0.016, 0.00, 0.00, 0.00],
        [0.130, 0.045, 0.03, 0.03, -0.03],
        [0.235, 0.050, 0.17, 0.13, -0.10],
        [0.290, 0.032, 0.17, 0.12, -0.09],
    ]
)
ORDER = ("V1", "V2", "V3", "V4", "V5", "V6", "I", "II")  # measured; the other limb leads follow from I and II
DOWER = np.array(
    [
        [-0.515, 0.157, -0.917],
        [0.044, 0.164, -1.387],
        [0.882, 0.098, -1.277],
        [1.213, 0.127, -0.601],
        [1.125, 0.127, -0.086],
        [0.831, 0.076, 0.230],
        [0.632, -0.235, 0.059],
        [0.235, 1.066, -0.132],
    ]
)
# What a finding of severity 1 adds: x, y, z in mV, then to the width (relative) and to the time (seconds).
FINDINGS: dict[str, dict[str, tuple[float, float, float, float, float]]] = {
    "NORM": {},
    "AMI": {
        "Q": (0.05, 0.00, 0.45, 0.2, 0),
        "R": (-0.35, -0.05, 0.25, 0, 0),
        "ST": (0.00, 0.00, -0.12, 0, 0),
        "T1": (-0.20, -0.02, 0.25, 0, 0),
        "T2": (-0.25, -0.02, 0.30, 0, 0),
    },
    "IMI": {
        "Q": (0.00, -0.45, 0.02, 0.5, 0),
        "R": (0.00, -0.35, 0.00, 0, 0),
        "ST": (0.00, 0.08, 0.00, 0, 0),
        "T1": (0.00, -0.22, 0.00, 0, 0),
        "T2": (0.00, -0.28, 0.00, 0, 0),
    },
    "LMI": {
        "Q": (-0.45, 0.00, 0.00, 0.5, 0),
        "R": (-0.40, 0.00, 0.10, 0, 0),
        "T1": (-0.24, 0.00, 0.00, 0, 0),
        "T2": (-0.28, 0.00, 0.00, 0, 0),
    },
    "ISC_": {
        "ST": (-0.14, -0.11, 0.11, 0, 0),
        "T1": (-0.20, -0.16, 0.11, 0, 0),
        "T2": (-0.22, -0.16, 0.11, 0, 0),
    },
    "NDT": {"T1": (-0.21, -0.16, 0.09, 0, 0), "T2": (-0.23, -0.16, 0.09, 0, 0)},
    "ISCAL": {
        "ST": (-0.18, -0.05, 0.08, 0, 0),
        "T1": (-0.25, -0.05, -0.02, 0, 0),
        "T2": (-0.28, -0.05, -0.03, 0, 0),
    },
    "CRBBB": {
        "S": (0.00, 0.00, -0.12, 0, 0.002),
        "L": (-0.20, 0.02, -0.16, 0.3, 0.004),
        "T1": (0.00, 0.00, 0.08, 0, 0),
        "T2": (0.00, 0.00, 0.10, 0, 0),
    },
    "CLBBB": {
        "Q": (0.14, 0.06, 0.20, 0.3, 0),
        "R": (-0.05, -0.05, 0.14, 0.20, 0.003),
        "L": (0.14, 0.03, 0.10, 0.3, 0.004),
        "ST": (-0.08, -0.03, -0.08, 0, 0),
        "T1": (-0.16, -0.10, -0.11, 0, 0.006),
        "T2": (-0.19, -0.10, -0.12, 0, 0.006),
    },
    "LAFB": {
        "R": (0.02, -0.45, 0.00, 0.1, 0),
        "S": (0.10, -0.26, 0.00, 0.1, 0),
        "L": (0.03, -0.11, 0.02, 0, 0),
    },
    "LVH": {
        "R": (0.85, 0.15, 0.50, 0.15, 0.004),
        "S": (0.05, 0.00, 0.40, 0, 0.003),
        "ST": (-0.06, -0.03, -0.02, 0, 0),
        "T1": (-0.10, -0.04, -0.03, 0, 0),
        "T2": (-0.12, -0.04, -0.04, 0, 0),
    },
    "LAO/LAE": {
        "P": (0.08, 0.04, 0.16, 0.6, -0.010),
        "R": (0.45, 0.10, 0.28, 0.1, 0),
        "S": (0.00, 0.00, 0.25, 0, 0),
    },
    "RVH": {
        "R": (-0.55, 0.00, -0.50, 0, 0),
        "S": (-0.50, 0.00, -0.20, 0.1, 0),
        "T1": (0.00, -0.05, 0.10, 0, 0),
        "T2": (0.00, -0.05, 0.12, 0, 0),
    },
}
REPOLARISATION = np.array([name in ("ST", "T1", "T2") for name in KERNELS])  # stretches with the RR interval


@dataclass(frozen=True)
class Heart:
    """What is a patient's own and stays from record to record."""

    centre: Floats  # (8,) s
    width: Floats  # (8,) s
    vectors: Floats  # (8, 3) mV, before any finding
    chest: Floats  # (8, 3), from the dipole to the measured leads: rotation, gain, electrode positions
    rate: float  # beats a minute at rest


def patient_heart(rng: np.random.Generator) -> Heart:
    """Draw a patient: turned by about 10 degrees, 20 % larger or smaller, every wave a little different."""
    relative = np.exp(rng.normal(0, 0.16, (len(KERNELS), 1)))
    size = np.linalg.norm(BEAT[:, 2:], axis=1, keepdims=True)
    vectors = BEAT[:, 2:] * relative + rng.normal(0, 0.12, (len(KERNELS), 3)) * size
    electrodes = DOWER * (1 + rng.normal(0, 0.08, DOWER.shape)) + rng.normal(0, 0.05, DOWER.shape)
    return Heart(
        centre=BEAT[:, 0] * np.exp(rng.normal(0, 0.06, len(KERNELS))),
        width=BEAT[:, 1] * np.exp(rng.normal(0, 0.08, len(KERNELS))),
        vectors=vectors,
        chest=np.exp(rng.normal(0, 0.2)) * electrodes @ _rotation(rng.normal(0, np.radians(10), 3)),
        rate=float(np.clip(rng.normal(70, 10), 50, 105)),
    )


def counts(heart: Heart, findings: Sequence[tuple[str, float]], rng: np.random.Generator) -> NDArray[np.int16]:
    """Return one record (12, 5000) in microvolts; leads as in `settings.LEADS`.

    Args:
        heart: whose.
        findings: SCP codes of `FINDINGS`, each with a severity (0 nothing, 1 textbook).
        rng: draws the day: heart rate, electrodes put on again, noise.
    """
    centre, width, vectors = heart.centre.copy(), heart.width.copy(), heart.vectors.copy()
    for code, severity in findings:
        for kernel, (x, y, z, wider, later) in FINDINGS[code].items():
            row = KERNELS.index(kernel)
            vectors[row] += severity * np.array([x, y, z])
            width[row] *= 1 + severity * wider
            centre[row] += severity * later
    vectors = vectors * np.exp(rng.normal(0, 0.06, (len(KERNELS), 1)))
    chest = heart.chest * (1 + rng.normal(0, 0.03, DOWER.shape)) + rng.normal(0, 0.02, DOWER.shape)
    breath = rng.uniform(0.18, 0.32)  # Hz
    waves = _waves(centre, width, rate=heart.rate * np.exp(rng.normal(0, 0.08)), breath=breath, rng=rng)
    leads = (chest @ vectors.T).astype(np.float32) @ waves + _noise(rng, breath=breath)
    return _twelve(np.rint(leads * 1000))


def _rotation(angles: Floats) -> Floats:
    """Return the rotation (3, 3) by angles in radians about x, y and z."""
    (a, b, c), (u, v, w) = np.cos(angles), np.sin(angles)
    about_x = np.array([[1, 0, 0], [0, a, -u], [0, u, a]])
    about_y = np.array([[b, 0, v], [0, 1, 0], [-v, 0, b]])
    about_z = np.array([[c, -w, 0], [w, c, 0], [0, 0, 1]])
    rotation: Floats = about_z @ about_y @ about_x
    return rotation


def _waves(
    centre: Floats, width: Floats, *, rate: float, breath: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Return every kernel's course over the record (8, 5000): beats whose distance follows the breath."""
    seconds = RECORD_SAMPLES / SAMPLING_HZ
    usual = 60 / rate
    number = int(seconds / usual * 1.3) + 4
    phase = 2 * np.pi * (breath * usual * np.arange(number) + rng.uniform())
    sinus = np.exp(rng.normal(np.log(0.03), 0.5))
    intervals = usual * (1 + sinus * np.sin(phase) + rng.normal(0, 0.012, number))  # s, of every beat
    peaks = np.cumsum(intervals) - usual * (1 + rng.uniform(0, 1))
    stretch = np.where(REPOLARISATION[:, None], np.sqrt(intervals / 0.85), 1.0)  # Bazett
    heights = 1 + 0.03 * np.sin(phase + 1) + rng.normal(0, 0.015, number)
    time = np.arange(RECORD_SAMPLES, dtype=np.float32) / SAMPLING_HZ
    at = (peaks + centre[:, None] * stretch).astype(np.float32)[:, :, None]
    scale = (1 / (width[:, None] * stretch)).astype(np.float32)[:, :, None]
    beats = np.exp(-0.5 * ((time - at) * scale) ** 2)  # (8, number, 5000)
    waves: NDArray[np.float32] = np.einsum("kbt,b->kt", beats, heights.astype(np.float32))
    return waves


def _noise(rng: np.random.Generator, *, breath: float) -> NDArray[np.float32]:
    """Return what is not the heart, on the eight measured leads (8, 5000), in mV."""
    time = np.arange(RECORD_SAMPLES) / SAMPLING_HZ
    leads = len(ORDER)
    tones = np.array([breath, rng.uniform(0.04, 0.15), rng.uniform(0.3, 0.6)])  # Hz: baseline wander
    drift = np.sin(2 * np.pi * (tones[:, None] * time + rng.uniform(size=(3, 1))))
    total = rng.normal(0, np.exp(rng.normal(np.log(0.03), 0.6)), (leads, 3)) @ drift
    total += rng.normal(0, np.exp(rng.normal(np.log(0.008), 0.4)), (leads, RECORD_SAMPLES))
    if rng.uniform() < 0.3:  # a muscle at work for a while: the differences of white noise are high frequencies
        burst = np.exp(-0.5 * ((time - rng.uniform(0, 10)) / rng.uniform(0.5, 3)) ** 2)
        muscle = np.diff(rng.normal(0, 0.03, (leads, RECORD_SAMPLES + 1)), axis=1)
        total += rng.uniform(0.2, 1, (leads, 1)) * muscle * burst
    if rng.uniform() < 0.3:  # mains
        total += rng.exponential(0.01, (leads, 1)) * np.sin(2 * np.pi * (50 * time + rng.uniform()))
    if rng.uniform() < 0.05:  # an electrode moves
        after = time - rng.uniform(1, 9)
        total[rng.integers(leads)] += rng.normal(0, 0.3) * (after > 0) * np.exp(-np.maximum(after, 0) / 0.8)
    return total.astype(np.float32)


def _twelve(measured: NDArray[np.float32]) -> NDArray[np.int16]:
    """Return all twelve leads from whole counts of the eight measured ones; Einthoven's law holds to rounding."""
    by_name = dict(zip(ORDER, measured.astype(np.int32), strict=True))
    first, second = by_name["I"], by_name["II"]
    by_name["III"] = second - first
    by_name["AVR"] = np.rint(-(first + second) / 2)
    by_name["AVL"] = np.rint(first - second / 2)
    by_name["AVF"] = np.rint(second - first / 2)
    limit = np.iinfo(np.int16).max
    return np.stack([np.clip(by_name[lead], -limit, limit) for lead in LEADS]).astype(np.int16)
