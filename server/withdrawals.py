"""What a run does about withdrawals: audit, choose a method, have the device forget, look, judge, certify.

A job is dispatched on disk before its device is asked, with the method that the audit chose: it stays so. Nothing here
holds up erasure: where an audit is refused, silent or cannot be judged, the exact method is served. What a run that
died has left UNLEARNED or AUDITED is taken up again: the device repeats its acknowledgement and looks once more.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from server import certifying, looks, phases, roll_call
from server.general import sound_packages
from server.rows import DUE, HOSPITAL, UNFORGOTTEN, DeviceRow, Job, is_final
from server.run import Run, Withdrawal
from shared.messages import UNLEARN, UnlearnReply
from shared.version import code_version


def unlearn(run: Run, *, only_new: bool = False) -> None:
    """Carry out the jobs that are due, one a device at a time; `only_new` leaves out those that were tried already."""
    waiting = [job for job in run.registry.jobs(DUE) if job.slot != HOSPITAL and not is_final(job)]
    waiting = [job for job in waiting if not only_new or job.id not in run.tried]
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
    found = looks.take(run, jobs, [job for job in here if job.slot in retrain])
    strangers = set(run.devices) - {job.slot for job in here}
    before = _models(run, strangers)
    noted = len(run.refusals)
    with run.progress.phase("unlearn") as tell:
        methods = {job.id: found[job.id].method for job in here}
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
            refuse=run.refuse,
        )
        changed = _changed(before, _models(run, strangers))
    told: dict[str, UnlearnReply] = {}
    for job in here:
        reply = answers.get(job.id)
        if reply is not None and reply.status == "ok":
            told[job.id] = _enter(run, job, reply)
        elif reply is not None:
            run.registry.advance(job.id, "FAILED", detail={"reason": reply.reason or "the device gave no reason"})
        elif why := run.why(job.slot, UNLEARN, since=noted):
            run.registry.note(job.id, {"refused": why})
    certifying.close(run, told, found, changed)


def _may_train(run: Run, jobs: Sequence[Job]) -> set[int]:
    """Return the slots whose device has a general model that holds nobody's withdrawn records, or none at all.

    The hospital's newest model is no measure: a device that has not been sent it yet still learns from the old one.
    """
    sound = sound_packages(run.workspace, run.registry, run.settings) if jobs else set()
    return {job.slot for job in jobs if run.devices[job.slot][1].in_use in sound | {""}}


def awaits(run: Run, patient: str) -> bool:
    """Return whether a patient's device has yet to be asked to forget, in this run."""
    about = [job for job in run.registry.jobs(UNFORGOTTEN) if job.patient == patient and not is_final(job)]
    return any(job.id not in run.tried for job in about)


def _models(run: Run, slots: set[int]) -> dict[int, str]:
    """Return the digests of the models in use on other devices."""
    return roll_call.models_in_use(run.grid, run.devices, slots, run=run.name, answer_s=run.answer_s, refuse=run.refuse)


def _changed(before: Mapping[int, str], after: Mapping[int, str]) -> list[int]:
    return sorted(slot for slot in before.keys() & after.keys() if before[slot] != after[slot])


def _enter(run: Run, job: Job, reply: UnlearnReply) -> UnlearnReply:
    """Write an acknowledgement into the registry; return it with the digests that the device last told.

    A device that is asked again repeats its first answer, and may have made a new copy since.
    """
    told = reply
    if job.detail.get("acknowledged_at") != reply.unlearned_at:
        _enter_model(run, job, reply)
    elif (row := _row(run, job.slot)) and row.personal:
        told = replace(reply, general=row.general or "", after=row.personal, bundle=row.bundle or "")
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


def _row(run: Run, slot: int) -> DeviceRow | None:
    return next((row for row in run.registry.devices() if row.slot == slot), None)


def _enter_model(run: Run, job: Job, reply: UnlearnReply) -> None:
    """Enter the model that a device now has in use, and what it is made of; or that it has none any more."""
    if not reply.after:
        if row := _row(run, job.slot):
            run.registry.record_device(
                job.slot,
                patient=job.patient,
                general=row.general,  # it may have that one's package still
                personal=None,
                bundle=None,
                accepted=False,
                own=None,
                others=None,
                seconds=0.0,
            )
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
