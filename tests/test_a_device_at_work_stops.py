"""A device that is at work when its patient withdraws ends it within a step, and puts nothing in use that it made."""

import fcntl
import json
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from fleet import TINY
from hypothesis import given
from hypothesis import strategies as st
from test_auditing import audit_of, verify_of
from test_forgetting import MIDDLE, NEW, OLD, personalised, request
from test_nothing_is_made_of_withdrawn_records import learnt_from, starts  # noqa: F401 - a fixture
from typer.testing import CliRunner

import shared.training
from client import auditing, device, forgetting
from client import store as store_module
from client.auditing import audit, verify
from client.device import make_personal, measure
from client.forgetting import forget
from client.sensor import Feed
from client.store import Store
from server import app, certifying
from server.consent_book import Unheard
from server.keys import PRIVATE
from shared import notice as notice_module
from shared.messages import PersonaliseRequest, ProbeRequest
from shared.model import digest
from shared.notice import FOLDER, Notice, WithdrawnError
from simulations.cli import app as cli

OTHER_SEED = replace(TINY.personalisation, seed=9)


@pytest.fixture
def word(tmp_path) -> Notice:
    return Notice(tmp_path / FOLDER / "0")


@pytest.fixture
def store(tmp_path, package, public, word) -> Store:
    """A device with three records, a personal model, and somewhere to hear of withdrawals."""
    folder = personalised(tmp_path / "device", package, public, (OLD, MIDDLE, NEW)).folder
    return Store(folder, word)


@pytest.fixture
def in_step(monkeypatch):
    """Have something done in a training step, once; the list that comes back grows by one a step."""
    steps: list[int] = []

    def begin(number: int, act) -> list[int]:
        schedule = shared.training.one_cycle

        def watched(step, of, *, peak):
            steps.append(step)
            if len(steps) == number:
                act()
            return schedule(step, of, peak=peak)

        monkeypatch.setattr(shared.training, "one_cycle", watched)
        return steps

    return begin


def files(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): digest(path.read_bytes()) for path in folder.rglob("*.*")}


def wanted(store: Store, settings) -> PersonaliseRequest:
    return PersonaliseRequest("run", store.state.general, store.package, store.record_ids(), settings)


# The word


def test_word_is_added_up_and_said_once(word):
    assert word.records() == frozenset()
    word.leave(["2", "1"])
    word.leave(["2", "3"])
    assert word.records() == {"1", "2", "3"}
    assert sorted(word.path.read_text().split()) == ["1", "2", "3"]


@given(st.lists(st.sets(st.integers(0, 99).map(str), max_size=5), max_size=5), st.integers(0, 40))
def test_what_a_killed_process_left_of_a_line_takes_no_word_away(tmp_path_factory, said, cut):
    word = Notice(tmp_path_factory.mktemp("word") / FOLDER / "0")
    word.leave(["7"])
    word.path.write_bytes(word.path.read_bytes() + b"4711"[: cut % 5])
    for number, records in enumerate(said, start=1):
        word.leave(records)
        assert word.records() == {"7"}.union(*said[:number])
    assert word.records() == {"7"}.union(*said)


def test_nobody_s_word_and_a_file_that_is_no_text_stop_nothing(tmp_path):
    with Notice().closed(["1"]), Notice().heeded(["1"]):
        pass
    (tmp_path / "0").write_bytes(b"\xff\xfe\n1\n")
    assert "1" in Notice(tmp_path / "0").records()


def test_word_waits_for_a_model_that_is_being_put_in_use_and_comes_first_otherwise(word):
    order, inside, go_on = [], threading.Event(), threading.Event()

    def put_in_use() -> None:
        with word.closed(["1"]):
            inside.set()
            go_on.wait(10)
            order.append("in use")

    at_work = threading.Thread(target=put_in_use)
    at_work.start()
    assert inside.wait(10)
    threading.Timer(0.1, go_on.set).start()
    word.leave(["1"])
    order.append("word")
    at_work.join()
    assert order == ["in use", "word"]
    with pytest.raises(WithdrawnError), word.closed(["1"]):
        raise AssertionError("word had come")


def test_word_goes_without_the_lock_when_a_device_does_not_let_go(word, monkeypatch):
    monkeypatch.setattr(notice_module, "PATIENCE_S", 0.05)
    with word.closed(["1"]):
        word.leave(["1"])
    assert word.records() == {"1"}


# A device


@pytest.mark.parametrize("step", [1, 5, 8])
def test_a_personal_model_in_the_making_ends_with_the_step_and_nothing_changes(store, in_step, step):
    before = files(store.folder)
    steps = in_step(step, lambda: store.notice.leave([OLD]))
    with pytest.raises(WithdrawnError):
        make_personal(store, Feed(Path(), "p", ()), wanted(store, OTHER_SEED), slot=0, blobs={})
    assert len(steps) == step
    assert files(store.folder) == before


