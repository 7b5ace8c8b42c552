"""An older registry becomes one of the present version by a command, whole or not at all, and is refused until then."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from databases import by_hand, rewrite
from enrolled import digests, enrol, withdrawn
from typer.testing import CliRunner

from server import database, keys, schema
from server.registry import Registry
from server.rows import LOOKED
from server.sqlite_file import copy_of
from server.upgrade import REVISIONS, upgrade
from server.workspace import Workspace
from shared.errors import ConsentError, WorkspaceError
from simulations.cli import app

VERSION_2 = Path(__file__).parent / "registry_version_2.sql"
NOW, NEXT = schema.VERSION, str(int(schema.VERSION) + 1)
# What is hard: another primary key of an append-only table, and a column of another.
REVISION = f"""
import sqlalchemy as sa
from alembic import op

revision, down_revision = "{NEXT}", "{NOW}"


def upgrade():
    op.add_column("jobs", sa.Column("nurse", sa.Text, nullable=False, server_default="nobody"))
    op.create_table(
        "renewals_anew",
        sa.Column("patient", sa.Text, primary_key=True),
        sa.Column("record", sa.Text, primary_key=True),
        sa.Column("turn", sa.Integer, primary_key=True),
        sa.Column("ward", sa.Integer, primary_key=True, server_default="1"),
        sa.ForeignKeyConstraint(
            ["patient", "record", "turn"], ["withdrawals.patient", "withdrawals.record", "withdrawals.turn"]
        ),
    )
    op.execute("INSERT INTO renewals_anew SELECT patient, record, turn, 1 FROM renewals")
    op.drop_table("renewals")
    op.rename_table("renewals_anew", "renewals")
