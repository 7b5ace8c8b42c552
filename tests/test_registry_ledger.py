"""The registry's ledger: everything is entered, nobody is named, and a forgotten patient is no longer found in it."""

import json
import multiprocessing
import re
from pathlib import Path

import pytest
from databases import REFUSED, by_hand, on_disk, rewrite
from enrolled import digests, enrol
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from server.history import Names
from server.registry import Enrolment, Registry
from server.workspace import Workspace
from shared.errors import AuditError, ConsentError, DamagedError, LetheError, UsageError, WorkspaceError
from simulations.cli import app

STEPS = ("DISPATCHED", "UNLEARNED", "AUDITED", "CERTIFIED")
TELLING = {  # words of a device that name the patient, the record and the device
    "before": "b" * 64,
    "erased": ["recordings/15709.npz", "00549_hr.npz"],
    "note": "device 0 of patient 7012 erased 549 and 15709.",
    "acknowledged_at": "2026-11-24T10:00:00.549+00:00",
    "verdict": {"auc": 0.549, "by_record": {"549": 0.5}, "words": "AUC 0.549, 1.75 at 549"},
}


@pytest.fixture
def home(tmp_path: Path, place) -> Path:
    workspace = Workspace.create(tmp_path / "home", data=tmp_path)
    place(workspace.home)
    with Registry.create(workspace.registry_path) as opened:
        enrol(opened, "7012", role="wearable", records=digests("549", "15709"), slot=0)
        enrol(opened, "8", role="wearable", records=digests("80"), slot=1)
        enrol(opened, "9", role="corpus", records=digests("90", "91"))
    return workspace.home


@pytest.fixture
def path(home: Path) -> Path:
    return Workspace.open(home).registry_path


@pytest.fixture
def registry(path: Path):
    with Registry.open(path) as opened:
        yield opened


def certify(registry: Registry, job: str, **detail) -> None:
    for state in STEPS:
        registry.advance(job, state, detail=TELLING | detail)


def salts_of(path: Path) -> dict[str, bytes]:
    with by_hand(path) as database:
        return dict(database.execute("SELECT patient, salt FROM salts").fetchall())


# What is entered


def test_whatever_happens_is_entered_in_order(registry):
    registry.note_key("f" * 64)
    registry.note_key("f" * 64)
    registry.start_run("r1", {"general.width": 16})
    registry.add_model("a" * 64, kind="general", parent=None, slot=None, lineage={"data": "d"})
    registry.add_model("b" * 64, kind="personal", parent="a" * 64, slot=0, lineage={"job": "none"})
    registry.add_model("b" * 64, kind="personal", parent="a" * 64, slot=0, lineage={"job": "again"})
    (job,) = registry.withdraw("7012", records=["549"])
    certify(registry, job.id)
    registry.finish_run("r1", "failed", {"error": "patient 7012 is unknown"})
    told = [(entry.kind, json.loads(entry.body)) for entry in registry.ledger()]
    assert [kind for kind, _ in told] == [
        *(3 * ["consent"]),
        *("key", "run", "model", "model", "consent"),
        *("job", "job", "job", "verdict", "certificate", "run"),
    ]
    assert told[3][1] == {"public_key": "f" * 64}
    assert told[4][1] == {"run": "r1", "status": "running", "settings": {"general.width": 16}}
    assert told[6][1]["digest"] == "b" * 64
    assert told[-1][1] == {"run": "r1", "status": "failed"}
    assert registry.verify_ledger()[1] == []
    assert registry.ledger_head() == (14, registry.ledger()[-1].hash)


def test_no_entry_names_a_patient_a_record_a_job_or_a_device(registry):
    pseudonym = registry.patient("7012").pseudonym
    (job,) = registry.withdraw("7012", records=["549"], source=f"{pseudonym}, in person")
    registry.add_model("b" * 64, kind="personal", parent=None, slot=0, lineage={"job": job.id})
    certify(registry, job.id)
    text = re.sub(
        "[0-9a-f]{64}", "", "".join(entry.body for entry in registry.ledger())
    )  # by chance they have any word
    assert not [word for word in ("7012", "15709", job.id, "device 0", pseudonym, "549_hr") if word in text]
    assert '"549"' not in text  # nor does the key of an object
    assert "AUC 0.549, 1.75 at " in text  # a figure is no name
    assert len({entry.subject for entry in registry.ledger()}) == 3


