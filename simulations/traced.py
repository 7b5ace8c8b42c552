"""What a trace is made of: the patient as the registry knows him, and one place that holds something of his.

What a file says of its records is read here; one that cannot be read counts as holding all.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server.registry import Registry
from server.rows import DUE, Job, Patient

UNREADABLE = "which cannot be read, and so may hold all"


@dataclass(frozen=True)
class Holding:
    """One place that holds something of the patient's.

    Attributes:
        where: a path in the workspace, "registry", the data folder, or a device by its number.
        what: what lies there, in words.
        records: of which records; empty where it is of the patient and no record.
        until: what makes it go.
    """

    where: str
    what: str
    records: tuple[str, ...]
    until: str


@dataclass(frozen=True)
class Known:
    """The patient, the ids of all records, withdrawn or not, and the jobs about them.

    Attributes:
        unforgotten: the records that are not withdrawn, or not yet certified as forgotten.
    """

    who: Patient
    held: tuple[str, ...]
    unforgotten: tuple[str, ...]
    jobs: tuple[Job, ...]

    def among(self, records: Iterable[str] | None) -> tuple[str, ...]:
        """Return which of the patient's records are among these; all, where nobody can tell which these are."""
        if records is None:
            return self.held
        there = set(records)
        return tuple(record for record in self.held if record in there)


def known(registry: Registry, patient: str) -> Known:
    """Look a patient up.

    Raises:
        UsageError: there is no such patient.
    """
    rows = registry.records(patient, consented_only=False)
    jobs = tuple(job for job in registry.jobs() if job.patient == patient)
    due = {record for job in jobs if job.state in DUE for record in job.records}
    unforgotten = tuple(row.id for row in rows if not row.withdrawn or row.id in due)
    return Known(registry.patient(patient), tuple(row.id for row in rows), unforgotten, jobs)


def read_json(path: Path) -> Any:
    """Return what a file of JSON says; None where it cannot be read."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return None


def ids_in(found: Any) -> tuple[str, ...] | None:
    """Return the records that a device's state or a sensor's feed names; None where it does not say."""
    named = found.get("records") if isinstance(found, dict) else None
    if not isinstance(named, list):
        return None
    ids: list[Any] = [one.get("id") if isinstance(one, dict) else one for one in named]
    return tuple(ids) if all(isinstance(one, str) for one in ids) else None
