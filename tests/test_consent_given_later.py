"""Consent given again after a withdrawal, and for what was recorded since: when, and what a device makes of it."""

import base64
import json
import re
import shutil
import sqlite3
from pathlib import Path

import pytest
from enrolled import digests, enrol, withdrawn
from fleet import Fleet
from hypothesis import given, settings
from hypothesis import strategies as st
from ptbxl_files import change_rows, copy_record, counts_of, rewrite
from typer.testing import CliRunner

from server import keys
from server.history_check import check
from server.new_records import add_records
from server.registry import Registry
from server.rows import FOLLOWING
from server.workspace import Workspace
from shared.errors import ConsentError, DataError, LetheError, UsageError, WorkspaceError
from shared.notice import FOLDER, Notice
from shared.ptbxl import index
from shared.revocation import list_path
from simulations.cli import app

RECORDS = ("70", "71", "72")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace = Workspace.create(tmp_path / "home", data=tmp_path / "data")
    keys.make(workspace.keys)
    return workspace


@pytest.fixture
def registry(workspace):
    with Registry.create(workspace.registry_path) as opened:
        enrol(opened, "7", role="wearable", records=digests(*RECORDS), slot=0)
        enrol(opened, "9", role="corpus", records=digests("90", "91"))
        yield opened


def carry_out(registry: Registry) -> None:
    """Take every job that is due the whole way."""
    way = ("DISPATCHED", "UNLEARNED", "AUDITED", "CERTIFIED")
    for job in registry.jobs():
        for state in way:
            if state in FOLLOWING[registry.job(job.id).state]:
                registry.advance(job.id, state)


def word(workspace: Workspace) -> set[str]:
    """What a device is told that is withdrawn, plainly and signed."""
    plain = set(Notice(workspace.home / FOLDER / "0").records())
    signed = json.loads(list_path(workspace.home, 0).read_bytes())["payload"]
    assert set(json.loads(base64.b64decode(signed))["records"]) == plain
    return plain


# The registry


def test_what_was_withdrawn_and_forgotten_may_be_used_again_after_consent(registry, workspace):
    registry.withdraw("7", records=["71"])
    carry_out(registry)
    assert registry.consent_again("7") == ["71"]
    assert [row.id for row in registry.records("7")] == list(RECORDS)
    assert registry.patient("7").status == "active"
    last = registry.events("7")[-1]
    assert (last.kind, last.scope, last.records, last.source) == ("given", "records", ("71",), "operator")
    assert word(workspace) == set()
    assert check(workspace, registry, head=None)[1] == []


def test_consent_that_stands_is_not_given_twice(registry):
    before = registry.ledger_head()
    assert registry.consent_again("7") == []
    assert registry.consent_again("7", records=["70"]) == []
    assert registry.ledger_head() == before


def test_what_is_not_forgotten_yet_cannot_be_given_again(registry):
    (job,) = registry.withdraw("7", records=["71"])
    for state in ("DISPATCHED", "UNLEARNED", "AUDITED"):
        with pytest.raises(ConsentError, match=rf"job {job.id} about it is .*`lethe run` carries"):
            registry.consent_again("7", records=["71"])
        registry.advance(job.id, state)
    assert withdrawn(registry, "7") == ("71",)
    registry.advance(job.id, "CERTIFIED")
    assert registry.consent_again("7") == ["71"]


def test_another_record_s_job_is_no_reason_to_wait(registry):
    registry.withdraw("7", records=["71"])
    carry_out(registry)
    registry.withdraw("7", records=["70"])
    assert registry.consent_again("7", records=["71"]) == ["71"]
    assert withdrawn(registry, "7") == ("70",)


def test_what_was_given_again_can_be_withdrawn_again_with_a_job_of_its_own(registry, workspace):
    (first,) = registry.withdraw("7", records=["71"])
    carry_out(registry)
    registry.consent_again("7")
    (second,) = registry.withdraw("7", records=["71"])
    assert second.id != first.id
    assert second.state == "REQUESTED"
    assert registry.withdraw("7", records=["71"]) == [second]
    assert word(workspace) == {"71"}
    carry_out(registry)
    assert len(registry.jobs()) == 2
    assert check(workspace, registry, head=None)[1] == []