def test_what_was_entered_is_read_back_word_for_word(registry):
    (job,) = registry.withdraw("7012", records=["549"], source="patient 7012, in person")
    certify(registry, job.id)
    assert registry.events("7012")[-1].source == "patient 7012, in person"
    assert registry.events("7012")[-1].records == ("549",)
    steps = registry.job_events(job.id)
    assert [step.state for step in steps] == ["REQUESTED", *STEPS]
    assert all(step.detail == TELLING and step.job == job.id for step in steps[1:])


@given(st.recursive(st.none() | st.integers() | st.text("07 .-_:ap12jé"), lambda inner: st.lists(inner) | inner))
def test_hiding_and_showing_give_back_any_words(value):
    names = Names("7", salt=b"s" * 32, pseudonym="p-1", slot=0, records=["7", "70", "0.7", "a p"], jobs=["j-1"])
    assert names.show(json.loads(json.dumps(names.hide(value)))) == value


def test_one_patients_names_differ_from_another_workspaces(registry, tmp_path, place):
    with Registry.create(place(tmp_path / "other")) as other:
        enrol(other, "7012", role="wearable", records=digests("549", "15709"), slot=0)
        subjects = {entry.subject for entry in other.ledger()}
    assert not subjects & {entry.subject for entry in registry.ledger()}


def test_the_order_of_a_cohort_does_not_tell_who_is_who(tmp_path, place):
    with Registry.create(place(tmp_path)) as registry:
        registry.enrol_many([Enrolment(str(n), "corpus", digests(str(n))) for n in range(50)])
        subjects = [entry.subject for entry in registry.ledger()]
        assert subjects == sorted(subjects)
        assert [event.patient for event in registry.events()] != [str(n) for n in range(50)]


def test_a_clock_that_goes_backwards_refuses_nobodys_consent(tmp_path, place):
    times = iter(f"2026-11-{day:02}T00:00:00.000+00:00" for day in (24, 20, 21, 25))
    with Registry.create(place(tmp_path), clock=lambda: next(times)) as registry:
        enrol(registry, "7", role="corpus", records=digests("70", "71", "72"))
        for record in ("70", "71", "72"):
            registry.withdraw("7", records=[record])
        said = [entry for entry in registry.ledger() if entry.kind == "consent"]
        assert [entry.at[8:10] for entry in said] == ["24", "24", "24", "25"]
        assert [event.at[8:10] for event in registry.events("7")] == ["24", "20", "21", "25"]
        assert registry.verify_ledger()[1] == []


def test_a_figure_that_is_no_number_is_refused_and_the_job_stays(registry):
    (job,) = registry.withdraw("8")
    with pytest.raises(LetheError, match="cannot be entered"):
        registry.advance(job.id, "DISPATCHED", detail={"auc": float("nan")})
    assert registry.job(job.id) == job


# Forgetting


def test_a_forgotten_patient_is_not_found_in_the_ledger_any_more(registry, path):
    (job,) = registry.withdraw("7012")
    registry.add_model("b" * 64, kind="personal", parent=None, slot=0, lineage={"job": job.id})
    salt = salts_of(path)["7012"]
    subject = Names("7012", salt=salt).subject
    certify(registry, job.id)
    entries, findings = registry.verify_ledger()
    assert findings == []
    assert sum(entry.subject == subject for entry in entries) == 8
    assert registry.events("7012") == registry.job_events(job.id) == registry.models() == []
    assert [event.patient for event in registry.events()] == ["8", "9"]
    left = registry.job(job.id)
    assert (left.state, left.records, left.detail) == ("CERTIFIED", job.records, {})
    assert left.requested_at == job.requested_at[:10] + "T00:00:00.000+00:00"
    assert registry.patient("7012").status == "withdrawn"


def test_a_destroyed_salt_is_nowhere_in_the_files(registry, path):
    (job,) = registry.withdraw("7012")
    salts = salts_of(path)
    certify(registry, job.id)
    assert salts["7012"] not in on_disk(path)
    assert salts["8"] in on_disk(path)  # the search finds what is there
    assert salts_of(path)["7012"] == bytes(32)


