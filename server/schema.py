"""The registry's tables, the triggers that make its history append-only, and how the file is opened.

What the rows mean is in `server/rows.py`; what may be done with them in `server/registry.py`.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import get_args

import sqlalchemy as sa
from sqlalchemy import JSON, CheckConstraint, Column, Float, ForeignKey, Index, Integer, Table, Text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import QueuePool

from server.rows import ROLES, STATES, Kind, Scope
from shared.errors import WorkspaceError

VERSION = "1"
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
    CheckConstraint("(role = 'wearable') = (slot IS NOT NULL)"),
)

records = Table(
    "records",
    metadata,
    Column("patient", Text, ForeignKey("patients.id"), primary_key=True),
    Column("id", Text, primary_key=True),
    Column("sha256", Text, nullable=False, index=True),
)

consent_events = Table(
    "consent_events",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column("at", Text, nullable=False),
    Column("patient", Text, ForeignKey("patients.id"), nullable=False, index=True),
    Column("kind", Text, _one_of("kind", ("given", "withdrawn")), nullable=False),
    Column("scope", Text, _one_of("scope", get_args(Scope)), nullable=False),
    Column("records", JSON, nullable=False),
    Column("source", Text, nullable=False),
    sqlite_autoincrement=True,
)

# Its key makes withdrawing twice impossible, whoever writes.
withdrawals = Table(
    "withdrawals",
    metadata,
    Column("patient", Text, primary_key=True),
    Column("record", Text, primary_key=True),
    Column("event", Integer, ForeignKey("consent_events.seq"), nullable=False),
    sa.ForeignKeyConstraint(["patient", "record"], ["records.patient", "records.id"]),
)

jobs = Table(
    "jobs",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column("id", Text, nullable=False, unique=True),
    Column("patient", Text, ForeignKey("patients.id"), nullable=False, index=True),
    Column("slot", Integer, nullable=False),
    Column("scope", Text, _one_of("scope", get_args(Scope)), nullable=False),
    Column("records", JSON, nullable=False),
    Column("state", Text, _one_of("state", STATES), nullable=False),
    Column("method", Text),
    Column("requested_at", Text, nullable=False),
    Column("updated_at", Text, nullable=False),
    Column("detail", JSON, nullable=False),
    Column("event", Integer, ForeignKey("consent_events.seq"), nullable=False, unique=True),
    Index("one_whole_withdrawal", "patient", "slot", unique=True, sqlite_where=sa.text("scope = 'patient'")),
)

job_events = Table(
    "job_events",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column("at", Text, nullable=False),
    Column("job", Text, ForeignKey("jobs.id"), nullable=False, index=True),
    Column("state", Text, _one_of("state", STATES), nullable=False),
    Column("detail", JSON, nullable=False),
    sqlite_autoincrement=True,
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
    "consent_events": "seq = NEW.seq",
    "job_events": "seq = NEW.seq",
    "withdrawals": "patient = NEW.patient AND record = NEW.record",
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
            for statement in _triggers():
                connection.exec_driver_sql(statement)
            connection.execute(meta.insert().values(name="schema", value=VERSION))
    except BaseException:
        path.unlink()
        raise
    finally:
        opened.dispose()


def _triggers() -> Iterator[str]:
    for table, same in _APPEND_ONLY.items():
        refuse = f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
        yield f"CREATE TRIGGER {table}_no_update BEFORE UPDATE ON {table} {refuse}"
        yield f"CREATE TRIGGER {table}_no_delete BEFORE DELETE ON {table} {refuse}"
        # INSERT OR REPLACE deletes without firing the trigger above.
        exists = f"EXISTS (SELECT 1 FROM {table} WHERE {same})"
        yield f"CREATE TRIGGER {table}_no_replace BEFORE INSERT ON {table} WHEN {exists} {refuse}"


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
        for pragma in ("synchronous = FULL", "foreign_keys = ON"):
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
        WorkspaceError: it is missing, damaged, something else, or of another version.
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
                f"cannot write registry {path}: {cause}; nothing was changed, "
                "free space or check the folder's permissions"
            ) from error
        if "malformed" in cause or "not a database" in cause:
            raise _damaged(path, cause) from error
        raise WorkspaceError(f"registry {path} refused: {cause}; nothing was changed") from error


def _damaged(path: Path, seen: str) -> WorkspaceError:
    return WorkspaceError(
        f"registry {path} is damaged or is no registry ({seen}); it is left as it is: "
        "restore it from a backup, or make a new workspace with `lethe init`"
    )