def test_a_personal_model_that_is_made_when_word_comes_is_not_put_in_use(store, monkeypatch):
    before, change_to = files(store.folder), device.change_to

    def late(*args, **options):
        store.notice.leave([OLD])
        return change_to(*args, **options)

    monkeypatch.setattr(device, "change_to", late)
    with pytest.raises(WithdrawnError):
        make_personal(store, Feed(Path(), "p", ()), wanted(store, OTHER_SEED), slot=0, blobs={})
    assert files(store.folder) == before


def test_word_of_a_record_that_is_not_used_stops_nothing(store, in_step):
    in_step(2, lambda: store.notice.leave(["another"]))
    reply = make_personal(store, Feed(Path(), "p", ()), wanted(store, OTHER_SEED), slot=0, blobs={})
    assert reply.status == "ok"


def test_the_audit_of_one_record_goes_on_without_another_that_is_withdrawn_meanwhile(
    store,
    fleet,
    in_step,
    learnt_from,  # noqa: F811
):
    gone = starts(store, MIDDLE)
    barred = audit(store, replace(audit_of(fleet, OLD), barred=(MIDDLE,)), slot=0)
    until = [made & gone for made in learnt_from]
    in_step(12, lambda: store.notice.leave([MIDDLE]))
    reply = audit(store, audit_of(fleet, OLD), slot=0)
    assert reply.arms == barred.arms
    later = learnt_from[len(until) :]
    begun = max(number for number, made in enumerate(later) if made & gone)
    assert begun < len(later) - len(until) + 1  # from the first copy made anew on, none has it
    assert not any(made & gone for made in later[-len(until) :])


def test_an_unlearning_in_hand_begins_anew_without_what_is_withdrawn_meanwhile(
    store, tmp_path, package, public, in_step
):
    never = personalised(tmp_path / "never", package, public, (OLD, MIDDLE, NEW))
    wanted = forget(never, replace(request(OLD), barred=(MIDDLE,)), slot=0)
    in_step(5, lambda: store.notice.leave([MIDDLE]))
    reply = forget(store, request(OLD), slot=0)
    assert (reply.after, reply.served) == (wanted.after, wanted.served) != (reply.before, "")
    assert MIDDLE in store.record_ids()  # its own job is to account for it


def test_an_unlearnt_model_that_is_ready_when_word_comes_is_not_put_in_use(store, monkeypatch):
    effect, models = forgetting._effect, []

    def late(*args):
        found = effect(*args)
        models.append(found.change.state.model)
        store.notice.leave([MIDDLE])
        return found

    monkeypatch.setattr(forgetting, "_effect", late)
    reply = forget(store, request(OLD), slot=0)
    first, second = models
    assert first != second == reply.after == store.state.model


def test_a_fresh_copy_is_made_anew_without_what_is_withdrawn_meanwhile(store, fleet, in_step):
    forget(store, replace(request(OLD), barred=(MIDDLE,)), slot=0)
    in_step(3, lambda: store.notice.leave([MIDDLE]))
    reply = verify(store, verify_of(fleet, OLD), slot=0)
    assert reply.fresh == reply.served


def test_nothing_is_told_of_records_that_are_withdrawn_while_they_are_measured(store, monkeypatch):
    asked, probe = ProbeRequest("run", 0.3, (0.0,)), device.probe
    assert measure(store, asked, slot=0).status == "ok"

    def late(*args, **options):
        store.notice.leave([NEW])
        return probe(*args, **options)

    monkeypatch.setattr(device, "probe", late)
    with pytest.raises(WithdrawnError):
        measure(store, asked, slot=0)


AT_WORK = """
import sys
from dataclasses import replace
from pathlib import Path

import shared.training
from client.device import make_personal
from client.sensor import Feed
from client.store import Store
from fleet import TINY
from shared import model
from shared.errors import ConsentError
from shared.messages import PersonaliseRequest
from shared.notice import Notice

model.DEPTHS = (1, 1, 1, 2)  # as in conftest.py
one_cycle = shared.training.one_cycle

def told(step, of, *, peak):
    if step == 3:
        print("at work", flush=True)
    return one_cycle(step, of, peak=peak)

shared.training.one_cycle = told
store = Store(Path(sys.argv[1]), Notice(Path(sys.argv[2])))
settings = replace(TINY.personalisation, seed=9, steps=1_000_000)
request = PersonaliseRequest("run", store.state.general, store.package, store.record_ids(), settings)
try:
    make_personal(store, Feed(Path(), "p", ()), request, slot=0, blobs={})
except ConsentError as error:
    print(error)
"""


