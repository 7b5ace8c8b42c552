"""A registry in PostgreSQL: refused where it must be, cut off without losing anything, and `lethe` works with it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from databases import REFUSED, USER, Cluster, by_hand, programs
from enrolled import digests, enrol, withdrawn
from fleet import TINY, Fleet, quietly
from typer.testing import CliRunner

from server import keys, registry_url
from server.history_check import check
from server.registry import Enrolment, Registry
from server.workspace import Workspace
from shared.errors import DamagedError, UsageError, WorkspaceError
from simulations import main_job
from simulations.cli import app
from simulations.enrol import enrol_cohort


@pytest.fixture
def name(postgresql: Cluster):
    with postgresql.database() as made:
        yield made


@pytest.fixture
def url(postgresql: Cluster, name: str) -> str:
    return postgresql.url(name)


@pytest.fixture
def path(tmp_path: Path, url: str) -> Path:
    registry_url.keep(tmp_path, url)
    return tmp_path / registry_url.FILE


@pytest.fixture
def registry(path: Path):
    with Registry.create(path) as opened:
        enrol(opened, "7", role="wearable", records=digests("70", "71", "72"), slot=0)
        yield opened


def tables(path: Path) -> int:
    with by_hand(path) as connection:
        found = connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone()
    return int(found[0])


# The database


@pytest.mark.parametrize("table", ["ledger", "withdrawals"])
@pytest.mark.parametrize(
    "statement",
    [
        "TRUNCATE {} CASCADE",
        "DELETE FROM {} WHERE false",
        "SET session_replication_role = replica; DELETE FROM {}",
        "INSERT INTO {0} SELECT * FROM {0} ON CONFLICT ({1}) DO UPDATE SET {1} = excluded.{1}",
    ],
)
def test_no_statement_rewrites_history(registry, path, table, statement):
    registry.withdraw("7")
    key = "seq" if table == "ledger" else "patient, record, turn"
    if "excluded" in statement and table == "withdrawals":
        statement = statement.replace("SET {1} = excluded.{1}", "SET record = excluded.record")
    with pytest.raises(REFUSED, match=r"append-only"), by_hand(path) as connection:
        connection.execute(statement.format(table, key))
    assert registry.verify_ledger()[1] == []


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE ledger DISABLE TRIGGER ledger_no_update",
        "ALTER TABLE ledger ENABLE TRIGGER ledger_no_delete",
        "DROP TRIGGER withdrawals_no_truncate ON withdrawals",
        "CREATE OR REPLACE FUNCTION ledger_no_gap() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
        "CREATE OR REPLACE TRIGGER ledger_no_gap BEFORE INSERT ON ledger FOR EACH ROW WHEN (false) "
        "EXECUTE FUNCTION ledger_no_gap()",
        "CREATE OR REPLACE TRIGGER ledger_no_update BEFORE UPDATE OF at ON ledger FOR EACH STATEMENT "
        "EXECUTE FUNCTION ledger_no_update(); ALTER TABLE ledger ENABLE ALWAYS TRIGGER ledger_no_update",
    ],
)
def test_a_rule_that_holds_no_longer_is_found(registry, path, statement):
    with by_hand(path) as connection:
        connection.execute(statement)
    assert [finding.problem for finding in registry.verify_ledger()[1]] == ["unguarded"]


def test_a_write_waits_for_the_disk_also_where_the_server_is_told_not_to(registry, path):
    with by_hand(path) as connection:
        connection.execute("ALTER ROLE CURRENT_USER SET synchronous_commit = off")
    try:
        with Registry.open(path) as again, again._writing() as writer:
            assert writer.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"
    finally:
        with by_hand(path) as connection:
            connection.execute("ALTER ROLE CURRENT_USER RESET synchronous_commit")
    assert registry.patient("7").status == "active"


def test_a_dump_is_a_backup_with_the_rules_in_it(registry, path, tmp_path, postgresql):
    registry.withdraw("7", records=["71"])
    dump, name = tmp_path / "backup.dump", registry_url.read(path).url.split("/")[3].split("?")[0]
    tool, options = programs(), ["--host", postgresql.folder, "--username", USER]
    subprocess.run([tool / "pg_dump", *options, "--format", "custom", "--file", dump, name], check=True)
    with postgresql.database() as restored:
        subprocess.run([tool / "pg_restore", *options, "--dbname", restored, dump], check=True)
        path.write_text(path.read_text().replace(f"/{name}?", f"/{restored}?"))
        with Registry.open(path) as again:
            assert again.verify_ledger(head=registry.ledger_head())[1] == []
            assert withdrawn(again, "7") == ("71",)
            assert len(again.withdraw("7")) == 2


# Refused


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgresql+psycopg://lethe:secret@localhost/lethe", "PGPASSFILE"),
        ("postgresql+psycopg://lethe@localhost/lethe?password=secret", "PGPASSFILE"),
        ("postgresql://lethe@localhost/lethe", "expected postgresql"),
        ("postgresql+psycopg://lethe@localhost", "expected postgresql"),
        ("mysql://lethe@localhost/lethe", "expected postgresql"),
        ("postgresql+psycopg://lethe@localhost:port/lethe", "is no URL"),
        ("registry.db", "expected postgresql"),
    ],
)
def test_a_url_that_cannot_be_kept_is_refused_and_no_password_is_printed(tmp_path, url, says):
    with pytest.raises(UsageError, match=says) as refused:
        main_job.prepare(tmp_path / "home", data=tmp_path, settings=TINY, registry=url)
    assert "secret" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_not_there_is_said_to_be_away(tmp_path):
    registry_url.keep(tmp_path, f"postgresql+psycopg://lethe@/lethe?host={tmp_path}")
    with pytest.raises(WorkspaceError, match=r"cannot reach registry .*; nothing was changed.*PGPASSFILE"):
        Registry.open(tmp_path / registry_url.FILE)


def test_a_database_that_is_not_there_is_said_to_be_away(tmp_path, postgresql):
    registry_url.keep(tmp_path, postgresql.url("nowhere"))
    with pytest.raises(WorkspaceError, match=r'database "nowhere" does not exist; nothing was changed'):
        Registry.open(tmp_path / registry_url.FILE)


def test_without_psycopg_it_is_said_what_to_install(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(WorkspaceError, match=r"needs psycopg.*pip install 'lethe\[postgresql\]'"):
        Registry.open(path)


def test_a_database_of_something_else_is_no_registry_and_is_not_made_one(path):
    with by_hand(path) as connection:
        connection.execute("CREATE TABLE songs (title text)")
    with pytest.raises(DamagedError, match="is not the registry of this workspace"):
        Registry.open(path)
    with pytest.raises(WorkspaceError, match="is not empty"):
        Registry.create(path)
    assert tables(path) == 1


def test_the_registry_of_another_workspace_is_not_opened_nor_overwritten(registry, tmp_path, url):
    other = tmp_path / "other"
    other.mkdir()
    registry_url.keep(other, url)
    with pytest.raises(DamagedError, match="it belongs to workspace"):
        Registry.open(other / registry_url.FILE)
    with pytest.raises(WorkspaceError, match="holds a registry already"):
        Registry.create(other / registry_url.FILE)
    assert registry.patient("7").status == "active"


def test_a_database_without_unicode_is_refused(path, postgresql, name):
    with postgresql.by_hand() as connection:
        connection.execute(f"DROP DATABASE {name}")
        connection.execute(f"CREATE DATABASE {name} ENCODING LATIN1 LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
    with pytest.raises(WorkspaceError, match="encoded in LATIN1, expected UTF8"):
        Registry.create(path)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"url": "postgresql+psycopg://a:b@c/d", "id": "x"}'])
def test_a_file_that_names_no_database_is_damaged(tmp_path, content):
    (tmp_path / registry_url.FILE).write_text(content)
    with pytest.raises(DamagedError, match="does not say where the registry is"):
        Registry.open(tmp_path / registry_url.FILE)


# Cut off


def cut_off(path: Path) -> None:
    with by_hand(path) as connection:
        others = "pid <> pg_backend_pid() AND datname = current_database()"
        connection.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}")


def write_while_cut_off(registry: Registry, path: Path) -> None:
    with registry._writing() as connection:
        connection.exec_driver_sql("UPDATE patients SET enrolled_at = 'never'")
        cut_off(path)
        connection.exec_driver_sql("SELECT 1")


def test_a_connection_that_is_lost_in_mid_write_changes_nothing(registry, path):
    with pytest.raises(WorkspaceError, match=r"cannot reach registry .*nothing was changed"):
        write_while_cut_off(registry, path)
    assert registry.patient("7").enrolled_at != "never"  # connected anew


def test_what_was_not_committed_when_the_connection_was_lost_can_be_done_again(registry, path):
    crowd = [Enrolment(str(n), "corpus", digests(str(n))) for n in range(100, 110)]
    with pytest.raises(WorkspaceError, match="it is done or it is not"):  # who commits cannot know
        registry.enrol_many(crowd, before_commit=lambda _: cut_off(path))
    assert len(registry.patients()) == 1
    assert len(registry.enrol_many(crowd)) == 10
    assert registry.verify_ledger()[1] == []


def test_a_connection_that_is_lost_between_two_commands_is_made_anew(registry, path):
    cut_off(path)
    assert registry.withdraw("7")


def test_a_connection_that_is_lost_while_committing_is_not_said_to_have_changed_nothing(registry, path):
    with by_hand(path) as connection:
        connection.execute(
            "CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS "
            "'BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(1); RETURN NULL; END'"
        )
        connection.execute(
            "CREATE CONSTRAINT TRIGGER at_the_end AFTER INSERT ON jobs DEFERRABLE INITIALLY DEFERRED "
            "FOR EACH ROW EXECUTE FUNCTION die()"
        )
    with pytest.raises(WorkspaceError, match=r"it is done or it is not; look, or give the same command again"):
        registry.withdraw("7")
    with by_hand(path) as connection:
        connection.execute("DROP TRIGGER at_the_end ON jobs")
    assert len(registry.withdraw("7")) == len(registry.jobs()) == 1


# The commands


def lethe(home: Path, *arguments: str) -> str:
    result = CliRunner(env={"LETHE_HOME": str(home), "COLUMNS": "100"}).invoke(app, arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def test_a_workspace_is_made_and_used_by_the_commands(tmp_path, cohort_folder, url):
    home, few = tmp_path / "home", ["--set", "cohort.wearables=2", "--set", "cohort.controls=2"]
    lethe(home, "init", "--data", str(cohort_folder), "--registry", url, *few)
    assert not (home / "registry.db").exists()
    patients = json.loads(lethe(home, "patients", "list", "--json"))["patients"]
    assert len(patients) == 2
    told = json.loads(lethe(home, "patients", "withdraw", patients[0]["id"], "--yes", "--json"))
    assert told["changed"]
    assert told["jobs"][0]["id"] in lethe(home, "jobs", "list")
    assert "registry" in lethe(home, "patients", "trace", patients[0]["id"])
    assert json.loads(lethe(home, "ledger", "verify", "--json"))["findings"] == []
    assert "already" in lethe(home, "registry", "upgrade")


def test_an_init_that_fails_leaves_the_database_empty(tmp_path, cohort_folder, url, path, monkeypatch):
    def disk_is_full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(main_job, "keep", disk_is_full)
    with pytest.raises(OSError, match="No space"):
        main_job.prepare(tmp_path / "home", data=cohort_folder, settings=TINY, registry=url)
    assert tables(path) == 0
    monkeypatch.undo()
    main_job.prepare(tmp_path / "home", data=cohort_folder, settings=TINY, registry=url)
    assert tables(path) > 5


def test_a_second_init_leaves_the_first_ones_registry_alone(tmp_path, cohort_folder, url):
    main_job.prepare(tmp_path / "home", data=cohort_folder, settings=TINY, registry=url)
    with pytest.raises(WorkspaceError, match="holds a registry already"):
        main_job.prepare(tmp_path / "again", data=cohort_folder, settings=TINY, registry=url)
    with Registry.open(Workspace.open(tmp_path / "home").registry_path) as registry:
        assert len(registry.patients()) > 4


@pytest.mark.slow
def test_a_withdrawal_is_certified(tmp_path, cohort_folder, url):
    home = tmp_path / "home"
    with Workspace.building(home, data=cohort_folder, registry=url) as workspace:
        keys.make(workspace.keys)
        enrol_cohort(workspace, TINY, progress=quietly)
    fleet = Fleet(home)
    fleet.run()
    patient = fleet.registry.patients("wearable")[0].id
    (job,) = fleet.registry.withdraw(patient)
    fleet.run()
    assert fleet.registry.job(job.id).state == "CERTIFIED"
    assert fleet.registry.events(patient) == []
    assert check(fleet.workspace, fleet.registry, head=None)[1] == []
    fleet.close()
