"""What is entered in the ledger and read back from it, and under which names; inside the caller's transaction.

A patient, the records, the jobs and the device are named by HMAC-SHA256 under the patient's salt, wherever a text of an
entry names them. Reading back is looking the names up again: without the salt nobody can. `forget` destroys it, and
takes from the other tables what would lead to the entries by another way.
"""

import hmac
import json
import re
import secrets
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from server import schema
from server.ledger import Entry, EntryKind, Head, entry_hash, following, head_of
from server.rows import ConsentEvent, Job, JobEvent, State
from shared.errors import AuditError

SALT_BYTES = 32
DESTROYED = bytes(SALT_BYTES)
STEP_KINDS: Mapping[State, EntryKind] = {"AUDITED": "verdict", "CERTIFIED": "certificate"}  # the others are "job"
UNSWEPT = "unswept"  # in `meta`: a salt was destroyed, and the database may still have it where nobody looks

_TIME = re.compile(r"\d{4}-\d\d-\d\d(T[0-9:.]+(Z|[+-]\d\d:\d\d)?)?")
_NAME = re.compile(r"(?<![1-9a-f])(0*)([0-9a-f]{64})(?![0-9a-f])")


class Names:
    """What one patient's words are in the ledger; without a salt, words that nobody can look up."""

    def __init__(
        self,
        patient: str,
        *,
        salt: bytes | None,
        pseudonym: str = "",
        slot: int | None = None,
        records: Sequence[str] = (),
        jobs: Sequence[str] = (),
    ) -> None:
        self.known = salt is not None
        self._salt = salt if salt is not None else secrets.token_bytes(SALT_BYTES)
        self.subject = self.of("patient", patient) if self.known else ""
        self._words = [*(("job", one) for one in jobs), *(("record", one) for one in records), ("patient", patient)]
        self._words += [("pseudonym", pseudonym)] if pseudonym else []
        self._device = None if slot is None else str(slot)

    def of(self, what: str, name: str) -> str:
        """Return the name of a patient, record or job."""
        return hmac.digest(self._salt, f"{what}:{name}".encode(), "sha256").hex()

    def hide(self, value: Any) -> Any:
        """Return a JSON value whose texts, keys included, name nobody."""
        if isinstance(value, str):
            if _TIME.fullmatch(value) or not any(word in value for word in self._by_word):
                return value
            return self._pattern.sub(lambda it: it[1] + self._by_word[it[2]], value)
        if isinstance(value, Mapping):
            return {self.hide(key): self.hide(one) for key, one in value.items()}
        return [self.hide(one) for one in value] if isinstance(value, list | tuple) else value

    def show(self, value: Any) -> Any:
        """Return what `hide` was given."""
        if isinstance(value, str):
            return _NAME.sub(lambda it: it[1] + self._by_name.get(it[2], it[2]), value)
        if isinstance(value, dict):
            return {self.show(key): self.show(one) for key, one in value.items()}
        return [self.show(one) for one in value] if isinstance(value, list) else value

    @cached_property
    def _by_word(self) -> dict[str, str]:
        words = {word: self.of(what, word) for what, word in reversed(self._words)}
        if self._device is not None:
            words |= {f"{noun} {self._device}": self.of(noun, self._device) for noun in ("device", "slot")}
        return words

    @cached_property
    def _by_name(self) -> dict[str, str]:
        return {self.of(what, word): word for what, word in self._words} | {
            name: word for word, name in self._by_word.items()
        }

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        """Match the words where they stand alone, the longest first; 7 is a word of 007_hr, and none of 1.75 or 17."""
        words = "|".join(re.escape(word) for word in sorted(self._by_word, key=len, reverse=True))
        return re.compile(rf"(?<![0-9A-Za-z])(?<![0-9]\.)(0*)({words})(?![0-9A-Za-z])(?!\.[0-9])")


def names_of(connection: Connection, patient: str | None = None) -> dict[str, Names]:
    """Return the names of one patient, or of all, by the patient's id."""
    people, salts = schema.patients, schema.salts

    def only(column: sa.Column[str]) -> list[sa.ColumnElement[bool]]:
        return [] if patient is None else [column == patient]

    owned: dict[str, dict[str, list[str]]] = {"records": defaultdict(list), "jobs": defaultdict(list)}
    for kind, table in (("records", schema.records), ("jobs", schema.jobs)):
        for owner, name in connection.execute(sa.select(table.c.patient, table.c.id).where(*only(table.c.patient))):
            owned[kind][owner].append(name)
    query = sa.select(people.c.id, people.c.pseudonym, people.c.slot, salts.c.salt).outerjoin(salts)
    found = {}
    for row in connection.execute(query.where(*only(people.c.id))):
        salt = None if row.salt in (None, DESTROYED) else row.salt
        mine = {kind: by[row.id] for kind, by in owned.items()}
        found[row.id] = Names(row.id, salt=salt, pseudonym=row.pseudonym, slot=row.slot, **mine)
    return found


def wearer(connection: Connection, slot: int | None) -> Names | None:
    """Return the names of the patient who wears a device."""
    people = schema.patients
    patient = None if slot is None else connection.scalar(sa.select(people.c.id).where(people.c.slot == slot))
    return None if patient is None else names_of(connection, patient)[patient]


def append(connection: Connection, kind: EntryKind, body: dict[str, Any], *, at: str, subject: str = "") -> None:
    """Enter one thing."""
    append_all(connection, kind, [(subject, body)], at=at)


def append_all(connection: Connection, kind: EntryKind, told: Iterable[tuple[str, dict[str, Any]]], *, at: str) -> None:
    """Enter several things, each with its subject."""
    last, made = _last(connection), []
    for subject, body in told:
        last = following(last, at=at, kind=kind, subject=subject, body=body)
        made.append(vars(last))
    if made:
        connection.execute(sa.insert(schema.ledger), made)


