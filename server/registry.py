"""The registry: who takes part, what consent says and what is due; never a waveform.

A withdrawal is on the disk when `withdraw` returns. Models, devices and runs come from `server/inventory.py`,
tables and file from `server/schema.py`, the rules of consent from `server/consent.py`.
"""

import difflib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from server import consent, history, schema
from server.job_book import JobBook, jobs_of
from server.revocation import revoke
from server.rows import (
    DUE,
    ConsentEvent,
    DeviceRow,
    Enrolment,
    Job,
    JobEvent,
    ModelRow,
    Patient,
    RecordRow,
    Role,
    RunRow,
    State,
    Status,
)
from shared.errors import UsageError, WorkspaceError
from shared.notice import FOLDER, Notice

__all__ = [
    "DUE",
    "ConsentEvent",
    "DeviceRow",
    "Enrolment",
    "Job",
    "JobEvent",
    "ModelRow",
    "Patient",
    "RecordRow",
    "Registry",
    "RunRow",
    "State",
]


class Registry(JobBook):
    """An open registry; safe to use from several processes and threads at once."""

    def enrol_many(
        self,
        enrolments: Iterable[Enrolment],
        *,
        before_commit: Callable[[Sequence[Patient]], None] = lambda _: None,
    ) -> list[Patient]:
        """Enrol patients, all or none, and append a consent event for each.

        Args:
            enrolments: who; a wearable without a slot gets the next that was never used.
            before_commit: writes what must be there when the patients are, such as their feeds.

        Raises:
            ConsentError: a patient is enrolled already, withdrawn or not.
            UsageError: an unknown role, no records, or a slot that is taken or makes no sense.
        """
        asked = list(enrolments)
        with self._writing() as connection:
            consent.give(connection, asked, at=self._clock())
            by_id = {patient.id: patient for patient in _patients(connection)}
            enrolled = [by_id[one.patient] for one in asked]
            before_commit(enrolled)
        return enrolled

    def withdraw(
        self,
        patient: str,
        *,
        records: Sequence[str] | None = None,
        source: str = "operator",
        unheard: Callable[[OSError | WorkspaceError], None] = lambda _: None,
    ) -> list[Job]:
        """Take consent back for the named records, or for all; durable when this returns.

        Word of it is left for the patient's device then, too: what it is making of the records it ends, within a
        step, and a wearable in use stops the model that was made of them. Where no word can be left, or none signed,
        consent is taken back all the same, `unheard` is told why, and the next message to the device says so.
        Doing it again changes nothing. The last records named one by one are a withdrawal of the patient.

        Returns:
            The jobs that cover what was named, for a patient with a device; else none.

        Raises:
            UsageError: an unknown patient or record, or an empty list of records.
        """
        with self._writing() as connection:
            who = _patient(connection, patient)
            covering = consent.take_back(connection, who, named=records, source=source, at=self._clock())
            due = jobs_of(connection, schema.jobs.c.id.in_(covering))
        if who.slot is not None:
            gone = [row.id for row in self.records(patient, consented_only=False) if row.withdrawn]
            if failed := self._leave_word(who.slot, gone):
                unheard(failed[0])
        return due

    def _leave_word(self, slot: int, gone: Sequence[str]) -> list[OSError | WorkspaceError]:
        """Tell a device at work and a wearable in use which records are withdrawn; return what went wrong."""
        home, failed = self._path.parent, list[OSError | WorkspaceError]()
        try:
            Notice(home / FOLDER / str(slot)).leave(gone)
        except OSError as error:
            failed.append(error)
        try:
            revoke(home, slot, gone, key_folder=home / "keys")
        except (OSError, WorkspaceError) as error:
            failed.append(error)
        return failed

    def events(self, patient: str | None = None) -> list[ConsentEvent]:
        """Return the consent events in order; a forgotten patient has none that anybody could find.

        Raises:
            UsageError: there is no such patient.
            AuditError: an entry of the ledger was changed.
        """
        with self._reading() as connection:
            who = None if patient is None else _patient(connection, patient).id
            return history.consent_events(connection, who)

    def patients(self, role: Role | None = None) -> list[Patient]:
        """Return the patients, wearables by slot, others by id."""
        with self._reading() as connection:
            return _patients(connection, *([] if role is None else [schema.patients.c.role == role]))

    def patient(self, patient: str) -> Patient:
        """Return one patient.

        Raises:
            UsageError: there is none with this id; names those that are near.
        """
        with self._reading() as connection:
            return _patient(connection, patient)

    def subject(self, patient: str) -> str:
        """Return the patient's name in the ledger, "" once it is forgotten.

        Raises:
            UsageError: there is no such patient.
        """
        with self._reading() as connection:
            one = _patient(connection, patient).id
            return history.names_of(connection, one)[one].subject

    def forgotten(self) -> set[int]:
        """Return the slots of patients of whom all is certified as forgotten, and the names in the ledger with it."""
        people, salts = schema.patients, schema.salts
        gone = sa.select(people.c.slot).join(salts).where(salts.c.salt == history.DESTROYED, people.c.slot.is_not(None))
        with self._reading() as connection:
            return set(connection.scalars(gone))

    def name_of(self, job: Job) -> str:
        """Return a job's name in the ledger; once its patient is forgotten, one that nobody can look up."""
        with self._reading() as connection:
            return history.names_of(connection, job.patient)[job.patient].of("job", job.id)

    def records(
        self, patient: str | None = None, *, role: Role | None = None, consented_only: bool = True
    ) -> list[RecordRow]:
        """Return records, by default only those that may be used."""
        held, gone = schema.records, schema.withdrawals
        query = (
            sa.select(held, gone.c.record.is_not(None).label("withdrawn"))
            .select_from(held)
            .join(schema.patients)
            .outerjoin(gone, consent.same_record())
            .order_by(*_naturally(held.c.patient), *_naturally(held.c.id))
        )
        if consented_only:
            query = query.where(gone.c.record.is_(None))
        if role is not None:
            query = query.where(schema.patients.c.role == role)
        with self._reading() as connection:
            if patient is not None:
                query = query.where(held.c.patient == _patient(connection, patient).id)
            return [RecordRow(**row) for row in connection.execute(query).mappings()]

    def withdrawn(self, roles: Iterable[Role]) -> int:
        """Return how many records of patients with these roles are withdrawn; it can only grow."""
        gone, people = schema.withdrawals, schema.patients
        query = sa.select(sa.func.count()).select_from(gone).join(people, gone.c.patient == people.c.id)
        with self._reading() as connection:
            return connection.execute(query.where(people.c.role.in_(list(roles)))).scalar_one()

    def holders(self, digests: Iterable[str]) -> list[tuple[str, str]]:
        """Return patient and record id of every record with one of these sha256, withdrawn or not."""
        held = schema.records
        query = sa.select(held.c.patient, held.c.id).where(held.c.sha256.in_(list(digests)))
        with self._reading() as connection:
            return [(row.patient, row.id) for row in connection.execute(query)]