def test_a_forgotten_patient_who_comes_back_has_a_name_that_nothing_ties_to_the_old_one(registry, workspace):
    old = registry.subject("7")
    registry.withdraw("7")
    carry_out(registry)
    assert registry.subject("7") == ""
    assert registry.forgotten() == {0}
    registry.consent_again("7", records=["70", "72"])
    assert registry.subject("7") not in ("", old)
    assert registry.forgotten() == set()
    assert [event.kind for event in registry.events("7")] == ["given"]
    assert check(workspace, registry, head=None)[1] == []
    (_, again) = registry.withdraw("7")
    assert again.scope == "patient"
    carry_out(registry)
    assert registry.subject("7") == ""
    assert registry.events("7") == []


def test_a_part_that_is_withdrawn_after_a_return_forgets_no_more_than_that(registry):
    """The old job for everything is certified; that is no reason to destroy the name of who consents again."""
    registry.withdraw("7")
    carry_out(registry)
    registry.consent_again("7")
    registry.withdraw("7", records=["70"])
    carry_out(registry)
    assert registry.subject("7") != ""
    assert registry.patient("7").status == "partly withdrawn"


def test_a_corpus_patient_gives_again_without_a_device(registry):
    registry.withdraw("9", records=["90"])
    assert registry.withdrawn(["corpus"]) == registry.withdrawals(["corpus"]) == 1
    carry_out(registry)
    assert registry.consent_again("9") == ["90"]
    assert (registry.withdrawn(["corpus"]), registry.withdrawals(["corpus"])) == (0, 1)


@pytest.mark.parametrize(("patient", "records", "says"), [("77", None, "no patient"), ("7", ["1"], "no record 1")])
def test_unknown_ids_change_nothing(registry, patient, records, says):
    registry.withdraw("7", records=["71"])
    carry_out(registry)
    with pytest.raises(UsageError, match=says):
        registry.consent_again(patient, records=records)
    assert withdrawn(registry, "7") == ("71",)


def test_where_the_word_cannot_be_taken_back_nothing_is_changed(registry, workspace):
    registry.withdraw("7", records=["71"])
    carry_out(registry)
    away = workspace.keys.rename(workspace.home / "away")
    with pytest.raises(WorkspaceError):
        registry.consent_again("7")
    assert withdrawn(registry, "7") == ("71",)
    assert word(workspace) == {"71"}
    away.rename(workspace.keys)
    assert registry.consent_again("7") == ["71"]


def test_the_database_itself_refuses_to_end_a_withdrawal_twice_or_to_withdraw_twice(registry, workspace):
    registry.withdraw("7", records=["71", "72"])
    carry_out(registry)
    registry.consent_again("7", records=["71"])
    connection = sqlite3.connect(workspace.registry_path)
    for statement in (
        "INSERT INTO withdrawals VALUES ('7', '72', 5)",
        "INSERT INTO renewals SELECT * FROM renewals",
        "DELETE FROM renewals",
        "UPDATE renewals SET turn = 9",
    ):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            connection.execute(statement)
    connection.close()


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["withdraw", "give", "more", "carry out"]), st.sets(st.sampled_from(RECORDS), min_size=1)
    ),
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(steps=STEPS)
def test_consent_is_what_was_said_last_whatever_was_said_before(tmp_path_factory, steps):
    """Against a set of ids: what is withdrawn, what may be given again, and the history that tells the same."""
    workspace = Workspace.create(tmp_path_factory.mktemp("said") / "home", data=Path("/nowhere"))
    keys.make(workspace.keys)
    with Registry.create(workspace.registry_path) as registry:
        enrol(registry, "7", role="wearable", records=digests(*RECORDS), slot=0)
        held, gone, due, whole, number = set(RECORDS), set[str](), set[str](), False, 100
        for what, named in steps:
            if what == "withdraw":
                new = named - gone
                registry.withdraw("7", records=sorted(named))
                gone |= named
                whole = whole or (bool(new) and gone == held)
                due |= held if new and gone == held else new
            elif what == "carry out":
                carry_out(registry)
                due, whole = set(), False
            elif what == "give" and named & gone & due:
                with pytest.raises(ConsentError):
                    registry.consent_again("7", records=sorted(named))
            elif what == "give":
                assert set(registry.consent_again("7", records=sorted(named))) == named & gone
                gone -= named
            elif whole:
                with pytest.raises(ConsentError):
                    registry.add_records("7", digests(str(number)))
            else:
                registry.add_records("7", digests(str(number)))
                held.add(str(number))
                number += 1
            assert {row.id for row in registry.records("7")} == held - gone
            assert word(workspace) == gone if list_path(workspace.home, 0).exists() else not gone
        assert check(workspace, registry, head=None)[1] == []
        if registry.patient("7").status == "withdrawn" and not due:
            assert registry.subject("7") == ""


