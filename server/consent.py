"""What giving and taking back consent write, each inside one transaction that the registry opened.

The rules live here; which transaction, whose clock and what is read back is `server/registry.py`'s business.
"""

import secrets
from collections.abc import Sequence
from dataclasses import asdict

import sqlalchemy as sa
from sqlalchemy import Connection

from server import history
from server.history import Names
from server.rows import ROLES, Enrolment, Job, Patient, Scope
from server.schema import jobs, patients, records, salts, withdrawals
from shared.errors import ConsentError, UsageError


def give(connection: Connection, enrolments: Sequence[Enrolment], *, at: str) -> None:
    """Enrol patients: their rows, their records and one consent event each.

    Raises:
        ConsentError: a patient is enrolled already, withdrawn or not.
        UsageError: an unknown role, no records, or a slot that is taken or makes no sense.
    """
    present = connection.execute(sa.select(patients.c.id, patients.c.pseudonym, patients.c.slot)).all()
    ids, pseudonyms = {row.id for row in present}, {row.pseudonym for row in present}
    slots = {row.slot for row in present if row.slot is not None}
    people, held, events, salted = [], [], [], []
    for one in enrolments:
        if one.patient in ids:
            raise ConsentError(f"patient {one.patient} is enrolled already; a role is given once and for good")
        slot = _slot(one, slots)
        pseudonym = _fresh("p", pseudonyms)
        people.append({"id": one.patient, "pseudonym": pseudonym, "role": one.role, "slot": slot, "enrolled_at": at})
        held += [{"patient": one.patient, "id": r, "sha256": digest} for r, digest in one.records.items()]
        salt = secrets.token_bytes(history.SALT_BYTES)
        salted.append({"patient": one.patient, "salt": salt})
        names = Names(one.patient, salt=salt, records=list(one.records))
        events.append((names.subject, history.consent_body(names, "given", "patient", list(one.records), "enrolment")))
        ids.add(one.patient)
    if people:
        connection.execute(sa.insert(patients), people)
        connection.execute(sa.insert(records), held)
        connection.execute(sa.insert(salts), salted)
        events.sort(key=lambda event: event[0])  # in an order that does not tell who is who
        history.append_all(connection, "consent", events, at=at)


def _slot(one: Enrolment, taken: set[int]) -> int | None:
    """Check a role and give a wearable its slot; a slot is never used by a second patient."""
    if one.role not in ROLES:
        raise UsageError(f"role {one.role!r} of patient {one.patient}, expected one of {', '.join(ROLES)}")
    if not one.records:
        raise UsageError(f"patient {one.patient} has no records; enrol patients with at least one")
    if one.role != "wearable":
        if one.slot is not None:
            raise UsageError(f"patient {one.patient} is {one.role} and wears no device, but has slot {one.slot}")
        return None
    slot = max(taken, default=-1) + 1 if one.slot is None else one.slot
    if slot < 0 or slot in taken:
        raise UsageError(f"slot {slot} of patient {one.patient} is taken or below 0; leave it out")
    taken.add(slot)
    return slot


def _fresh(prefix: str, taken: set[str]) -> str:
    """Draw a random name that nobody has; 21,000 draws of 32 bits meet each other in one registry of twenty."""
    while (name := f"{prefix}-{secrets.token_hex(4)}") in taken:
        pass
    taken.add(name)
    return name


def take_back(
    connection: Connection, patient: Patient, *, named: Sequence[str] | None, source: str, at: str
) -> list[str]:
    """Withdraw the named records, or all; what is withdrawn already stays as it is.

    Returns:
        The ids of the jobs that cover what was named, older ones included; none without a device.

    Raises:
        UsageError: a record that the patient does not have, or none named.
    """
    rows = connection.execute(
        sa.select(records.c.id, withdrawals.c.record.label("gone"))
        .outerjoin(withdrawals, same_record())
        .where(records.c.patient == patient.id)
        .order_by(sa.func.length(records.c.id), records.c.id)
    ).all()
    held = [row.id for row in rows]
    wanted = set(held) if named is None else named_records(patient.id, named, held)
    left = [row.id for row in rows if row.gone is None]
    now = [record for record in left if record in wanted]
    if now:
        scope: Scope = "patient" if now == left else "records"
        names = history.names_of(connection, patient.id)[patient.id]
        history.enter_consent(connection, names, "withdrawn", scope, now, source=source, at=at)
        connection.execute(sa.insert(withdrawals), [{"patient": patient.id, "record": record} for record in now])
        if patient.slot is not None:
            _request(connection, patient, scope, held if scope == "patient" else now, at=at)
    every = connection.execute(sa.select(jobs).where(jobs.c.patient == patient.id).order_by(jobs.c.seq))
    return [job.id for job in every if wanted & set(job.records)]


def named_records(patient: str, named: Sequence[str], held: Sequence[str]) -> set[str]:
    """Return which of the records that the patient holds are named.

    Raises:
        UsageError: a record that the patient does not have, or none named.
    """
    unknown = [record for record in dict.fromkeys(named) if record not in held]
    if unknown or not named:
        seen = f"no record {', '.join(one or repr(one) for one in unknown)}" if unknown else "no record was named"
        raise UsageError(f"patient {patient}: {seen}; the records are {', '.join(held)}")
    return set(named)


def same_record() -> sa.ColumnElement[bool]:
    """Join a record with its withdrawal."""
    return (withdrawals.c.patient == records.c.patient) & (withdrawals.c.record == records.c.id)


def _request(connection: Connection, patient: Patient, scope: Scope, forget: Sequence[str], *, at: str) -> None:
    """Put a job in the queue of the patient's device."""
    assert patient.slot is not None
    name = _fresh("j", set(connection.scalars(sa.select(jobs.c.id))))
    job = Job(name, patient.id, patient.slot, scope, tuple(forget), "REQUESTED", None, at, at)
    values = asdict(job) | {"seq": sa.select(sa.func.coalesce(sa.func.max(jobs.c.seq), 0) + 1).scalar_subquery()}
    connection.execute(sa.insert(jobs).values(values))
    history.enter_step(connection, job, "REQUESTED", {}, at=at)
