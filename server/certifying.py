"""The end of a withdrawal: the device looks at its disk, the auditor judges, and only what passes is certified.

What does not pass becomes FAILED with the reason, and a later run dispatches it again. A device that stays silent
leaves its job UNLEARNED; the next run asks it once more.
"""

import hashlib
from collections.abc import Mapping, Sequence

from server import certificate, phases
from server.auditor import bytes_of, judge_job
from server.looks import Looks
from server.phases import Looked
from server.rows import LOOKED, UNFORGOTTEN, Job, is_final
from server.run import Run, Withdrawal
from server.verdicts import OTHERS, STANDS_IN, Bytes, Check, JobVerdict
from shared.audit_messages import VERIFY, VerifyReply, VerifyRequest
from shared.errors import AuditError, WorkspaceError
from shared.messages import UnlearnReply
from shared.unlearning import EXACT

SILENT = "the device has not told yet what is on its disk"
OVERTAKEN = (
    "the patient withdrew more when the model had been made; it is judged when the device has forgotten that, too"
)


def close(run: Run, told: Mapping[str, UnlearnReply], looks: Mapping[str, Looks], changed: Sequence[int]) -> None:
    """Verify, judge and certify the jobs that were acknowledged.

    Args:
        run: its withdrawals are completed.
        told: job -> acknowledgement, with the digests that the device last told.
        looks: job -> what its copies said.
        changed: slots of other devices whose model changed meanwhile.
    """
    done = [run.withdrawals[job] for job in told]
    if not done:
        return
    noted = len(run.refusals)
    with run.progress.phase("verify") as tell:
        requests = {one.job.slot: _request(run, one.job, told[one.job.id]) for one in done}
        found = phases.verify(
            run.grid, run.devices, requests, run=run.name, answer_s=run.answer_s, tell=tell, refuse=run.refuse
        )
        for one in done:
            looked = found.get(one.job.id)
            if looked is None:
                one.note = run.why(one.job.slot, VERIFY, since=noted) or SILENT
                if one.note != SILENT:
                    run.registry.note(one.job.id, {"refused": one.note})
            elif _overtaken(run, one):
                one.note = OVERTAKEN
            else:
                _judge(run, one, told[one.job.id], looked, looks[one.job.id], changed)


def _overtaken(run: Run, one: Withdrawal) -> bool:
    """Return whether the model rightly holds a record that was withdrawn later, and that the device has yet to forget.

    No fresh copy may be made of it any more, so that there is nothing to compare the model with.
    """
    left_out = {*one.job.records, *one.reply.barred}
    about = [job for job in run.registry.jobs(UNFORGOTTEN) if job.patient == one.job.patient]
    waiting = [job for job in about if not is_final(job)]
    return any(set(job.records) - left_out for job in waiting)


def _request(run: Run, job: Job, told: UnlearnReply) -> VerifyRequest:
    """Ask for a fresh copy where the served model claims to be one."""
    return VerifyRequest(
        job=job.id,
        scope=job.scope,
        records=job.records,
        personalisation=run.settings.personalisation,
        exact=_remade(job, told),
        white_box=run.settings.audit.white_box,
        barred=run.barred(job),
    )


def _remade(job: Job, told: UnlearnReply) -> bool:
    """Return whether the served model claims to be made, exactly, of what is kept."""
    return _made_by(told) in EXACT and job.scope == "records" and told.after != ""


def _made_by(told: UnlearnReply) -> str:
    """Return the method that made the model in use.

    A device that forgot without training names none, and repeats that answer. Where it has been personalised since,
    its copy was made of what is kept alone, which is what `exact` makes.
    """
    return told.served or (STANDS_IN if told.after in ("", told.general) else "exact")


def _judge(run: Run, one: Withdrawal, told: UnlearnReply, looked: Looked, looks: Looks, changed: Sequence[int]) -> None:
    """Enter the verdict of one job, and its certificate where it passes."""
    verdict: JobVerdict | None = None
    try:
        verdict = _verdict(run, one.job, told, looked, looks, changed)
        if looks.unusable:
            raise AuditError(looks.unusable)
        one.verdict = verdict
        if one.job.state != "AUDITED":
            one.job = run.registry.advance(one.job.id, "AUDITED", detail={"verdict": verdict})
        elif one.job.detail.get("verdict") != verdict:  # it waited for its certificate, and another model is in use now
            run.registry.note(one.job.id, {"verdict": verdict})
        if verdict["verdict"] != "PASS":
            raise AuditError(verdict["words"])
        _certify(run, one, verdict, told, looked.reply)
    except AuditError as error:
        detail = {"reason": str(error), **_for_good(verdict, looks)}
        one.job = run.registry.advance(one.job.id, "FAILED", detail=detail)
    except WorkspaceError as error:  # without a key nothing is signed; the job stays AUDITED, and the run goes on
        one.note = str(error)


def _for_good(verdict: JobVerdict | None, looks: Looks) -> dict[str, Bytes]:
    """Return the bytes that were looked at, where they hold and only copies speak against it: nobody makes others."""
    if verdict is None or not (verdict["exact"] and verdict["bytes"]["holds"]):
        return {}
    return {LOOKED: verdict["bytes"]} if looks.unusable or verdict["verdict"] != "PASS" else {}


def _certify(run: Run, one: Withdrawal, verdict: JobVerdict, told: UnlearnReply, verified: VerifyReply) -> None:
    path = certificate.issue(run.workspace, run.registry, one.job, verdict, told, verified, run.settings, run=run.name)
    about = {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    steps = [(step.state, step.at) for step in run.registry.job_events(one.job.id)]
    one.job = run.registry.advance(one.job.id, "CERTIFIED", detail={"certificate": about})
    one.certificate, one.steps = about, (*steps, (one.job.state, one.job.updated_at))


def _verdict(
    run: Run, job: Job, told: UnlearnReply, looked: Looked, looks: Looks, changed: Sequence[int]
) -> JobVerdict:
    """Return the verdict of one job, from the bytes and, where copies were compared, from what they said.

    A device that serves the general model, or none, for want of a method claims no more than that.
    """
    method = _made_by(told)
    exact = method in {STANDS_IN, *EXACT}
    found = bytes_of(
        job.scope,
        job.records,
        told,
        looked.reply,
        general=told.general,
        lineage_clean=_is_clean(run, job, told.general),
        exact=exact,
        remade=_remade(job, told),
        weights=(looked.weights or "") if run.settings.audit.white_box else None,
    )
    of_method = looks.found if looks.method == method else ()
    return judge_job(of_method, _beside_others(found, changed), method=method, exact=exact, unmeasured=looks.unmeasured)


def _beside_others(found: Bytes, changed: Sequence[int]) -> Bytes:
    """Add whether the other devices kept their models while this one forgot."""
    seen = ", ".join(f"device {slot} changed" for slot in changed) or "unchanged"
    check: Check = {"name": OTHERS, "expected": "unchanged", "seen": seen, "holds": not changed}
    return {"holds": found["holds"] and not changed, "checks": [*found["checks"], check]}


def _is_clean(run: Run, job: Job, general: str) -> bool:
    """Return whether a general model is one of ours and none of the withdrawn records is in the corpus it may see.

    Wearables' records are in no corpus; the same bytes under another patient's name would be found by their sha256.
    """
    if not general:
        return True
    ours = any(model.digest == general and model.kind == "general" for model in run.registry.models())
    own = run.registry.records(job.patient, consented_only=False)
    others = run.registry.holders([row.sha256 for row in own if row.id in job.records])
    return ours and all(patient == job.patient for patient, _ in others)
