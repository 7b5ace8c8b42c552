"""One run of the work that is due, and what it has found so far."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from flwr.serverapp import Grid

from server import phases
from server.progress import Progress
from server.registry import Registry
from server.rows import Job
from server.verdicts import JobVerdict
from server.workspace import Workspace
from shared.errors import LetheError
from shared.fields import words
from shared.messages import Identity, PersonaliseReply, ProbeReply, UnlearnReply
from shared.settings import Settings


@dataclass
class Withdrawal:
    """What a run has made of one job.

    Attributes:
        job: as it stands.
        reply: the device's acknowledgement.
        certificate: name of its file in the workspace's `certificates/`, and its sha256.
        steps: state and time of the job's steps, kept while its patient is not forgotten.
        note: why what passed could not be certified yet, else "".
    """

    job: Job
    reply: UnlearnReply
    verdict: JobVerdict | None = None
    certificate: Mapping[str, str] | None = None
    steps: tuple[tuple[str, str], ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Refusal:
    """An answer that was not used.

    Attributes:
        slot: the device that was asked, None for a node of which that is not known.
        asked: the type of the message.
        reason: why.
    """

    slot: int | None
    asked: str
    reason: str


@dataclass
class Run:
    """One run of the work that is due, and what it has found so far.

    Attributes:
        nodes: how many SuperNodes there are; 0: one for every patient who has a device when the run begins.
        devices: slot -> node and identity.
        personal, probes: what the devices answered, by slot.
        withdrawals: what was acknowledged, by job.
        tried: jobs that were taken up, whatever came of it.
        returned: slots of devices that have what was forgotten: an older state was put back, and is to be erased.
        refusals: the answers that were not used, and the errors that came in place of answers.
    """

    name: str
    grid: Grid
    workspace: Workspace
    registry: Registry
    settings: Settings
    progress: Progress
    devices: dict[int, tuple[int, Identity]] = field(default_factory=dict)
    personal: dict[int, PersonaliseReply] = field(default_factory=dict)
    probes: dict[int, ProbeReply] = field(default_factory=dict)
    withdrawals: dict[str, Withdrawal] = field(default_factory=dict)
    tried: set[str] = field(default_factory=set)
    returned: set[int] = field(default_factory=set)
    refusals: list[Refusal] = field(default_factory=list)
    answer_s: float = phases.ANSWER_S
    nodes: int = 0

    def refuse(self, slot: int | None, asked: str, error: LetheError) -> None:
        """Note that an answer was not used; the summary and the result tell it."""
        self.refusals.append(Refusal(slot, asked, words(str(error))))

    def why(self, slot: int, asked: str, *, since: int) -> str:
        """Return why a device's answer was not used, of all but the first `since` refusals; "" where it was."""
        told = [one.reason for one in self.refusals[since:] if (one.slot, one.asked) == (slot, asked)]
        return told[-1] if told else ""

    def barred(self, job: Job) -> tuple[str, ...]:
        """Return the patient's records without consent that this job does not name, but another one."""
        rows = self.registry.records(job.patient, consented_only=False)
        return tuple(row.id for row in rows if row.withdrawn and row.id not in job.records)

    @property
    def unlearned(self) -> list[tuple[Job, UnlearnReply]]:
        """Return the jobs that devices acknowledged in this run."""
        return [(one.job, one.reply) for one in self.withdrawals.values()]