def test_many_destroyed_salts_leave_nothing_behind(tmp_path, place):
    path = place(tmp_path)
    with Registry.create(path) as registry:
        registry.enrol_many([Enrolment(f"patient-{n}", "wearable", digests(str(n))) for n in range(600)])
        salts = salts_of(path)
        gone = [f"patient-{n}" for n in range(0, 600, 20)]
        for patient in reversed(gone):
            certify(registry, registry.withdraw(patient)[0].id)
        files = on_disk(path)
    assert {patient for patient, salt in salts.items() if salt not in files} == set(gone)


def test_while_somebody_reads_a_salt_is_kept_and_removed_at_the_next_opening(registry, path, monkeypatch):
    monkeypatch.setattr("server.schema.BUSY_SECONDS", 0.05)
    (job,) = registry.withdraw("7012")
    salt = salts_of(path)["7012"]
    for state in STEPS[:-1]:
        registry.advance(job.id, state)
    with registry._reading() as reader:
        reader.exec_driver_sql("SELECT count(*) FROM ledger").scalar()
        with Registry.open(path) as writer:
            assert writer.advance(job.id, "CERTIFIED").state == "CERTIFIED"
        assert salt in on_disk(path)
    with Registry.open(path):
        assert salt not in on_disk(path)


def test_a_salt_that_is_destroyed_while_another_is_removed_is_not_passed_over(registry, path, monkeypatch):
    jobs = {patient: registry.withdraw(patient)[0].id for patient in ("7012", "8")}
    salts, sweep = salts_of(path), type(registry._database).sweep
    for job in jobs.values():
        for state in STEPS[:-1]:
            registry.advance(job, state)

    def meanwhile(database, opened):
        swept = sweep(database, opened)
        monkeypatch.setattr(type(database), "sweep", lambda *_: False)  # as if somebody read
        with Registry.open(path) as other:
            other.advance(jobs["8"], "CERTIFIED")
        return swept

    monkeypatch.setattr(type(registry._database), "sweep", meanwhile)
    registry.advance(jobs["7012"], "CERTIFIED")
    assert salts["8"] in on_disk(path)
    monkeypatch.undo()
    with Registry.open(path):
        assert not any(salts[patient] in on_disk(path) for patient in jobs)


def test_the_salt_stays_until_the_last_job_of_a_patient_is_certified(registry, path):
    (first,) = registry.withdraw("7012", records=["549"])
    *_, whole = registry.withdraw("7012")
    certify(registry, whole.id)
    assert [event.kind for event in registry.events("7012")] == ["given", "withdrawn", "withdrawn"]
    certify(registry, first.id)
    assert registry.events("7012") == []
    assert salts_of(path)["7012"] == bytes(32)


def test_a_certified_part_keeps_the_history(registry):
    (job,) = registry.withdraw("7012", records=["549"])
    certify(registry, job.id)
    assert len(registry.job_events(job.id)) == 5
    assert registry.job(job.id).detail == TELLING


def test_the_last_step_returns_the_job_as_it_was(registry):
    (job,) = registry.withdraw("8")
    for state in STEPS:
        last = registry.advance(job.id, state, detail={"step": state})
    assert (last.state, last.requested_at, last.detail) == ("CERTIFIED", job.requested_at, {"step": "CERTIFIED"})


def test_forgotten_patients_jobs_come_first_and_tell_no_order(registry):
    jobs = [registry.withdraw(patient)[0].id for patient in ("7012", "8")]
    assert [job.id for job in registry.jobs()] == jobs
    certify(registry, jobs[1])
    assert [job.id for job in registry.jobs()] == jobs[::-1]


def test_a_forgotten_patient_stays_withdrawn_and_cannot_come_back(registry):
    (job,) = registry.withdraw("8")
    certify(registry, job.id)
    before = registry.ledger()
    assert [one.id for one in registry.withdraw("8")] == [job.id]
    with pytest.raises(ConsentError, match="enrolled already"):
        enrol(registry, "8", role="corpus", records=digests("80"))
    assert registry.ledger() == before
    registry.add_model("e" * 64, kind="personal", parent=None, slot=1, lineage={"job": job.id})
    assert registry.ledger()[-1].subject == ""
    assert job.id not in registry.ledger()[-1].body


# The file


