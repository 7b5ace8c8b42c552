"""What scores of two groups allow one to say: ROC, AUC, intervals, error rates, epsilon, power; arrays in, numbers out.

In all of it a higher score means "looks more as if it had seen the segments"; `positive` are scores of models that
may have seen them, `negative` of models that never did. What the scores are is `shared/membership.py`'s matter, and
what follows from the figures is for the auditor to say.
"""

from collections.abc import Sequence
from math import ceil, sqrt
from typing import Literal, NamedTuple, TypedDict

import numpy as np
import numpy.typing as npt
import scipy  # its parts come when they are used: all of them take as long as a command that needs none

Floats = npt.NDArray[np.float64]
LEVEL = 0.05  # of every test and bound
EQUIVALENT = 0.10  # an AUC this near to .5 counts as no trace
DELTA = 1e-5  # of (epsilon, delta)
POWER = 0.80
BOOTSTRAP = 2000
TINY = 1e-9
MANN_WHITNEY = 1 / 6  # variance of an AUC under the null, times n
BINOMIAL = 1 / 4  # the same when one arm is a single number


class Interval(NamedTuple):
    """Both ends of a confidence interval."""

    low: float
    high: float


class Rate(TypedDict):
    """A share with its 95 % Clopper-Pearson interval."""

    value: float
    low: float
    high: float


def roc(positive: Floats, negative: Floats) -> tuple[Floats, Floats]:
    """Return the ROC curve as false and true positive rates, from (0, 0) to (1, 1); tied scores make one slanted step.

    Args:
        positive, negative: scores, (n,) and (m,).
    """
    cuts = np.unique(np.concatenate([positive, negative]))[::-1]
    false = np.searchsorted(np.sort(-negative), -cuts, side="right") / len(negative)
    true = np.searchsorted(np.sort(-positive), -cuts, side="right") / len(positive)
    return np.concatenate([[0.0], false]), np.concatenate([[0.0], true])


def auc(positive: Floats, negative: Floats) -> float:
    """Return the probability that a positive scores higher than a negative, ties counted by half.

    It is the area under `roc` and the Mann-Whitney statistic over n * m (Hanley and McNeil 1982).
    """
    n, m = len(positive), len(negative)
    ranks = scipy.stats.rankdata(np.concatenate([positive, negative]))
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * m))


def auc_interval(value: float, n: int, *, confidence: float, constant: bool = False) -> Interval:
    """Return a confidence interval of an AUC between two independent arms of n each.

    The score method of Newcombe (2006, Statistics in Medicine 25:559, method 5): the ends are the values whose own
    variance (Hanley and McNeil's) puts the estimate just inside. So it has a width at 0 and at 1, where DeLong's
    and Wald's have none, and it excludes .5 exactly when the Mann-Whitney test rejects. Ties only make the true
    variance smaller: an arm of ties, or two, are given the width of n distinct scores.

    Args:
        value: the AUC.
        n: independent scores an arm.
        confidence: for example .95.
        constant: whether all scores of an arm are one and the same number. Then only the other arm varies, by
            counts below and above it, and the interval is Clopper and Pearson's for a share of n.
    """
    if constant:
        return clopper_pearson(value * n, n, confidence=confidence)
    z = float(scipy.stats.norm.ppf((1 + confidence) / 2))

    def beyond(theta: float) -> float:
        return (value - theta) ** 2 - z**2 * _variance(theta, n)

    root = scipy.optimize.brentq
    low = 0.0 if value <= 0 else float(root(beyond, 0.0, min(value, 1 - TINY)))  # at 1 the variance is 0: no root
    high = 1.0 if value >= 1 else float(root(beyond, max(value, TINY), 1.0))
    return Interval(low, high)


def auc_p(value: float, n: int, *, constant: bool = False) -> float:
    """Return the two-sided p-value of an AUC against .5; below .05 exactly when the 95 % `auc_interval` excludes .5."""
    if constant:
        k = value * n
        below = float(scipy.stats.beta.sf(0.5, k + 1, n - k)) if k < n else 1.0
        above = float(scipy.stats.beta.cdf(0.5, k, n - k + 1)) if k > 0 else 1.0
        return min(1.0, 2 * min(below, above))
    return float(2 * scipy.stats.norm.sf(abs(value - 0.5) / sqrt(_variance(0.5, n))))


def _variance(a: float, n: int) -> float:
    """Return the variance of an estimated AUC whose true value is `a` (Hanley and McNeil 1982)."""
    return a * (1 - a) * (1 + (n - 1) * ((1 - a) / (2 - a) + a / (1 + a))) / n**2


