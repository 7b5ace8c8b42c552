"""The registry: who takes part, what consent says and what is due; never a waveform.

A withdrawal is on the disk when `withdraw` returns. Models, devices and runs come from `server/inventory.py`,
tables and file from `server/schema.py`, the rules of consent from `server/consent.py`.
"""

from collections.abc import Iterable, Sequence

import sqlalchemy as sa

from server import history, schema
from server.consent_book import ConsentBook
from server.people import patient_of, patients_of, records_of, standing
from server.rows import (
    DUE,
    HOSPITAL,
    UNFORGOTTEN,
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
)

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


GENERAL = "general"  # the fact under this name says which general model devices are to have


class Registry(ConsentBook):
    """An open registry; safe to use from several processes and threads at once."""

    def events(self, patient: str | None = None) -> list[ConsentEvent]:
        """Return the consent events in order; a forgotten patient has none that anybody could find.

        Raises:
            UsageError: there is no such patient.
            AuditError: an entry of the ledger was changed.
        """
        with self._reading() as connection:
            who = None if patient is None else patient_of(connection, patient).id
            return history.consent_events(connection, who)

    def patients(self, role: Role | None = None, *, ids: Sequence[str] | None = None) -> list[Patient]:
        """Return the patients, of one role or with these few ids, wearables by slot, others by id."""
        where = [] if role is None else [schema.patients.c.role == role]
        where += [] if ids is None else [schema.patients.c.id.in_(ids)]
        with self._reading() as connection:
            return patients_of(connection, *where)

    def patient(self, patient: str) -> Patient:
        """Return one patient.

        Raises:
            UsageError: there is none with this id; names those that are near.
        """
        with self._reading() as connection:
            return patient_of(connection, patient)

    def subject(self, patient: str) -> str:
        """Return the patient's name in the ledger, "" once it is forgotten.

        Raises:
            UsageError: there is no such patient.
        """
        with self._reading() as connection:
            one = patient_of(connection, patient).id
            return history.names_of(connection, one)[one].subject

    def forgotten(self) -> set[int]:
        """Return the slots of patients of whom all is certified as forgotten, and the names in the ledger with it."""
        people, salts = schema.patients, schema.salts
        gone = sa.select(people.c.slot).join(salts).where(salts.c.salt == history.DESTROYED, people.c.slot.is_not(None))
        with self._reading() as connection:
            return set(connection.scalars(gone))

    def forgotten_pseudonyms(self) -> set[str]:
        """Return the pseudonyms of the patients, with a device or without, who are forgotten as `forgotten` says."""
        people, salts = schema.patients, schema.salts
        with self._reading() as connection:
            gone = sa.select(people.c.pseudonym).join(salts).where(salts.c.salt == history.DESTROYED)
            return set(connection.scalars(gone))

    def stale(self) -> set[int]:
        """Return the slots whose device has a general model, or a copy of one, that the next run replaces.

        That is one that the hospital has another in place of, and any while it has yet to train without a withdrawn
        record.
        """
        jobs, devices, serves = schema.jobs, schema.devices, self.recall(GENERAL) or {}
        waiting = sa.select(sa.func.count()).where(jobs.c.slot == HOSPITAL, jobs.c.state.in_(UNFORGOTTEN))
        with self._reading() as connection:
            due = bool(connection.scalar(waiting))
            if not due and not serves:  # nobody has said yet which one they are to have
                return set()
            last = None if due else serves["digest"]
            rows = connection.execute(
                sa.select(devices.c.slot, devices.c.general).where(devices.c.general.is_not(None))
            )
            return {row.slot for row in rows if row.general != last}

    def name_of(self, job: Job) -> str:
        """Return a job's name in the ledger; once its patient is forgotten, one that nobody can look up."""
        with self._reading() as connection:
            return history.names_of(connection, job.patient)[job.patient].of("job", job.id)

    def records(
        self, patient: str | None = None, *, role: Role | None = None, consented_only: bool = True
    ) -> list[RecordRow]:
        """Return records, by default only those that may be used."""
        where: list[sa.ColumnElement[bool]] = [standing.c.record.is_(None)] if consented_only else []
        if role is not None:
            where.append(schema.patients.c.role == role)
        with self._reading() as connection:
            if patient is not None:
                where.append(schema.records.c.patient == patient_of(connection, patient).id)
            return records_of(connection, *where)

    def withdrawn(self, roles: Iterable[Role]) -> int:
        """Return how many records of patients with these roles are withdrawn now."""
        return self._count(standing, roles)

    def withdrawals(self, roles: Iterable[Role]) -> int:
        """Return how often records of patients with these roles were withdrawn; it can only grow."""
        return self._count(schema.withdrawals, roles)

    def _count(self, gone: sa.FromClause, roles: Iterable[Role]) -> int:
        people = schema.patients
        query = sa.select(sa.func.count()).select_from(gone).join(people, gone.c.patient == people.c.id)
        with self._reading() as connection:
            return connection.execute(query.where(people.c.role.in_(list(roles)))).scalar_one()

    def holders(self, digests: Iterable[str]) -> list[tuple[str, str]]:
        """Return patient and record id of every record with one of these sha256, withdrawn or not."""
        held = schema.records
        query = sa.select(held.c.patient, held.c.id).where(held.c.sha256.in_(list(digests)))
        with self._reading() as connection:
            return [(row.patient, row.id) for row in connection.execute(query)]