def _naturally(column: sa.Column[str]) -> tuple[sa.ColumnElement[Any], ...]:
    """Sort 9 before 10."""
    return sa.func.length(column), column


def _patients(connection: Connection, *where: sa.ColumnElement[bool]) -> list[Patient]:
    people, held, gone = schema.patients, schema.records, schema.withdrawals
    counted = (sa.func.count(held.c.id).label("records"), sa.func.count(gone.c.record).label("withdrawn"))
    rows = connection.execute(
        sa.select(people, *counted)
        .select_from(people)
        .join(held)
        .outerjoin(gone, consent.same_record())
        .where(*where)
        .group_by(people.c.id)
        .order_by(people.c.role, people.c.slot, *_naturally(people.c.id))
    ).mappings()
    return [Patient(**row, status=_status(row["records"], row["withdrawn"])) for row in rows]


def _status(records: int, withdrawn: int) -> Status:
    if not withdrawn:
        return "active"
    return "withdrawn" if withdrawn == records else "partly withdrawn"


def _patient(connection: Connection, patient: str) -> Patient:
    found = _patients(connection, schema.patients.c.id == patient)
    if found:
        return found[0]
    known = {row.id: row.pseudonym for row in connection.execute(sa.select(schema.patients))}
    for name, pseudonym in known.items():
        if pseudonym == patient:
            raise UsageError(f"{patient} is a pseudonym; the patient's id is {name}")
    near = difflib.get_close_matches(patient, known, n=3)
    hint = f"did you mean {', '.join(near)}?" if near else "`lethe patients list` names them"
    raise UsageError(f"no patient {patient!r} among the {len(known)} enrolled; {hint}")
