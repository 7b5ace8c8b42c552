"""One function a phase of a run; each takes a Flower grid and returns what the devices answered.

Nothing here touches the registry or a file: who calls decides what is due and enters what came of it.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from server.answers import check_looked, check_personal, check_probe, check_unlearned
from server.asking import Devices, Refuse, Tell, ask_slots
from server.rows import Job
from shared.audit_messages import AUDIT, VERIFY, AuditReply, AuditRequest, VerifyReply, VerifyRequest
from shared.errors import AuditError, LetheError, RunError
from shared.messages import (
    PERSONALISE,
    PROBE,
    UNLEARN,
    PersonaliseReply,
    PersonaliseRequest,
    ProbeReply,
    ProbeRequest,
    UnlearnReply,
    UnlearnRequest,
    blobs,
    write,
)
from shared.model import check_weights, digest
from shared.package import MODEL, Package
from shared.settings import Settings, numbers
from shared.unlearning import parse_methods

Barred = Callable[[Job], tuple[str, ...]]

ANSWER_S = 1800.0


def personalise(
    grid: Grid,
    devices: Devices,
    slots: Iterable[int],
    consented: Callable[[int], Sequence[str] | None],
    sending: Callable[[int], None],
    returned: Collection[int],
    package: Package,
    settings: Settings,
    *,
    hospital: str,
    run: str,
    answer_s: float,
    tell: Tell,
    refuse: Refuse,
) -> dict[int, PersonaliseReply]:
    """Have devices make their personal models of the records that `consented` names for their slot.

    Consent is read when a request is sent, not when the phase begins: waves may be minutes apart. Where it names
    None the device is passed over. A device without a consented record gets a new version of the general model, to
    serve it in place of an older one; it is not asked when it has this version, or never had any, unless it `returned`
    with what was forgotten. `sending` is told the slot before a package goes out. `hospital` are the public keys, in
    PEM, that a device verifies revocations with.
    """
    asked: dict[int, int] = {}

    def check(slot: int, reply: PersonaliseReply) -> None:
        check_personal(reply, general=package.digest, records=asked[slot])

    def request(slot: int) -> RecordDict | None:
        named, identity = consented(slot), devices[slot][1]
        if named is None or not (named or slot in returned or identity.package not in ("", package.fingerprint)):
            return None
        records = tuple(named)
        asked[slot] = len(records)
        wanted = PersonaliseRequest(
            run, package.digest, package.fingerprint, records, settings.personalisation, hospital
        )
        if identity.package == package.fingerprint:
            return write(wanted)
        sending(slot)
        return write(wanted, blobs=package.blobs())

    requests = {slot: partial(request, slot) for slot in slots if slot in devices}
    return ask_slots(
        grid,
        devices,
        requests,
        PERSONALISE,
        PersonaliseReply,
        group=run,
        answer_s=answer_s,
        tell=tell,
        refuse=refuse,
        check=check,
    )


def probe(
    grid: Grid,
    devices: Devices,
    slots: Iterable[int],
    allowed: Callable[[int], bool],
    settings: Settings,
    *,
    run: str,
    answer_s: float,
    tell: Tell,
    refuse: Refuse,
) -> dict[int, ProbeReply]:
    """Have devices run the paper's probe, those that are `allowed` to when their turn comes."""
    wanted = ProbeRequest(run, settings.personalisation.held_out, numbers(settings.probe.epsilons_sd))

    def request(slot: int) -> RecordDict | None:
        return write(wanted) if allowed(slot) else None

    def check(_: int, reply: ProbeReply) -> None:
        check_probe(reply, strengths=len(wanted.epsilons_sd))

    requests = {slot: partial(request, slot) for slot in slots}
    return ask_slots(
        grid,
        devices,
        requests,
        PROBE,
        ProbeReply,
        group=run,
        answer_s=answer_s,
        tell=tell,
        refuse=refuse,
        check=check,
    )


