"""The registry as a database: kept, durable, append-only, refused when damaged, shared by processes.

What is said of both databases is tested on both; what only a file can be is tested on SQLite, and what only a server
can do in `test_registry_postgresql.py`.
"""

import json
import multiprocessing
import sqlite3
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from databases import REFUSED, by_hand
from enrolled import digests, enrol, withdrawn

from server.registry import Enrolment, Registry
from shared.errors import LetheError, UsageError, WorkspaceError


@pytest.fixture
def path(tmp_path, place) -> Path:
    return place(tmp_path)


@pytest.fixture
def registry(path):
    with Registry.create(path) as opened:
        enrol(opened, "7", role="wearable", records=digests("70", "71", "72"), slot=0)
        enrol(opened, "8", role="wearable", records=digests("80"), slot=1)
        enrol(opened, "9", role="corpus", records=digests("90", "91"))
        enrol(opened, "10", role="control", records=digests("100"))
        yield opened


# Models, devices, runs, facts


def test_a_model_is_kept_once_with_its_lineage(registry):
    registry.add_model("aa", kind="general", parent=None, slot=None, lineage={"seed": 0})
    registry.add_model("aa", kind="general", parent=None, slot=None, lineage={"seed": 1})
    registry.add_model("bb", kind="personal", parent="aa", slot=0, lineage={"method": "exact"})
    general, personal = registry.models()
    assert (general.digest, general.kind, general.lineage) == ("aa", "general", {"seed": 0})
    assert (personal.digest, personal.parent, personal.lineage) == ("bb", "aa", {"method": "exact"})


def test_the_registry_keeps_what_a_device_last_told(registry):
    told = {"patient": "7", "general": "aa", "bundle": "ff", "accepted": True, "others": 0.75, "seconds": 1.5}
    registry.record_device(0, **told, personal="bb", own=0.9)
    registry.record_device(0, **told, personal="cc", own=None)
    (device,) = registry.devices()
    assert (device.personal, device.own, device.others) == ("cc", None, 0.75)


def test_a_run_is_noted_when_it_begins_and_when_it_ends(registry):
    registry.start_run("r1", {"general.width": 16})
    assert [(run.id, run.status, run.finished_at) for run in registry.runs()] == [("r1", "running", None)]
    registry.finish_run("r1", "completed", {"seconds": 3.0})
    (run,) = registry.runs()
    assert (run.status, run.settings, run.detail) == ("completed", {"general.width": 16}, {"seconds": 3.0})
    assert run.finished_at is not None
    with pytest.raises(LetheError, match="already"):
        registry.start_run("r1", {})
    with pytest.raises(UsageError, match="start_run comes first"):
        registry.finish_run("r2", "failed", {})


def test_a_run_that_died_is_interrupted_once_the_next_begins(registry):
    registry.start_run("r1", {})
    registry.finish_run("r1", "finished", {})
    registry.start_run("r2", {})
    registry.start_run("r3", {})
    assert [(run.id, run.status) for run in registry.runs()] == [
        ("r1", "finished"),
        ("r2", "interrupted"),
        ("r3", "running"),
    ]
    told = [json.loads(entry.body) for entry in registry.ledger() if entry.kind == "run"]
    assert {"run": "r2", "status": "interrupted"} in told
    assert registry.verify_ledger()[1] == []
    with pytest.raises(LetheError, match="already"):
        registry.start_run("r1", {})
    assert registry.runs()[-1].status == "running"  # a start that is refused ends nobody's run


def test_facts_are_kept(registry):
    assert registry.recall("enrolment") is None
    registry.remember("enrolment", {"task": "single"})
    registry.remember("enrolment", {"task": "multi"})
    assert registry.recall("enrolment") == {"task": "multi"}


def test_times_are_utc_and_come_from_the_clock(tmp_path, place):
    with Registry.create(place(tmp_path / "a"), clock=lambda: "2031-01-02T03:04:05.000+00:00") as registry:
        assert enrol(registry, "7", role="corpus", records=digests("1")).enrolled_at.startswith("2031-01-02")
    with Registry.create(place(tmp_path / "b")) as registry:
        enrol(registry, "7", role="corpus", records=digests("1"))
        assert datetime.fromisoformat(registry.events()[0].at).utcoffset() == timedelta(0)


# The file


@pytest.mark.parametrize("table", ["ledger", "withdrawals"])
@pytest.mark.parametrize("statement", ["UPDATE {} SET {} = '99'", "DELETE FROM {}"])
def test_the_database_itself_refuses_to_rewrite_history(registry, path, table, statement):
    registry.withdraw("7")
    column = "body" if table == "ledger" else "record"
    with by_hand(path) as connection:
        before = connection.execute(f"SELECT * FROM {table}").fetchall()
    assert before
    with pytest.raises(REFUSED, match="append-only"), by_hand(path) as connection:
        connection.execute(statement.format(table, column))
    with by_hand(path) as connection:
        assert connection.execute(f"SELECT * FROM {table}").fetchall() == before


@pytest.mark.parametrize("table", ["ledger", "withdrawals"])
def test_a_row_of_the_history_is_not_replaced(tmp_path, table):
    with Registry.create(tmp_path / "registry.db") as registry:
        enrol(registry, "7", role="wearable", records=digests("70"))
        registry.withdraw("7")
    with pytest.raises(REFUSED, match="append-only"), by_hand(tmp_path / "registry.db") as connection:
        connection.execute(f"REPLACE INTO {table} SELECT * FROM {table}")


