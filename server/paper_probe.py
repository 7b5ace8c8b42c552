"""The paper's probe, added up: from what devices measured to what is reported; no Flower, no files.

The paper's probe (equations 5 to 8) is added up here as it is written. It reacts to label and patient shift, not
to membership: control patients, whom no model ever saw, stand beside the members in every figure, and no verdict
rests on it.
"""

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import numpy.typing as npt

from shared.messages import GroupMargins

Floats = npt.NDArray[np.float64]
BOOTSTRAP = 2000
LARGEST_SMALL_EPSILON = 0.06  # the share of patients with a positive difference is quoted below this strength


class Group(TypedDict):
    """The paper's probe for one group; lists have one entry an epsilon.

    Attributes:
        patients, segments: how many.
        general, personal: accuracy over all segments (equation 6).
        difference: personal minus general (equation 7), a mean over patients.
        low, high: its 95 % interval, patients resampled.
        positive: share of patients with a positive difference at the largest epsilon under .06.
        extracted: segments that the personal model gets right and the general one wrong at some epsilon, the
            paper's extracted points (equation 8).
    """

    patients: int
    segments: int
    general: list[float | None]
    personal: list[float | None]
    difference: list[float | None]
    low: list[float | None]
    high: list[float | None]
    positive: float | None
    extracted: int


def hits(group: GroupMargins) -> tuple[Floats, Floats]:
    """Return general and personal hits as arrays (E, N)."""
    return np.array(group.general_hits, dtype=float), np.array(group.personal_hits, dtype=float)


def difference(group: GroupMargins) -> list[float | None]:
    """Return the accuracy of the personal minus that of the general model, one entry an epsilon."""
    general, personal = hits(group)
    if general.shape[1] == 0:
        return [None] * len(general)
    return _numbers((personal - general).mean(axis=1))


def summarise(groups: Sequence[GroupMargins], epsilons_sd: Sequence[float], *, seed: int) -> Group:
    """Add up one group over patients; `groups` holds one entry a patient, empty ones are left out.

    The unit of inference is the patient: segments of one patient are no independent draws.
    """
    pairs = [hits(group) for group in groups if group.general_hits and len(group.general_hits[0])]
    if not pairs:
        none: list[float | None] = [None] * len(epsilons_sd)
        empty = {"general": none, "personal": none, "difference": none, "low": none, "high": none}
        return {"patients": 0, "segments": 0, **empty, "positive": None, "extracted": 0}  # type: ignore[typeddict-item]
    general = np.concatenate([pair[0] for pair in pairs], axis=1)
    personal = np.concatenate([pair[1] for pair in pairs], axis=1)
    each = np.array([(pair[1] - pair[0]).mean(axis=1) for pair in pairs])  # (patients, E)
    low, high = _interval(each, seed=seed)
    small = [row for row, epsilon in enumerate(epsilons_sd) if epsilon < LARGEST_SMALL_EPSILON]
    return {
        "patients": len(pairs),
        "segments": general.shape[1],
        "general": _numbers(general.mean(axis=1)),
        "personal": _numbers(personal.mean(axis=1)),
        "difference": _numbers(each.mean(axis=0)),
        "low": _numbers(low),
        "high": _numbers(high),
        "positive": float((each[:, small[-1]] > 0).mean()) if small else None,
        "extracted": int((personal > general).any(axis=0).sum()),
    }


def _interval(each: Floats, *, seed: int) -> tuple[Floats, Floats]:
    """Return the 95 % percentile interval of the mean over patients (rows), each column for itself."""
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, len(each), (BOOTSTRAP, len(each)))
    means = each[drawn].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5], axis=0)
    return low, high


def _numbers(values: Floats) -> list[float | None]:
    return [float(value) for value in values]
