"""What a run does about withdrawals: audit, choose a method, have the device forget, look, judge, certify.

A job is dispatched on disk before its device is asked, with the method that the audit chose: it stays so. Nothing here
holds up erasure: where an audit is refused, silent or cannot be judged, the exact method is served. What a run that
died has left UNLEARNED or AUDITED is taken up again: the device repeats its acknowledgement and looks once more.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

from server import certifying, phases
from server.auditor import CONFIRMATION, choose, wants_confirmation
from server.certifying import Looks
from server.general import sound_packages
from server.rows import DUE, UNFORGOTTEN, Job
from server.run import Run, Withdrawal
from shared.audit_messages import AuditReply
from shared.errors import AuditError
from shared.messages import UnlearnReply
from shared.unlearning import EXACT, parse_methods
from shared.version import code_version


def unlearn(run: Run, *, only_new: bool = False) -> None:
    """Carry out the jobs that are due, one a device at a time; `only_new` leaves out those that were tried already."""
    waiting = [job for job in run.registry.jobs(DUE) if not only_new or job.id not in run.tried]
    waiting.sort(key=lambda job: job.state not in UNFORGOTTEN)  # whoever only waits for a verdict can wait
    run.tried |= {job.id for job in waiting}
    while waiting:
        first = {job.slot: job.id for job in reversed(waiting)}
        _take_turn(run, [job for job in waiting if first[job.slot] == job.id])
        waiting = [job for job in waiting if first[job.slot] != job.id]


def _take_turn(run: Run, jobs: Sequence[Job]) -> None:
    """Carry out jobs of different devices; a job of a device that is not there is dispatched too."""
    here = [job for job in jobs if job.slot in run.devices]
    retrain = _may_train(run, here)
    looks = _audit(run, [job for job in here if job.slot in retrain]) if run.settings.audit.copies else {}
    looks = {job.id: looks.get(job.id) or Looks(_rung(run, job, None, seed=0)) for job in jobs}
    for job in jobs:
        if job.state in ("REQUESTED", "FAILED"):
            run.registry.advance(job.id, "DISPATCHED", detail={"method": looks[job.id].method})
    strangers = set(run.devices) - {job.slot for job in here}
    before = _models(run, strangers)
    with run.progress.phase("unlearn") as tell:
        methods = {job.id: looks[job.id].method for job in here}
        answers = phases.unlearn(
            run.grid,
            run.devices,
            here,
            methods,
            run.settings,
            retrain=retrain,
            barred=run.barred,
            run=run.name,
            answer_s=run.answer_s,
            tell=tell,
        )
        changed = _changed(before, _models(run, strangers))
    told: dict[str, UnlearnReply] = {}
    for job in here:
        reply = answers.get(job.id)
        if reply is not None and reply.status == "ok":
            told[job.id] = _enter(run, job, reply)
        elif reply is not None:
            run.registry.advance(job.id, "FAILED", detail={"reason": reply.reason})
    certifying.close(run, told, looks, changed)


def _may_train(run: Run, jobs: Sequence[Job]) -> set[int]:
    """Return the slots whose device has a general model that holds nobody's withdrawn records, or none at all.

    The hospital's newest model is no measure: a device that has not been sent it yet still learns from the old one.
    """
    sound = sound_packages(run.workspace, run.registry, run.settings) if jobs else set()
    return {job.slot for job in jobs if run.devices[job.slot][1].in_use in sound | {""}}


def awaits(run: Run, patient: str) -> bool:
    """Return whether a patient's device has yet to be asked to forget, in this run."""
    return any(job.patient == patient and job.id not in run.tried for job in run.registry.jobs(UNFORGOTTEN))


def _audit(run: Run, jobs: Sequence[Job]) -> dict[str, Looks]:
    """Have the devices train copies, choose a method for each job, and look twice where an exact one is refuted."""
    asked = [job for job in jobs if job.state in ("REQUESTED", "DISPATCHED", "FAILED")]
    if not asked:
        return {}
    copies, found = run.settings.audit.copies, {}
    with run.progress.phase("audit") as tell:
        seeds = {job.id: _seed(run, job, look=0) for job in asked}
        replies = phases.audit(
            run.grid,
            run.devices,
            asked,
            run.settings,
            methods=parse_methods(run.settings.unlearning.methods),
            copies=copies,
            seeds=seeds,
            barred=run.barred,
            run=run.name,
            answer_s=run.answer_s,
            tell=tell,
        )
        for job in asked:
            found[job.id] = _looked(run, job, replies.get(job.id), seed=seeds[job.id])
        again = [job for job in asked if _is_refuted(found[job.id])]
        seeds = {job.id: _seed(run, job, look=1) for job in again}
        second = phases.audit(
            run.grid,
            run.devices,
            again,
            run.settings,
            methods=sorted({found[job.id].method for job in again}),  # the others are not in question any more
            copies=CONFIRMATION * copies,
            seeds=seeds,
            barred=run.barred,
            run=run.name,
            answer_s=run.answer_s,
            tell=tell,
        )
        for job_id, reply in second.items():
            found[job_id].replies.append(reply)
            found[job_id].seeds += [seeds[job_id]] if reply.status == "ok" else []
    return found


