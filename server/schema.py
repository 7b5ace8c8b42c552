"""The registry's tables, the triggers that make its history append-only, and how the file is opened.

What the rows mean is in `server/rows.py`; what may be done with them in `server/registry.py`.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import get_args

import sqlalchemy as sa
from sqlalchemy import JSON, CheckConstraint, Column, Float, ForeignKey, Index, Integer, LargeBinary, Table, Text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import QueuePool

from server.ledger import GENESIS
from server.rows import ROLES, STATES, Kind, Scope
from shared.errors import DamagedError, WorkspaceError

VERSION = "3"
BUSY_SECONDS = 5

metadata = sa.MetaData()


def _one_of(column: str, values: tuple[str, ...]) -> CheckConstraint:
    return CheckConstraint(f"{column} IN ({', '.join(repr(value) for value in values)})")


meta = Table("meta", metadata, Column("name", Text, primary_key=True), Column("value", Text, nullable=False))

patients = Table(
    "patients",
    metadata,
    Column("id", Text, primary_key=True),
    Column("pseudonym", Text, nullable=False, unique=True),
    Column("role", Text, _one_of("role", ROLES), nullable=False),
    Column("slot", Integer, unique=True),
    Column("enrolled_at", Text, nullable=False),
    Column("consents", Integer, nullable=False),  # how many times consent was given
    CheckConstraint("(role = 'wearable') = (slot IS NOT NULL)"),
)

records = Table(
    "records",
    metadata,
    Column("patient", Text, ForeignKey("patients.id"), primary_key=True),
    Column("id", Text, primary_key=True),
    Column("sha256", Text, nullable=False, index=True),
)

# The history: `server/ledger.py` says how an entry follows the last one, and `server/history.py` what is entered.
# Nothing else in this file points at an entry.
ledger = Table(
    "ledger",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column("at", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("subject", Text, nullable=False, index=True),
    Column("body", Text, nullable=False),
    Column("previous", Text, nullable=False, unique=True),
    Column("hash", Text, nullable=False, unique=True),
)

# What a patient's names in the ledger were made with. To destroy a salt is to overwrite it in its place: SQLite leaves
# copies of neighbours behind when it joins pages that deletions have emptied.
salts = Table(
    "salts",
    metadata,
    Column("patient", Text, ForeignKey("patients.id"), nullable=False, unique=True),
    Column("salt", LargeBinary, nullable=False),
    Column("seq", Integer, primary_key=True),
)

# A withdrawal stands until consent is given again; `turn` is the consent that it took back, of `patients.consents`.
withdrawals = Table(
    "withdrawals",
    metadata,
    Column("patient", Text, primary_key=True),
    Column("record", Text, primary_key=True),
    Column("turn", Integer, primary_key=True),
    sa.ForeignKeyConstraint(["patient", "record"], ["records.patient", "records.id"]),
)

# Its key makes ending one withdrawal twice impossible, whoever writes.
renewals = Table(
    "renewals",
    metadata,
    Column("patient", Text, primary_key=True),
    Column("record", Text, primary_key=True),
    Column("turn", Integer, primary_key=True),
    sa.ForeignKeyConstraint(
        ["patient", "record", "turn"], ["withdrawals.patient", "withdrawals.record", "withdrawals.turn"]
    ),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", Text, primary_key=True),
    Column("seq", Integer, unique=True),  # the order of requests; a forgotten patient's jobs have none
    Column("patient", Text, ForeignKey("patients.id"), nullable=False, index=True),
    Column("turn", Integer, nullable=False),
    Column("slot", Integer, nullable=False),
    Column("scope", Text, _one_of("scope", get_args(Scope)), nullable=False),
    Column("records", JSON, nullable=False),
    Column("state", Text, _one_of("state", STATES), nullable=False),
    Column("method", Text),
    Column("requested_at", Text, nullable=False),
    Column("updated_at", Text, nullable=False),
    Column("detail", JSON, nullable=False),
    Index("one_whole_withdrawal", "patient", "turn", unique=True, sqlite_where=sa.text("scope = 'patient'")),
    Index("one_job_a_withdrawal", "patient", "turn", "scope", "records", unique=True),
    sqlite_with_rowid=False,  # a row number would tell the order again
)

models = Table(
    "models",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column("digest", Text, nullable=False, unique=True),
    Column("kind", Text, _one_of("kind", get_args(Kind)), nullable=False),
    Column("parent", Text),
    Column("slot", Integer),
    Column("lineage", JSON, nullable=False),
    Column("created_at", Text, nullable=False),
)

devices = Table(
    "devices",
    metadata,
    Column("slot", Integer, primary_key=True),
    Column("patient", Text, ForeignKey("patients.id"), nullable=False),
    Column("general", Text),
    Column("personal", Text),
    Column("bundle", Text),
    Column("accepted", sa.Boolean, nullable=False),
    Column("own", Float),
    Column("others", Float),
    Column("seconds", Float, nullable=False),
    Column("updated_at", Text, nullable=False),
)

runs = Table(
    "runs",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column("id", Text, nullable=False, unique=True),
    Column("started_at", Text, nullable=False),
    Column("finished_at", Text),
    Column("status", Text, nullable=False),
    Column("settings", JSON, nullable=False),
    Column("detail", JSON, nullable=False),
)

_APPEND_ONLY = {
    "ledger": "seq = NEW.seq OR previous = NEW.previous OR hash = NEW.hash",
    "withdrawals": "patient = NEW.patient AND record = NEW.record AND turn = NEW.turn",
    "renewals": "patient = NEW.patient AND record = NEW.record AND turn = NEW.turn",
}


def create(path: Path) -> None:
    """Write an empty registry at `path`, which must be free.

    Raises:
        WorkspaceError: something is there already, or it cannot be written.
    """
    try:
        path.open("x").close()
    except FileExistsError:
        raise WorkspaceError(f"there is a file at {path} already; a registry is never overwritten") from None
    except OSError as error:
        raise WorkspaceError(f"cannot write registry {path}: {error.strerror}") from error
    opened = engine(path)
    try:
        with said_plainly(path), closing(opened.raw_connection()) as raw:
            raw.cursor().execute("PRAGMA journal_mode = WAL")  # the file keeps it
        with said_plainly(path), opened.execution_options(begin="BEGIN IMMEDIATE").begin() as connection:
            metadata.create_all(connection)
            for statement in _triggers().values():
                connection.exec_driver_sql(statement)
            connection.execute(meta.insert().values(name="schema", value=VERSION))
    except BaseException:
        path.unlink()
        raise
    finally:
        opened.dispose()


def _triggers() -> dict[str, str]:
    """Return the statements that make the history append-only, by the trigger's name."""
    made = {}
    for table, same in _APPEND_ONLY.items():
        refuse = f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
        made[f"{table}_no_update"] = f"BEFORE UPDATE ON {table} {refuse}"
        made[f"{table}_no_delete"] = f"BEFORE DELETE ON {table} {refuse}"
        # INSERT OR REPLACE deletes without firing the trigger above.
        exists = f"EXISTS (SELECT 1 FROM {table} WHERE {same})"
        made[f"{table}_no_replace"] = f"BEFORE INSERT ON {table} WHEN {exists} {refuse}"
    last = f"coalesce((SELECT hash FROM ledger ORDER BY seq DESC LIMIT 1), '{GENESIS}')"
    made["ledger_no_gap"] = (
        f"BEFORE INSERT ON ledger WHEN NEW.previous <> {last} "
        "OR NEW.seq <> (SELECT coalesce(max(seq), 0) + 1 FROM ledger) "
        "BEGIN SELECT RAISE(ABORT, 'ledger is append-only: an entry follows the last one'); END"
    )
    ended = "EXISTS (SELECT 1 FROM renewals r WHERE r.patient = w.patient AND r.record = w.record AND r.turn = w.turn)"
    made["withdrawals_not_twice"] = (
        "BEFORE INSERT ON withdrawals WHEN EXISTS (SELECT 1 FROM withdrawals w "
        f"WHERE w.patient = NEW.patient AND w.record = NEW.record AND NOT {ended}) "
        "BEGIN SELECT RAISE(ABORT, 'withdrawals is append-only: what is withdrawn is not withdrawn twice'); END"
    )
    return {name: f"CREATE TRIGGER {name} {rule}" for name, rule in made.items()}