def test_a_file_is_durable_by_its_settings(tmp_path):
    with Registry.create(tmp_path / "registry.db") as registry, registry._reading() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout", "secure_delete")
        }
    assert pragmas.pop("journal_mode") == "wal"
    assert pragmas == {"synchronous": 2, "foreign_keys": 1, "busy_timeout": 5000, "secure_delete": 1}


def test_a_registry_opens_as_it_was_closed(registry, path):
    registry.withdraw("7", records=["71"])
    with Registry.open(path) as again:
        assert again.patients() == registry.patients()
        assert again.events() == registry.events()


def test_a_registry_is_never_overwritten(registry, path):
    with pytest.raises(WorkspaceError, match="already"):
        Registry.create(path)
    assert len(registry.patients()) == 4


def _not_a_database(path: Path) -> None:
    path.write_bytes(b"patients, records\n" * 500)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _other_database(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE songs (title TEXT)")
    connection.close()


def _cut_short(path: Path) -> None:
    Registry.create(path).close()
    path.write_bytes(path.read_bytes()[:20_000])


def _scribbled_over(path: Path) -> None:
    Registry.create(path).close()
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xa5" * (len(content) - 4096)
    path.write_bytes(content)


@pytest.mark.parametrize("spoil", [_not_a_database, _empty, _other_database, _cut_short, _scribbled_over])
def test_a_damaged_registry_is_refused_and_left_as_it_is(tmp_path, spoil):
    path = tmp_path / "registry.db"
    spoil(path)
    before = path.read_bytes()
    with pytest.raises(WorkspaceError, match="damaged or is no registry"):
        Registry.open(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("version", "says"), [("1", "`lethe registry upgrade` brings it"), ("99", "use the Lethe that made it")]
)
def test_a_registry_of_another_version_is_refused(path, version, says):
    Registry.create(path).close()
    with by_hand(path) as connection:
        connection.execute(f"UPDATE meta SET value = '{version}' WHERE name = 'schema'")
    with pytest.raises(WorkspaceError, match=f"schema version {version}, this Lethe reads version .*{says}"):
        Registry.open(path)


def test_a_missing_registry_is_not_made_anew(tmp_path):
    with pytest.raises(WorkspaceError, match="no registry at"):
        Registry.open(tmp_path / "registry.db")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_vanishes_is_not_made_anew(tmp_path):
    registry = Registry.create(tmp_path / "registry.db")
    enrol(registry, "7", role="wearable", records=digests("70"))
    registry.close()
    (tmp_path / "registry.db").unlink()
    with pytest.raises(WorkspaceError, match="unable to open"):
        registry.withdraw("7")
    assert not (tmp_path / "registry.db").exists()


def test_a_registry_that_another_process_holds_is_refused_after_a_while(registry, path, monkeypatch):
    with Registry.open(path) as holder, holder._writing():
        monkeypatch.setattr("server.schema.BUSY_SECONDS", 0.05)
        with (
            Registry.open(path) as blocked,
            pytest.raises(WorkspaceError, match=r"stayed locked.*nothing was changed"),
        ):
            blocked.withdraw("7")
    assert registry.patient("7").status == "active"


def test_who_reads_sees_one_state_and_waits_for_no_writer(registry, path):
    with registry._reading() as connection:
        count = "SELECT count(*) FROM withdrawals"
        assert connection.exec_driver_sql(count).scalar() == 0
        with Registry.open(path) as other:
            other.withdraw("7")
        assert connection.exec_driver_sql(count).scalar() == 0
    assert registry.patient("7").status == "withdrawn"


def test_a_full_disk_withdraws_nothing_and_says_so(tmp_path):
    registry = Registry.create(tmp_path / "registry.db")
    enrol(registry, "7", role="wearable", records=digests("70"))
    with registry._engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    crowd = [Enrolment(str(n), "corpus", digests(str(n))) for n in range(100, 400)]
    with pytest.raises(WorkspaceError, match=r"full.*nothing was changed"):
        registry.enrol_many(crowd)
    assert registry.patient("7").status == "active"
    assert len(registry.patients()) == len(registry.events())
    registry.close()


def _withdraw_own(path: Path, start: int) -> None:
    with Registry.open(path) as registry:
        for record in range(start, start + 10):
            registry.withdraw("1", records=[str(record)])
        registry.withdraw("2")


def test_withdrawals_from_several_processes_lose_nothing(path):
    with Registry.create(path) as registry:
        enrol(registry, "1", role="wearable", records=digests(*map(str, range(100, 141))))
        enrol(registry, "2", role="wearable", records=digests("1", "2"))
        context = multiprocessing.get_context("spawn")
        workers = [context.Process(target=_withdraw_own, args=(path, 100 + 10 * n)) for n in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert [worker.exitcode for worker in workers] == [0, 0, 0, 0]
        assert len(withdrawn(registry, "1")) == 40
        assert [row.id for row in registry.records("1")] == ["140"]
        assert len([job for job in registry.jobs() if job.patient == "1"]) == 40
        assert len([job for job in registry.jobs() if job.patient == "2"]) == 1
        assert len(registry.events("1")) == 41
        assert len(registry.events("2")) == 2
