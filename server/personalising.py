"""Every device makes its personal model: who is asked, of what, and what is entered of the answers.

How they are asked is `server/phases.py`'s; what a device does, `client/device.py`'s.
"""

import random
from collections.abc import Mapping
from dataclasses import replace

from server import phases
from server.general import PUBLIC_ROLES, Trained
from server.revocation import public_keys
from server.run import Run
from server.withdrawals import awaits
from shared.messages import PersonaliseReply
from shared.package import Package
from shared.version import code_version


def personalise(run: Run, trained: Trained, withdrawals: int) -> bool:
    """Have every device make its personal model of what its patient consents to; of nothing, it makes none.

    Args:
        run: whose devices and registry.
        trained: the general model, whose package is sent.
        withdrawals: how often public records had been withdrawn before it was made; after once more, it is not sent any
            further.

    Returns:
        Whether a device was passed over, or stopped, because it is to forget first or the general model is to be made
        again.
    """
    package = Package.open(run.workspace.models / trained.digest)
    owners = {patient.slot: patient.id for patient in run.registry.patients("wearable") if patient.slot is not None}
    passed_over = set()

    def consented(slot: int) -> list[str] | None:
        if awaits(run, owners[slot]) or run.registry.withdrawals(PUBLIC_ROLES) > withdrawals:
            passed_over.add(slot)
            return None
        return [row.id for row in run.registry.records(owners[slot])]

    def sending(slot: int) -> None:
        run.registry.note_sending(slot, patient=owners[slot], general=trained.digest)

    with run.progress.phase("personalise") as tell:
        found = phases.personalise(
            run.grid,
            run.devices,
            owners,
            consented,
            sending,
            run.returned,
            package,
            run.settings,
            hospital=public_keys(run.workspace.keys),
            run=run.name,
            answer_s=run.answer_s,
            tell=tell,
            refuse=run.refuse,
        )
    stopped = {slot for slot, reply in found.items() if reply.status != "ok" and awaits(run, owners[slot])}
    _enter(run, trained, package, {slot: reply for slot, reply in found.items() if slot not in stopped}, owners)
    return bool(passed_over | stopped)


def _enter(
    run: Run, trained: Trained, package: Package, found: Mapping[int, PersonaliseReply], owners: Mapping[int, str]
) -> None:
    """Enter what devices now have, in an order that is drawn: the ledger's must not tell whose an entry is."""
    run.personal |= found
    run.returned -= found.keys()
    for slot, reply in random.SystemRandom().sample(sorted(found.items()), len(found)):
        if reply.status == "ok" or reply.personal == trained.digest:  # also who serves the general model alone
            node, identity = run.devices[slot]
            run.devices[slot] = node, replace(identity, package=package.fingerprint, in_use=package.fingerprint)
        if reply.personal:
            _enter_model(run, trained, owners[slot], reply)


def _enter_model(run: Run, trained: Trained, patient: str, reply: PersonaliseReply) -> None:
    """Enter the model that a device now has in use."""
    if reply.accepted:
        lineage = {"settings": vars(run.settings.personalisation), "code": code_version()}
        run.registry.add_model(reply.personal, kind="personal", parent=trained.digest, slot=reply.slot, lineage=lineage)
    run.registry.record_device(
        reply.slot,
        patient=patient,
        general=trained.digest,
        personal=reply.personal,
        bundle=reply.bundle,
        accepted=reply.accepted,
        own=reply.own_personal,
        others=reply.others_personal,
        seconds=reply.seconds,
    )
