"""The registry's tables, the same in SQLite and in PostgreSQL.

What the rows mean is in `server/rows.py`, what may be done with them in `server/registry.py`, what keeps the history
append-only in `server/guards.py`, and how an older registry gets these tables in `server/upgrade.py`.
"""

from typing import get_args

import sqlalchemy as sa
from sqlalchemy import JSON, CheckConstraint, Column, Connection, Float, ForeignKey, Index, Integer, LargeBinary, Table
from sqlalchemy.dialects import postgresql, sqlite

from server.rows import ROLES, STATES, Kind, Scope
from shared.errors import WorkspaceError

VERSION = "4"
BUSY_SECONDS = 5

metadata = sa.MetaData()
Text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")  # sorted by code points, as SQLite does


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
    Index(
        *("one_whole_withdrawal", "patient", "turn"),
        unique=True,
        sqlite_where=sa.text("scope = 'patient'"),
        postgresql_where=sa.text("scope = 'patient'"),
    ),
    Index("one_job_a_withdrawal", "patient", "turn", "scope", "records", unique=True).ddl_if(dialect="sqlite"),
    sqlite_with_rowid=False,  # a row number would tell the order again
)
_same_words = (
    jobs.c.patient,
    jobs.c.turn,
    jobs.c.scope,
    sa.cast(jobs.c.records, sa.Text),
)  # PostgreSQL compares no JSON
Index("one_job_a_withdrawal", *_same_words, unique=True).ddl_if(dialect="postgresql")

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


def fill(connection: Connection, **facts: str) -> None:
    """Make the tables in an empty database, and note this version and what else is to be known of it."""
    metadata.create_all(connection)
    for name, value in (facts | {"schema": VERSION}).items():
        note(connection, name, value)


def refuse_other(version: str, name: str) -> None:
    """Refuse the registry `name` for its version; nothing is changed.

    Raises:
        WorkspaceError: it is older and can be brought up to date, or it is newer.
    """
    if version == VERSION:
        return
    seen = f"registry {name} has schema version {version}, this Lethe reads version {VERSION}"
    if version.isdecimal() and int(version) < int(VERSION):
        raise WorkspaceError(f"{seen}; `lethe registry upgrade` brings it up to date")
    raise WorkspaceError(f"{seen}; use the Lethe that made it, or make a new workspace with `lethe init --home NEW`")


def fact(connection: Connection, name: str) -> str | None:
    """Return what `meta` has under a name."""
    return connection.scalar(sa.select(meta.c.value).where(meta.c.name == name))


def note(connection: Connection, name: str, value: str) -> None:
    """Put something into `meta`, in place of what is there under the name."""
    there = adding(connection, meta).values(name=name, value=value)
    connection.execute(there.on_conflict_do_update(index_elements=["name"], set_={"value": value}))


def adding(connection: Connection, table: Table) -> sqlite.Insert | postgresql.Insert:
    """Return an INSERT that can be told what to do where the row is there already; `rowcount` then says if it was."""
    made = sqlite.insert(table) if connection.dialect.name == "sqlite" else postgresql.insert(table)
    return made.execution_options(preserve_rowcount=True)


def as_bytes(connection: Connection, column: Column[str]) -> sa.ColumnElement[bytes]:
    """Return a text's UTF-8. In an SQLite file somebody can put a text that is none: the driver's error otherwise."""
    if connection.dialect.name == "sqlite":
        return sa.cast(column, LargeBinary)
    return sa.func.convert_to(column, "UTF8", type_=LargeBinary)
