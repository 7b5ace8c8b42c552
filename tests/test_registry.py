"""The registry: what consent says is durable, append-only and never done twice."""

import multiprocessing
import re
import sqlite3
import time
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.registry import DUE, Enrolment, Registry
from server.rows import FOLLOWING, STATES
from shared.errors import ConsentError, LetheError, UsageError, WorkspaceError


def digests(*records: str) -> dict[str, str]:
    return {record: f"{int(record):064x}" for record in records}


@pytest.fixture
def registry(tmp_path: Path):
    with Registry.create(tmp_path / "registry.db") as opened:
        opened.enrol("7", role="wearable", records=digests("70", "71", "72"), slot=0)
        opened.enrol("8", role="wearable", records=digests("80"), slot=1)
        opened.enrol("9", role="corpus", records=digests("90", "91"))
        opened.enrol("10", role="control", records=digests("100"))
        yield opened


# Enrolment


def test_every_patient_who_enrols_has_given_consent(registry):
    assert [(e.patient, e.kind, e.scope) for e in registry.events()] == [
        (patient, "given", "patient") for patient in ("7", "8", "9", "10")
    ]
    assert registry.events("7")[0].records == ("70", "71", "72")


def test_patients_and_records_come_back_by_role(registry):
    assert [p.id for p in registry.patients("wearable")] == ["7", "8"]
    assert [p.id for p in registry.patients("corpus")] == ["9"]
    assert len(registry.patients()) == 4
    assert [(r.patient, r.id) for r in registry.records(role="corpus")] == [("9", "90"), ("9", "91")]
    assert [r.sha256 for r in registry.records("8")] == list(digests("80").values())
    assert len(registry.records()) == 7


@pytest.mark.parametrize("role", ["corpus", "wearable", "control"])
def test_a_patient_is_enrolled_once(registry, role):
    with pytest.raises(ConsentError, match="patient 9 is enrolled already"):
        registry.enrol("9", role=role, records=digests("99"))
    registry.withdraw("9")
    with pytest.raises(ConsentError, match="patient 9 is enrolled already"):
        registry.enrol("9", role=role, records=digests("99"))
    assert len(registry.events("9")) == 2


def test_a_pseudonym_is_random_and_stays(registry, tmp_path):
    patient = registry.patient("7")
    assert re.fullmatch("p-[0-9a-f]{8}", patient.pseudonym)
    with Registry.create(tmp_path / "other.db") as other:
        other.enrol("7", role="wearable", records=digests("70", "71", "72"), slot=0)
        assert other.patient("7").pseudonym != patient.pseudonym
    registry.withdraw("7")
    assert registry.patient("7").pseudonym == patient.pseudonym


def test_a_slot_is_never_used_by_a_second_patient(registry):
    with pytest.raises(UsageError, match="slot 1 of patient 11 is taken"):
        registry.enrol("11", role="wearable", records=digests("110"), slot=1)
    registry.withdraw("8")
    assert registry.enrol("11", role="wearable", records=digests("110")).slot == 2


@pytest.mark.parametrize(
    ("role", "records", "slot", "says"),
    [
        ("nurse", digests("1"), None, "expected one of corpus, wearable, control"),
        ("corpus", {}, None, "no records"),
        ("corpus", digests("1"), 5, "wears no device"),
        ("wearable", digests("1"), -1, "below 0"),
    ],
)
def test_an_enrolment_that_makes_no_sense_is_refused(registry, role, records, slot, says):
    with pytest.raises(UsageError, match=says):
        registry.enrol("11", role=role, records=records, slot=slot)
    assert len(registry.patients()) == 4