def test_another_process_at_work_stops_when_word_is_left(store):
    before = files(store.folder)
    command = [sys.executable, "-c", AT_WORK, str(store.folder), str(store.notice.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent) as at_work:
        try:
            assert at_work.stdout.readline() == "at work\n"
            store.notice.leave([OLD])
            said, _ = at_work.communicate(timeout=60)
        finally:
            at_work.kill()
    assert said == "the patient withdrew meanwhile; nothing was made of it\n"
    assert files(store.folder) == before


# A hospital and its devices


@pytest.mark.parametrize("everything", [True, False])
def test_who_withdraws_while_the_first_model_is_made_never_has_one_of_it(new_fleet, in_step, everything):
    patient = new_fleet.with_several_records()
    records = new_fleet.records(patient)
    made: list[tuple[str, ...]] = []

    def withdraw() -> None:
        new_fleet.registry.withdraw(patient.id, records=None if everything else records[:1])
        made.append(tuple(path.name for path in new_fleet.folder(patient).glob("*.*") if path.suffix != ".pem"))

    at = {slot: number for number, slot in enumerate(sorted(one.slot for one in new_fleet.wearers()))}[patient.slot]
    in_step(at * TINY.personalisation.steps + 3, withdraw)
    run = new_fleet.run()
    (job,) = new_fleet.registry.jobs()
    assert made == [()]
    assert job.state == "CERTIFIED"
    state, left = new_fleet.store(patient).state, new_fleet.store(patient).record_ids()
    assert left == (() if everything else tuple(sorted(records[1:])))
    assert bool(state.model) != everything
    assert (patient.slot in run.personal) != everything
    words = run.withdrawals[job.id].verdict["words"]
    assert words.startswith("No model is in use on the device, and the withdrawn records are gone.")


def test_a_device_whose_model_is_made_again_keeps_the_old_one_until_it_forgets(fleet, in_step):
    """It still is to give account of the model that it has; the one that was begun never is one."""
    patient = next(one for one in fleet.wearers() if one.slot == 0)
    before = fleet.store(patient).state.model
    in_step(3, lambda: fleet.registry.withdraw(patient.id))
    run = fleet.run(fleet.settings.with_values({"personalisation.seed": 3}))
    ((_, reply),) = run.unlearned
    assert (reply.before, reply.after) == (before, reply.general)


def test_consent_is_taken_back_where_word_cannot_be_left(fleet):
    patient = fleet.wearer(0)
    shutil.rmtree(fleet.workspace.home / FOLDER, ignore_errors=True)
    (fleet.workspace.home / FOLDER).write_text("in the way")
    why: list[Unheard] = []
    (job,) = fleet.registry.withdraw(patient.id, unheard=why.append)
    assert (job.state, fleet.registry.patient(patient.id).status) == ("REQUESTED", "withdrawn")
    assert [one.what for one in why] == ["word", "list"]
    fleet.run(fleet.settings.with_values({"personalisation.seed": 3}))  # nor does it hold up anything else
    assert fleet.registry.job(job.id).state == "CERTIFIED"
    assert fleet.store(patient).record_ids() == ()
    assert len({device.personal for device in fleet.registry.devices()}) == len(fleet.wearers())


def test_the_command_says_when_no_word_could_be_left(fleet):
    patient = fleet.wearer(0)
    (fleet.workspace.home / FOLDER / "0").unlink(missing_ok=True)
    (fleet.workspace.home / FOLDER / "0").mkdir(parents=True)
    words = ["patients", "withdraw", patient.id, "--yes", "--home", str(fleet.workspace.home), "--json"]
    told = json.loads(CliRunner().invoke(cli, words).stdout)
    assert (told["word"], told["list"]) == (False, True)
    assert "No word could be left for device 0 (Is a directory" in told["next"]
    assert "The signed list was left" in told["next"]
    (fleet.workspace.home / FOLDER / "0").rmdir()
    told = json.loads(CliRunner().invoke(cli, words).stdout)
    assert told["word"] is True
    assert told["next"].startswith("Device 0 has word")


def test_the_command_says_when_word_was_left_and_the_list_could_not_be_signed(fleet):
    patient = fleet.wearer(0)
    (fleet.workspace.keys / PRIVATE).unlink()
    words = ["patients", "withdraw", patient.id, "--yes", "--home", str(fleet.workspace.home), "--json"]
    told = json.loads(CliRunner().invoke(cli, words).stdout)
    assert (told["word"], told["list"]) == (True, False)
    held = {row.id for row in fleet.registry.records(patient.id, consented_only=False)}
    assert Notice(fleet.workspace.home / FOLDER / "0").records() == held
    assert told["next"].startswith("Device 0 has word: it stops what it is making of them. The signed list")
    assert "could not be left (no signing key" in told["next"]


@pytest.mark.parametrize("everything", [False, True])
@pytest.mark.parametrize("when", ["after the model was made", "while it is made once more to compare"])
def test_a_withdrawal_that_overtakes_the_verdict_on_another_is_no_fault_of_the_device(
    fleet, monkeypatch, when, everything
):
    patient = fleet.with_several_records()
    records = fleet.records(patient)
    (job,) = fleet.registry.withdraw(patient.id, records=records[:1])
    module, name = (certifying, "_request") if when.startswith("after") else (auditing, "personalise")
    act, late = getattr(module, name), []

    def overtaken(*args, **options):
        if not late:
            late.append(fleet.registry.withdraw(patient.id, records=None if everything else records[1:2]))
        return act(*args, **options)

    monkeypatch.setattr(module, name, overtaken)
    run = fleet.run()
    assert late
    assert {one.state for one in fleet.registry.jobs()} == {"CERTIFIED"}
    assert [step.state for step in fleet.registry.job_events(job.id)].count("FAILED") == 0
    assert {one.verdict["verdict"] for one in run.withdrawals.values()} == {"PASS"}


def test_a_verdict_that_is_overtaken_at_the_end_of_a_run_waits_for_the_next(fleet, monkeypatch):
    patient = fleet.with_several_records()
    records = fleet.records(patient)
    act, late = certifying._request, []

    def overtaken(*args):
        if not late:
            late.append(fleet.registry.withdraw(patient.id, records=records[1:2]))
        return act(*args)

    monkeypatch.setattr(certifying, "_request", overtaken)
    monkeypatch.setattr(app, "rehearse", lambda run: run.registry.withdraw(patient.id, records=records[:1]))
    run = fleet.run()
    (one,) = run.withdrawals.values()
    assert (one.job.state, one.verdict, one.note) == ("UNLEARNED", None, certifying.OVERTAKEN)
    monkeypatch.setattr(app, "rehearse", lambda _: None)
    fleet.run()
    assert {job.state for job in fleet.registry.jobs()} == {"CERTIFIED"}
    assert all(step.state != "FAILED" for job in fleet.registry.jobs() for step in fleet.registry.job_events(job.id))


def test_a_disk_that_is_slower_than_the_command_s_patience_puts_nothing_in_use_either(store, monkeypatch):
    monkeypatch.setattr(notice_module, "PATIENCE_S", 0.05)
    before, write = files(store.folder), store_module.write_atomically

    def slow(path, data):
        write(path, data)
        if path.name == "staged.onnx":
            store.notice.leave([OLD])  # it does not get the lock

    monkeypatch.setattr(store_module, "write_atomically", slow)
    with pytest.raises(WithdrawnError):
        make_personal(store, Feed(Path(), "p", ()), wanted(store, OTHER_SEED), slot=0, blobs={})
    assert files(store.folder) == before


def test_a_device_does_not_wait_for_ever_for_who_holds_the_lock(word, monkeypatch):
    monkeypatch.setattr(notice_module, "PATIENCE_S", 0.05)
    word.leave(["2"])
    with word.path.open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with word.closed(["1"]):
            pass
        with pytest.raises(WithdrawnError), word.closed(["2"]):
            raise AssertionError("word had come")


def test_an_audit_tells_nothing_of_a_record_that_is_withdrawn_when_the_copies_are_made(store, fleet, monkeypatch):
    act, told = auditing._arms, []

    def late(withdrawal, request):
        told.append(act(withdrawal, request))
        store.notice.leave([MIDDLE, NEW])
        return told[-1]

    monkeypatch.setattr(auditing, "_arms", late)
    reply = audit(store, audit_of(fleet, OLD), slot=0)
    assert len(told) == 2
    assert reply.arms == told[1]
    assert not any(reply.arms["never"]["retained"].margins[0])


def test_when_a_patient_withdrew_cannot_be_read_off_the_word(word):
    word.leave(["1"])
    assert word.path.stat().st_mtime % 86_400 == 0


def test_withdrawing_again_leaves_the_word_that_got_lost(fleet):
    patient = fleet.wearer(0)
    fleet.registry.withdraw(patient.id)
    word = Notice(fleet.workspace.home / FOLDER / "0")
    said = word.records()
    assert said == {row.id for row in fleet.registry.records(patient.id, consented_only=False)}
    word.path.unlink()
    fleet.registry.withdraw(patient.id)
    assert word.records() == said


def test_every_device_hears_of_its_own_patient_alone(fleet):
    first, second = fleet.wearer(0), fleet.wearer(1)
    fleet.registry.withdraw(first.id)
    assert Notice(fleet.workspace.home / FOLDER / str(second.slot)).records() == frozenset()
