"""One function a phase of a run; each takes a Flower grid and returns what the devices answered.

Nothing here touches the registry or a file: `server/app.py` decides what is due and enters what came of it.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from server.asking import Devices, Tell, ask, by_slot
from server.rows import Job
from shared.audit_messages import AUDIT, VERIFY, AuditReply, AuditRequest, VerifyReply, VerifyRequest
from shared.errors import AuditError, DataError
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
from shared.model import digest
from shared.package import MODEL, Package
from shared.settings import Settings, numbers
from shared.unlearning import parse_methods

ReplyOfJob = TypeVar("ReplyOfJob", AuditReply, UnlearnReply)
Barred = Callable[[Job], tuple[str, ...]]

ANSWER_S = 1800.0


def personalise(
    grid: Grid,
    devices: Devices,
    slots: Iterable[int],
    consented: Callable[[int], Sequence[str] | None],
    package: Package,
    settings: Settings,
    *,
    hospital: str,
    run: str,
    answer_s: float,
    tell: Tell,
) -> dict[int, PersonaliseReply]:
    """Have devices make their personal models of the records that `consented` names for their slot.

    Consent is read when a request is sent, not when the phase begins: waves may be minutes apart. Where it names
    None the device is passed over. A device without a consented record gets a new version of the general model, to
    serve it in place of an older one; it is not asked when it has this version, or never had any. `hospital` are the
    public keys, in PEM, that a device verifies revocations with.
    """

    def request(slot: int) -> RecordDict | None:
        named, identity = consented(slot), devices[slot][1]
        if named is None or (not named and identity.package in ("", package.fingerprint)):
            return None
        records = tuple(named)
        wanted = PersonaliseRequest(
            run, package.digest, package.fingerprint, records, settings.personalisation, hospital
        )
        return write(wanted, blobs={} if identity.package == package.fingerprint else package.blobs())

    requests = {devices[slot][0]: partial(request, slot) for slot in slots if slot in devices}
    answers = ask(grid, requests, PERSONALISE, PersonaliseReply, group=run, answer_s=answer_s, tell=tell)
    return by_slot(devices, answers)


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
) -> dict[int, ProbeReply]:
    """Have devices run the paper's probe, those that are `allowed` to when their turn comes."""

    def request(slot: int) -> RecordDict | None:
        wanted = ProbeRequest(run, settings.personalisation.held_out, numbers(settings.probe.epsilons_sd))
        return write(wanted) if allowed(slot) else None

    requests = {devices[slot][0]: partial(request, slot) for slot in slots}
    return by_slot(devices, ask(grid, requests, PROBE, ProbeReply, group=run, answer_s=answer_s, tell=tell))


def audit(
    grid: Grid,
    devices: Devices,
    jobs: Sequence[Job],
    request: Callable[[Job], AuditRequest],
    *,
    run: str,
    answer_s: float,
    tell: Tell,
) -> dict[str, AuditReply | AuditError]:
    """Have devices train copies for jobs of different devices: job id -> what the copies said, or why it is unreadable.

    A device that is silent has no entry. Whether an answer belongs to its question is for the caller.
    """
    unread: dict[int, DataError] = {}
    requests = {devices[job.slot][0]: partial(_written, request, job) for job in jobs}
    answers = ask(grid, requests, AUDIT, AuditReply, group=run, answer_s=answer_s, tell=tell, unread=unread.__setitem__)
    found: dict[str, AuditReply | AuditError] = {}
    for job in jobs:
        node = devices[job.slot][0]
        if node in answers:
            found[job.id] = answers[node]
        elif node in unread:
            found[job.id] = AuditError(f"the audit answer of device {job.slot} cannot be read: {unread[node]}")
    return found


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

    requests = {devices[job.slot][0]: partial(_written, request, job) for job in jobs}
    answers = ask(grid, requests, UNLEARN, UnlearnReply, group=run, answer_s=answer_s, tell=tell)
    return _by_job(devices, jobs, answers)


@dataclass(frozen=True)
class Looked:
    """What a device found on its disk, and the digest of the weights that came along, None where none did."""

    reply: VerifyReply
    weights: str | None


def verify(
    grid: Grid, devices: Devices, asked: Mapping[int, VerifyRequest], *, run: str, answer_s: float, tell: Tell
) -> dict[str, Looked]:
    """Have devices look at their own disks, one request a slot: job id -> what they found.

    Weights that come along in white-box runs are named by their digest here and are gone with the message.
    """
    weights: dict[int, str] = {}

    def keep(node: int, message: Message) -> None:
        sent = blobs(message)
        if MODEL in sent:
            weights[node] = digest(sent[MODEL])

    requests = {devices[slot][0]: partial(write, request) for slot, request in asked.items()}
    answers = ask(grid, requests, VERIFY, VerifyReply, group=run, answer_s=answer_s, tell=tell, beside=keep)
    told = by_slot({slot: devices[slot] for slot in asked}, answers)
    return {
        reply.job: Looked(reply, weights.get(devices[slot][0]))
        for slot, reply in told.items()
        if reply.job == asked[slot].job
    }


def _written(request: Callable[[Job], object], job: Job) -> RecordDict:
    """Return a request as it is sent, made at that moment: patients withdraw meanwhile."""
    return write(request(job))


def _by_job(devices: Devices, jobs: Sequence[Job], answers: Mapping[int, ReplyOfJob]) -> dict[str, ReplyOfJob]:
    """Return the answers by job; an answer that is about another job is none."""
    told = by_slot(devices, answers)
    return {job.id: told[job.slot] for job in jobs if job.slot in told and told[job.slot].job == job.id}