def test_many_patients_are_enrolled_all_or_none(registry):
    crowd = [Enrolment(str(n), "corpus", digests(str(n))) for n in (20, 21, 9)]
    with pytest.raises(ConsentError):
        registry.enrol_many(crowd)
    assert len(registry.patients()) == 4

    def disk_is_full(_: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        registry.enrol_many(crowd[:2], before_commit=disk_is_full)
    assert len(registry.patients()) == 4
    assert len(registry.events()) == 4


def test_a_whole_ptb_xl_is_enrolled_in_seconds(tmp_path):
    crowd = [Enrolment(str(n), "corpus", digests(str(n))) for n in range(21_000)]
    with Registry.create(tmp_path / "registry.db") as registry:
        begin = time.perf_counter()
        enrolled = registry.enrol_many(crowd)
        assert time.perf_counter() - begin < 10
        assert len({patient.pseudonym for patient in enrolled}) == 21_000
        begin = time.perf_counter()
        assert len(registry.records(role="corpus")) == 21_000
        assert time.perf_counter() - begin < 3


def test_who_holds_a_recording_is_found_by_its_digest(registry):
    assert registry.holders(digests("91", "5").values()) == [("9", "91")]
    registry.withdraw("9")
    assert registry.holders(digests("91").values()) == [("9", "91")]


@pytest.mark.parametrize(
    ("asked", "says"),
    [("77", "did you mean 7?"), ("nobody", "lethe patients list"), ("", "lethe patients list")],
)
def test_an_unknown_patient_is_refused_with_a_way_out(registry, asked, says):
    for ask in (registry.patient, registry.withdraw, registry.records, registry.events):
        with pytest.raises(UsageError, match=re.escape(says)):
            ask(asked)


def test_a_pseudonym_in_place_of_an_id_is_explained(registry):
    with pytest.raises(UsageError, match="the patient's id is 7"):
        registry.patient(registry.patient("7").pseudonym)


# Withdrawal


def test_withdrawing_everything_makes_one_job_for_the_device(registry):
    (job,) = registry.withdraw("7")
    assert (job.patient, job.slot, job.scope, job.state) == ("7", 0, "patient", "REQUESTED")
    assert job.records == ("70", "71", "72")
    assert job.method is None
    assert registry.patient("7").status == "withdrawn"
    assert registry.withdrawn_records("7") == ("70", "71", "72")
    assert registry.records("7") == []
    assert all(row.withdrawn for row in registry.records("7", consented_only=False))
    assert registry.jobs() == [job] == registry.jobs(DUE) == [registry.job(job.id)]
    assert registry.events("7")[-1].source == "operator"


def test_withdrawing_one_record_leaves_the_others(registry):
    (job,) = registry.withdraw("7", records=["71"], source="patient portal")
    assert (job.scope, job.records) == ("records", ("71",))
    assert registry.patient("7").status == "partly withdrawn"
    assert [row.id for row in registry.records("7")] == ["70", "72"]
    event = registry.events("7")[-1]
    assert (event.kind, event.scope, event.records) == ("withdrawn", "records", ("71",))
    assert event.source == "patient portal"


def test_withdrawing_twice_changes_nothing(registry):
    first = registry.withdraw("7", records=["71"])
    events = registry.events()
    assert registry.withdraw("7", records=["71"]) == first
    assert registry.withdraw("7", records=["71", "71"]) == first
    assert registry.events() == events
    whole = registry.withdraw("7")
    assert registry.withdraw("7") == whole == registry.jobs()
    assert registry.withdraw("7", records=["70"]) == [whole[-1]]
    assert len(registry.events("7")) == 3


def test_named_again_with_a_new_one_only_the_new_one_is_withdrawn(registry):
    (first,) = registry.withdraw("7", records=["71"])
    both = registry.withdraw("7", records=["71", "72"])
    assert [job.records for job in both] == [("71",), ("72",)]
    assert both[0] == first
    assert registry.events("7")[-1].records == ("72",)


def test_all_records_named_one_by_one_equal_everything(registry):
    registry.withdraw("7", records=["72"])
    registry.withdraw("7", records=["70"])
    last = registry.withdraw("7", records=["71"])[-1]
    assert (last.scope, last.records) == ("patient", ("70", "71", "72"))
    assert registry.patient("7").status == "withdrawn"
    assert registry.withdraw("8", records=["80"])[0].scope == "patient"


@pytest.mark.parametrize(("patient", "status"), [("9", "withdrawn"), ("10", "withdrawn")])
def test_without_a_device_consent_is_withdrawn_and_no_job_is_made(registry, patient, status):
    assert registry.withdraw(patient) == []
    assert registry.patient(patient).status == status
    assert registry.records(patient) == []
    assert registry.jobs() == []


@pytest.mark.parametrize(("named", "says"), [(["71", "90"], "no record 90"), ([], "no record was named")])
def test_an_unknown_record_is_refused_and_the_patients_are_listed(registry, named, says):
    with pytest.raises(UsageError, match=rf"{says}; the records are 70, 71, 72"):
        registry.withdraw("7", records=named)
    assert registry.records("7") == registry.records("7", consented_only=False)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.sampled_from(["70", "71", "72", "73"]), min_size=1) | st.none(), max_size=6))
def test_any_order_of_withdrawals_ends_where_their_union_does(tmp_path_factory, requests):
    with Registry.create(tmp_path_factory.mktemp("law") / "registry.db") as registry:
        registry.enrol("7", role="wearable", records=digests("70", "71", "72", "73"), slot=0)
        for records in requests:
            registry.withdraw("7", records=records)
        union = {record for named in requests for record in named or ("70", "71", "72", "73")}
        assert set(registry.withdrawn_records("7")) == union
        assert {row.id for row in registry.records("7")} == {"70", "71", "72", "73"} - union
        taken = [record for event in registry.events("7")[1:] for record in event.records]
        assert sorted(taken) == sorted(union)
        jobs = registry.jobs()
        assert sum(job.scope == "patient" for job in jobs) == (len(union) == 4)
        assert len(jobs) == len(registry.events("7")) - 1


