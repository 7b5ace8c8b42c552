"""Do a certificate's figures follow from each other? What its AUCs and counts determine is counted again.

Nobody can see here whether an AUC was measured. But whoever writes one down cannot choose interval, p-value, power,
verdict and words beside it.
"""

from math import isclose
from typing import Any

from server.rule import CONFIRMATION, decide, enough, leaves_open
from server.statement import Audit, Score, Statistics
from server.verdict_words import job_words, statistics_words
from server.verdicts import TITLES
from shared.inference import (
    BINOMIAL,
    MANN_WHITNEY,
    auc_interval,
    auc_p,
    clopper_pearson,
    detectable_auc,
    epsilon_of_errors,
    holm,
)

PRIMARY = "margin"
HALVED = "ulira"  # its halves teach each other the direction and count as one
CROSSED = {HALVED, "rmia"}  # each half is scored by what the other one taught, and its AUC is its own
OF_MARGINS = {PRIMARY, HALVED, "loss"}  # made of nothing else, so that equal margins make them equal
TOLERANCE = 1e-6
RATES = {"tpr_at_1": 0.01, "tpr_at_5": 0.05}
BYTES_ALONE = "All checks of bytes hold; no copies were compared."


def contradictions(audit: Audit, *, method: str, exact: bool) -> list[str]:
    """Return everything in an audit's figures and words that does not follow from the rest; nothing where all does."""
    parts = [("before", audit.before, "nothing", "forgotten", False)]
    parts += [
        ("after", audit.after, method, "forgotten", exact),
        ("retained", audit.retained, method, "retained", exact),
    ]
    parts += [(f"look {number}", one, method, "forgotten", exact) for number, one in enumerate(audit.earlier, start=1)]
    wrong = []
    for name, told, of, group, is_exact in parts:
        if told is not None:
            wrong += [f"{name}: {what}" for what in _of_statistics(told, of, group, exact=is_exact)]
    return wrong + _of_looks(audit, exact=exact) + _of_words(audit, method=method, exact=exact)


def _of_looks(audit: Audit, *, exact: bool) -> list[str]:
    """Look at how many looks there were, and why."""
    if audit.after is None:
        empty = (audit.before, audit.retained) == (None, None) and not audit.earlier and not audit.seeds
        return [] if empty and audit.copies == 0 else ["figures of copies, and none of those that were unlearned"]
    wrong = []
    if audit.before is None:
        wrong.append("what was not unlearned is missing")
    if len(audit.seeds) != len(audit.earlier) + 1 or len(set(audit.seeds)) != len(audit.seeds):
        wrong.append(f"{len(audit.seeds)} seeds for {len(audit.earlier) + 1} looks, expected one each")
    if audit.copies != audit.after.n:
        wrong.append(f"{audit.copies} copies, and figures of {audit.after.n}")
    last = [audit.before, audit.after, audit.retained]
    if len({one.n for one in last if one is not None}) > 1:
        wrong.append("one look with different numbers of copies")
    if audit.before is not None and _asked(audit.before) != _asked(audit.after):
        wrong.append("what was not unlearned is compared on other segments, or with other copies, than what was")
    if audit.earlier and [(one.n * CONFIRMATION, one.verdict) for one in audit.earlier] != [(audit.after.n, "FAIL")]:
        wrong.append(f"a second look without a first that refuted, or not with {CONFIRMATION} times its copies")
    if audit.earlier and not exact:
        wrong.append("a second look at a method that is not exact, which one look refutes")
    return wrong


def _asked(told: Statistics) -> tuple[int, float]:
    """Return what depends on the segments and on the copies that never saw them, which one look has in common."""
    return told.segments, told.certainty


def _of_words(audit: Audit, *, method: str, exact: bool) -> list[str]:
    told = audit.model_dump()
    words = BYTES_ALONE
    if audit.after is not None:
        words = job_words({**told, "method": method, "exact": exact}, unmeasured="")  # type: ignore[typeddict-item]
    return [] if audit.words == words else ["the words are not those of the figures"]


