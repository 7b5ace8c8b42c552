"""A job that passed, and all that a certificate of it is made of; without any device."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from server import certificate, keys
from server.rows import Job, ModelRow
from server.workspace import Workspace
from shared.audit_messages import VerifyReply
from shared.messages import ErasedFile, UnlearnReply
from shared.settings import Settings

PATIENT, RECORDS = "15709", ("records500-21837", "records500-21838")
NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
MODEL, BUNDLE = b"the model in use", b"the same as ONNX"


def digest(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()


def score(name: str = "margin", **values: Any) -> dict[str, Any]:
    rate = {"value": 0.02, "low": 0.0, "high": 0.05}
    told = {"name": name, "primary": name == "margin", "auc": 0.51, "low90": 0.45, "high90": 0.57, "low95": 0.44}
    return {
        **told,
        "high95": 0.58,
        "p": 0.7,
        "p_holm": 0.7,
        "tpr_at_1": None,
        "tpr_at_5": rate,
        "epsilon": 0.0,
    } | values


def statistics(method: str = "exact", **values: Any) -> dict[str, Any]:
    told = {"method": method, "group": "forgotten", "unit": "copy", "n": 160, "segments": 20, "identical": False}
    told |= {"certainty": 0.8, "scores": [score(), score("ulira", p_holm=1.0)], "detectable": 0.59, "needed": None}
    return told | {"verdict": "PASS", "words": "160 copies an arm do not tell.", "unlearned": [0.123456789]} | values


def verdict(**values: Any) -> dict[str, Any]:
    check = {"name": "model as acknowledged", "expected": digest(MODEL), "seen": digest(MODEL), "holds": True}
    told = {"verdict": "PASS", "words": "It passed.", "method": "exact", "exact": True}
    told |= {"before": statistics("nothing", verdict="FAIL"), "after": statistics(), "retained": None, "earlier": []}
    return told | {"bytes": {"holds": True, "checks": [check]}, "seeds": [7], "copies": 160} | values


def approximate(**values: Any) -> dict[str, Any]:
    """A verdict on fine-tuning; `values` go into its statistics."""
    return verdict(method="finetune", exact=False, after=statistics("finetune", **values))


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