# Jobs


def test_a_job_walks_its_states_and_every_step_is_kept(registry):
    (job,) = registry.withdraw("7")
    registry.advance(job.id, "DISPATCHED", detail={"method": "finetune", "run": "r1"})
    registry.advance(job.id, "FAILED", detail={"reason": "device 0 did not answer"})
    registry.advance(job.id, "DISPATCHED", detail={"method": "exact", "run": "r2"})
    done = registry.advance(job.id, "UNLEARNED", detail={"files": 3})
    assert (done.state, done.method) == ("UNLEARNED", "exact")
    assert done.detail == {
        "method": "exact",
        "run": "r2",
        "reason": "device 0 did not answer",
        "files": 3,
    }
    steps = registry.job_events(job.id)
    assert [step.state for step in steps] == ["REQUESTED", "DISPATCHED", "FAILED", "DISPATCHED", "UNLEARNED"]
    assert steps[1].detail == {"method": "finetune", "run": "r1"}
    assert registry.jobs(DUE) == []
    assert registry.jobs(["UNLEARNED"]) == [done]


def test_the_present_state_again_changes_nothing(registry):
    (job,) = registry.withdraw("7")
    sent = registry.advance(job.id, "DISPATCHED")
    assert registry.advance(job.id, "DISPATCHED", detail={"run": "again"}) == sent
    assert len(registry.job_events(job.id)) == 2


PATHS = {
    "REQUESTED": [],
    "DISPATCHED": ["DISPATCHED"],
    "UNLEARNED": ["DISPATCHED", "UNLEARNED"],
    "AUDITED": ["DISPATCHED", "UNLEARNED", "AUDITED"],
    "CERTIFIED": ["DISPATCHED", "UNLEARNED", "AUDITED", "CERTIFIED"],
    "FAILED": ["FAILED"],
}


@pytest.mark.parametrize(("state", "to"), [(a, b) for a in STATES for b in STATES if a != b and b not in FOLLOWING[a]])
def test_no_job_skips_a_step_or_goes_back(registry, state, to):
    (job,) = registry.withdraw("7")
    for step in PATHS[state]:
        registry.advance(job.id, step, detail={"reason": "test"})
    with pytest.raises(LetheError, match=f"is {state} and cannot become {to}"):
        registry.advance(job.id, to, detail={"reason": "test"})
    assert registry.job(job.id).state == state


def test_a_failure_needs_a_reason(registry):
    (job,) = registry.withdraw("7")
    with pytest.raises(LetheError, match="without a reason"):
        registry.advance(job.id, "FAILED")


def test_an_unknown_job_is_refused(registry):
    for ask in (registry.job, registry.job_events, lambda job: registry.advance(job, "DISPATCHED")):
        with pytest.raises(UsageError, match="no job 'j-0'"):
            ask("j-0")


# Models, devices, runs, facts


def test_a_model_is_kept_once_and_found_by_its_lineage(registry):
    registry.add_model("aa", kind="general", parent=None, slot=None, lineage={"key": "k1", "seed": 0})
    registry.add_model("aa", kind="general", parent=None, slot=None, lineage={"key": "k2", "seed": 1})
    registry.add_model("bb", kind="personal", parent="aa", slot=0, lineage={"key": "k1"})
    assert registry.find_general("k1") == "aa"
    assert registry.find_general("k2") is None
    assert registry.model("aa").lineage == {"key": "k1", "seed": 0}
    assert [model.digest for model in registry.models()] == ["aa", "bb"]
    assert [model.digest for model in registry.models("personal")] == ["bb"]
    with pytest.raises(UsageError, match="no model cc"):
        registry.model("cc")


def test_the_registry_keeps_what_a_device_last_told(registry):
    told = {"patient": "7", "general": "aa", "bundle": "ff", "accepted": True, "others": 0.75, "seconds": 1.5}
    registry.record_device(0, **told, personal="bb", own=0.9)
    registry.record_device(0, **told, personal="cc", own=None)
    (device,) = registry.devices()
    assert (device.personal, device.own, device.others) == ("cc", None, 0.75)
    assert registry.device(0) == device
    with pytest.raises(UsageError, match="device 1 has told nothing"):
        registry.device(1)


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


def test_facts_are_kept(registry):
    assert registry.recall("enrolment") is None
    registry.remember("enrolment", {"task": "single"})
    registry.remember("enrolment", {"task": "multi"})
    assert registry.recall("enrolment") == {"task": "multi"}


