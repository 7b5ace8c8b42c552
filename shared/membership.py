"""Scores that tell models which saw a patient's segments from models which did not; arrays in, arrays out.

Every score gives one number a copy, over all segments, and higher means "looks more as if it had seen them". A copy is
a model that was trained, and perhaps unlearned, with a seed of its own. Intervals and tests over copies are
`shared/inference.py`'s.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logsumexp, softmax

from shared.audit_messages import Readings

Floats = npt.NDArray[np.float64]
FEW = 64  # with fewer copies an arm the normals of both arms share a variance, as in Carlini et al. 2022
LEAST_SD = 1e-6  # of margins that do not vary, about what float32 resolves


@dataclass(frozen=True)
class Readout:
    """`Readings` as arrays; each (K, N): K copies on N segments.

    Attributes:
        margins: log-odds phi of the true label.
        entropy: modified entropy, nats.
        attacked: margins under FGSM on each copy's own gradient.
        noised: margins under random signs of the same strength.
    """

    margins: Floats
    entropy: Floats
    attacked: Floats
    noised: Floats

    @classmethod
    def of(cls, readings: Readings) -> Self:
        """Return the readings as arrays.

        Raises:
            ValueError: rows of different length.
        """
        parts = (readings.margins, readings.entropy, readings.attacked, readings.noised)
        return cls(*(np.array(part, dtype=np.float64) for part in parts))


@dataclass(frozen=True)
class Arm:
    """K copies of one arm on the segments in question and on public control segments, copies in random order."""

    segments: Readout
    control: Readout


@dataclass(frozen=True)
class Scored:
    """A score of two arms.

    Attributes:
        tried, never: one number a copy, (K,) each.
        crossed: whether each half of the copies was scored with what the other half taught; then the halves may be
            compared within themselves only.
        directed: whether the halves taught each other which way a difference goes. Then both give about the same AUC,
            by chance too, and count as one.
    """

    tried: Floats
    never: Floats
    crossed: bool = False
    directed: bool = False


def margin(tried: Arm, never: Arm) -> Scored:
    """Score a copy by its mean margin phi = z_y - logsumexp of the other logits (Carlini et al. 2022, section VI)."""
    return Scored(tried.segments.margins.mean(axis=1), never.segments.margins.mean(axis=1))


def ulira(tried: Arm, never: Arm) -> Scored:
    """Score a copy by the likelihood ratio of its margins: unlearned against never seen, mean over segments.

    U-LiRA (Hayes et al. 2024, "Inexact unlearning needs more careful evaluations", after Kurmanji et al. 2023) on the
    normal fits of LiRA (Carlini et al. 2022). Cross-fitted: the normals of one half of the copies score the other half,
    and the other way round. Leaving out one copy at a time is no remedy: a copy that is high pulls the rest's fit
    of its own arm down, and the AUC of equal arms comes out below .5.
    The direction of a difference is learnt, so that residual and overshoot both give an AUC above .5.
    """
    return _crossed(tried, never, _likelihood_ratio, directed=True)


def rmia(tried: Arm, never: Arm) -> Scored:
    """Score a copy by RMIA: how often it raises a segment's probability more than a public control segment's.

    Zarifzadeh et al. 2024, equations 2 to 4, offline, gamma = 1: the share of controls z with
    (p(x | copy) / p(x)) / (p(z | copy) / p(z)) >= 1, mean over segments x. Reference models, whose mean probability is
    p(.), are the never-copies of the other half.
    """
    return _crossed(tried, never, _relative, directed=False)


def loss(tried: Arm, never: Arm) -> Scored:
    """Score a copy by minus its mean loss, softplus(-phi) (Yeom et al. 2018); a weak baseline."""
    return Scored(*(-np.logaddexp(0.0, -arm.segments.margins).mean(axis=1) for arm in (tried, never)))


def entropy(tried: Arm, never: Arm) -> Scored:
    """Score a copy by minus its mean modified entropy (Song and Mittal 2021); a weak baseline."""
    return Scored(*(-arm.segments.entropy.mean(axis=1) for arm in (tried, never)))


def fgsm(tried: Arm, never: Arm) -> Scored:
    """Score a copy by what FGSM on its own gradient takes from the margin: clean minus attacked, mean over segments."""
    return Scored(*((arm.segments.margins - arm.segments.attacked).mean(axis=1) for arm in (tried, never)))


def noise(tried: Arm, never: Arm) -> Scored:
    """Score a copy by what random signs of the attack's strength take from the margin; it stands beside `fgsm`."""
    return Scored(*((arm.segments.margins - arm.segments.noised).mean(axis=1) for arm in (tried, never)))