@pytest.mark.parametrize("column", ["at", "kind", "subject", "body", "previous", "hash"])
def test_any_column_changed_behind_the_database_is_found(registry, path, column):
    registry.withdraw("7012")
    rewrite(path, f"UPDATE ledger SET {column} = 'x' || substr({column}, 2) WHERE seq = 2")
    found = {finding.problem for finding in registry.verify_ledger()[1]}
    assert "changed" in found


@pytest.mark.parametrize("column", ["at", "kind", "subject", "body", "previous", "hash"])
def test_bytes_that_are_no_text_are_found_in_a_file(tmp_path, column):
    path = tmp_path / "registry.db"
    with Registry.create(path) as registry:
        enrol(registry, "8", role="wearable", records=digests("80"))
        registry.withdraw("8")
        rewrite(path, f"UPDATE ledger SET {column} = CAST(X'FF' || substr({column}, 2) AS TEXT) WHERE seq = 2")
        assert "changed" in {finding.problem for finding in registry.verify_ledger()[1]}


def test_a_changed_entry_is_not_read_as_history(registry, path):
    (job,) = registry.withdraw("7012")
    rewrite(path, "UPDATE ledger SET body = replace(body, 'patient', 'records') WHERE seq = 4")
    with pytest.raises(AuditError, match="entry 4 of the ledger is not what its hash was made of"):
        registry.events("7012")
    assert len(registry.job_events(job.id)) == 1


def test_any_byte_of_a_file_s_entries_is_looked_at(tmp_path):
    path = tmp_path / "registry.db"
    with Registry.create(path) as registry:
        enrol(registry, "7012", role="wearable", records=digests("549", "15709"))
        registry.withdraw("7012")
        entries = registry.ledger()
    whole = path.read_bytes()
    for entry in entries:
        begin = whole.index((entry.body + entry.previous + entry.hash).encode())
        for at in range(begin, begin + len(entry.body) + 128, 41):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x81]) + whole[at + 1 :])
            if at >= begin + len(entry.body):  # a hash is in an index, too, and then the two differ
                with pytest.raises(DamagedError, match="missing from index"):
                    Registry.open(path)
                continue
            with Registry.open(path) as spoilt:
                assert spoilt.verify_ledger()[1], (entry.seq, at)
    path.write_bytes(whole)
    with Registry.open(path) as again:
        assert again.verify_ledger()[1] == []


def test_a_database_that_would_let_itself_be_rewritten_is_found(registry, path):
    assert registry.verify_ledger()[1] == []
    rewrite(path)
    findings = registry.verify_ledger()[1]
    assert {finding.problem for finding in findings} == {"unguarded"}
    assert len(findings) == 11


@pytest.mark.parametrize("values", ["5, at, kind, subject, body, hash", "4, at, kind, subject, body, '0'"])
def test_the_database_refuses_an_entry_that_does_not_follow_the_last(path, values):
    entry = f"(seq, at, kind, subject, body, previous, hash) SELECT {values}, hash || 'x' FROM ledger WHERE seq = 3"
    with pytest.raises(REFUSED, match="an entry follows the last one"), by_hand(path) as database:
        database.execute(f"INSERT INTO ledger {entry}")


def _append(path: Path, name: str) -> None:
    with Registry.open(path) as registry:
        for n in range(200):
            registry.start_run(f"{name}-{n}", {})


def test_two_processes_append_to_one_chain(registry, path):
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_append, args=(path, name)) for name in "ab"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    entries, findings = registry.verify_ledger()
    assert (len(entries), findings) == (802, [])  # 400 begin, and each ends the one before, which never told


# The commands


def run(home: Path, *arguments: str, expect: type[Exception] | None = None) -> str:
    result = CliRunner(env={"LETHE_HOME": str(home), "COLUMNS": "100"}).invoke(app, arguments)
    if expect is None:
        assert result.exit_code == 0, (result.output, result.exception)
    else:
        assert isinstance(result.exception, expect), result.exception
    return result.stdout


def test_a_whole_ledger_is_told_with_its_head(registry, home):
    seq, digest = registry.ledger_head()
    printed = run(home, "ledger", "verify")
    assert "3 entries" in printed
    assert f"head {seq}:{digest}" in printed
    told = json.loads(run(home, "ledger", "verify", "--head", f"{seq}:{digest}", "--json"))
    assert told == {"holds": True, "entries": 3, "head": {"seq": seq, "hash": digest}, "findings": []}


