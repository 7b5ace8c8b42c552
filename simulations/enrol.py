"""From a data folder to a workspace full of patients: who plays which part, what is enrolled, which feeds there are.

One more patient later is `server/enrolment.py`'s `enrol_patient`.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server.enrolment import FACT, readable
from server.feeds import write_feed
from server.registry import Enrolment, Patient, Registry
from server.rows import ROLES, Role
from server.workspace import Workspace
from shared.errors import DataError
from shared.ptbxl import LeftOut, Record, for_task, index, record_digest, without_copies
from shared.settings import Cohort, Settings
from simulations.split import Split, split_patients

Progress = Callable[[str, int | None], AbstractContextManager[Callable[[int], None]]]


@dataclass(frozen=True)
class Chosen:
    """Every patient's part, the records that each may use, and what was found on the way."""

    split: Split
    records: Mapping[str, Sequence[Record]]
    left_out: tuple[LeftOut, ...]
    unit: str | None


def enrol_cohort(workspace: Workspace, settings: Settings, *, progress: Progress) -> dict[str, Any]:
    """Fill a new workspace with the patients of its data folder: the registry, and a feed for every device.

    Build the workspace in `Workspace.building`, so that an enrolment that fails leaves nothing.

    Args:
        workspace: has no registry yet.
        settings: its cohort and task count.
        progress: draws a bar, such as `shared.terminal.progress`.

    Returns:
        For people: the data folder, task and unit, patients and records by role, records left out by reason.

    Raises:
        DataError: the folder is not what it should be, or mixes units.
        UsageError: too few patients.
        WorkspaceError: there is a registry already, or the disk is full.
    """
    folder, task = workspace.data, settings.general.task
    known = index(folder)
    kept, unfit = for_task(known.records, task)
    digests = _digests(folder, kept, progress=progress)
    once, again = without_copies(kept, digests)
    chosen = _choose(folder, once, settings.cohort, progress=progress)
    roles: dict[Role, Sequence[str]] = {
        "wearable": chosen.split.wearables,
        "control": chosen.split.controls,
        "corpus": chosen.split.corpus,
    }
    enrolments = [
        Enrolment(patient, role, {record.id: digests[record.id] for record in chosen.records[patient]})
        for role, patients in roles.items()
        for patient in patients
    ]

    def feeds(enrolled: Sequence[Patient]) -> None:
        for patient in enrolled:
            write_feed(workspace, patient, folder=folder, records=chosen.records[patient.id], digests=digests)

    with Registry.create(workspace.registry_path) as registry:
        not_enrolled = Counter(one.reason for one in (*again, *chosen.left_out))
        registry.remember(
            FACT, {"task": task, "unit": chosen.unit, "settings": settings.flat(), "left_out": dict(not_enrolled)}
        )
        registry.enrol_many(enrolments, before_commit=feeds)
    left_out = Counter(one.reason for one in (*known.left_out, *unfit, *again, *chosen.left_out))
    return {
        "data": str(folder),
        "task": task,
        "unit": chosen.unit,
        "patients": {role: len(roles[role]) for role in ROLES},
        "records": {role: sum(len(chosen.records[patient]) for patient in roles[role]) for role in ROLES},
        "left_out": dict(left_out.most_common()),
    }


def _choose(folder: Path, records: Sequence[Record], cohort: Cohort, *, progress: Progress) -> Chosen:
    """Split, read what the wearables and controls recorded, and split again without what cannot be read.

    The corpus is not read here: its signals are read once, into the cache, when the general model is trained.
    """
    of: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        of[record.patient].append(record)
    seen: set[str] = set()
    left_out: list[LeftOut] = []
    units: set[str] = set()
    while True:
        split = split_patients({patient: len(own) for patient, own in of.items()}, cohort)
        away = [record for patient in (*split.wearables, *split.controls) for record in of[patient]]
        new = [record for record in away if record.id not in seen]
        if not new:
            break
        with progress("Checking signals", len(new)) as tell:
            found = readable(folder, new, tell=tell)
        seen |= {record.id for record in new}
        left_out += found.left_out
        units |= found.units
        _drop(of, {one.record for one in found.left_out})
    if len(units) > 1:
        raise DataError(f"records of {folder} are in {' and '.join(sorted(units))}, expected one unit; separate them")
    return Chosen(split, of, tuple(left_out), next(iter(units), None))


def _drop(of: dict[str, list[Record]], unusable: set[str]) -> None:
    """Take records away, and patients who have none left."""
    for patient, own in list(of.items()):
        of[patient] = [record for record in own if record.id not in unusable]
        if not of[patient]:
            del of[patient]


def _digests(folder: Path, records: Sequence[Record], *, progress: Progress) -> dict[str, str]:
    """Return the sha256 of every record's files by its id."""
    digests = {}
    with progress("Reading records", len(records)) as tell:
        for done, record in enumerate(records, start=1):
            digests[record.id] = record_digest(folder, record)
            tell(done)
    return digests
