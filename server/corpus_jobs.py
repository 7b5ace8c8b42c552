"""What a run does about withdrawals of corpus and control patients: their records are in the general model itself.

The hospital carries these jobs out: the general model is trained again without the records, whole or from the last
slice that never saw them (`server/sisa.py`), what was made of them goes, and every device makes its copy anew from the
new model. A job is UNLEARNED when nothing in the workspace is made of the records any more, and certified once no
device has a model that descends from an older one. Training is `server/general.py`'s.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from server import certificate
from server.auditor import judge_job
from server.deadlines import deadline_of
from server.general import Trained, is_stale
from server.holdings import Held, public_files
from server.registry import GENERAL
from server.rows import DUE, HOSPITAL, UNFORGOTTEN, Job
from server.run import Run
from server.verdicts import COPIES, LINEAGE, RECORDS, SERVED, Bytes, Check
from shared.audit_messages import VerifyReply
from shared.errors import AuditError, WorkspaceError
from shared.messages import ErasedFile, UnlearnReply
from shared.package import Package

UNMEASURED = "the general model was trained again without the records: no copies were compared"


@dataclass(frozen=True)
class Ending:
    """Where a job stands at the end of a run, and why it is not certified, else ""."""

    job: Job
    certificate: str = ""
    why: str = ""


def dispatch(run: Run) -> None:
    """Note, before the general model is trained, what is to go and how."""
    for job in _due(run, UNFORGOTTEN):
        held, home = _holding(run, job), run.workspace.home
        known = {str(path.relative_to(home)): size for one in held for path, size in one.files.items()}
        in_use = str((run.registry.recall(GENERAL) or {}).get("digest", ""))
        detail: dict[str, Any] = {
            "method": run.settings.general.unlearning,
            "before": job.detail.get("before", in_use),
            "held": {**job.detail.get("held", {}), **known},
        }
        if job.state == "DISPATCHED":
            if detail != {key: job.detail.get(key) for key in detail}:  # more is held, or another method is chosen now
                run.registry.note(job.id, detail)
        else:
            run.registry.advance(job.id, "DISPATCHED", detail=detail)


def acknowledge(run: Run, trained: Trained) -> None:
    """Enter, once the general model is there, which withdrawn records nothing here is made of any more."""
    for job in _due(run, ("DISPATCHED",)):
        if _holding(run, job):
            continue  # withdrawn after the choice of records: the next run trains without them
        detail = {
            "after": trained.digest,
            "erased": sorted(job.detail["held"]),
            "acknowledged_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        }
        run.registry.advance(job.id, "UNLEARNED", detail=detail)


def close(run: Run, trained: Trained) -> list[Ending]:
    """Judge and certify what was forgotten; return where every job of the hospital's that was due stands."""
    return [_close(run, job, trained) for job in _due(run, DUE)]


def _close(run: Run, job: Job, trained: Trained) -> Ending:
    if job.state not in ("UNLEARNED", "AUDITED"):
        return Ending(job, why="withdrawn while the general model was being made; the next run trains it without")
    away = ", ".join(map(str, _behind(run, trained)))
    if away:
        return Ending(job, why=f"device {away} still has a model that descends from an older general one")
    found = _bytes(run, job, trained, away=away or "none")
    verdict = judge_job((), found, method=str(job.method), exact=True, unmeasured=UNMEASURED)
    try:
        if job.state != "AUDITED":
            job = run.registry.advance(job.id, "AUDITED", detail={"verdict": verdict})
        elif job.detail.get("verdict") != verdict:  # it waited for its certificate, or a run was killed before its end
            run.registry.note(job.id, {"verdict": verdict})
        if verdict["verdict"] != "PASS":
            raise AuditError(verdict["words"])
        told, seen = _answers(job, trained)
        path = certificate.issue(run.workspace, run.registry, job, verdict, told, seen, run.settings, run=run.name)
    except AuditError as error:
        return Ending(run.registry.advance(job.id, "FAILED", detail={"reason": str(error)}), why=str(error))
    except WorkspaceError as error:  # without a key nothing is signed; the job stays AUDITED, and the run goes on
        return Ending(job, why=str(error))
    about = {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    return Ending(run.registry.advance(job.id, "CERTIFIED", detail={"certificate": about}), certificate=path.name)


def _behind(run: Run, trained: Trained) -> list[int]:
    """Return the devices with another general model, or with other public segments, and those that do not say."""
    fingerprint = Package.open(run.workspace.models / trained.digest).fingerprint
    told = {slot: identity for slot, (_, identity) in run.devices.items()}
    return [
        row.slot
        for row in run.registry.devices()
        if row.general and (row.slot not in told or {told[row.slot].package, told[row.slot].in_use} != {fingerprint})
    ]


def _bytes(run: Run, job: Job, trained: Trained, *, away: str) -> Bytes:
    """Look once more at what the hospital has, models, signals and networks on their way, and what devices told."""
    holding = _holding(run, job)
    left = ", ".join(sorted(one.kind for one in holding)) or "none"
    sound = not is_stale(run.workspace, run.registry, run.settings)
    lineage = "no withdrawn record" if sound else "a withdrawn record"
    here = trained.digest if (run.workspace.models / trained.digest).is_dir() else "none"
    checks: list[Check] = [
        {"name": SERVED, "expected": trained.digest, "seen": here, "holds": here == trained.digest},
        {"name": RECORDS, "expected": "none", "seen": left, "holds": not holding},
        {"name": LINEAGE, "expected": "no withdrawn record", "seen": lineage, "holds": sound},
        {"name": COPIES, "expected": "none", "seen": away, "holds": away == "none"},
    ]
    return {"holds": all(check["holds"] for check in checks), "checks": checks}


def _answers(job: Job, trained: Trained) -> tuple[UnlearnReply, VerifyReply]:
    """Return what a device would have told of the job, told by the hospital of itself."""
    files = tuple(ErasedFile(name, size) for name, size in sorted(job.detail["held"].items()))
    told = UnlearnReply(
        *(job.id, job.slot, "ok"),
        served=str(job.method),
        general=trained.digest,
        before=str(job.detail["before"]),
        after=trained.digest,
        erased=files,
        unlearned_at=str(job.detail["acknowledged_at"]),
    )
    return told, VerifyReply(job.id, job.slot, "ok", general=trained.digest, served=trained.digest)


def _holding(run: Run, job: Job) -> list[Held]:
    return [one for one in public_files(run.workspace) if one.holds(job.records)]


def _due(run: Run, states: Sequence[str]) -> list[Job]:
    return [job for job in run.registry.jobs(DUE) if job.slot == HOSPITAL and job.state in states]


def describe(endings: Sequence[Ending], run: Run) -> list[dict[str, Any]]:
    """Return, for the run's result, what became of each withdrawal; `server/forgotten.py` takes the names out later."""
    return [
        {
            "job": one.job.id,
            "pseudonym": run.registry.patient(one.job.patient).pseudonym,
            "records": len(one.job.records),
            "state": one.job.state,
            "method": one.job.method or "",
            "requested_at": one.job.requested_at,
            "deadline": deadline_of(one.job, run.settings.audit.deadline_days).isoformat(),
            "certificate": one.certificate,
            "reason": one.why,
        }
        for one in endings
    ]
