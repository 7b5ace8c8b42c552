"""A job that passed, and all that a certificate of it is made of; without any device."""

import copy
import hashlib
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from server import certificate, keys
from server.auditor import judge_job, look
from server.rows import Job, ModelRow
from server.verdicts import STANDS_IN, Look
from server.workspace import Workspace
from shared.audit_messages import AuditReply, Readings, VerifyReply
from shared.messages import ErasedFile, UnlearnReply
from shared.settings import Settings

PATIENT, RECORDS = "15709", ("records500-21837", "records500-21838")
NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
MODEL, BUNDLE = b"the model in use", b"the same as ONNX"


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def check(name: str, value: str) -> dict[str, Any]:
    return {"name": name, "expected": value, "seen": value, "holds": True}


def checks(*more: dict[str, Any], model: str = "", bundle: str = "") -> dict[str, Any]:
    """What every certificate must have compared, and `more`."""
    told = [check("model as acknowledged", model or digest(MODEL))]
    told += [check("ONNX file as acknowledged", bundle or digest(BUNDLE)), check("withdrawn records", "none")]
    told += [check("leftover files", "none"), check("models of the other devices", "unchanged")]
    return {"holds": True, "checks": [*told, *more]}


REMADE = (
    check("lineage of the general model", "no withdrawn record"),
    check("general model it starts from", "a" * 64),
    check("the bytes of a fresh copy", digest(MODEL)),
)


@cache
def looked(method: str, copies: int = 160) -> Look:
    """What an auditor finds whose copies cannot be told from those that never saw the records."""
    rng = np.random.default_rng(4)

    def arm(shift: float) -> dict[str, Readings]:
        margins = {"forgotten": rng.normal(shift, 1, (copies, 4)), "retained": rng.normal(size=(copies, 3))}
        margins["control"] = rng.normal(size=(copies, 12))
        return {
            group: Readings(*(tuple(map(tuple, part.tolist())) for part in (m, np.logaddexp(0, -m), m - 1, m - 0.1)))
            for group, m in margins.items()
        }

    arms = {"never": arm(0), "nothing": arm(2), method: arm(0)}
    return look(AuditReply("job-1f2e", 3, "ok", arms=arms), method, exact=method == "exact", seed=7)


def statistics(method: str = "exact", **values: Any) -> dict[str, Any]:
    """One comparison of a look, with some of its figures changed."""
    found = looked(method if method != "nothing" else "exact")["before" if method == "nothing" else "after"]
    return copy.deepcopy(dict(found)) | values


def verdict(method: str = "exact", **values: Any) -> dict[str, Any]:
    """The verdict of a job of which some records go, with some of it changed."""
    exact = method in {"exact", STANDS_IN}
    found = values.pop("bytes", checks(*REMADE) if exact else checks())
    looks = values.pop("looks", [] if method == STANDS_IN else [looked(method)])
    judged = judge_job(looks, found, method=method, exact=exact)
    return copy.deepcopy(dict(judged)) | values


def approximate(**values: Any) -> dict[str, Any]:
    """A verdict on fine-tuning; `values` go into its statistics."""
    return verdict("finetune", after=statistics("finetune", **values))


def job(**values: Any) -> Job:
    at = "2026-03-01T09:00:00.000+00:00"
    told = Job("job-1f2e", PATIENT, 3, "records", RECORDS, "AUDITED", "exact", at, at)
    return replace(told, **values)


def acknowledgement(**values: Any) -> UnlearnReply:
    files = (ErasedFile(f"recordings/{RECORDS[0]}.npz", 1000), ErasedFile("model.safetensors", 234))
    told = UnlearnReply("job-1f2e", 3, "ok", served="exact", general="a" * 64, before="b" * 64, erased=files)
    told = replace(told, after=digest(MODEL), bundle=digest(BUNDLE), segments_erased=20)
    return replace(told, unlearned_at="2026-03-10T11:58:00.000+00:00", **values)


def verified(**values: Any) -> VerifyReply:
    told = VerifyReply("job-1f2e", 3, "ok", general="a" * 64, served=digest(MODEL), bundle=digest(BUNDLE))
    return replace(told, **values)


@dataclass
class Hospital:
    """A workspace with a key, and what a certificate asks of a registry."""

    workspace: Workspace
    settings: Settings = field(default_factory=Settings)
    noted: list[str] = field(default_factory=list)
    head: tuple[int, str] = (41, "c" * 64)

    @classmethod
    def found(cls, folder: Path) -> "Hospital":
        workspace = Workspace.create(folder, data=folder)
        keys.make(workspace.keys)
        return cls(workspace)

    @property
    def public(self) -> bytes:
        return (self.workspace.keys / "signing.pub.pem").read_bytes()

    def subject(self, patient: str) -> str:
        assert patient == PATIENT
        return "d" * 64

    def name_of(self, job: Job) -> str:
        return digest(f"salted {job.id}".encode())

    def note_key(self, public_key: str) -> None:
        self.noted.append(public_key)

    def ledger_head(self) -> tuple[int, str]:
        return self.head

    def models(self) -> list[ModelRow]:
        return [ModelRow("a" * 64, "general", None, None, {"data": "e" * 64}, "2026-03-01T00:00:00+00:00")]

    def issue(self, told: dict[str, Any] | None = None, **values: Any) -> Path:
        parts = {"job": job(), "acknowledgement": acknowledgement(), "verified": verified(), "run": "run-1", "now": NOW}
        parts |= {"settings": self.settings} | values
        given = (parts.pop(name) for name in ("acknowledgement", "verified", "settings"))
        return certificate.issue(self.workspace, self, parts.pop("job"), told or verdict(), *given, **parts)
