"""By when a withdrawal is to be certified, and whether it still can be in time; pure."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from server.rows import DUE, Job


class Due(NamedTuple):
    """A job that is not certified yet, and when it has to be; `left` is below zero once that has passed."""

    job: Job
    deadline: datetime
    left: timedelta

    @property
    def overdue(self) -> bool:
        """Return whether the deadline has passed."""
        return self.left < timedelta(0)


def deadline_of(job: Job, days: int) -> datetime:
    """Return the moment, UTC, by which a job is to be certified: so many days after it was asked for."""
    return datetime.fromisoformat(job.requested_at).astimezone(UTC) + timedelta(days=days)


def due(jobs: Iterable[Job], *, days: int, now: datetime) -> list[Due]:
    """Return the jobs that are not certified, the nearest deadline first."""
    open_still = [job for job in jobs if job.state in DUE]
    found = [Due(job, deadline, deadline - now) for job in open_still for deadline in [deadline_of(job, days)]]
    return sorted(found, key=lambda one: one.deadline)