def test_times_are_utc_and_come_from_the_clock(tmp_path):
    with Registry.create(tmp_path / "a.db", clock=lambda: "2031-01-02T03:04:05.000+00:00") as registry:
        assert registry.enrol("7", role="corpus", records=digests("1")).enrolled_at.startswith("2031-01-02")
    with Registry.create(tmp_path / "b.db") as registry:
        registry.enrol("7", role="corpus", records=digests("1"))
        assert datetime.fromisoformat(registry.events()[0].at).utcoffset() == timedelta(0)


# The file


@pytest.mark.parametrize("table", ["consent_events", "job_events", "withdrawals"])
@pytest.mark.parametrize("statement", ["UPDATE {} SET rowid = 99", "DELETE FROM {}", "REPLACE INTO {} {}"])
def test_the_database_itself_refuses_to_rewrite_history(registry, tmp_path, table, statement):
    registry.withdraw("7")
    connection = sqlite3.connect(tmp_path / "registry.db")
    before = connection.execute(f"SELECT * FROM {table}").fetchall()
    assert before
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        connection.execute(statement.format(table, f"SELECT * FROM {table}"))
    assert connection.execute(f"SELECT * FROM {table}").fetchall() == before
    connection.close()


def test_a_registry_is_durable_by_its_settings(registry):
    with registry._reading() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 5000}


def test_a_registry_opens_as_it_was_closed(registry, tmp_path):
    registry.withdraw("7", records=["71"])
    with Registry.open(tmp_path / "registry.db") as again:
        assert again.patients() == registry.patients()
        assert again.events() == registry.events()


def test_a_registry_is_never_overwritten(registry, tmp_path):
    with pytest.raises(WorkspaceError, match="already"):
        Registry.create(tmp_path / "registry.db")
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


def test_a_registry_of_another_version_is_refused(registry, tmp_path):
    registry.close()
    with sqlite3.connect(tmp_path / "registry.db") as connection:
        connection.execute("UPDATE meta SET value = '2' WHERE name = 'schema'")
    connection.close()
    with pytest.raises(WorkspaceError, match="schema version 2, this Lethe reads version 1"):
        Registry.open(tmp_path / "registry.db")


def test_a_missing_registry_is_not_made_anew(tmp_path):
    with pytest.raises(WorkspaceError, match="no registry at"):
        Registry.open(tmp_path / "registry.db")
    assert list(tmp_path.iterdir()) == []


def test_a_registry_that_vanishes_is_not_made_anew(registry, tmp_path):
    registry.close()
    (tmp_path / "registry.db").unlink()
    with pytest.raises(WorkspaceError, match="unable to open"):
        registry.withdraw("7")
    assert not (tmp_path / "registry.db").exists()


def test_a_registry_that_another_process_holds_is_refused_after_a_while(registry, tmp_path, monkeypatch):
    monkeypatch.setattr("server.schema.BUSY_SECONDS", 0.05)
    holder = sqlite3.connect(tmp_path / "registry.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with (
        Registry.open(tmp_path / "registry.db") as blocked,
        pytest.raises(WorkspaceError, match="stayed locked"),
    ):
        blocked.withdraw("7")
    holder.close()
    assert registry.patient("7").status == "active"


def test_a_full_disk_withdraws_nothing_and_says_so(registry):
    with registry._engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    crowd = [Enrolment(str(n), "corpus", digests(str(n))) for n in range(100, 400)]
    with pytest.raises(WorkspaceError, match=r"full.*nothing was changed"):
        registry.enrol_many(crowd)
    assert registry.patient("7").status == "active"
    assert len(registry.patients()) == len(registry.events())


def _withdraw_own(path: Path, start: int) -> None:
    with Registry.open(path) as registry:
        for record in range(start, start + 10):
            registry.withdraw("1", records=[str(record)])
        registry.withdraw("2")


def test_withdrawals_from_several_processes_lose_nothing(tmp_path):
    path = tmp_path / "registry.db"
    with Registry.create(path) as registry:
        registry.enrol("1", role="wearable", records=digests(*map(str, range(100, 141))))
        registry.enrol("2", role="wearable", records=digests("1", "2"))
        context = multiprocessing.get_context("spawn")
        workers = [context.Process(target=_withdraw_own, args=(path, 100 + 10 * n)) for n in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert [worker.exitcode for worker in workers] == [0, 0, 0, 0]
        assert len(registry.withdrawn_records("1")) == 40
        assert [row.id for row in registry.records("1")] == ["140"]
        assert len([job for job in registry.jobs() if job.patient == "1"]) == 40
        assert len([job for job in registry.jobs() if job.patient == "2"]) == 1
        assert len(registry.events("1")) == 41
        assert len(registry.events("2")) == 2