def clopper_pearson(
    k: float, n: int, *, confidence: float = 1 - LEVEL, side: Literal["both", "upper", "lower"] = "both"
) -> Interval:
    """Return the exact interval of a share of k in n; one-sided ones reach to 0 or 1 (Clopper and Pearson 1934)."""
    tail = (1 - confidence) / (2 if side == "both" else 1)
    low = 0.0 if side == "upper" or k <= 0 else float(scipy.stats.beta.ppf(tail, k, n - k + 1))
    high = 1.0 if side == "lower" or k >= n else float(scipy.stats.beta.ppf(1 - tail, k + 1, n - k))
    return Interval(low, high)


def rate(k: int, n: int) -> Rate:
    """Return k of n as a rate with its 95 % Clopper-Pearson interval."""
    low, high = clopper_pearson(k, n)
    return {"value": k / n, "low": low, "high": high}


def tpr_at(positive: Floats, negative: Floats, *, fpr: float) -> Rate | None:
    """Return the share of positives above the lowest threshold that at most a share `fpr` of negatives exceeds.

    None where it cannot be resolved: m negatives know no false positive rate below 1 / m but 0.
    """
    allowed = int(fpr * len(negative) + TINY)
    if allowed < 1:
        return None
    threshold = np.sort(negative)[::-1][allowed]  # scores equal to it do not exceed it
    return rate(int((positive > threshold).sum()), len(positive))


def epsilon_of_errors(false_positives: npt.ArrayLike, negatives: int, misses: npt.ArrayLike, positives: int) -> Floats:
    """Return the lower bound on epsilon that an attack's error counts prove, 0 or more, elementwise.

    max(ln((1 - d - FPR) / FNR), ln((1 - d - FNR) / FPR)) with both rates at their one-sided Clopper-Pearson upper
    limits, each at half the level (Kairouz et al. 2015; Jagielski et al. 2020; d is `DELTA`).
    """
    fpr, fnr = _upper(false_positives, negatives), _upper(misses, positives)
    numerators = np.maximum(np.stack([1 - DELTA - fpr, 1 - DELTA - fnr]), np.finfo(float).tiny)
    bounds: Floats = np.maximum(0.0, np.log(numerators / np.stack([fnr, fpr])).max(axis=0))
    return bounds


def _upper(k: npt.ArrayLike, n: int) -> Floats:
    counts = np.asarray(k, dtype=np.float64)
    limits = scipy.stats.beta.ppf(1 - LEVEL / 2, counts + 1, np.maximum(n - counts, 0.5))
    limit: Floats = np.where(counts >= n, 1.0, limits)
    return limit


def epsilon_bound(positive: Floats, negative: Floats, *, both: bool = True) -> float:
    """Return the lower bound on epsilon, the threshold chosen on the first half of each arm and tried on the second.

    Without the split the best of many thresholds is an alarm by itself.

    Args:
        positive, negative: scores, (n,) and (m,) in random order, two or more each.
        both: whether low scores may give a model away too; the side is chosen with the threshold.
    """
    (p1, p2), (n1, n2) = _halves(positive), _halves(negative)
    candidates = []
    for sign in (1.0, -1.0) if both else (1.0,):
        seen = np.unique(np.concatenate([sign * p1, sign * n1]))
        cuts = (seen[1:] + seen[:-1]) / 2 if len(seen) > 1 else seen  # halfway: the other half is not the same numbers
        wrong = len(n1) - np.searchsorted(np.sort(sign * n1), cuts)
        missed = np.searchsorted(np.sort(sign * p1), cuts)
        fpr, fnr = _upper(wrong, len(n1)), _upper(missed, len(p1))
        gain = np.maximum((1 - fpr) / fnr, (1 - fnr) / fpr)
        candidates.append((float(gain.max()), sign, float(cuts[gain.argmax()])))
    _, sign, cut = max(candidates)
    errors = int((sign * n2 >= cut).sum()), int((sign * p2 < cut).sum())
    return float(epsilon_of_errors(errors[0], len(n2), errors[1], len(p2)))