def _last(connection: Connection) -> Entry | None:
    found = entries(connection, schema.ledger.c.seq == sa.select(sa.func.max(schema.ledger.c.seq)).scalar_subquery())
    return found[0] if found else None


def entries(connection: Connection, *where: sa.ColumnElement[bool]) -> list[Entry]:
    """Return entries in order, also where somebody put bytes that are no text."""
    seq, *texts = schema.ledger.c
    columns = [schema.as_bytes(connection, column).label(column.name) for column in texts]
    rows = connection.execute(sa.select(seq, *columns).where(*where).order_by(seq))
    return [Entry(row[0], *(str(text, "utf-8", "surrogateescape") for text in row[1:])) for row in rows]


def head(connection: Connection) -> Head:
    """Return seq and hash of the last entry."""
    last = _last(connection)
    return head_of([] if last is None else [last])


def enter_consent(
    connection: Connection, names: Names, event: str, scope: str, records: Sequence[str], *, source: str, at: str
) -> None:
    """Enter what a patient said; digests of recordings stay out, they would name the patient."""
    append(connection, "consent", consent_body(names, event, scope, records, source), at=at, subject=names.subject)


def consent_body(names: Names, event: str, scope: str, records: Sequence[str], source: str) -> dict[str, Any]:
    """Return the body of a consent event."""
    named = [names.of("record", record) for record in records]
    return {"event": event, "scope": scope, "records": named, "source": names.hide(source)}


def consent_events(connection: Connection, patient: str | None) -> list[ConsentEvent]:
    """Return what one patient, or everybody, said; of forgotten patients nothing.

    Raises:
        AuditError: an entry was changed.
    """
    by_subject = {names.subject: (one, names) for one, names in names_of(connection, patient).items() if names.known}
    column = schema.ledger.c
    mine = [] if patient is None else [column.subject.in_(by_subject)]
    events = []
    for entry in entries(connection, column.kind == "consent", *mine):
        if entry.subject in by_subject:
            who, names = by_subject[entry.subject]
            body = body_of(entry)
            told = tuple(names.show(body["records"]))
            seen, source = _seen(entry, body), names.show(body["source"])
            events.append(ConsentEvent(entry.seq, seen, who, body["event"], body["scope"], told, source))
    return events


def enter_step(connection: Connection, job: Job, state: State, detail: Mapping[str, Any], *, at: str) -> None:
    """Enter a step of a job."""
    names = names_of(connection, job.patient)[job.patient]
    body = {"job": names.of("job", job.id), "state": state, "detail": names.hide(detail)}
    append(connection, STEP_KINDS.get(state, "job"), body, at=at, subject=names.subject)


def job_steps(connection: Connection, job: Job) -> list[JobEvent]:
    """Return the steps of a job; of a forgotten patient's job none.

    Raises:
        AuditError: an entry was changed.
    """
    names = names_of(connection, job.patient)[job.patient]
    if not names.known:
        return []
    column, steps = schema.ledger.c, []
    for entry in entries(connection, column.subject == names.subject, column.kind.in_(["job", *STEP_KINDS.values()])):
        body = body_of(entry)
        if body["job"] == names.of("job", job.id):
            steps.append(JobEvent(entry.seq, _seen(entry, body), job.id, body["state"], names.show(body["detail"])))
    return steps


def body_of(entry: Entry) -> dict[str, Any]:
    """Return what an entry tells.

    Raises:
        AuditError: somebody changed the entry.
    """
    if entry_hash(entry) != entry.hash:
        raise AuditError(
            f"entry {entry.seq} of the ledger is not what its hash was made of; `lethe ledger verify` says what is "
            "wrong, and a backup what it was"
        )
    return dict(json.loads(entry.body))


def _seen(entry: Entry, body: Mapping[str, Any]) -> str:
    """Return what the clock showed, also where it was behind the entry before."""
    return str(body.get("clock", entry.at))


def forget(connection: Connection, patient: str) -> None:
    """Make the entries about a patient nobody's.

    Beside the salt goes what this file knows in the same words as an entry or a run's result: digests, figures and
    seconds, how much was erased, the order and the time of day of requests. Who the patient is, and of what consent was
    taken back, stays known.
    """
    people, salts, jobs, devices, models = (
        schema.patients,
        schema.salts,
        schema.jobs,
        schema.devices,
        schema.models,
    )
    connection.execute(sa.update(salts).where(salts.c.patient == patient).values(salt=DESTROYED))
    connection.execute(sa.update(people).where(people.c.id == patient).values(enrolled_at=_day(people.c.enrolled_at)))
    mine, days = jobs.c.patient == patient, {name: _day(jobs.c[name]) for name in ("requested_at", "updated_at")}
    connection.execute(sa.delete(jobs).where(mine, jobs.c.state == "CLOSED"))  # few are: the word would find its entry
    connection.execute(sa.update(jobs).where(mine).values(**days, method=None, detail={}, seq=None))
    told = sa.update(devices).where(devices.c.patient == patient)
    connection.execute(told.values(updated_at=_day(devices.c.updated_at), own=None, others=None, seconds=0.0))
    worn = sa.select(people.c.slot).where(people.c.id == patient).scalar_subquery()
    connection.execute(sa.delete(models).where(models.c.kind == "personal", models.c.slot == worn))
    schema.note(connection, UNSWEPT, secrets.token_hex(8))  # another one than before: who sweeps now is too early


def _day(column: sa.Column[str]) -> sa.ColumnElement[str]:
    return sa.func.substr(column, 1, 10) + "T00:00:00.000+00:00"