def _looked(run: Run, job: Job, reply: AuditReply | None, *, seed: int) -> Looks:
    looks = Looks(_rung(run, job, reply, seed=seed))
    if reply is not None:
        looks.replies, looks.seeds = [reply], [seed] if reply.status == "ok" else []
    return looks


def _is_refuted(looks: Looks) -> bool:
    """Return whether the exact method that is served is refuted by the first look; note an answer of no use."""
    if looks.method not in EXACT or not looks.replies:
        return False
    try:
        return wants_confirmation(looks.replies[0], looks.method, seed=looks.seeds[0] if looks.seeds else 0)
    except AuditError as error:
        looks.unusable = str(error)
        return False


def _rung(run: Run, job: Job, reply: AuditReply | None, *, seed: int) -> str:
    """Return the method to serve: decided at the dispatch; where an approximate one was served and failed, "exact"."""
    if job.state not in ("REQUESTED", "FAILED") and job.method:
        return job.method
    if job.state == "FAILED" and job.method not in {None, *EXACT} and "acknowledged_at" in job.detail:
        return parse_methods(run.settings.unlearning.methods)[-1]
    usable = reply if reply is not None and reply.status == "ok" else None
    return choose(usable, parse_methods(run.settings.unlearning.methods), EXACT, seed=seed)


def _seed(run: Run, job: Job, *, look: int) -> int:
    """Return the seed of one look at one job; jobs share none.

    Verdict and ledger tell it, so it must not lead to the job: it is made of the job's name there, not of its id.
    """
    text = f"{run.settings.audit.seed} {run.registry.name_of(job)} {look}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4])


def _models(run: Run, slots: set[int]) -> dict[int, str]:
    """Return the digests of the models in use on other devices."""
    return phases.models_in_use(run.grid, run.devices, slots, run=run.name, answer_s=run.answer_s)


def _changed(before: Mapping[int, str], after: Mapping[int, str]) -> list[int]:
    return sorted(slot for slot in before.keys() & after.keys() if before[slot] != after[slot])


def _enter(run: Run, job: Job, reply: UnlearnReply) -> UnlearnReply:
    """Write an acknowledgement into the registry; return it with the digests that the device last told.

    A device that is asked again repeats its first answer, and may have made a new copy since.
    """
    told = reply
    if job.detail.get("acknowledged_at") != reply.unlearned_at:
        _enter_model(run, job, reply)
    elif row := next((row for row in run.registry.devices() if row.slot == job.slot), None):
        told = replace(reply, general=row.general or "", after=row.personal or "", bundle=row.bundle or "")
    detail = {
        "before": reply.before,
        "after": reply.after,
        "erased": [file.name for file in reply.erased],
        "segments_erased": reply.segments_erased,
        "acknowledged_at": reply.unlearned_at,
        "method": reply.served,
        "note": reply.reason,
    }
    if job.state not in ("UNLEARNED", "AUDITED"):
        job = run.registry.advance(job.id, "UNLEARNED", detail=detail)
    earlier = run.withdrawals.get(job.id)
    first = earlier.reply if earlier is not None and earlier.reply.unlearned_at == reply.unlearned_at else reply
    run.withdrawals[job.id] = Withdrawal(job, first)
    return told


def _enter_model(run: Run, job: Job, reply: UnlearnReply) -> None:
    """Enter the model that a device now has in use, and what it is made of."""
    if not reply.after:
        return
    if reply.after != reply.general:
        lineage = {"method": reply.served, "job": job.id, "code": code_version()}
        run.registry.add_model(reply.after, kind="personal", parent=reply.general, slot=job.slot, lineage=lineage)
    served = next((each for each in reply.methods if each.method == reply.served), None)
    run.registry.record_device(
        job.slot,
        patient=job.patient,
        general=reply.general,
        personal=reply.after,
        bundle=reply.bundle,
        accepted=reply.after != reply.general,
        own=served.own.unlearned if served else None,
        others=served.others.unlearned if served else None,
        seconds=served.seconds if served else 0.0,
    )
