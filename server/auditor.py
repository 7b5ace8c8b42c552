"""From what a device's copies said, and what is on its disk, to a verdict; pure functions, no Flower, no files.

Two levels, never mixed. Of a job the unit is a copy: here. Of a method the unit is a patient: `judge_method`.
For an exact method the bytes decide and the statistics may only refute; an approximate one needs them to pass.
"""

from collections.abc import Collection, Sequence
from typing import Literal

from server.comparison import NOTHING, Comparison, has
from server.method_audit import judge_method
from server.verdict_words import job_words, statistics_words
from server.verdicts import Bytes, Check, JobVerdict, Look, MethodVerdict, Score, Statistics, Verdict
from shared.audit_messages import AuditReply, VerifyReply
from shared.errors import AuditError
from shared.inference import EQUIVALENT, LEVEL, detectable_auc, needed
from shared.messages import UnlearnReply

__all__ = [
    "Bytes",
    "Check",
    "JobVerdict",
    "Look",
    "MethodVerdict",
    "Score",
    "Statistics",
    "Verdict",
    "bytes_of",
    "choose",
    "judge_job",
    "judge_method",
    "look",
    "statistics",
    "wants_confirmation",
]

LEAST_COPIES = 8  # fewer an arm decide nothing: the normal approximation of Mann-Whitney's test is too keen below
ANSWER = "answer of the device"
FRESH = "the bytes of a fresh copy"
GENERAL = "the general model's bytes"
CONFIRMATION = 4  # times the copies, for the second look at an exact method that the first one refutes


def statistics(
    reply: AuditReply, method: str, *, group: str = "forgotten", exact: bool = False, seed: int
) -> Statistics:
    """Compare a method's copies with copies that never saw the segments.

    PASS: the 90 % interval of the primary AUC lies within .5 +- .10 and the lower bound on epsilon is 0. FAIL: its
    95 % interval excludes .5, on either side, or, unless the method is exact, a secondary score rejects after Holm:
    of an exact method, whose copies are what they are compared with, a twentieth are refuted by chance and no more.

    Args:
        reply: a device's answer.
        method: an arm; "nothing" shows what there was to forget.
        group: "forgotten", "retained" or "control".
        exact: whether the method is.
        seed: of the halves that cross-fitted scores are made of.

    Raises:
        AuditError: the answer cannot be judged.
    """
    compared = Comparison.of(reply, method, group=group, seed=seed)
    scores = compared.scores()
    verdict = _decide(scores, compared.n, exact=exact)
    found: Statistics = {
        "method": method,
        "group": group,
        "unit": "copy",
        "n": compared.n,
        "segments": compared.never.segments.margins.shape[1],
        "identical": compared.identical,
        "certainty": compared.certainty,
        "unlearned": compared.tried.segments.margins.mean(axis=1).tolist(),
        "never": compared.never.segments.margins.mean(axis=1).tolist(),
        "scores": scores,
        "detectable": detectable_auc(compared.n, variance=compared.variance),
        "needed": _needed(scores[0], compared) if verdict == "INCONCLUSIVE" else None,
        "verdict": verdict,
        "words": "",
    }
    return {**found, "words": statistics_words(found)}


def _decide(scores: Sequence[Score], n: int, *, exact: bool) -> Verdict:
    primary, *others = scores
    if n < LEAST_COPIES:
        return "INCONCLUSIVE"
    if not primary["low95"] <= 0.5 <= primary["high95"]:
        return "FAIL"
    if not exact and any(score["p_holm"] < LEVEL for score in others):
        return "FAIL"
    near = primary["low90"] >= 0.5 - EQUIVALENT and primary["high90"] <= 0.5 + EQUIVALENT
    return "PASS" if near and primary["epsilon"] == 0 else "INCONCLUSIVE"


def _needed(primary: Score, compared: Comparison) -> int:
    """Return how many copies an arm would decide; more than there are."""
    copies = max(LEAST_COPIES, needed(primary["auc"], variance=compared.variance))
    return copies if copies > compared.n else CONFIRMATION * compared.n  # near .5, and epsilon's bound is not 0


def choose(reply: AuditReply | None, ladder: Sequence[str], exact: Collection[str], *, seed: int) -> str:
    """Return the rung to serve: the first approximate one that passes, else the first exact one.

    An audit that was refused, is missing or cannot be judged lets nothing pass and does not hold up erasure.

    Args:
        reply: the device's answer, None when it was silent.
        ladder: methods, weakest first; where no exact one is among them, "exact" ends it.
        exact: the methods that are.
        seed: as for `statistics`.
    """
    for method in ladder:
        if method in exact or (reply is not None and _passes(reply, method, seed=seed)):
            return method
    return "exact"


def _passes(reply: AuditReply, method: str, *, seed: int) -> bool:
    try:
        return statistics(reply, method, seed=seed)["verdict"] == "PASS"
    except AuditError:
        return False


def wants_confirmation(looks: Sequence[Look], *, exact: bool) -> bool:
    """Return whether one look refutes an exact method, so that `CONFIRMATION` times the copies should look again."""
    return exact and len(looks) == 1 and looks[0]["after"]["verdict"] == "FAIL"


