"""The verdict of a method over many patients; the unit of inference is a patient, never a copy or a segment."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
import scipy  # its parts come when they are used

from server.comparison import NOTHING, Comparison, auc_of
from server.rule import LEAST_PATIENTS
from server.verdict_words import method_words
from server.verdicts import MethodVerdict, Score, Verdict
from shared.audit_messages import AuditReply
from shared.errors import AuditError
from shared.inference import (
    EQUIVALENT,
    LEVEL,
    Floats,
    Interval,
    auc_interval,
    clustered_interval,
    detectable_auc,
    epsilon_bound,
    holm,
    needed,
    rate,
    tpr_at,
)
from shared.membership import SCORES, Scored

PRIMARY = "ulira"  # traces go up in one patient and down in another: a score that learns the direction adds up


@dataclass(frozen=True)
class _Patient:
    """One patient: scores by name, whether the primary score of a job sees a difference, and how sure models are.

    Attributes:
        identical: whether all copies of both arms answered alike.
    """

    scored: dict[str, Scored]
    copies: int
    refuted: bool
    trace: bool
    certainty: float
    identical: bool


def judge_method(patients: Sequence[AuditReply], method: str, *, group: str = "forgotten", seed: int) -> MethodVerdict:
    """Judge a method by many patients' answers.

    Each patient has an AUC a score; their means are judged, patients resampled. FAIL: the 95 % interval of the mean
    U-LiRA AUC lies above .5, or a secondary score rejects after Holm at half the level: both together
    call 5 % of faultless methods FAIL at most. PASS: its 90 % interval lies below .6, the bound on epsilon
    is 0 and no secondary score rejects at the level. Where every patient's copies are one model, nothing is decided.
    Rates at a false positive rate and epsilon take one copy of each arm and patient, because a patient has one model.

    Args:
        patients: one answer a patient, 2 or more.
        method: an arm.
        group: "forgotten", "retained" or "control".
        seed: of halves, draws and resampling.

    Raises:
        AuditError: an answer cannot be judged, or there are too few.
    """
    if len(patients) < 2:
        raise AuditError(f"{len(patients)} patients' answers for {method!r}, expected 2 or more; audit more patients")
    rng = np.random.default_rng(seed)
    found = [_read(reply, method, group=group, seed=int(rng.integers(2**32))) for reply in patients]
    scores = [_figures(name, [patient.scored[name] for patient in found], rng) for name in SCORES]
    scores.sort(key=lambda score: not score["primary"])
    for score, adjusted in zip(scores[1:], holm([score["p"] for score in scores[1:]]), strict=True):
        score["p_holm"] = adjusted
    spread = _spread([auc_of(patient.scored[PRIMARY]) for patient in found])
    n, identical = len(found), all(patient.identical for patient in found)
    verdict = _decide(scores, n, identical=identical)
    judged: MethodVerdict = {
        "method": method,
        "group": group,
        "unit": "patient",
        "n": n,
        "copies": min(patient.copies for patient in found),
        "identical": identical,
        "refuted": rate(sum(patient.refuted for patient in found), n),
        "traces": rate(sum(patient.trace for patient in found), n),
        "certainty": float(np.median([patient.certainty for patient in found])),
        "scores": scores,
        "detectable": detectable_auc(n, variance=spread),
        "needed": _needed(scores[0], n, spread) if verdict == "INCONCLUSIVE" and not identical else None,
        "verdict": verdict,
        "words": "",
    }
    return {**judged, "words": method_words(judged)}


def _read(reply: AuditReply, method: str, *, group: str, seed: int) -> _Patient:
    tried = Comparison.of(reply, method, group=group, seed=seed)
    kept = Comparison.of(reply, NOTHING, group=group, seed=seed)
    refuted, trace = (
        not primary["low95"] <= 0.5 <= primary["high95"] for primary in (one.primary() for one in (tried, kept))
    )
    return _Patient(tried.scored(), tried.n, refuted, trace, tried.certainty, tried.identical)


def _figures(name: str, scored: Sequence[Scored], rng: np.random.Generator) -> Score:
    each = np.array([auc_of(one) for one in scored])
    directed = name == PRIMARY
    positive, negative = _one_copy_each(scored, rng)
    p = _p(each, one_sided=directed)
    low90, high90 = _interval(each, 0.90, rng)
    low95, high95 = _interval(each, 0.95, rng)
    return {
        "name": name,
        "primary": directed,
        "auc": float(each.mean()),
        "low90": low90,
        "high90": high90,
        "low95": low95,
        "high95": high95,
        "p": p,
        "p_holm": p,
        "tpr_at_1": tpr_at(positive, negative, fpr=0.01),
        "tpr_at_5": tpr_at(positive, negative, fpr=0.05),
        "epsilon": epsilon_bound(positive, negative, both=not directed),
    }


def _one_copy_each(scored: Sequence[Scored], rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Return one copy of each arm a patient, in units of the patient's other copies that never saw the segments.

    Both are measured by the same copies, so that two arms that are alike stay alike. Copies of the second half of a
    crossed score are taken, all scored with the same normals.
    """
    positive, negative = [], []
    for one in scored:
        start = len(one.never) // 2 if one.crossed else 0
        tried, never = one.tried[start:], rng.permutation(one.never[start:])
        rest = never[1:] if len(never) > 1 else never
        scale = max(float(rest.std()), 1e-9)
        positive.append((float(rng.choice(tried)) - rest.mean()) / scale)
        negative.append((never[0] - rest.mean()) / scale)
    return np.array(positive), np.array(negative)


def _interval(each: Floats, confidence: float, rng: np.random.Generator) -> Interval:
    """Return the patient-clustered interval of the mean; patients who all agree get the width of n pairs of models."""
    if np.ptp(each) == 0:
        return auc_interval(float(each[0]), len(each), confidence=confidence)
    return clustered_interval(each, confidence=confidence, rng=rng)


def _p(each: Floats, *, one_sided: bool) -> float:
    """Return the p-value of the mean against .5 by a t-test over patients; of patients who all agree by signs."""
    n, off = len(each), float(each.mean()) - 0.5
    if np.ptp(each) == 0:
        tail = 0.5**n if off else 1.0
        return (tail if off >= 0 else 1.0) if one_sided else min(1.0, 2 * tail)
    value = off / (float(each.std(ddof=1)) / sqrt(n))
    return float(scipy.stats.t.sf(value, n - 1) if one_sided else 2 * scipy.stats.t.sf(abs(value), n - 1))


def _spread(each: Sequence[float]) -> float:
    """Return the variance of a patient's AUC over patients; above 0, because it is divided by."""
    return max(float(np.var(each, ddof=1)), 1e-6)


def _decide(scores: Sequence[Score], n: int, *, identical: bool) -> Verdict:
    primary, *others = scores
    if n < LEAST_PATIENTS or identical:
        return "INCONCLUSIVE"
    if primary["low95"] > 0.5 or any(score["p_holm"] < LEVEL / 2 for score in others):
        return "FAIL"
    near = primary["high90"] <= 0.5 + EQUIVALENT and primary["low90"] >= 0.5 - EQUIVALENT
    quiet = primary["epsilon"] == 0 and all(score["p_holm"] >= LEVEL for score in others)
    return "PASS" if near and quiet else "INCONCLUSIVE"


def _needed(primary: Score, n: int, spread: float) -> int:
    patients = max(LEAST_PATIENTS, needed(primary["auc"], variance=spread))
    return patients if patients > n else 2 * n
