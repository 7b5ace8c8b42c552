"""The registry: who takes part, what consent says and what is due; never a waveform.

A withdrawal is on the disk when `withdraw` returns. Models, devices and runs come from `server/inventory.py`,
tables and file from `server/schema.py`, the rules of consent from `server/consent.py`.
"""

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from server import consent, history, schema
from server.inventory import Inventory
from server.rows import (
    DUE,
    FOLLOWING,
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
from shared.errors import LetheError, UsageError

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


class Registry(Inventory):
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

    def withdraw(self, patient: str, *, records: Sequence[str] | None = None, source: str = "operator") -> list[Job]:
        """Take consent back for the named records, or for all; durable when this returns.

        Doing it again changes nothing. The last records named one by one are a withdrawal of the patient.

        Returns:
            The jobs that cover what was named, for a patient with a device; else none.

        Raises:
            UsageError: an unknown patient or record, or an empty list of records.
        """
        with self._writing() as connection:
            who = _patient(connection, patient)
            covering = consent.take_back(connection, who, named=records, source=source, at=self._clock())
            return _jobs(connection, schema.jobs.c.id.in_(covering))

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

    def advance(self, job_id: str, state: State, *, detail: Mapping[str, Any] | None = None) -> Job:
        """Move a job on and append the step; the present state again changes nothing.

        When the last job of a patient who withdrew everything is CERTIFIED, the salt of the patient's names in the
        ledger is destroyed with it, and of the jobs stays no more than what was asked and erased; the job as it was
        is returned once more.

        Args:
            job_id: the job.
            state: where it goes; see `FOLLOWING` in `server/rows.py`.
            detail: what happened, as JSON; "method" becomes the job's method, FAILED needs a "reason".

        Raises:
            UsageError: there is no such job.
            LetheError: this state cannot follow the present one, or a failure gives no reason.
        """
        detail = dict(detail or {})
        with self._writing() as connection:
            job = _job(connection, job_id)
            if state == job.state:
                return job
            _refuse_step(job, state, detail)
            now = self._clock()
            values: dict[str, Any] = {"state": state, "updated_at": now, "detail": {**job.detail, **detail}}
            values["method"] = detail.get("method", job.method)
            connection.execute(sa.update(schema.jobs).where(schema.jobs.c.id == job_id).values(values))
            history.enter_step(connection, job, state, detail, at=now)
            moved = _job(connection, job_id)
            last = _is_done_with(connection, job.patient)
            if last:
                history.forget(connection, job.patient)
        if last:
            self._sweep()
        return moved

    def jobs(self, states: Iterable[State] | None = None) -> list[Job]:
        """Return the jobs, forgotten patients' first, then the oldest; `states=DUE` gives those of the next run."""
        with self._reading() as connection:
            return _jobs(connection, *([] if states is None else [schema.jobs.c.state.in_(list(states))]))

    def job(self, job_id: str) -> Job:
        """Return one job.

        Raises:
            UsageError: there is none with this id.
        """
        with self._reading() as connection:
            return _job(connection, job_id)

    def job_events(self, job_id: str) -> list[JobEvent]:
        """Return the steps of one job in order; none once its patient is forgotten.

        Raises:
            UsageError: there is no such job.
            AuditError: an entry of the ledger was changed.
        """
        with self._reading() as connection:
            return history.job_steps(connection, _job(connection, job_id))


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


def _is_done_with(connection: Connection, patient: str) -> bool:
    """Return whether all of a patient is certified as forgotten, and no device has anything left to do for that."""
    jobs = _jobs(connection, schema.jobs.c.patient == patient)
    return any(job.scope == "patient" for job in jobs) and all(job.state == "CERTIFIED" for job in jobs)


def _jobs(connection: Connection, *where: sa.ColumnElement[bool]) -> list[Job]:
    columns = [column for column in schema.jobs.c if column.name != "seq"]
    rows = connection.execute(
        sa.select(*columns).where(*where).order_by(schema.jobs.c.seq, schema.jobs.c.requested_at)
    ).mappings()
    return [Job(**{**row, "records": tuple(row["records"])}) for row in rows]


def _job(connection: Connection, job_id: str) -> Job:
    found = _jobs(connection, schema.jobs.c.id == job_id)
    if not found:
        raise UsageError(f"no job {job_id!r} in the registry; `lethe jobs list` names them")
    return found[0]


def _refuse_step(job: Job, state: State, detail: Mapping[str, Any]) -> None:
    if state not in FOLLOWING[job.state]:
        expected = " or ".join(FOLLOWING[job.state]) or "nothing"
        raise LetheError(f"job {job.id} is {job.state} and cannot become {state}, expected {expected}")
    if state == "FAILED" and not detail.get("reason"):
        raise LetheError(f"job {job.id} cannot become FAILED without a reason; give detail={{'reason': ...}}")