def audit(
    grid: Grid,
    devices: Devices,
    jobs: Sequence[Job],
    request: Callable[[Job], AuditRequest],
    *,
    run: str,
    answer_s: float,
    tell: Tell,
    refuse: Refuse,
) -> dict[str, AuditReply | AuditError]:
    """Have devices train copies for jobs of different devices: job id -> what the copies said, or why it is unreadable.

    A device that is silent or failed has no entry. Whether an answer belongs to its question is for the caller.
    """
    unread: dict[int, AuditError] = {}

    def refused(slot: int | None, message_type: str, error: LetheError) -> None:
        refuse(slot, message_type, error)
        if slot is not None and not isinstance(error, RunError):
            unread[slot] = AuditError(f"the audit answer of device {slot} cannot be used: {error}")

    requests = {job.slot: partial(_written, request, job) for job in jobs}
    answers = ask_slots(
        grid, devices, requests, AUDIT, AuditReply, group=run, answer_s=answer_s, tell=tell, refuse=refused
    )
    found = unread | answers
    return {job.id: found[job.slot] for job in jobs if job.slot in found}


def unlearn(
    grid: Grid,
    devices: Devices,
    jobs: Sequence[Job],
    serve: Mapping[str, str],
    settings: Settings,
    *,
    run: str,
    answer_s: float,
    tell: Tell,
    refuse: Refuse,
    retrain: Collection[int],
    barred: Barred,
) -> dict[str, UnlearnReply]:
    """Push unlearning rounds for jobs of different devices: job id -> the device's acknowledgement.

    `serve` names the method that each device is to serve, by job; `retrain` the slots that may make a model.
    """

    def request(job: Job) -> UnlearnRequest:
        return UnlearnRequest(
            job=job.id,
            scope=job.scope,
            records=job.records,
            methods=tuple(dict.fromkeys([*parse_methods(settings.unlearning.methods), serve[job.id]])),
            serve=serve[job.id],
            personalisation=settings.personalisation,
            unlearning=settings.unlearning,
            epsilons_sd=numbers(settings.probe.epsilons_sd),
            retrain=job.slot in retrain,
            barred=barred(job),
        )

    strengths, by_slot = len(numbers(settings.probe.epsilons_sd)), {job.slot: job for job in jobs}
    answers = ask_slots(
        grid,
        devices,
        {job.slot: partial(_written, request, job) for job in jobs},
        UNLEARN,
        UnlearnReply,
        group=run,
        answer_s=answer_s,
        tell=tell,
        refuse=refuse,
        check=lambda slot, reply: check_unlearned(reply, by_slot[slot], strengths=strengths),
    )
    return {by_slot[slot].id: answer for slot, answer in answers.items()}


@dataclass(frozen=True)
class Looked:
    """What a device found on its disk, and the digest of the weights that came along, None where none did."""

    reply: VerifyReply
    weights: str | None


def verify(
    grid: Grid,
    devices: Devices,
    asked: Mapping[int, VerifyRequest],
    *,
    run: str,
    answer_s: float,
    tell: Tell,
    refuse: Refuse,
) -> dict[str, Looked]:
    """Have devices look at their own disks, one request a slot: job id -> what they found.

    Weights that come along in white-box runs are named by their digest here and are gone with the message.
    """
    weights: dict[int, str] = {}

    def keep(slot: int, message: Message) -> None:
        if asked[slot].white_box and (sent := blobs(message).get(MODEL)) is not None:
            check_weights(sent)
            weights[slot] = digest(sent)

    answers = ask_slots(
        grid,
        devices,
        {slot: partial(write, request) for slot, request in asked.items()},
        VERIFY,
        VerifyReply,
        group=run,
        answer_s=answer_s,
        tell=tell,
        refuse=refuse,
        check=lambda slot, reply: check_looked(reply, asked[slot].job),
        beside=keep,
    )
    return {asked[slot].job: Looked(reply, weights.get(slot)) for slot, reply in answers.items()}


def _written(request: Callable[[Job], object], job: Job) -> RecordDict:
    """Return a request as it is sent, made at that moment: patients withdraw meanwhile."""
    return write(request(job))
