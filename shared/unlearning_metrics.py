"""How near an unlearned model is to the retrained one: numbers in, numbers out, each from its formula.

Every figure compares with the model that was retrained without the forget set; none has a target that holds without
it. Models, segments and relearning are the caller's.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from scipy.special import rel_entr

from shared.settings import Task

Floats = npt.NDArray[np.float64]


def gaps(unlearned: Mapping[str, float], retrained: Mapping[str, float]) -> dict[str, float]:
    """Return unlearned minus retrained for every group of segments, such as forget, retain, own held-out and others.

    Raises:
        ValueError: the groups are not the same.
    """
    if unlearned.keys() != retrained.keys():
        raise ValueError(f"got groups {sorted(unlearned)}, expected those of the retrained model, {sorted(retrained)}")
    return {group: unlearned[group] - retrained[group] for group in retrained}


def tow(unlearned: Sequence[float], retrained: Sequence[float]) -> float:
    """Return the tug-of-war score: the product of 1 - |accuracy - accuracy of the retrained model|; target 1.

    Zhao et al. 2024, "What makes unlearning hard and what to do about it". The accuracies are those on the forget
    set, the retain set and a test set, from 0 to 1.
    """
    return math.prod(1 - abs(mine - theirs) for mine, theirs in zip(unlearned, retrained, strict=True))


def steps_until(curve: Sequence[float], target: float, *, falling: bool) -> float:
    """Return the first step at which a curve has reached the target, infinity if it never does.

    Args:
        curve: what is measured before any step, after one, after two ...
        target: an accuracy to get to, or a loss.
        falling: whether it is a loss, which gets there from above.
    """
    reached = np.asarray(curve) <= target if falling else np.asarray(curve) >= target
    return float(reached.argmax()) if reached.any() else math.inf


def ain(unlearned: Sequence[float], retrained: Sequence[float], *, original: float, margin: float = 0.05) -> float:
    """Return the anamnesis index: relearn steps of the unlearned model over those of the retrained one; target 1.

    Chundawat et al. 2023, "Zero-shot machine unlearning", section V: a model has relearnt when its accuracy on the
    forget set is within `margin` of the original's, as a share of it. Less than 1: it remembers; more: it resists.

    Args:
        unlearned, retrained: accuracy on the forget set before any step of relearning it, after one, after two ...
        original: accuracy there of the model that had not yet forgotten.
        margin: alpha.
    """
    target = (1 - margin) * original
    return _ratio(*(steps_until(curve, target, falling=False) for curve in (unlearned, retrained)))


def relearn_ratio(unlearned: Sequence[float], retrained: Sequence[float], *, original: float) -> float:
    """Return the same for losses: steps until the forget set's loss is no larger than the original model's; target 1.

    The relearn time of Golatkar et al. 2020 and Tarun et al. 2021, beside that of the retrained model. Where accuracy
    is back at once, as with few segments, losses still tell.
    """
    return _ratio(*(steps_until(curve, original, falling=True) for curve in (unlearned, retrained)))


def jensen_shannon(p: npt.ArrayLike, q: npt.ArrayLike) -> Floats:
    """Return the Jensen-Shannon divergence of rows, bits, (N,): (KL(p || m) + KL(q || m)) / 2 with m = (p + q) / 2.

    Between 0 and 1, and the same either way round.

    Args:
        p, q: (N, C) probabilities that add up to 1.
    """
    one, other = np.asarray(p, dtype=np.float64), np.asarray(q, dtype=np.float64)
    middle = (one + other) / 2
    both = rel_entr(one, middle).sum(axis=1) + rel_entr(other, middle).sum(axis=1)
    divergences: Floats = both / (2 * np.log(2))
    return divergences


def zrf(probabilities: npt.ArrayLike, incompetent: npt.ArrayLike, *, task: Task) -> float:
    """Return the zero-retrain forgetting score: 1 minus the mean divergence from an untrained model, on the forget set.

    Chundawat et al. 2023, "Can bad teaching induce forgetting?", equation 4. Its target is the retrained model's
    score and not 1: who never saw a segment may still know what it shows.

    Args:
        probabilities: (N, 5) of the model, N at least 1.
        incompetent: (N, 5) of the untrained one.
        task: with `multi`, each label is a distribution over yes and no, and the mean is over labels too.
    """
    p, q = np.asarray(probabilities, dtype=np.float64), np.asarray(incompetent, dtype=np.float64)
    if task == "multi":
        p, q = (np.stack([each.ravel(), 1 - each.ravel()], axis=1) for each in (p, q))
    return float(1 - jensen_shannon(p, q).mean())


def privleak(unlearned: float, retrained: float) -> float:
    """Return 100 (AUC - AUC of the retrained model) / AUC of the retrained model, per cent; target 0.

    Shi et al. 2024, "MUSE", on the AUCs with which an attack tells the forget set from segments that were never
    learnt. Above 0 the model knows too much of it, below 0 it was pushed away.
    """
    return 100 * (unlearned - retrained) / retrained


def _ratio(unlearned: float, retrained: float) -> float:
    """Return the quotient; 1 when neither needs a step, and not a number when neither ever gets there."""
    if unlearned == retrained == 0:
        return 1.0
    if math.isinf(unlearned) and math.isinf(retrained):
        return math.nan
    return unlearned / retrained if retrained else math.inf
