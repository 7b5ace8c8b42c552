"""The open registry, and what it holds beside consent: models, devices, runs and a few facts.

Patients, consent and jobs are `server/registry.py`'s, which is what everybody uses.
"""

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy import Connection

from server import database, guards, history, schema
from server.ledger import Entry, Finding, Head, head_of, verify
from server.rows import DeviceRow, Kind, ModelRow, RunRow
from shared.errors import DamagedError, LetheError, UsageError, WorkspaceError
from shared.fields import shown

Clock = Callable[[], str]


def utc_now() -> str:
    """Return the time as the registry writes it: UTC, ISO 8601, milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class Inventory:
    """An open registry; safe to use from several processes and threads at once."""

    def __init__(self, path: Path, *, clock: Clock = utc_now) -> None:
        self._path = path.absolute()
        self._clock = clock
        self._database = database.at(self._path)
        self._engine = self._database.engine()

    @classmethod
    def create(cls, path: Path, *, clock: Clock = utc_now) -> Self:
        """Write an empty registry at `path`, or into the database that the file there names, and open it.

        Raises:
            WorkspaceError: something is there already, or it cannot be written.
        """
        database.at(path.absolute()).create()
        return cls.open(path, clock=clock)

    @classmethod
    def open(cls, path: Path, *, clock: Clock = utc_now) -> Self:
        """Open the registry at `path`: the SQLite file, or the file that names a PostgreSQL database.

        Raises:
            WorkspaceError: it is missing, damaged, or of another version; it is never made anew.
        """
        registry = cls(path, clock=clock)
        try:
            version = registry._database.version(registry._engine)
            schema.refuse_other(version, str(registry._database))
            registry._sweep()
        except BaseException:
            registry.close()
            raise
        return registry

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _reading(self) -> AbstractContextManager[Connection]:
        """See one state of the registry, whatever others write meanwhile."""
        return self._database.reading(self._engine)

    def _writing(self) -> AbstractContextManager[Connection]:
        """Hold the only write transaction; durable when the block has ended well, else undone."""
        return self._database.writing(self._engine)

    def _sweep(self) -> None:
        """Remove what may be left of a destroyed salt; while others read, a later try does."""
        with self._reading() as connection:
            mark = schema.fact(connection, history.UNSWEPT)
        if mark is None:
            return
        with suppress(WorkspaceError):
            if self._database.sweep(self._engine):
                mine = (schema.meta.c.name == history.UNSWEPT) & (schema.meta.c.value == mark)  # not a later one's
                with self._writing() as connection:
                    connection.execute(sa.delete(schema.meta).where(mine))

    def ledger(self) -> list[Entry]:
        """Return the ledger's entries in order."""
        with self._reading() as connection:
            return history.entries(connection)

    def ledger_head(self) -> Head:
        """Return seq and hash of the ledger's last entry; (0, 64 zeros) of an empty one."""
        with self._reading() as connection:
            return history.head(connection)

    def verify_ledger(self, *, head: Head | None = None) -> tuple[list[Entry], list[Finding]]:
        """Return the ledger's entries and everything that is wrong with them; see `server/ledger.py`.

        Args:
            head: an entry's seq and hash, seen earlier, that must be there.
        """
        with self._reading() as connection:
            entries = history.entries(connection)
            open_to = guards.unguarded(connection)
        last, _ = head_of(entries)
        return entries, verify(entries, head=head) + [
            Finding(last, "unguarded", f"the database's rule {name} is gone or changed: rows could be rewritten")
            for name in open_to
        ]

    def note_key(self, public_key: str) -> None:
        """Enter the fingerprint of the key that signs from now on; the present one again changes nothing."""
        at = self._clock()
        with self._writing() as connection:
            noted = history.entries(connection, schema.ledger.c.kind == "key")
            if not noted or history.body_of(noted[-1])["public_key"] != public_key:
                history.append(connection, "key", {"public_key": public_key}, at=at)

    def remember(self, name: str, fact: Mapping[str, Any]) -> None:
        """Keep one fact about this workspace, such as how its patients were enrolled."""
        with self._writing() as connection:
            schema.note(connection, f"fact:{name}", json.dumps(fact))

    def recall(self, name: str) -> dict[str, Any] | None:
        """Return a fact, or None when nobody kept it.

        Raises:
            DamagedError: somebody put something else in its place.
        """
        with self._reading() as connection:
            value = schema.fact(connection, f"fact:{name}")
        try:
            return None if value is None else dict(json.loads(value))
        except (TypeError, ValueError):
            raise DamagedError(
                f"registry {self._database} is damaged: its fact {name!r} is {shown(value)}, expected JSON; it is left "
                "as it is: restore it from a backup"
            ) from None

    def add_model(
        self, digest: str, *, kind: Kind, parent: str | None, slot: int | None, lineage: Mapping[str, Any]
    ) -> None:
        """Keep a model's lineage; adding a digest again changes nothing.

        Args:
            digest: sha256 of its weights.
            kind: general or personal.
            parent: digest of the model it was tuned from.
            slot: the device it belongs to.
            lineage: what it was made of.
        """
        values = {"digest": digest, "kind": kind, "parent": parent, "slot": slot, "lineage": dict(lineage)}
        at = self._clock()
        with self._writing() as connection:
            added = connection.execute(
                schema.adding(connection, schema.models).values(values | {"created_at": at}).on_conflict_do_nothing()
            ).rowcount
            if added:
                names = history.wearer(connection, slot)
                told = {"digest": digest, "kind": kind, "parent": parent, "lineage": dict(lineage)}
                body, subject = (told, "") if names is None else (names.hide(told), names.subject)
                history.append(connection, "model", body, at=at, subject=subject)

    def models(self) -> list[ModelRow]:
        """Return the models, oldest first."""
        columns = [column for column in schema.models.c if column.name != "seq"]
        with self._reading() as connection:
            rows = connection.execute(sa.select(*columns).order_by(schema.models.c.seq))
            return [ModelRow(**row) for row in rows.mappings()]

    def record_device(
        self,
        slot: int,
        *,
        patient: str,
        general: str | None,
        personal: str | None,
        bundle: str | None,
        accepted: bool,
        own: float | None,
        others: float | None,
        seconds: float,
    ) -> None:
        """Keep what a device last told: digests, acceptance, accuracies in 0..1, seconds of work."""
        values = {"slot": slot, "patient": patient, "general": general, "personal": personal}
        values |= {"bundle": bundle, "accepted": accepted, "own": own, "others": others}
        values |= {"seconds": seconds, "updated_at": self._clock()}
        with self._writing() as connection:
            told = schema.adding(connection, schema.devices).values(values)
            connection.execute(told.on_conflict_do_update(index_elements=["slot"], set_=values))

    def note_sending(self, slot: int, *, patient: str, general: str) -> None:
        """Keep that a device is being sent a general model: it may have it, though it never tells.

        What a device has told before stays.
        """
        values = {"slot": slot, "patient": patient, "general": general, "accepted": False, "seconds": 0.0}
        with self._writing() as connection:
            row = schema.adding(connection, schema.devices).values(values | {"updated_at": self._clock()})
            connection.execute(row.on_conflict_do_nothing())

    def devices(self) -> list[DeviceRow]:
        """Return what every device last told, by slot; of one that was sent a model and never answered, only that."""
        with self._reading() as connection:
            rows = connection.execute(sa.select(schema.devices).order_by(schema.devices.c.slot))
            return [DeviceRow(**row) for row in rows.mappings()]

    def start_run(self, run_id: str, settings: Mapping[str, Any]) -> None:
        """Note that a run begins, and that those which never told their end were interrupted.

        Whoever calls this holds the workspace's lock, so that no other run is going on.

        Raises:
            LetheError: there was a run of this id.
        """
        at = self._clock()
        values = {"id": run_id, "started_at": at, "status": "running", "settings": dict(settings)}
        with self._writing() as connection:
            begun = schema.adding(connection, schema.runs).values(values | {"detail": {}})
            done = connection.execute(begun.on_conflict_do_nothing())
            if done.rowcount:
                self._interrupted(connection, before=run_id, at=at)
                told = {"run": run_id, "status": "running", "settings": dict(settings)}
                history.append(connection, "run", told, at=at)
        if not done.rowcount:
            raise LetheError(f"run {run_id} is in the registry already; every run needs an id of its own")

    @staticmethod
    def _interrupted(connection: Connection, *, before: str, at: str) -> None:
        """Note the end of the runs that died; when they did, nobody knows."""
        runs = schema.runs
        open_still = sa.select(runs.c.id).where(runs.c.status == "running", runs.c.id != before).order_by(runs.c.seq)
        for run_id in connection.scalars(open_still).all():
            connection.execute(sa.update(runs).where(runs.c.id == run_id).values(status="interrupted"))
            history.append(connection, "run", {"run": run_id, "status": "interrupted"}, at=at)

    def finish_run(self, run_id: str, status: str, detail: Mapping[str, Any]) -> None:
        """Note how a run ended.

        Raises:
            UsageError: no run of this id began.
        """
        at = self._clock()
        values = {"finished_at": at, "status": status, "detail": dict(detail)}
        with self._writing() as connection:
            done = connection.execute(sa.update(schema.runs).where(schema.runs.c.id == run_id).values(values))
            if done.rowcount:  # an error's text may name a patient: it is not for the ledger
                history.append(connection, "run", {"run": run_id, "status": status}, at=at)
        if not done.rowcount:
            raise UsageError(f"no run {run_id} in the registry; start_run comes first")

    def runs(self) -> list[RunRow]:
        """Return the runs, oldest first."""
        columns = [column for column in schema.runs.c if column.name != "seq"]
        with self._reading() as connection:
            rows = connection.execute(sa.select(*columns).order_by(schema.runs.c.seq))
            return [RunRow(**row) for row in rows.mappings()]
