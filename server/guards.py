"""The triggers that make the history append-only, whoever writes; and are they as they were made?

Whoever owns the database can take them away: then `unguarded` says so, and the chain shows what was done (`ledger.py`).
A migration takes them down and puts them up again (`server/upgrade.py`).
"""

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Connection

from server.ledger import GENESIS

_APPEND_ONLY = {
    "ledger": "seq = NEW.seq OR previous = NEW.previous OR hash = NEW.hash",
    "withdrawals": "patient = NEW.patient AND record = NEW.record AND turn = NEW.turn",
    "renewals": "patient = NEW.patient AND record = NEW.record AND turn = NEW.turn",
}  # and what an inserted row may not share with one that is there
_LAST = f"coalesce((SELECT hash FROM ledger ORDER BY seq DESC LIMIT 1), '{GENESIS}')"
_GAP = f"NEW.previous <> {_LAST} OR NEW.seq <> (SELECT coalesce(max(seq), 0) + 1 FROM ledger)"
_NO_GAP = "ledger is append-only: an entry follows the last one"
_ENDED = "EXISTS (SELECT 1 FROM renewals r WHERE r.patient = w.patient AND r.record = w.record AND r.turn = w.turn)"
_SAME = "w.patient = NEW.patient AND w.record = NEW.record"
_STANDS = f"EXISTS (SELECT 1 FROM withdrawals w WHERE {_SAME} AND NOT {_ENDED})"
_NO_SECOND = "withdrawals is append-only: what is withdrawn is not withdrawn twice"


def put_up(connection: Connection) -> None:
    """Make the triggers."""
    if connection.dialect.name == "sqlite":
        for statement in _in_sqlite().values():
            connection.exec_driver_sql(statement)
        return
    for guard in _in_postgresql():
        for statement in guard.statements():
            connection.exec_driver_sql(statement)


def take_down(connection: Connection) -> None:
    """Drop every trigger of the registry's tables, also those that this version does not know."""
    for name, table in _there(connection).items():
        on = "" if connection.dialect.name == "sqlite" else f' ON "{table}"'
        connection.exec_driver_sql(f'DROP TRIGGER "{name}"{on}')


def missing(connection: Connection) -> list[str]:
    """Return the names of the triggers that are gone from the tables that are there; an earlier version has fewer."""
    tables, there = sa.inspect(connection).get_table_names(), _there(connection)
    about = {"withdrawals_no_second": "renewals"}  # it came with them
    return [n for n in _names(connection) if n not in there and about.get(n, n.split("_no_")[0]) in tables]


def _there(connection: Connection) -> dict[str, str]:
    """Return the tables of all triggers, by the trigger's name."""
    found = "SELECT name, tbl_name FROM sqlite_master WHERE type = 'trigger'"
    rows = connection.exec_driver_sql(found if connection.dialect.name == "sqlite" else _FOUND)
    return {row[0]: row[1] for row in rows}


def _names(connection: Connection) -> list[str]:
    return list(_in_sqlite()) if connection.dialect.name == "sqlite" else [guard.name for guard in _in_postgresql()]


def forget(connection: Connection) -> None:
    """Drop what PostgreSQL's triggers called, once they are down."""
    for guard in _in_postgresql():
        connection.exec_driver_sql(f"DROP FUNCTION IF EXISTS {guard.name}()")


def unguarded(connection: Connection) -> list[str]:
    """Return the names of the triggers that are gone or are not what they were."""
    if connection.dialect.name == "sqlite":
        rows = connection.exec_driver_sql("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").all()
        there = {(row.name, row.sql) for row in rows}
        return [name for name, rule in _in_sqlite().items() if (name, rule) not in there]
    found = {tuple(row) for row in connection.exec_driver_sql(_FOUND)}
    return [guard.name for guard in _in_postgresql() if guard.as_found() not in found]


def _in_sqlite() -> dict[str, str]:
    """Return the statements, by the trigger's name."""
    made = {}
    for table, same in _APPEND_ONLY.items():
        refuse = f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
        made[f"{table}_no_update"] = f"BEFORE UPDATE ON {table} {refuse}"
        made[f"{table}_no_delete"] = f"BEFORE DELETE ON {table} {refuse}"
        # INSERT OR REPLACE deletes without firing the trigger above.
        exists = f"EXISTS (SELECT 1 FROM {table} WHERE {same})"
        made[f"{table}_no_replace"] = f"BEFORE INSERT ON {table} WHEN {exists} {refuse}"
    made["ledger_no_gap"] = f"BEFORE INSERT ON ledger WHEN {_GAP} BEGIN SELECT RAISE(ABORT, '{_NO_GAP}'); END"
    made["withdrawals_no_second"] = (
        f"BEFORE INSERT ON withdrawals WHEN {_STANDS} BEGIN SELECT RAISE(ABORT, '{_NO_SECOND}'); END"
    )
    return {name: f"CREATE TRIGGER {name} {rule}" for name, rule in made.items()}


@dataclass(frozen=True)
class _Guard:
    """A trigger of PostgreSQL and its function, which has its name; `bits` is `pg_trigger.tgtype`."""

    name: str
    table: str
    event: str
    each: str
    bits: int
    body: str

    def statements(self) -> tuple[str, ...]:
        body = f"CREATE OR REPLACE FUNCTION {self.name}() RETURNS trigger LANGUAGE plpgsql AS '{self._quoted}'"
        on = f"BEFORE {self.event} ON {self.table} FOR EACH {self.each} EXECUTE FUNCTION {self.name}()"
        # Always: also where a session says that it replicates, which silences all others.
        always = f"ALTER TABLE {self.table} ENABLE ALWAYS TRIGGER {self.name}"
        return body, f"CREATE TRIGGER {self.name} {on}", always

    @property
    def _quoted(self) -> str:
        return self.body.replace("'", "''")

    def as_found(self) -> tuple[object, ...]:
        return self.name, self.table, self.bits, "A", False, self.name, self.body


_FOUND = """
SELECT t.tgname AS name, c.relname AS owner, t.tgtype::int, t.tgenabled::text, t.tgqual IS NOT NULL OR t.tgattr <> '',
       p.proname, p.prosrc
FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_proc p ON p.oid = t.tgfoid
WHERE NOT t.tgisinternal AND c.relnamespace = current_schema()::regnamespace
"""
_ROW, _BEFORE, _INSERT, _DELETE, _UPDATE, _TRUNCATE = 1, 2, 4, 8, 16, 32


def _in_postgresql() -> list[_Guard]:
    """Return what SQLite has; nothing replaces a row there, but TRUNCATE empties a table."""
    made = []
    for table in _APPEND_ONLY:
        refuse = f"BEGIN RAISE EXCEPTION '{table} is append-only'; END"
        for event, bit in (("UPDATE", _UPDATE), ("DELETE", _DELETE), ("TRUNCATE", _TRUNCATE)):
            name = f"{table}_no_{event.lower()}"
            made.append(_Guard(name, table, event, "STATEMENT", _BEFORE | bit, refuse))
    follows = f"BEGIN IF {_GAP} THEN RAISE EXCEPTION '{_NO_GAP}'; END IF; RETURN NEW; END"
    once = f"BEGIN IF {_STANDS} THEN RAISE EXCEPTION '{_NO_SECOND}'; END IF; RETURN NEW; END"
    each = ("INSERT", "ROW", _ROW | _BEFORE | _INSERT)
    return [
        *made,
        _Guard("ledger_no_gap", "ledger", *each, follows),
        _Guard("withdrawals_no_second", "withdrawals", *each, once),
    ]