def unguarded(connection: sa.Connection) -> list[str]:
    """Return the names of the triggers that are gone or are not what they were."""
    rows = connection.exec_driver_sql("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").all()
    there = {(row.name, row.sql) for row in rows}
    return [name for name, rule in _triggers().items() if (name, rule) not in there]


def engine(path: Path) -> sa.Engine:
    """Return an engine on an existing file, with SQLite's safe settings and explicit transactions."""

    def connect() -> sqlite3.Connection:
        # mode=rw: a missing file is an error and never a new, empty registry.
        connection = sqlite3.connect(
            f"{path.as_uri()}?mode=rw",
            uri=True,
            timeout=BUSY_SECONDS,
            isolation_level=None,  # the driver must not begin transactions of its own
            check_same_thread=False,  # the pool lends a connection to one thread at a time
        )
        for pragma in ("synchronous = FULL", "foreign_keys = ON", "secure_delete = ON"):
            connection.execute(f"PRAGMA {pragma}")
        return connection

    made = sa.create_engine("sqlite://", creator=connect, poolclass=QueuePool)

    @sa.event.listens_for(made, "begin")
    def begin(connection: sa.Connection) -> None:
        # A writer takes the lock before it reads, so that it decides on what nobody can change any more.
        connection.exec_driver_sql(connection.get_execution_options().get("begin", "BEGIN"))

    return made


