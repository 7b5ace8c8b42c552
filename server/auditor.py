"""From what a device's copies said, and what is on its disk, to a verdict; pure functions, no Flower, no files.

Two levels, never mixed. Of a job the unit is a copy: here. Of a method the unit is a patient: `judge_method`.
For an exact method the bytes decide and the statistics may only refute; an approximate one needs them to pass.
"""

from collections.abc import Collection, Sequence
from typing import Literal

from server.comparison import NOTHING, Comparison, has
from server.method_audit import judge_method
from server.rule import decide, enough, leaves_open, of_job
from server.verdict_words import job_words, statistics_words
from server.verdicts import (
    ANSWER,
    BUNDLED,
    FRESH,
    GENERAL,
    LEFTOVERS,
    LINEAGE,
    NO_MODEL,
    RECORDS,
    SERVED,
    START,
    WEIGHTS,
    Bytes,
    Check,
    JobVerdict,
    Look,
    MethodVerdict,
    Score,
    Statistics,
    Verdict,
)
from shared.audit_messages import AuditReply, VerifyReply
from shared.errors import AuditError
from shared.inference import detectable_auc
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


def statistics(
    reply: AuditReply, method: str, *, group: str = "forgotten", exact: bool = False, seed: int
) -> Statistics:
    """Compare a method's copies with copies that never saw the segments.

    What they come to is for `server/rule.py`.

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
    verdict = decide(scores, compared.n, identical=compared.identical, exact=exact)
    waits = leaves_open(verdict, method, identical=compared.identical, exact=exact)
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
        "needed": enough(scores[0], compared.n, variance=compared.variance) if waits else None,
        "verdict": verdict,
        "words": "",
    }
    return {**found, "words": statistics_words(found)}


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
    """Return whether an approximate method would pass if the device then shows the bytes that it should."""
    try:
        found = look(reply, method, exact=False, seed=seed)
    except AuditError:
        return False
    return of_job([found["after"]["verdict"]], _of_kept(found), holds=True, answered=True, exact=False) == "PASS"


def _of_kept(found: Look | None) -> Verdict | None:
    return found["retained"]["verdict"] if found and found["retained"] else None


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
        _equal(SERVED, acknowledgement.after, verified.served),
        _equal(BUNDLED, acknowledgement.bundle, verified.bundle),
        _check(RECORDS, "none", ", ".join(left) or "none", holds=not left),
        _check(LEFTOVERS, "none", ", ".join(verified.leftovers) or "none", holds=not verified.leftovers),
    ]
    if weights is not None:
        checks.append(_equal(WEIGHTS, verified.served, weights))
    if exact:
        checks += _exact_checks(verified, general=general, lineage_clean=lineage_clean, remade=remade)
    return {"holds": all(check["holds"] for check in checks), "checks": checks}


def _exact_checks(verified: VerifyReply, *, general: str, lineage_clean: bool, remade: bool) -> list[Check]:
    """Return what makes a served model what it would have been; no model holds nothing."""
    lineage = "no withdrawn record" if lineage_clean else "a withdrawn record"
    checks = [_check(LINEAGE, "no withdrawn record", lineage, holds=lineage_clean)]
    if not verified.served:
        return [*checks, _check(NO_MODEL, "none", "none", holds=True)]
    if not remade:
        return [*checks, _equal(GENERAL, general, verified.served)]
    return [
        *checks,
        _equal(START, general, verified.general),
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
    copies says so too; approximate: PASS when the statistics pass, do not say FAIL of what is kept, and the
    record-level bytes hold. Bytes that do not hold are a FAIL of either; a device that does not say leaves it open.

    Args:
        looks: what the audit found, the first one first; none where no copies were compared.
        found: `bytes_of`.
        method, exact: what is served.
        unmeasured: why no copies were compared, where that is known.
    """
    answered = all(check["name"] != ANSWER for check in found["checks"])
    outcomes = [one["after"]["verdict"] for one in looks]
    last = looks[-1] if looks else None
    verdict = of_job(outcomes, _of_kept(last), holds=found["holds"], answered=answered, exact=exact)
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
