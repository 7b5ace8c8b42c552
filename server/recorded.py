"""Which of a patient's records were recorded between two days: what a withdrawal of a date range means.

The registry keeps no dates; the feeds of devices do, and the data folder's tables.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import date, datetime

from server.feeds import recorded_at
from server.rows import Patient
from server.workspace import Workspace
from shared.errors import UsageError
from shared.ptbxl import index


def day(text: str, *, option: str) -> date:
    """Return a day.

    Raises:
        UsageError: it is none.
    """
    with suppress(ValueError):
        if str(found := date.fromisoformat(text)) == text:  # neither 19901231 nor 1990-W52-1: likelier a slip
            return found
    raise UsageError(f"{option} is {text!r}, expected a day such as 1990-12-31")


def days_of(workspace: Workspace, patient: Patient, held: Sequence[str]) -> dict[str, date]:
    """Return the day of each record that a patient holds, from whatever folder it came.

    Raises:
        DataError: the data folder is needed and cannot be read.
        UsageError: nobody can tell of a record.
    """
    told = {} if patient.slot is None else recorded_at(workspace, patient.slot)
    if not set(held) <= told.keys():  # no device, or a feed that is gone
        own = (record for record in index(workspace.data).records if record.patient == patient.id)
        told = {record.id: record.recorded_at for record in own} | told
    days = {record: _recorded(told.get(record, "")) for record in held}
    if undated := [record for record, on in days.items() if on is None]:
        raise UsageError(
            f"patient {patient.id}: nobody can tell when {', '.join(undated)} was recorded, so that no range of days "
            "is sure to be all of what is meant; name records with --record, or withdraw everything"
        )
    return {record: on for record, on in days.items() if on is not None}


def between(days: Mapping[str, date], *, since: date | None, until: date | None) -> list[str]:
    """Return the records of one day to another, both included; None sets no limit.

    Raises:
        UsageError: the days are in the wrong order, or hold no record.
    """
    if since and until and since > until:
        raise UsageError(f"--from {since} is after --until {until}, expected the first day and then the last")
    found = [record for record, on in days.items() if (since or on) <= on <= (until or on)]
    if not found:
        seen = ", ".join(f"{record} ({on})" for record, on in sorted(days.items(), key=lambda one: one[1]))
        raise UsageError(f"no record is of these days; the patient's are {seen}")
    return found


def _recorded(told: str) -> date | None:
    try:
        return datetime.fromisoformat(told).date()
    except ValueError:
        return None