def _halves(values: Floats) -> tuple[Floats, Floats]:
    return values[: len(values) // 2], values[len(values) // 2 :]


def detectable_auc(n: int, *, variance: float = MANN_WHITNEY) -> float:
    """Return the smallest AUC above .5 that n an arm tell from .5 with 80 % power at the 5 % level, at most 1.

    Args:
        n: how many an arm.
        variance: of the estimate under the null, times n.
    """
    return min(1.0, 0.5 + float(scipy.stats.norm.ppf(1 - LEVEL / 2) + scipy.stats.norm.ppf(POWER)) * sqrt(variance / n))


def needed(value: float, *, variance: float = MANN_WHITNEY) -> int:
    """Return how many an arm would decide, with 80 % power, if the true AUC were `value`.

    Whichever takes fewer: to show that it is not .5 (95 % interval), or that it is within .5 +- .10 (90 % interval,
    two one-sided tests: Schuirmann 1987).

    Args:
        value: the AUC.
        variance: of the estimate, times n.
    """
    off = abs(value - 0.5)
    different = float(scipy.stats.norm.ppf(1 - LEVEL / 2) + scipy.stats.norm.ppf(POWER)) / off if off > TINY else np.inf
    return max(2, ceil(variance * min(different, _equivalent(off)) ** 2))


def _equivalent(off: float) -> float:
    """Return how many times 1 / SE has to be for an AUC `off` from .5 to be shown equivalent with 80 % power."""
    if off >= EQUIVALENT - TINY:
        return float(np.inf)
    norm = scipy.stats.norm
    z = norm.ppf(1 - LEVEL)

    def short(scale: float) -> float:
        return float(norm.cdf((EQUIVALENT - off) * scale - z) + norm.cdf((EQUIVALENT + off) * scale - z) - 1 - POWER)

    return float(scipy.optimize.brentq(short, 1.0, 4 / (EQUIVALENT - off)))


def holm(values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number, in the order given (Holm 1979)."""
    order = np.argsort(values, kind="stable")
    steps = np.array(values, dtype=float)[order] * np.arange(len(values), 0, -1)
    adjusted = np.empty(len(values))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return [float(p) for p in adjusted]


def clustered_interval(each: Floats, *, confidence: float, rng: np.random.Generator) -> Interval:
    """Return an interval of the mean over patients: patients are resampled, never their segments or copies.

    The percentile bootstrap with its percentiles moved outwards (Hesterberg 2015, The American Statistician 69:371,
    "expanded percentile"), which makes up for few patients in part. A 95 % interval of 8 normal figures covers their
    mean 94 times in 100, of 8 skewed ones 82 to 85 times; of 2 or 3 patients it is far too narrow, at about 50 and 75.

    Args:
        each: one figure a patient, (P,), 2 or more.
        confidence: for example .95.
        rng: of the resampling.
    """
    size = len(each)
    means = each[rng.integers(0, size, (BOOTSTRAP, size))].mean(axis=1)
    return _expanded(means, size, confidence)


def ratio_interval(
    counted: Floats, asked: Floats, *, confidence: float = 1 - LEVEL, rng: np.random.Generator
) -> Interval:
    """Return an interval of sum(counted) / sum(asked), as a precision is: patients are resampled, as above.

    Args:
        counted, asked: one count a patient, (P,), 2 or more, `asked` not all 0.
        confidence: for example .95.
        rng: of the resampling; draws in which nothing was asked are left out.
    """
    size = len(asked)
    drawn = rng.integers(0, size, (BOOTSTRAP, size))
    above, below = counted[drawn].sum(axis=1), asked[drawn].sum(axis=1)
    return _expanded(above[below > 0] / below[below > 0], size, confidence)


def crossed_interval(values: Floats, *, confidence: float = 1 - LEVEL, rng: np.random.Generator) -> Interval:
    """Return an interval of the mean where each of P models was asked about the same T people: both are resampled.

    The pigeonhole bootstrap (Owen 2007, Annals of Applied Statistics 1:386), with expanded percentiles as above; it
    is never too narrow, and rather too wide.

    Args:
        values: (P, T), T of 2 or more.
        confidence: for example .95.
        rng: of the resampling.
    """
    weights = [rng.multinomial(size, np.full(size, 1 / size), BOOTSTRAP) / size for size in values.shape]
    means = ((weights[0] @ values) * weights[1]).sum(axis=1)
    smaller = min(size for size in values.shape if size > 1)
    return _expanded(means, smaller, confidence)


def _expanded(estimates: Floats, size: int, confidence: float) -> Interval:
    """Return the percentile interval of bootstrapped estimates, as wide as a t-interval of `size` clusters is."""
    tail = float(scipy.stats.norm.cdf(sqrt(size / (size - 1)) * scipy.stats.t.ppf((1 - confidence) / 2, size - 1)))
    low, high = np.quantile(estimates, [tail, 1 - tail])
    return Interval(float(low), float(high))


def t_interval(each: Sequence[float], *, confidence: float) -> Interval:
    """Return Student's interval of the mean of independent figures, 2 or more, such as one a seed."""
    factor = float(scipy.stats.t.ppf((1 + confidence) / 2, len(each) - 1))
    margin = factor * float(np.std(each, ddof=1)) / sqrt(len(each))
    return Interval(float(np.mean(each)) - margin, float(np.mean(each)) + margin)