def check(path: Path, opened: sa.Engine) -> None:
    """Make sure that the file is a sound registry of this version.

    Raises:
        DamagedError: it is damaged, or something else.
        WorkspaceError: it is missing, or of another version.
    """
    if not path.is_file():
        raise WorkspaceError(f"no registry at {path}; `lethe init` makes a workspace, or restore it from a backup")
    with said_plainly(path), opened.begin() as connection:
        damage = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
        if damage != "ok":
            raise _damaged(path, str(damage))
        if not sa.inspect(connection).has_table("meta"):
            raise _damaged(path, "it has no table 'meta'")
        version = connection.scalar(sa.select(meta.c.value).where(meta.c.name == "schema"))
    if version != VERSION:
        raise WorkspaceError(
            f"registry {path} has schema version {version}, this Lethe reads version {VERSION}; "
            "use the Lethe that made it, or make a new workspace with `lethe init`"
        )


@contextmanager
def said_plainly(path: Path) -> Iterator[None]:
    """Turn the database's own errors into ones that say what to do; the transaction is undone by then."""
    try:
        yield
    except (DBAPIError, sqlite3.Error) as error:
        cause = str(getattr(error, "orig", None) or error)
        if "locked" in cause:
            raise WorkspaceError(
                f"registry {path} stayed locked by another process for {BUSY_SECONDS} s; nothing was changed, try again"
            ) from error
        if "full" in cause or "disk I/O" in cause or "readonly" in cause or "unable to open" in cause:
            raise WorkspaceError(
                f"cannot use registry {path}: {cause}; nothing was changed. SQLite writes beside it even to read: free "
                "space, or check the folder's permissions"
            ) from error
        if "malformed" in cause or "not a database" in cause:
            raise _damaged(path, cause) from error
        raise WorkspaceError(f"registry {path} refused: {cause}; nothing was changed") from error


def _damaged(path: Path, seen: str) -> DamagedError:
    return DamagedError(
        f"registry {path} is damaged or is no registry ({seen}); it is left as it is: "
        "restore it from a backup, or make a new workspace with `lethe init`"
    )
