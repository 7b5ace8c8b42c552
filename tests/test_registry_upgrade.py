"""A registry that an earlier Lethe wrote: brought up to date as it is, all or nothing, with a copy kept."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from enrolled import withdrawn
from typer.testing import CliRunner

from server import keys, schema
from server.history_check import check
from server.registry import Registry
from server.sqlite_file import copy_of
from server.upgrade import upgrade
from server.workspace import Workspace
from shared.errors import ConsentError, WorkspaceError
from simulations.cli import app

# Written by the last Lethe of version 2: 7 has withdrawn one record, 8 is forgotten, and 9, of the corpus, withdrew one.
VERSION_2 = Path(__file__).parent / "registry_version_2.sql"


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    workspace = Workspace.create(tmp_path / "home", data=tmp_path / "data")
    keys.make(workspace.keys)
    with closing(sqlite3.connect(workspace.registry_path)) as connection:
        connection.executescript(VERSION_2.read_text())
        connection.execute("PRAGMA journal_mode = WAL")
    return workspace


def test_an_earlier_registry_is_refused_until_it_is_brought_up_to_date(workspace):
    with pytest.raises(WorkspaceError, match=r"schema version 2.*`lethe registry upgrade` brings it"):
        Registry.open(workspace.registry_path)
    result = CliRunner(env={"LETHE_HOME": str(workspace.home)}).invoke(app, ["registry", "upgrade"])
    assert result.exit_code == 0, result.output
    assert f"Schema version 2 is {schema.VERSION} now." in result.stdout
    assert str(copy_of(workspace.registry_path, "2")) in result.stdout
    assert upgrade(workspace.registry_path) == (schema.VERSION, schema.VERSION)


def test_what_was_said_and_done_before_stands_afterwards(workspace):
    upgrade(workspace.registry_path)
    with Registry.open(workspace.registry_path) as registry:
        assert [withdrawn(registry, patient) for patient in ("7", "8", "9")] == [("71",), ("80",), ("90",)]
        assert registry.forgotten() == {1}
        assert [event.kind for event in registry.events("7")] == ["given", "withdrawn"]
        assert check(workspace, registry, head=None)[1] == []
        with pytest.raises(ConsentError, match="is REQUESTED"):
            registry.consent_again("7")
        assert registry.consent_again("8") == ["80"]
        assert registry.consent_again("9") == ["90"]
        assert check(workspace, registry, head=None)[1] == []


def test_it_ends_with_the_tables_that_a_new_one_has(workspace, tmp_path):
    """Names and order of columns apart, of which nothing is asked; indexes, keys and rules count."""

    def tables(path):
        inspector = sa.inspect(sa.create_engine(f"sqlite:///{path}"))
        return {
            name: (
                {column["name"]: (str(column["type"]), column["nullable"]) for column in inspector.get_columns(name)},
                inspector.get_pk_constraint(name)["constrained_columns"],
                sorted(
                    (index["name"], index["column_names"], index["unique"]) for index in inspector.get_indexes(name)
                ),
            )
            for name in inspector.get_table_names()
        }

    upgrade(workspace.registry_path)
    Registry.create(tmp_path / "registry.db").close()
    assert tables(workspace.registry_path) == tables(tmp_path / "registry.db")


def test_a_step_that_fails_leaves_all_as_it_was(workspace, tmp_path):
    broken = tmp_path / "revisions"
    broken.mkdir()
    for name in ("version_2.py", "version_3.py"):
        text = (Path(schema.__file__).parent / "revisions" / name).read_text()
        (broken / name).write_text(text.replace('op.drop_table("withdrawals_before")', "raise OSError(28, 'full')"))
    with closing(sqlite3.connect(workspace.registry_path)) as connection:
        before = list(connection.iterdump())
    with pytest.raises(OSError, match="full"):
        upgrade(workspace.registry_path, revisions=[broken])
    with closing(sqlite3.connect(workspace.registry_path)) as connection:
        assert list(connection.iterdump()) == before
