"""Issuing certificates: from a job that passed to a signed file in `certificates/`.

Nothing is signed that `server/verification.py` would not accept. The patient is named as the ledger does; ids of
records and paths stay out.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel, ValidationError
from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner

from server import evidence, keys
from server.deadlines import deadline_of
from server.evidence import moment
from server.ledger import Head
from server.recount import BYTES_ALONE
from server.rows import HOSPITAL, Job, ModelRow
from server.statement import (
    BUNDLE,
    EMPTY,
    MODEL,
    Audit,
    Erased,
    LedgerHead,
    Lineage,
    Method,
    Predicate,
    Request,
    Score,
    Sha256,
    Statement,
    Statistics,
    Subject,
    Version,
)
from server.verdicts import JobVerdict
from server.verdicts import Statistics as Figures
from server.verification import SKEW, content
from server.workspace import Workspace
from shared.audit_messages import VerifyReply
from shared.errors import AuditError
from shared.files import write_atomically
from shared.messages import UnlearnReply
from shared.settings import Settings
from shared.version import code_version


class Witness(Protocol):
    """What a certificate needs of the registry."""

    def subject(self, patient: str) -> str:
        """Return the patient's name in the ledger."""

    def name_of(self, job: Job) -> str:
        """Return the job's name in the ledger."""

    def note_key(self, public_key: str) -> None:
        """Enter the key that signs."""

    def ledger_head(self) -> Head:
        """Return seq and hash of the last entry."""

    def models(self) -> Sequence[ModelRow]:
        """Return the models with their lineage."""


def path_of(workspace: Workspace, registry: Witness, job: Job) -> Path:
    """Return where the certificate of a job is kept: under the job's name in the ledger, not under its id.

    Once the patient is forgotten this is a path that nobody has ever used; the certificate itself names its holder.
    """
    return workspace.certificates / f"{registry.name_of(job)[:16]}.json"


def issue(
    workspace: Workspace,
    registry: Witness,
    job: Job,
    verdict: JobVerdict,
    acknowledgement: UnlearnReply,
    verified: VerifyReply | None,
    settings: Settings,
    *,
    run: str,
    now: datetime | None = None,
) -> Path:
    """Sign the certificate of a job and return its file; issuing again replaces it.

    Call it before the job becomes CERTIFIED: that step may destroy the patient's name.

    Args:
        workspace: with the key, and where the certificate goes.
        registry: names the patient and tells the ledger's head and the models' lineage.
        job: AUDITED.
        verdict: of the auditor.
        acknowledgement: what the device answered when it had unlearned.
        verified: what it found on its disk after that.
        settings: of the run.
        run: the run's name.
        now: the time, for tests.

    Raises:
        AuditError: the verdict is not PASS, the answers are of another job or contradict each other, or the clock
            went backwards.
        WorkspaceError: there is no key to sign with.
    """
    _refuse(job, verdict, acknowledgement, verified)
    signer = keys.signer(workspace.keys)
    key = signer.public_key.keyid
    registry.note_key(key)
    head, now = registry.ledger_head(), now or datetime.now(UTC)
    try:
        predicate = Predicate(
            subject=registry.subject(job.patient),
            request=_request(job, settings, now),
            method=Method(name=verdict["method"], exact=verdict["exact"]),
            lineage=Lineage(
                general=acknowledgement.general, before=acknowledgement.before, after=acknowledgement.after
            ),
            erased=_erased(acknowledgement, job, now),
            audit=audit_of(verdict, settings),
            version=Version(code=code_version(), data=_data(registry.models(), acknowledgement.general)),
            ledger=LedgerHead(seq=head[0], hash=head[1]),
            run=run,
            key=key,
            issued_at=_text(now),
            valid_until=_text(now + timedelta(days=settings.audit.valid_days)),
        )
        statement = Statement(subject=_subjects(acknowledgement), predicate=predicate)
    except ValidationError as error:
        raise AuditError(f"job {job.id} cannot be certified as it is told: {_first(error)}") from error
    path = path_of(workspace, registry, job)
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, _signed(statement, signer, job=job.id))
    return path