Score = Callable[[Arm, Arm], Scored]
SCORES: dict[str, Score] = {
    "margin": margin,
    "ulira": ulira,
    "rmia": rmia,
    "loss": loss,
    "entropy": entropy,
    "fgsm": fgsm,
    "noise": noise,
}


def modified_entropy(logits: npt.ArrayLike, labels: npt.ArrayLike) -> Floats:
    """Return the modified prediction entropy, (N,), nats: 0 for a sure and right model, unbounded for a wrong one.

    Song and Mittal 2021, equation 8: -(1 - p_y) ln p_y - sum over i != y of p_i ln(1 - p_i). Logarithms are taken from
    logits, so that a probability that rounds to 1 gives no infinity.

    Args:
        logits: (N, C), two or more classes.
        labels: (N, C), 1 at the true class.
    """
    z, truth = np.asarray(logits, dtype=np.float64), np.asarray(labels) > 0.5
    others = np.where(np.eye(z.shape[1], dtype=bool), -np.inf, z[:, None, :])  # row i of (N, C, C) leaves class i out
    total = logsumexp(z, axis=1, keepdims=True)
    log_p, log_rest = z - total, logsumexp(others, axis=2) - total
    p, rest = softmax(z, axis=1), np.exp(log_rest)
    found: Floats = -np.where(truth, rest * log_p, p * log_rest).sum(axis=1)
    return found


_Halved = Callable[[Arm, Arm, Arm], Floats]  # fit on two arms' halves, score a third's: (k,)


def _crossed(tried: Arm, never: Arm, score: _Halved, *, directed: bool) -> Scored:
    """Score each half of the copies with what the other half taught."""
    pairs = list(zip(_halves(tried), _halves(never), strict=True))
    both = [
        (score(*taught, one), score(*taught, other)) for taught, (one, other) in zip(pairs[::-1], pairs, strict=True)
    ]
    first, second = (np.concatenate([arms[place] for arms in both]) for place in (0, 1))
    return Scored(first, second, crossed=True, directed=directed)


def _halves(arm: Arm) -> tuple[Arm, Arm]:
    """Split the copies; the first half is the smaller one when their number is odd."""
    middle = len(arm.segments.margins) // 2

    def part(readout: Readout, rows: slice) -> Readout:
        return Readout(readout.margins[rows], readout.entropy[rows], readout.attacked[rows], readout.noised[rows])

    first, second = (
        Arm(part(arm.segments, rows), part(arm.control, rows)) for rows in (slice(middle), slice(middle, None))
    )
    return first, second


def _likelihood_ratio(tried: Arm, never: Arm, scored: Arm) -> Floats:
    a, b, x = tried.segments.margins, never.segments.margins, scored.segments.margins
    var_a, var_b = a.var(axis=0), b.var(axis=0)
    if len(a) + len(b) < 2 * FEW:
        var_a = var_b = (var_a * len(a) + var_b * len(b)) / max(len(a) + len(b) - 2, 1)
    var_a, var_b = (np.maximum(var, LEAST_SD**2) for var in (var_a, var_b))
    ratio = (x - b.mean(axis=0)) ** 2 / var_b - (x - a.mean(axis=0)) ** 2 / var_a + np.log(var_b / var_a)
    ratios: Floats = 0.5 * ratio.mean(axis=1)
    return ratios


def _relative(_: Arm, never: Arm, scored: Arm) -> Floats:
    gain_x, gain_z = (
        np.log(
            np.maximum(expit(mine), np.finfo(float).tiny) / np.maximum(expit(theirs).mean(axis=0), np.finfo(float).tiny)
        )
        for mine, theirs in (
            (scored.segments.margins, never.segments.margins),
            (scored.control.margins, never.control.margins),
        )
    )
    shares = [np.searchsorted(np.sort(z), x, side="right").mean() / len(z) for x, z in zip(gain_x, gain_z, strict=True)]
    return np.array(shares)