def bytes_of(
    scope: Literal["patient", "records"],
    withdrawn: Collection[str],
    acknowledgement: UnlearnReply,
    verified: VerifyReply | None,
    *,
    general: str,
    lineage_clean: bool,
    exact: bool,
    remade: bool,
    weights: str | None = None,
) -> Bytes:
    """Compare what is on a device's disk with what it acknowledged and with what it would have been.

    Args:
        scope: of the job.
        withdrawn: ids of the records that are to be gone.
        acknowledgement: the answer to `train.unlearn`.
        verified: the answer to `query.verify`, None when there was none.
        general: digest of the general model that the copy was made of.
        lineage_clean: whether that model's lineage has none of the withdrawn records.
        exact: whether the served model claims to be what it would have been, or to be the general one.
        remade: whether it claims to be made of what is kept.
        weights: digest of the served weights as the server computed it, in white-box runs.

    Raises:
        AuditError: an answer is another job's or device's.
    """
    if verified is None or verified.status != "ok" or acknowledgement.status != "ok":
        silent = "nothing" if verified is None else (verified.reason or acknowledgement.reason or "a refusal")
        return {"holds": False, "checks": [_check(ANSWER, "what is on the disk", silent, holds=False)]}
    if (verified.job, verified.slot) != (acknowledgement.job, acknowledgement.slot):
        raise AuditError(
            f"what is on the disk was told by device {verified.slot} for job {verified.job!r}, "
            f"expected device {acknowledgement.slot} and job {acknowledgement.job!r}; it is not used"
        )
    left = sorted(verified.records if scope == "patient" else set(withdrawn) & set(verified.records))
    checks = [
        _equal("model as acknowledged", acknowledgement.after, verified.served),
        _equal("ONNX file as acknowledged", acknowledgement.bundle, verified.bundle),
        _check("withdrawn records", "none", ", ".join(left) or "none", holds=not left),
        _check("leftover files", "none", ", ".join(verified.leftovers) or "none", holds=not verified.leftovers),
    ]
    if weights is not None:
        checks.append(_equal("weights as the server sees them", verified.served, weights))
    if exact:
        checks += _exact_checks(verified, general=general, lineage_clean=lineage_clean, remade=remade)
    return {"holds": all(check["holds"] for check in checks), "checks": checks}


def _exact_checks(verified: VerifyReply, *, general: str, lineage_clean: bool, remade: bool) -> list[Check]:
    """Return what makes a served model what it would have been; no model holds nothing."""
    lineage = "no withdrawn record" if lineage_clean else "a withdrawn record"
    checks = [_check("lineage of the general model", "no withdrawn record", lineage, holds=lineage_clean)]
    if not verified.served:
        return [*checks, _check("model in use", "none, or what it would have been", "none", holds=True)]
    if not remade:
        return [*checks, _equal(GENERAL, general, verified.served)]
    return [
        *checks,
        _equal("general model it starts from", general, verified.general),
        _equal(FRESH, verified.fresh, verified.served),
    ]


def _equal(name: str, expected: str, seen: str) -> Check:
    return _check(name, expected or "none", seen or "none", holds=expected == seen)


def _check(name: str, expected: str, seen: str, *, holds: bool) -> Check:
    return {"name": name, "expected": expected, "seen": seen, "holds": holds}


def look(reply: AuditReply, method: str, *, exact: bool, seed: int) -> Look:
    """Return what a device's copies say of the method that is to be served.

    Raises:
        AuditError: the answer cannot be judged.
    """
    kept = has(reply, method, "retained")
    return {
        "seed": seed,
        "before": statistics(reply, NOTHING, seed=seed),
        "after": statistics(reply, method, exact=exact, seed=seed),
        "retained": statistics(reply, method, group="retained", exact=exact, seed=seed) if kept else None,
    }


def judge_job(looks: Sequence[Look], found: Bytes, *, method: str, exact: bool, unmeasured: str = "") -> JobVerdict:
    """Return the verdict of a job.

    Exact: PASS when the bytes hold and the statistics do not say FAIL, which counts when a second look with more
    copies says so too; approximate: PASS when the statistics pass and the record-level bytes hold. Bytes that do
    not hold are a FAIL of either; a device that does not say leaves it open.

    Args:
        looks: what the audit found, the first one first; none where no copies were compared.
        found: `bytes_of`.
        method, exact: what is served.
        unmeasured: why no copies were compared, where that is known.
    """
    verdict = _of_job([one["after"]["verdict"] for one in looks], found, exact=exact)
    last = looks[-1] if looks else None
    judged: JobVerdict = {
        "verdict": verdict,
        "words": "",
        "method": method,
        "exact": exact,
        "before": last["before"] if last else None,
        "after": last["after"] if last else None,
        "retained": last["retained"] if last else None,
        "earlier": [one["after"] for one in looks[:-1]],
        "bytes": found,
        "seeds": [one["seed"] for one in looks],
        "copies": last["after"]["n"] if last else 0,
    }
    return {**judged, "words": job_words(judged, unmeasured=unmeasured)}


def _of_job(after: Sequence[Verdict], found: Bytes, *, exact: bool) -> Verdict:
    if not found["holds"]:
        return "INCONCLUSIVE" if found["checks"][0]["name"] == ANSWER else "FAIL"
    if not exact:
        return after[-1] if after else "INCONCLUSIVE"
    if not after or after[-1] != "FAIL":
        return "PASS"
    return "FAIL" if len(after) > 1 else "INCONCLUSIVE"  # one look is refuted by chance in a twentieth of jobs