"""


@pytest.fixture
def path(tmp_path, place) -> Path:
    return place(tmp_path)


@pytest.fixture
def older(path) -> Path:
    """A registry of the present version, which is the one before as soon as `revisions` are there."""
    with Registry.create(path) as registry:
        enrol(registry, "7", role="wearable", records=digests("70", "71"), slot=0)
        registry.withdraw("7", records=["71"])
    return path


@pytest.fixture
def revisions(tmp_path, monkeypatch) -> tuple[Path, ...]:
    folder = tmp_path / "revisions"
    folder.mkdir()
    (folder / "next.py").write_text(REVISION)
    monkeypatch.setattr("server.schema.VERSION", NEXT)
    return REVISIONS, folder


def content(path: Path) -> list[list[tuple[object, ...]]]:
    with by_hand(path) as connection:
        return [connection.execute(f"SELECT * FROM {table}").fetchall() for table in schema.metadata.tables]


def test_the_revisions_lead_to_the_present_version():
    assert ScriptDirectory(str(REVISIONS), version_locations=[str(REVISIONS)]).get_heads() == [NOW]


def test_an_older_registry_is_brought_up_with_all_that_is_in_it(older, revisions):
    with pytest.raises(WorkspaceError, match="lethe registry upgrade"):
        Registry.open(older)
    assert upgrade(older, revisions=revisions) == (NOW, NEXT)
    with Registry.open(older) as registry:
        assert withdrawn(registry, "7") == ("71",)
        assert registry.verify_ledger()[1] == []  # the rules are up again
        assert len(registry.withdraw("7")) == 2
    with by_hand(older) as connection:
        assert connection.execute("SELECT nurse FROM jobs").fetchall() == [("nobody",)] * 2
    assert upgrade(older, revisions=revisions) == (NEXT, NEXT)


def test_of_a_file_a_copy_of_the_older_version_is_kept(tmp_path, revisions):
    path = tmp_path / "registry.db"
    with Registry.create(path) as registry:
        enrol(registry, "7", role="corpus", records=digests("70"))
    with by_hand(path) as connection:
        connection.execute(f"UPDATE meta SET value = '{NOW}' WHERE name = 'schema'")
    before = content(path)
    upgrade(path, revisions=revisions)
    assert content(copy_of(path, NOW)) == before


def test_an_upgrade_that_fails_changes_nothing_and_can_be_tried_again(older, revisions):
    before, script = content(older), revisions[-1] / "next.py"
    script.write_text(REVISION + '    op.execute("INSERT INTO nowhere VALUES (1)")\n')
    with pytest.raises(WorkspaceError, match=r"nowhere"):
        upgrade(older, revisions=revisions)
    assert content(older) == before
    script.write_text(REVISION)
    assert upgrade(older, revisions=revisions) == (NOW, NEXT)


def test_an_upgrade_that_fails_leaves_no_copy_and_takes_none_away(tmp_path):
    path = tmp_path / "registry.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(VERSION_2.read_text())
    upgrade(path)
    with by_hand(path) as connection:
        connection.execute("UPDATE meta SET value = '2' WHERE name = 'schema'")
    earlier = copy_of(path, "2").read_bytes()
    with pytest.raises(WorkspaceError, match="nothing was changed"):
        upgrade(path)
    assert copy_of(path, "2").read_bytes() == earlier
    copy_of(path, "2").unlink()
    with pytest.raises(WorkspaceError, match="nothing was changed"):
        upgrade(path)
    assert not list(tmp_path.glob("*.version-*"))


def test_rows_that_an_upgrade_leaves_without_their_patient_undo_it(older, revisions):
    before = content(older)
    (revisions[-1] / "next.py").write_text(REVISION + "    op.execute(\"DELETE FROM records WHERE id = '71'\")\n")
    with pytest.raises(WorkspaceError, match=r"refer to none|violates foreign key"):
        upgrade(older, revisions=revisions)
    assert content(older) == before


def test_a_registry_whose_rules_were_taken_away_is_not_brought_up(older, revisions):
    rewrite(older)
    with pytest.raises(WorkspaceError, match=r"rules .*ledger_no_update.* were taken away"):
        upgrade(older, revisions=revisions)


@pytest.mark.parametrize("version", ["1", "99", "two"])
def test_a_version_that_nobody_knows_is_left_as_it_is(older, version):
    with by_hand(older) as connection:
        connection.execute(f"UPDATE meta SET value = '{version}' WHERE name = 'schema'")
    before = content(older)
    with pytest.raises(WorkspaceError, match=f"schema version {version}, and this Lethe knows no way"):
        upgrade(older)
    assert content(older) == before


def test_a_file_of_version_2_becomes_what_is_made_today(tmp_path):
    workspace = Workspace.create(tmp_path / "home", data=tmp_path)
    home, path = workspace.home, workspace.home / "registry.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(VERSION_2.read_text())
    shown = CliRunner(env={"LETHE_HOME": str(home)}).invoke(app, ["registry", "upgrade"])
    assert shown.exit_code == 0, (shown.output, shown.exception)
    with Registry.open(path) as registry:
        assert [patient.status for patient in registry.patients()] == ["active", "partly withdrawn", "withdrawn"]
        assert [job.state for job in registry.jobs()] == ["CERTIFIED", "DISPATCHED"]
        assert registry.verify_ledger()[1] == []
        with pytest.raises(ConsentError, match="is DISPATCHED"):
            registry.consent_again("7")
        keys.make(workspace.keys)
        assert registry.consent_again("8") == ["80"]
        assert registry.patient("8").status == "active"
        closed_by_hand(registry)
    opened = database.at(path).engine()
    with opened.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), schema.metadata) == []
        assert indexes(connection) == indexes_of_today(tmp_path / "today.db")
        assert "WITHOUT ROWID" in connection.exec_driver_sql(JOBS).scalar_one()
    opened.dispose()


JOBS = "SELECT sql FROM sqlite_master WHERE name = 'jobs'"


def closed_by_hand(registry: Registry) -> None:
    """End a job in the state that version 4 brought."""
    job = next(job for job in registry.jobs() if job.state != "CERTIFIED")
    registry.advance(job.id, "FAILED", detail={"reason": "test", LOOKED: {"holds": True, "checks": []}})
    assert registry.close_job(job.id, "the answer cannot be judged").state == "CLOSED"


def test_a_database_of_version_3_gets_the_state_in_which_jobs_are_closed(older):
    with by_hand(older) as connection:
        rowids = " WITHOUT ROWID" if connection.__class__.__module__.startswith("sqlite3") else ""
        if rowids:
            (sql,) = connection.execute(JOBS).fetchone()
            assert ", 'CLOSED'" in sql
            connection.execute("PRAGMA writable_schema = 1")
            connection.execute("UPDATE sqlite_master SET sql = ? WHERE name = 'jobs'", [sql.replace(", 'CLOSED'", "")])
        else:
            connection.execute("ALTER TABLE jobs DROP CONSTRAINT jobs_state_check")
            connection.execute(
                "ALTER TABLE jobs ADD CONSTRAINT jobs_state_check CHECK (state IN ('REQUESTED', 'FAILED'))"
            )
        connection.execute("UPDATE meta SET value = '3' WHERE name = 'schema'")
    before = content(older)
    assert upgrade(older) == ("3", NOW)
    after = content(older)
    assert [sorted(map(str, rows)) for rows in after[1:]] == [sorted(map(str, rows)) for rows in before[1:]]
    with Registry.open(older) as registry:
        assert registry.verify_ledger()[1] == []
        closed_by_hand(registry)


def indexes(connection: sa.Connection) -> set[str]:
    """Names only, but of partial ones too, which Alembic does not compare."""
    return set(connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'index'").scalars())


def indexes_of_today(path: Path) -> set[str]:
    with Registry.create(path) as registry, registry._reading() as connection:
        return indexes(connection)