def _refuse(job: Job, verdict: JobVerdict, acknowledgement: UnlearnReply, verified: VerifyReply | None) -> None:
    """Refuse what is not PASS, and answers that are not of one and the same job."""
    if verdict["verdict"] != "PASS":
        raise AuditError(f"job {job.id} is not certified, the verdict is {verdict['verdict']}: {verdict['words']}")
    if verified is None or acknowledgement.status != "ok" or verified.status != "ok":
        raise AuditError(f"job {job.id} is not certified, the device has not shown what is on its disk; run again")
    expected = (job.id, job.slot, acknowledgement.after, acknowledgement.bundle)
    for seen in (
        (acknowledgement.job, acknowledgement.slot, acknowledgement.after, acknowledgement.bundle),
        (verified.job, verified.slot, verified.served, verified.bundle),
    ):
        if seen != expected:
            names = ("job", "device", "model", "bundle")
            wrong = [name for name, one, other in zip(names, seen, expected, strict=True) if one != other]
            raise AuditError(f"job {job.id} is not certified, an answer is of another {' and '.join(wrong)}; run again")


def _signed(statement: Statement, signer: CryptoSigner, *, job: str) -> bytes:
    """Return the file, once it is sure that a verifier will accept it."""
    key = signer.public_key.keyid
    wrong = [finding.words for finding in content(statement, key=key) if finding.holds is False]
    if wrong:
        raise AuditError(f"job {job} is not certified: {'; '.join(wrong)}")
    envelope = Envelope(evidence.payload(statement), evidence.PAYLOAD_TYPE, {})
    envelope.sign(signer)
    return evidence.write(envelope)


def _subjects(acknowledgement: UnlearnReply) -> list[Subject]:
    """Return what the certificate is about; where nothing is served, the digest of no bytes."""
    bundle, model = (Sha256(sha256=digest or EMPTY) for digest in (acknowledgement.bundle, acknowledgement.after))
    return [Subject(name=BUNDLE, digest=bundle), Subject(name=MODEL, digest=model)]


def _request(job: Job, settings: Settings, now: datetime) -> Request:
    deadline = deadline_of(job, settings.audit.deadline_days)
    return Request(
        requested_at=job.requested_at,
        deadline=_text(deadline),
        kept=now <= deadline,
        scope=job.scope,
        records=len(job.records),
    )


def _erased(acknowledgement: UnlearnReply, job: Job, now: datetime) -> Erased:
    """Count what is gone; the files' names would name the records.

    A device whose clock is wrong tells a time that cannot be: what is sure is that it was by now.
    """
    files, at = acknowledgement.erased, acknowledgement.unlearned_at
    if at and not moment(job.requested_at) - SKEW <= moment(at) <= now + SKEW:
        at = _text(now)
    return Erased(
        where="hospital" if job.slot == HOSPITAL else "device",
        at=at,
        files=len(files),
        bytes=sum(file.bytes for file in files),
        segments=acknowledgement.segments_erased,
    )


def audit_of(verdict: JobVerdict, settings: Settings) -> Audit:
    """Return the verdict with its figures; where no copies were compared its words may quote a device, and go."""
    words = verdict["words"] if verdict["after"] else BYTES_ALONE
    parts = {"before": _figures(verdict["before"]), "after": _figures(verdict["after"])}
    parts["retained"] = _figures(verdict["retained"])
    earlier = [_figures(one) for one in verdict["earlier"]]
    mode = "white-box" if settings.audit.white_box else "device"
    return Audit.model_validate(_fields(Audit, {**verdict, **parts, "earlier": earlier, "words": words, "mode": mode}))


def _figures(told: Figures | None) -> dict[str, Any] | None:
    """Return the aggregates; what single copies said stays out."""
    if told is None:
        return None
    return _fields(Statistics, {**told, "scores": [_fields(Score, one) for one in told["scores"]]})


def _fields(part: type[BaseModel], told: Mapping[str, Any]) -> dict[str, Any]:
    return {name: told[name] for name in part.model_fields}


def _data(models: Sequence[ModelRow], general: str) -> str:
    """Return the digest of the records that the general model was made of, "" where nobody knows."""
    return next((str(one.lineage.get("data", "")) for one in models if one.digest == general), "")


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds")


def _first(error: ValidationError) -> str:
    found = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(str(part) for part in found['loc'])}: {found['msg']}"
