"""The registry's jobs: their steps, and what is kept of them; what everybody uses is `server/registry.py`."""

from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from server import history, schema
from server.consent import has_given
from server.inventory import Inventory
from server.rows import ENDED, FOLLOWING, Job, JobEvent, State, is_final
from shared.errors import LetheError, UsageError


class JobBook(Inventory):
    """An open registry; safe to use from several processes and threads at once."""

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
            job = job_of(connection, job_id)
            if state == job.state:
                return job
            _refuse_step(job, state, detail)
            now = self._clock()
            values: dict[str, Any] = {"state": state, "updated_at": now, "detail": {**job.detail, **detail}}
            values["method"] = detail.get("method", job.method)
            history.enter_step(connection, job, state, detail, at=now)
            connection.execute(sa.update(schema.jobs).where(schema.jobs.c.id == job_id).values(values))
            moved = job_of(connection, job_id)
            last = _is_done_with(connection, job.patient)
            if last:
                history.forget(connection, job.patient)
        if last:
            self._sweep()
        return moved

    def close_job(self, job_id: str, reason: str) -> Job:
        """End a job that no run can certify (`is_final`): it is taken up no more, and never certified.

        Else it would stand in the way of the patient's later consent for good. The patient's name in the ledger stays.

        Args:
            job_id: the job.
            reason: why, in the operator's words; it may name anybody, so the ledger does not have it.

        Raises:
            UsageError: there is no such job, or it may still be certified.
        """
        with self._writing() as connection:
            job, now = job_of(connection, job_id), self._clock()
            if job.state == "CLOSED":
                return job
            if not is_final(job):
                raise UsageError(f"job {job_id} is {job.state} and cannot be closed: {_why_not(job)}")
            history.enter_step(connection, job, "CLOSED", {}, at=now)
            values = {"state": "CLOSED", "updated_at": now, "detail": {**job.detail, "closed": reason}}
            connection.execute(sa.update(schema.jobs).where(schema.jobs.c.id == job_id).values(values))
            return job_of(connection, job_id)

    def note(self, job_id: str, detail: Mapping[str, Any]) -> None:
        """Enter what was learnt of a job that stays where it is; "method" becomes the job's method.

        Raises:
            UsageError: there is no such job.
        """
        with self._writing() as connection:
            job, now = job_of(connection, job_id), self._clock()
            values = {
                "updated_at": now,
                "method": detail.get("method", job.method),
                "detail": {**job.detail, **detail},
            }
            history.enter_step(connection, job, job.state, detail, at=now)
            connection.execute(sa.update(schema.jobs).where(schema.jobs.c.id == job_id).values(values))

    def jobs(self, states: Iterable[State] | None = None) -> list[Job]:
        """Return the jobs, forgotten patients' first, then the oldest; `states=DUE` gives those of the next run."""
        with self._reading() as connection:
            return jobs_of(connection, *([] if states is None else [schema.jobs.c.state.in_(list(states))]))

    def job(self, job_id: str) -> Job:
        """Return one job.

        Raises:
            UsageError: there is none with this id.
        """
        with self._reading() as connection:
            return job_of(connection, job_id)

    def job_events(self, job_id: str) -> list[JobEvent]:
        """Return the steps of one job in order; none once its patient is forgotten.

        Raises:
            UsageError: there is no such job.
            AuditError: an entry of the ledger was changed.
        """
        with self._reading() as connection:
            return history.job_steps(connection, job_of(connection, job_id))


def _is_done_with(connection: Connection, patient: str) -> bool:
    """Return whether all of a patient is certified as forgotten, and nothing about him is due any more."""
    if has_given(connection, patient):
        return False
    jobs = jobs_of(connection, schema.jobs.c.patient == patient)
    whole = [job for job in jobs if job.scope == "patient"]
    return bool(whole) and whole[-1].state == "CERTIFIED" and all(job.state in ENDED for job in jobs)


def _why_not(job: Job) -> str:
    if job.state == "CERTIFIED":
        return "nothing is left to do for it"
    if job.state == "FAILED" and "acknowledged_at" in job.detail:
        return "the next `lethe run` looks at the device once more, and may certify it"
    return "nobody has seen yet that the data are erased; `lethe run` takes it up"


def jobs_of(connection: Connection, *where: sa.ColumnElement[bool]) -> list[Job]:
    """Return jobs, forgotten patients' first, then the oldest."""
    columns = [column for column in schema.jobs.c if column.name not in ("seq", "turn")]
    rows = connection.execute(
        sa.select(*columns).where(*where).order_by(schema.jobs.c.seq.nulls_first(), schema.jobs.c.requested_at)
    ).mappings()
    return [Job(**{**row, "records": tuple(row["records"])}) for row in rows]


def job_of(connection: Connection, job_id: str) -> Job:
    """Return one job.

    Raises:
        UsageError: there is none with this id.
    """
    found = jobs_of(connection, schema.jobs.c.id == job_id)
    if not found:
        raise UsageError(f"no job {job_id!r} in the registry; `lethe jobs list` names them")
    return found[0]


def _refuse_step(job: Job, state: State, detail: Mapping[str, Any]) -> None:
    if state not in FOLLOWING[job.state]:
        expected = " or ".join(FOLLOWING[job.state]) or "nothing"
        raise LetheError(f"job {job.id} is {job.state} and cannot become {state}, expected {expected}")
    if state == "FAILED" and not detail.get("reason"):
        raise LetheError(f"job {job.id} cannot become FAILED without a reason; give detail={{'reason': ...}}")