def test_every_finding_is_told_and_the_exit_code_is_the_auditors(registry, home, path):
    registry.withdraw("7012")
    rewrite(path, "DELETE FROM ledger WHERE seq = 2", "UPDATE ledger SET body = '{}' WHERE seq = 4")
    told = json.loads(run(home, "ledger", "verify", "--json", expect=AuditError))
    assert AuditError.exit_code == 4
    assert [(one["seq"], one["problem"]) for one in told["findings"]][:2] == [(3, "missing"), (4, "changed")]
    printed = run(home, "ledger", "verify", expect=AuditError)
    assert all(one["words"] in printed for one in told["findings"])


def test_a_head_that_was_seen_and_is_gone_is_told(home):
    assert "truncated" in run(home, "ledger", "verify", "--head", f"17:{'a' * 64}", expect=AuditError)
    run(home, "ledger", "verify", "--head", "17", expect=UsageError)


def tampered(home: Path, *statements: str) -> str:
    """Change the database behind the registry's back, its rules put away meanwhile, and verify."""
    rewrite(Workspace.open(home).registry_path, *statements, put_back=True)
    return " ".join(run(home, "ledger", "verify", expect=AuditError).split())


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("DELETE FROM withdrawals", "whether patient 7012 has withdrawn record 549 is told otherwise by the history"),
        ("UPDATE jobs SET state = 'CERTIFIED'", "is CERTIFIED in the table and REQUESTED in the history"),
        ("DELETE FROM ledger WHERE seq > 3", "told otherwise by the history"),
        (
            "UPDATE jobs SET requested_at = '2036-01-01T00:00:00.000+00:00'",
            "asked for at 2036-01-01T00:00:00.000+00:00",
        ),
        ("UPDATE jobs SET requested_at = 'soon'", "was asked for at soon in the table and at 20"),
        ("UPDATE jobs SET records = '[\"15709\"]'", "names other records in the table than entry 4"),
        ("UPDATE jobs SET scope = 'patient'", "names other records in the table than entry 4"),
        ("UPDATE jobs SET slot = 1", "is of device 1 in the table, and its patient's is 0"),
        ("DELETE FROM jobs", "patient 7012 has withdrawn by entry 4, and there is no job about it"),
        (
            "UPDATE salts SET salt = (SELECT s.salt FROM salts s WHERE s.patient = '8') WHERE patient = '7012'",
            "nothing of patient 7012 is found in the history: the salt of the name in it was altered",
        ),
        (
            "INSERT INTO models (digest, kind, lineage, created_at) VALUES ('ab', 'general', '{}', '2026')",
            "model ab is in the table and not in the history",
        ),
    ],
)
def test_a_table_that_says_something_else_than_the_history_is_found(registry, home, statement, says):
    registry.withdraw("7012", records=["549"])
    assert "each follows the last" in run(home, "ledger", "verify")
    assert says in tampered(home, statement)


def test_a_job_about_everything_names_all_that_the_patient_had(registry, home):
    registry.withdraw("7012", records=["549"])
    registry.withdraw("7012")
    assert "each follows the last" in run(home, "ledger", "verify")
    said = tampered(home, "UPDATE jobs SET records = '[\"15709\"]' WHERE scope = 'patient'")
    assert "names other records in the table than entry 6" in said


def test_there_is_nothing_to_verify_without_a_workspace(tmp_path):
    run(tmp_path / "nowhere", "ledger", "verify", expect=WorkspaceError)


def test_the_entries_are_listed_and_name_nobody(registry, home):
    registry.withdraw("7012")
    printed = run(home, "ledger", "list")
    assert "consent" in printed
    assert "7012" not in printed
    assert [one["seq"] for one in json.loads(run(home, "ledger", "list", "--json"))["entries"]] == [1, 2, 3, 4, 5]


def test_the_pages_of_a_forgotten_patient_say_that_the_history_no_longer_links(registry, home):
    (job,) = registry.withdraw("7012")
    certify(registry, job.id)
    for page in (run(home, "patients", "show", "7012"), run(home, "jobs", "show", job.id)):
        assert "salt of this patient's names in the ledger is destroyed" in " ".join(page.split())
    again = json.loads(run(home, "patients", "withdraw", "7012", "--json"))
    assert (again["changed"], again["event"]) == (False, None)
    assert "nothing changed" in run(home, "patients", "withdraw", "7012")
