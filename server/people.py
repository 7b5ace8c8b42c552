"""Who takes part and which records there are, read inside the caller's transaction; `server/registry.py` opens it."""

import difflib
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from server import schema
from server.rows import Patient, RecordRow, Status
from server.schema import records, renewals, withdrawals
from shared.errors import UsageError

_ENDED = (
    (renewals.c.patient == withdrawals.c.patient)
    & (renewals.c.record == withdrawals.c.record)
    & (renewals.c.turn == withdrawals.c.turn)
)
standing = (
    sa.select(withdrawals).outerjoin(renewals, _ENDED).where(renewals.c.record.is_(None)).subquery("standing")
)  # the withdrawals that hold now, at most one a record


def same_record() -> sa.ColumnElement[bool]:
    """Join a record with the withdrawal of it that holds."""
    return (standing.c.patient == records.c.patient) & (standing.c.record == records.c.id)


def naturally(column: sa.Column[str]) -> tuple[sa.ColumnElement[Any], ...]:
    """Sort 9 before 10."""
    return sa.func.length(column), column


def records_of(connection: Connection, *where: sa.ColumnElement[bool]) -> list[RecordRow]:
    """Return records by patient, in the order of their ids."""
    held, gone = records, standing
    query = (
        sa.select(held, gone.c.record.is_not(None).label("withdrawn"))
        .select_from(held)
        .join(schema.patients)
        .outerjoin(gone, same_record())
        .where(*where)
        .order_by(*naturally(held.c.patient), *naturally(held.c.id))
    )
    return [RecordRow(**row) for row in connection.execute(query).mappings()]


def patients_of(connection: Connection, *where: sa.ColumnElement[bool]) -> list[Patient]:
    """Return patients, wearables by slot, others by id."""
    people, held, gone = schema.patients, records, standing
    counted = (sa.func.count(held.c.id).label("records"), sa.func.count(gone.c.record).label("withdrawn"))
    rows = connection.execute(
        sa.select(people, *counted)
        .select_from(people)
        .join(held)
        .outerjoin(gone, same_record())
        .where(*where)
        .group_by(people.c.id)
        .order_by(people.c.role, people.c.slot, *naturally(people.c.id))
    ).mappings()
    return [Patient(**row, status=_status(row["records"], row["withdrawn"])) for row in rows]


def _status(records: int, withdrawn: int) -> Status:
    if not withdrawn:
        return "active"
    return "withdrawn" if withdrawn == records else "partly withdrawn"


def patient_of(connection: Connection, patient: str) -> Patient:
    """Return one patient.

    Raises:
        UsageError: there is none with this id; names those that are near.
    """
    found = patients_of(connection, schema.patients.c.id == patient)
    if found:
        return found[0]
    known = {row.id: row.pseudonym for row in connection.execute(sa.select(schema.patients))}
    for name, pseudonym in known.items():
        if pseudonym == patient:
            raise UsageError(f"{patient} is a pseudonym; the patient's id is {name}")
    near = difflib.get_close_matches(patient, known, n=3)
    hint = f"did you mean {', '.join(near)}?" if near else "`lethe patients list` names them"
    raise UsageError(f"no patient {patient!r} among the {len(known)} enrolled; {hint}")