# The word


def test_word_is_lifted_line_by_line_and_the_rest_stands(tmp_path):
    notice = Notice(tmp_path / "notices" / "0")
    notice.lift(["1"])
    notice.leave(["1", "11", "111", "2"])
    notice.lift(["11", "5"])
    assert notice.records() == {"1", "111", "2"}
    notice.leave(["11"])
    assert notice.records() == {"1", "11", "111", "2"}
    notice.lift(["1", "11", "111", "2"])
    assert notice.records() == frozenset()


# The device


def test_a_device_makes_the_very_model_again_that_it_had_before_the_withdrawal(fleet: Fleet):
    fleet.run()
    who = fleet.with_several_records()
    before, own = fleet.store(who).state.model, set(fleet.store(who).record_ids())
    fleet.registry.withdraw(who.id)
    fleet.run()
    assert fleet.store(who).record_ids() == ()
    assert {job.state for job in fleet.registry.jobs()} == {"CERTIFIED"}
    fleet.registry.consent_again(who.id)
    fleet.run()
    store = fleet.store(who)
    assert set(store.record_ids()) == own
    assert (store.state.model, store.whole) == (before, True)


def test_a_record_that_comes_back_and_goes_again_is_forgotten_again(fleet: Fleet):
    who = fleet.with_several_records()
    first = fleet.records(who)[0]
    for _ in range(2):
        fleet.registry.withdraw(who.id, records=[first])
        fleet.run()
        assert first not in fleet.store(who).record_ids()
        assert {job.state for job in fleet.registry.jobs()} == {"CERTIFIED"}
        fleet.registry.consent_again(who.id, records=[first])
        fleet.run()
        assert first in fleet.store(who).record_ids()
        assert first in fleet.store(who).state.records
    assert len({path.name for path in fleet.workspace.certificates.glob("*.json")}) == 2


# What was recorded since


@pytest.fixture
def grown(fleet: Fleet, tmp_path) -> tuple[Fleet, Path, str]:
    """A fleet after a run, a folder in which one wearer has record 901 beside the others, and the wearer's id."""
    fleet.run()
    who, data = fleet.with_several_records().id, tmp_path / "grown"
    shutil.copytree(fleet.workspace.data, data)
    own = next(record for record in index(data).records if record.patient == who)

    def add(rows):
        row = dict(next(row for row in rows if row["ecg_id"] == own.id))
        name = re.sub(r"[0-9]+_hr", "00901_hr", own.path)
        rows.append(row | {"ecg_id": "901", "filename_hr": name, "recording_date": "2030-01-01 00:00:00"})

    change_rows(data, add)
    new = next(record for record in index(data).records if record.id == "901")
    rewrite(data, new, counts_of(data, own)[:, ::-1])
    return fleet, data, who


def test_a_device_records_what_is_new_and_learns_from_it(grown):
    fleet, data, who = grown
    wearer, before = fleet.registry.patient(who), fleet.store(fleet.registry.patient(who)).state
    assert add_records(fleet.workspace, who, data=data, tell=lambda _: None) == ["901"]
    event = fleet.registry.events(who)[-1]
    assert (event.kind, event.scope, event.records) == ("given", "records", ("901",))
    assert fleet.registry.patient(who).records == wearer.records + 1
    fleet.run()
    state = fleet.store(wearer).state
    assert set(state.records) == {*before.records, "901"}
    assert state.model != before.model
    assert {patient.slot for patient in fleet.wearers()} == {0, 1, 2, 3}


def test_what_is_new_can_be_withdrawn_and_leaves_the_model_that_was_there_before(grown):
    fleet, data, who = grown
    wearer = fleet.registry.patient(who)
    before = fleet.store(wearer).state.model
    add_records(fleet.workspace, who, data=data, tell=lambda _: None)
    fleet.run()
    fleet.registry.withdraw(who, records=["901"])
    fleet.run()
    assert fleet.store(wearer).state.model == before
    assert {job.state for job in fleet.registry.jobs()} == {"CERTIFIED"}


