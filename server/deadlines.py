"""By when a withdrawal is to be certified, and whether it still can be in time; pure."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from server.rows import DUE, Job
from shared.errors import DamagedError


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
    """Return the moment, UTC, by which a job is to be certified: so many days after it was asked for.

    Where the calendar ends before that, it is the calendar's end.

    Raises:
        DamagedError: the registry does not say when that was.
    """
    try:
        asked = datetime.fromisoformat(job.requested_at).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise DamagedError(
            f"the registry says that job {job.id} was asked for at {job.requested_at!r}, which is no time: it was "
            "altered; `lethe ledger verify` says what else was, and a backup what it was"
        ) from error
    try:
        return asked + timedelta(days=days)
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC)


def due(jobs: Iterable[Job], *, days: int, now: datetime) -> list[Due]:
    """Return the jobs that have not ended, the nearest deadline first."""
    open_still = [job for job in jobs if job.state in DUE]
    found = [Due(job, deadline, deadline - now) for job in open_still for deadline in [deadline_of(job, days)]]
    return sorted(found, key=lambda one: one.deadline)
