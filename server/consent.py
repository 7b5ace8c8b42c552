"""What giving and taking back consent write, each inside one transaction that the registry opened.

The rules live here; which transaction, whose clock and what is read back is `server/registry.py`'s business.
"""

import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict

import sqlalchemy as sa
from sqlalchemy import Connection

from server import history
from server.history import Names
from server.people import same_record, standing
from server.rows import DUE, HOSPITAL, LOOKED, ROLES, Enrolment, Job, Patient, Scope
from server.schema import jobs, patients, records, renewals, salts, withdrawals
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
        row = {"id": one.patient, "pseudonym": pseudonym, "role": one.role, "slot": slot}
        people.append(row | {"enrolled_at": at, "consents": 1})
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
        The ids of the jobs that cover what was named, older ones included.

    Raises:
        UsageError: a record that the patient does not have, or none named.
    """
    stands = _stands(connection, patient.id)
    held, left = list(stands), [record for record, turn in stands.items() if turn is None]
    wanted = set(held) if named is None else named_records(patient.id, named, held)
    now = [record for record in left if record in wanted]
    earlier = _jobs_about(connection, patient.id, {r: turn for r, turn in stands.items() if turn and r in wanted})
    if not now:
        return earlier
    scope: Scope = "patient" if now == left else "records"
    names = history.names_of(connection, patient.id)[patient.id]
    history.enter_consent(connection, names, "withdrawn", scope, now, source=source, at=at)
    gone = [{"patient": patient.id, "record": record, "turn": patient.consents} for record in now]
    connection.execute(sa.insert(withdrawals), gone)
    return [*earlier, _request(connection, patient, scope, held if scope == "patient" else now, at=at)]


def give_again(
    connection: Connection, patient: Patient, *, named: Sequence[str] | None, source: str, at: str
) -> list[str]:
    """Give consent again for the named records that are withdrawn, or for all of them.

    Returns:
        The records that may be used from now on and could not be used before.

    Raises:
        ConsentError: a device has yet to forget one of them.
        UsageError: a record that the patient does not have, or none named.
    """
    stands = _stands(connection, patient.id)
    wanted = set(stands) if named is None else named_records(patient.id, named, list(stands))
    again = [record for record, turn in stands.items() if turn is not None and record in wanted]
    if again:
        refuse_unforgotten(connection, patient.id, again)
        ended = [{"patient": patient.id, "record": record, "turn": stands[record]} for record in again]
        connection.execute(sa.insert(renewals), ended)
        _enter_given(connection, patient, again, source=source, at=at)
    return again


def give_more(connection: Connection, patient: Patient, new: Mapping[str, str], *, source: str, at: str) -> None:
    """Take in new records of an enrolled patient, with consent for them.

    Args:
        connection: of a write transaction.
        patient: who is enrolled.
        new: sha256 of every new record by its id.
        source: who says so.
        at: when.

    Raises:
        ConsentError: the patient's device has yet to forget everything.
        UsageError: a record is enrolled already, or there is none.
    """
    held = _stands(connection, patient.id)
    if not new or not held.keys().isdisjoint(new):
        seen = ", ".join(sorted(held.keys() & new)) or "no record"
        raise UsageError(f"patient {patient.id}: {seen} where records were expected that are not enrolled yet")
    refuse_unforgotten(connection, patient.id, None)
    connection.execute(sa.insert(records), [{"patient": patient.id, "id": r, "sha256": d} for r, d in new.items()])
    _enter_given(connection, patient, list(new), source=source, at=at)


def refuse_unforgotten(connection: Connection, patient: str, wanted: Collection[str] | None) -> None:
    """Refuse consent while a job is due that will erase what it is for: named records, or None for all there will be.

    Raises:
        ConsentError: there is such a job.
    """
    due = connection.execute(sa.select(jobs).where(jobs.c.patient == patient, jobs.c.state.in_(DUE))).all()
    for job in due:
        if job.scope == "patient" or (wanted is not None and set(job.records) & set(wanted)):
            ended = LOOKED in job.detail and job.state == "FAILED"
            way = (
                f"its reason is in `lethe jobs show {job.id}`, and `lethe jobs close {job.id}` ends it uncertified"
                if ended
                else "`lethe run` carries the job out"
            )
            raise ConsentError(
                f"patient {patient} has withdrawn, and job {job.id} about it is {job.state}: what was taken back is "
                f"forgotten, and certified, before it is given again; {way}"
            )


def _enter_given(connection: Connection, patient: Patient, given: Sequence[str], *, source: str, at: str) -> None:
    """Enter that consent was given again; who was forgotten gets a name in the ledger that nothing ties to the old."""
    fresh = {"salt": secrets.token_bytes(history.SALT_BYTES)}
    forgotten = (salts.c.patient == patient.id) & (salts.c.salt == history.DESTROYED)
    connection.execute(sa.update(salts).where(forgotten).values(fresh))
    connection.execute(sa.update(patients).where(patients.c.id == patient.id).values(consents=patient.consents + 1))
    names = history.names_of(connection, patient.id)[patient.id]
    history.enter_consent(connection, names, "given", "records", given, source=source, at=at)


def _stands(connection: Connection, patient: str) -> dict[str, int | None]:
    """Return a patient's records in their order, each with the turn of the withdrawal that holds, if one does."""
    query = sa.select(records.c.id, standing.c.turn).outerjoin(standing, same_record())
    rows = connection.execute(
        query.where(records.c.patient == patient).order_by(sa.func.length(records.c.id), records.c.id)
    )
    return {row.id: row.turn for row in rows}


def _jobs_about(connection: Connection, patient: str, gone: Mapping[str, int]) -> list[str]:
    """Return the ids of the jobs by which records were, or are, forgotten, since they were withdrawn for this turn."""
    every = connection.execute(sa.select(jobs).where(jobs.c.patient == patient).order_by(jobs.c.seq))
    return [job.id for job in every if any(gone.get(record, job.turn + 1) <= job.turn for record in job.records)]


def has_given(connection: Connection, patient: str) -> bool:
    """Return whether a patient consents to the use of any record."""
    return None in _stands(connection, patient).values()


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


def _request(connection: Connection, patient: Patient, scope: Scope, forget: Sequence[str], *, at: str) -> str:
    """Put a job in the queue of the patient's device, or of the hospital itself; return its id."""
    slot = HOSPITAL if patient.slot is None else patient.slot
    name = _fresh("j", set(connection.scalars(sa.select(jobs.c.id))))
    job = Job(name, patient.id, slot, scope, tuple(forget), "REQUESTED", None, at, at)
    last = sa.select(sa.func.coalesce(sa.func.max(jobs.c.seq), 0) + 1).scalar_subquery()
    connection.execute(sa.insert(jobs).values(asdict(job) | {"seq": last, "turn": patient.consents}))
    history.enter_step(connection, job, "REQUESTED", {}, at=at)
    return name