def test_what_is_enrolled_already_is_not_new(grown):
    fleet, data, who = grown
    with pytest.raises(UsageError, match=rf"no new record of patient {who} in .* enrolled already"):
        add_records(fleet.workspace, who, tell=lambda _: None)
    fleet.registry.withdraw(who, records=[fleet.records(fleet.registry.patient(who))[0]])
    assert add_records(fleet.workspace, who, data=data, tell=lambda _: None) == ["901"]
    assert fleet.registry.patient(who).withdrawn == 1


def test_new_records_of_who_must_first_be_forgotten_are_refused(grown):
    fleet, data, who = grown
    feed = fleet.workspace.feed(fleet.registry.patient(who).slot).read_bytes()
    fleet.registry.withdraw(who)
    with pytest.raises(ConsentError, match="forgotten, and certified, before it is given again"):
        add_records(fleet.workspace, who, data=data, tell=lambda _: None)
    assert fleet.workspace.feed(fleet.registry.patient(who).slot).read_bytes() == feed
    assert fleet.registry.records(who) == []


def test_another_recording_under_an_enrolled_one_s_name_is_refused(grown):
    fleet, data, who = grown
    own = next(record for record in index(data).records if record.patient == who and record.id != "901")
    rewrite(data, own, counts_of(data, own) // 2)
    with pytest.raises(DataError, match=f"record {own.id} of patient {who} in .* is another recording"):
        add_records(fleet.workspace, who, data=data, tell=lambda _: None)
    assert "901" not in fleet.records(fleet.registry.patient(who))


def test_another_patient_s_recording_under_a_new_name_is_refused(grown):
    fleet, data, who = grown
    new = next(record for record in index(data).records if record.id == "901")
    stranger = next(record for record in index(data).records if record.patient != who)
    copy_record(stranger, new, of=data, to=data)
    change_rows(data, lambda rows: rows.remove(next(row for row in rows if row["ecg_id"] == stranger.id)))
    with pytest.raises(ConsentError, match=f"enrolled already, as record {stranger.id} of patient {stranger.patient}"):
        add_records(fleet.workspace, who, data=data, tell=lambda _: None)
    assert "901" not in fleet.records(fleet.registry.patient(who))


def test_only_who_wears_a_device_records_anything_new(fleet):
    corpus = fleet.registry.patients("corpus")[0].id
    with pytest.raises(UsageError, match="enrolled as corpus and wears no device"):
        add_records(fleet.workspace, corpus, tell=lambda _: None)


# The commands


def lethe(home: Path, *words: str) -> str:
    result = CliRunner(env={"LETHE_HOME": str(home), "COLUMNS": "80"}).invoke(app, words)
    if isinstance(result.exception, LetheError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_commands_say_what_was_given_and_what_comes_next(grown):
    fleet, data, who = grown
    home = fleet.workspace.home
    said = lethe(home, "patients", "add-records", who, "--data", str(data))
    assert f"Patient {who} has given consent for 1 record." in said
    assert "901" in said
    assert re.search(r"The next `lethe run` has device \d record them", said)
    assert "Consent stands already; nothing changed." in lethe(home, "patients", "consent", who)
    fleet.registry.withdraw(who, records=["901"])
    with pytest.raises(ConsentError):
        lethe(home, "patients", "consent", who)
    fleet.run()
    told = json.loads(lethe(home, "patients", "consent", who, "--record", "901", "--json"))
    assert (told["changed"], told["records"], told["event"]["kind"]) == (True, ["901"], "given")
    assert told["patient"]["status"] == "active"


def test_who_keeps_only_what_the_device_has_not_met_yet_is_certified(fleet):
    """Consent given again stands, the record is not recorded yet, and what the device holds is withdrawn: no copy can
    be made of what is kept."""
    patient = fleet.with_several_records()
    first, *others = fleet.records(patient)
    fleet.registry.withdraw(patient.id, records=[first])
    fleet.run()
    assert fleet.registry.consent_again(patient.id, records=[first]) == [first]
    job = fleet.registry.withdraw(patient.id, records=others)[-1]
    fleet.run()
    assert fleet.registry.job(job.id).state == "CERTIFIED"
    fleet.run()
    assert fleet.store(patient).record_ids() == (first,)