def _of_statistics(told: Statistics, method: str, group: str, *, exact: bool) -> list[str]:
    wrong = []
    if (told.method, told.group) != (method, group):
        wrong.append(f"it is of {told.method!r} on {told.group} segments, expected {method!r} on {group} ones")
    names = [score.name for score in told.scores]
    if sorted(names) != sorted(TITLES) or [one.name for one in told.scores if one.primary] != [PRIMARY]:
        return [*wrong, f"the scores are {', '.join(names) or 'none'}, expected {', '.join(TITLES)}, primary {PRIMARY}"]
    if told.n < 2 or told.segments < 1:
        return [*wrong, f"{told.n} copies on {told.segments} segments, expected 2 and 1 at least"]
    if names[0] != PRIMARY:
        return [*wrong, "the primary score does not come first"]
    for score in told.scores:
        wrong += [f"{score.name}: {what}" for what in _of_score(score, told.n)]
    adjusted = [told.scores[0].p, *holm([score.p for score in told.scores[1:]])]
    wrong += [
        f"{score.name}: p after Holm is {score.p_holm:.3g}, counted again {p:.3g}"
        for score, p in zip(told.scores, adjusted, strict=True)
        if not _near(score.p_holm, p)
    ]
    scores: list[Any] = [score.model_dump() for score in told.scores]
    verdict = decide(scores, told.n, identical=told.identical, exact=exact)
    if told.verdict != verdict:
        wrong.append(f"the figures come to {verdict}, and it says {told.verdict}")
    powers = {
        (detectable_auc(told.n, variance=variance), enough(scores[0], told.n, variance=variance))
        for variance in (MANN_WHITNEY, BINOMIAL)
    }
    is_open = leaves_open(verdict, method, identical=told.identical, exact=exact)
    needs = {(power, copies if is_open else None) for power, copies in powers}
    if not any(_near(told.detectable, power) and told.needed == copies for power, copies in needs):
        wrong.append(f"{told.n} copies have another power than is told")
    if told.identical and any(score.auc != 0.5 for score in told.scores if score.name in OF_MARGINS):
        wrong.append("all answers are alike, and an AUC is not .5")
    if told.words != statistics_words(told.model_dump()):  # type: ignore[arg-type]
        wrong.append("the words are not those of the figures")
    return wrong


def _of_score(score: Score, copies: int) -> list[str]:
    n = copies // 2 if score.name == HALVED else copies
    counted = [_figures(score.auc, n, constant=constant) for constant in (False, True)]
    seen = [score.low90, score.high90, score.low95, score.high95, score.p]
    wrong = [] if any(all(map(_near, seen, one)) for one in counted) else ["interval or p-value is not its AUC's"]
    wrong += [
        f"{name} is no rate of {copies} copies"
        for name, fpr in RATES.items()
        if not _is_rate(getattr(score, name), copies, fpr=fpr)
    ]
    wrong += _of_curve(score, copies) if score.name not in CROSSED else []
    most = float(epsilon_of_errors(0, copies - copies // 2, 0, copies - copies // 2))
    if score.epsilon > most + TOLERANCE:
        wrong.append(f"epsilon is {score.epsilon:.3g}, and {copies} copies show {most:.3g} at most")
    return wrong


def _of_curve(score: Score, copies: int) -> list[str]:
    """Look whether one ROC curve can have this area and pass through these points.

    Of n copies an arm, with at most k false positives and a rate t: those t beat n - k of the others at least, and
    the rest beat n - k - 1 at most and may tie with the k + 1 others.
    """
    pairs, wrong = copies**2, []
    if not _near(score.auc, round(2 * pairs * score.auc) / (2 * pairs)):
        wrong.append(f"no {copies} copies an arm have an AUC of {score.auc:.9g}")
    told = [(getattr(score, name), int(fpr * copies + TOLERANCE)) for name, fpr in RATES.items()]
    points = [(rate.value, k) for rate, k in told if rate is not None]
    for rate, k in points:
        most = rate + (1 - rate) * (copies - (k + 1) / 2) / copies
        if not rate * (copies - k) / copies - TOLERANCE <= score.auc <= most + TOLERANCE:
            wrong.append(f"an AUC of {score.auc:.3g} does not go with {rate:.0%} at {k} false positives")
    if points != sorted(points):
        wrong.append("the rate at 1 % false positives is higher than that at 5 %")
    return wrong


def _figures(auc: float, n: int, *, constant: bool) -> list[float]:
    intervals = [auc_interval(auc, n, confidence=confidence, constant=constant) for confidence in (0.90, 0.95)]
    return [end for interval in intervals for end in interval] + [auc_p(auc, n, constant=constant)]


def _is_rate(rate: Any, n: int, *, fpr: float) -> bool:
    if rate is None or int(fpr * n + TOLERANCE) < 1:
        return (rate is None) == (int(fpr * n + TOLERANCE) < 1)
    hits = round(rate.value * n)
    low, high = clopper_pearson(hits, n)
    return _near(rate.value, hits / n) and _near(rate.low, low) and _near(rate.high, high)


def _near(one: float, other: float) -> bool:
    return isclose(one, other, rel_tol=0, abs_tol=TOLERANCE)
