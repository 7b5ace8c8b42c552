"""What the registry holds, as frozen dataclasses, and the states a job goes through; no database here.

Times are UTC in ISO 8601. A digest is a sha256 in hex.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Role = Literal["corpus", "wearable", "control"]
Status = Literal["active", "partly withdrawn", "withdrawn"]
Scope = Literal["patient", "records"]
Kind = Literal["general", "personal"]
State = Literal["REQUESTED", "DISPATCHED", "UNLEARNED", "AUDITED", "CERTIFIED", "FAILED", "CLOSED"]

ROLES: tuple[Role, ...] = get_args(Role)
STATES: tuple[State, ...] = get_args(State)

HOSPITAL = -1  # in a slot's place: a job that the hospital carries out itself, on its general model

# Which state a run may have follow which. A job that failed is dispatched again by a later run; that the operator may
# close it instead is for `close_job`, which looks at more than the state.
FOLLOWING: Mapping[State, tuple[State, ...]] = {
    "REQUESTED": ("DISPATCHED", "FAILED"),
    "DISPATCHED": ("UNLEARNED", "FAILED"),
    "UNLEARNED": ("AUDITED", "FAILED"),
    "AUDITED": ("CERTIFIED", "FAILED"),
    "CERTIFIED": (),
    "FAILED": ("DISPATCHED",),
    "CLOSED": (),
}
ENDED: tuple[State, ...] = ("CERTIFIED", "CLOSED")
DUE: tuple[State, ...] = tuple(state for state in STATES if state not in ENDED)  # the next run takes these up
UNFORGOTTEN: tuple[State, ...] = ("REQUESTED", "DISPATCHED", "FAILED")  # the device may still hold what is withdrawn


@dataclass(frozen=True)
class Enrolment:
    """One patient who gives consent.

    Attributes:
        patient: the id in the data.
        role: which part the patient plays, for good.
        records: sha256 of every record by its id; at least one.
        slot: the device, for a wearable; None takes the next that was never used.
    """

    patient: str
    role: Role
    records: Mapping[str, str]
    slot: int | None = None


@dataclass(frozen=True)
class Patient:
    """A patient as the registry knows him; `pseudonym` is random and says nothing about `id`."""

    id: str
    pseudonym: str
    role: Role
    slot: int | None
    enrolled_at: str
    consents: int  # how many times consent was given: once at enrolment, and again later
    status: Status
    records: int  # enrolled, withdrawn ones included
    withdrawn: int


@dataclass(frozen=True)
class RecordRow:
    """One record: never its waveform."""

    id: str
    patient: str
    sha256: str
    withdrawn: bool


@dataclass(frozen=True)
class ConsentEvent:
    """Consent given or taken back; `records` are those that this event changed."""

    seq: int
    at: str
    patient: str
    kind: Literal["given", "withdrawn"]
    scope: Scope
    records: tuple[str, ...]
    source: str


@dataclass(frozen=True)
class Job:
    """One device's duty to forget, or the hospital's own.

    Attributes:
        slot: the device; HOSPITAL where the records are a corpus or control patient's.
        scope: "patient" when nothing of the patient may stay, else "records".
        records: what to forget; for scope "patient" every record the patient ever had.
        method: the last one that a detail named, None before the first dispatch.
        detail: the details of all steps, later ones over earlier ones.
    """

    id: str
    patient: str
    slot: int
    scope: Scope
    records: tuple[str, ...]
    state: State
    method: str | None
    requested_at: str
    updated_at: str
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class JobEvent:
    """One step of a job."""

    seq: int
    at: str
    job: str
    state: State
    detail: Mapping[str, Any]


@dataclass(frozen=True)
class ModelRow:
    """A model by its digest; its bytes lie elsewhere."""

    digest: str
    kind: Kind
    parent: str | None
    slot: int | None
    lineage: Mapping[str, Any]
    created_at: str


@dataclass(frozen=True)
class DeviceRow:
    """What a device last told; `own` and `others` are accuracies of its personal model.

    One that was sent a general model and has not answered yet has no `personal`.
    """

    slot: int
    patient: str
    general: str | None
    personal: str | None
    bundle: str | None
    accepted: bool
    own: float | None
    others: float | None
    seconds: float
    updated_at: str


@dataclass(frozen=True)
class RunRow:
    """One run; `status` is "running" until it says otherwise, or the next run finds that it never did."""

    id: str
    started_at: str
    finished_at: str | None
    status: str
    settings: Mapping[str, Any]
    detail: Mapping[str, Any]


LOOKED = "looked"  # in a job's detail: the checks of bytes, which hold, of a withdrawal that no run can certify


def is_final(job: Job) -> bool:
    """Return whether no run can certify a job any more, although the server saw that the data are erased.

    The device's answer about copies cannot be judged, or copies refute what was done; the data are gone, so that no
    other copies can be made. The operator closes it.
    """
    return job.state == "FAILED" and LOOKED in job.detail


def counted(number: int, noun: str) -> str:
    """Return "1 record", "2 records"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
