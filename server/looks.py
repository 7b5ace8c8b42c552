"""What copies say of a withdrawal while the device still has the records; kept with the job before they are erased.

Once they are gone no copy can be made of them again. So what was found, or why an answer cannot be used, is entered in
the registry with the dispatch: a run that dies, or a device that is asked once more, cannot lose it.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from server import asking, phases
from server.auditor import choose, look, wants_confirmation
from server.comparison import check_reply
from server.rows import UNFORGOTTEN, Job
from server.rule import CONFIRMATION
from server.run import Run
from server.verdicts import Look
from shared.audit_messages import AUDIT, AuditReply, AuditRequest
from shared.errors import AuditError
from shared.fields import words
from shared.unlearning import EXACT, parse_methods

KEPT = "audit"  # in a job's detail


@dataclass(frozen=True)
class Looks:
    """What was found out about one job, and which method is served because of it.

    Attributes:
        method: to serve.
        found: what each look found, the first one first; none where no copies were compared.
        unusable: why an answer cannot be judged, else ""; nothing is certified then.
        unmeasured: why the device compared no copies, where it said so.
    """

    method: str
    found: tuple[Look, ...] = ()
    unusable: str = ""
    unmeasured: str = ""

    @classmethod
    def of(cls, job: Job, method: str) -> "Looks":
        """Return what was kept with a job about a method; what was found of another one says nothing of it."""
        kept = job.detail.get(KEPT) or {}
        if kept.get("method") != method:
            return cls(method)
        return cls(method, tuple(kept["found"]), kept["unusable"], kept["unmeasured"])

    @property
    def detail(self) -> dict[str, Any]:
        """Return what is kept with the job."""
        return {KEPT: asdict(self)}


def take(run: Run, jobs: Sequence[Job], able: Sequence[Job]) -> dict[str, Looks]:
    """Have devices train copies, choose a method for every job, and keep what was found with it.

    Args:
        run: whose devices are asked.
        jobs: of different devices.
        able: those whose device is there and may train.
    """
    looks = {job.id: Looks.of(job, _rung(run, job, None, seed=0)) for job in jobs}
    if run.settings.audit.copies:
        looks |= _audit(run, [job for job in able if job.state in UNFORGOTTEN], looks)
    for job in jobs:
        if job.state in ("REQUESTED", "FAILED"):
            run.registry.advance(job.id, "DISPATCHED", detail={"method": looks[job.id].method, **looks[job.id].detail})
        elif looks[job.id] != Looks.of(job, looks[job.id].method):
            run.registry.note(job.id, looks[job.id].detail)
    return looks


def _audit(run: Run, jobs: Sequence[Job], before: dict[str, Looks]) -> dict[str, Looks]:
    """Look at what nobody has looked at, and a second time where one look refutes an exact method."""
    first = [job for job in jobs if not before[job.id].found]
    found = {job.id: before[job.id] for job in jobs}
    if first:
        ladder = parse_methods(run.settings.unlearning.methods)
        with run.progress.phase("audit") as tell:
            copies = {job.id: run.settings.audit.copies for job in first}
            answers = _ask(run, first, tell, methods=ladder, copies=copies, number=0)
        for job, request, answer in answers:
            found[job.id] = _first(run, job, found[job.id], request, answer)
    if again := _doubted(found, jobs):
        methods = sorted({found[job.id].method for job in again})  # the others are not in question any more
        more = {job.id: CONFIRMATION * found[job.id].found[0]["after"]["n"] for job in again}  # whatever is set now
        with run.progress.phase("audit again") as tell:
            answers = _ask(run, again, tell, methods=methods, copies=more, number=1)
        for job, request, answer in answers:
            found[job.id] = _second(found[job.id], request, answer)
    return found


def _doubted(found: dict[str, Looks], jobs: Sequence[Job]) -> list[Job]:
    looks = [(job, found[job.id]) for job in jobs]
    return [job for job, one in looks if wants_confirmation(one.found, exact=one.method in EXACT)]


def _ask(
    run: Run, jobs: Sequence[Job], tell: asking.Tell, *, methods: Sequence[str], copies: Mapping[str, int], number: int
) -> list[tuple[Job, AuditRequest, AuditReply | AuditError | None]]:
    """Ask devices for copies; an answer that cannot be used comes as the error that says why."""
    seeds = {job.id: _seed(run, job, number=number) for job in jobs}

    def request(job: Job) -> AuditRequest:
        return AuditRequest(
            job=job.id,
            scope=job.scope,
            records=job.records,
            methods=tuple(methods),
            personalisation=run.settings.personalisation,
            unlearning=run.settings.unlearning,
            copies=copies[job.id],
            epsilon_sd=run.settings.audit.epsilon_sd,
            seed=seeds[job.id],
            barred=run.barred(job),
            at_once=max(1, asking.WAVE // len(jobs)),  # a core each, of those that the simulation has
        )

    answers = phases.audit(
        run.grid, run.devices, jobs, request, run=run.name, answer_s=run.answer_s, tell=tell, refuse=run.refuse
    )
    told = []
    for job in jobs:
        answer, asked = answers.get(job.id), request(job)
        if isinstance(answer, AuditReply):
            try:
                check_reply(answer, asked, slot=job.slot, kept=_keeps(run, job))
            except AuditError as error:
                answer = AuditError(words(str(error)))  # it may quote what the device sent
                run.refuse(job.slot, AUDIT, answer)
        told.append((job, asked, answer))
    return told


def _keeps(run: Run, job: Job) -> bool:
    """Return whether records of the patient stay on the device."""
    return job.scope == "records" and bool(run.registry.records(job.patient))


def _first(run: Run, job: Job, before: Looks, request: AuditRequest, answer: AuditReply | AuditError | None) -> Looks:
    if isinstance(answer, AuditError):
        return replace(before, unusable=str(answer))
    if answer is None or answer.status != "ok":  # silence makes no better what could not be used before
        return replace(before, unmeasured=answer.reason if answer else before.unmeasured)
    method = _rung(run, job, answer, seed=request.seed)
    try:
        return Looks(method, (look(answer, method, exact=method in EXACT, seed=request.seed),))
    except AuditError as error:
        return Looks(method, unusable=str(error))


def _second(first: Looks, request: AuditRequest, answer: AuditReply | AuditError | None) -> Looks:
    if answer is None or (isinstance(answer, AuditReply) and answer.status != "ok"):
        return first
    if isinstance(answer, AuditError):
        return replace(first, unusable=str(answer))
    try:
        second = look(answer, first.method, exact=True, seed=request.seed)
    except AuditError as error:
        return replace(first, unusable=str(error))
    return replace(first, found=(*first.found, second))


def _rung(run: Run, job: Job, reply: AuditReply | None, *, seed: int) -> str:
    """Return the method to serve: decided at the dispatch; where an approximate one was served and failed, "exact"."""
    ladder = parse_methods(run.settings.unlearning.methods)
    if job.state not in ("REQUESTED", "FAILED") and job.method:
        return job.method
    if job.state == "FAILED" and job.method not in {None, *EXACT} and "acknowledged_at" in job.detail:
        return ladder[-1]
    return choose(reply, ladder, EXACT, seed=seed)


def _seed(run: Run, job: Job, *, number: int) -> int:
    """Return the seed of one look at one job; jobs share none.

    Verdict and ledger tell it, so it must not lead to the job: it is made of the job's name there, not of its id.
    """
    text = f"{run.settings.audit.seed} {run.registry.name_of(job)} {number}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4])
