"""The main job with the real apps on a grid in this process: what runs and withdrawals leave behind."""

import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from enrolled import model_of, told, withdrawn
from fleet import TINY, Fleet, copied, enrol, holding, traces
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from local_grid import FIRST_NODE
from rich.console import Console

import client.app
from client.sensor import Feed
from client.store import Store
from server import app as server_app
from server.enrolment import enrol_patient
from server.rows import DUE, Patient
from shared.errors import DataError, LetheError, RunError, UsageError
from shared.messages import Identity, PersonaliseReply, UnlearnReply, Whoami, read, write
from shared.package import Package
from shared.ptbxl import index
from shared.version import code_version
from simulations import summary
from simulations.cohort import write_cohort

WITHDRAWALS = {"unlearning.methods": "finetune,exact", "unlearning.rehearsals": 2}


def contents(folder: Path) -> dict[str, str]:
    """Every file's digest."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def waveforms(fleet: Fleet, records: list[str]) -> list[bytes]:
    found = [record for record in index(fleet.workspace.data).records if record.id in records]
    assert len(found) == len(records)
    return [piece for record in found for piece in traces(record, fleet.workspace.data)]


def devices_files(fleet: Fleet) -> dict[int, dict[str, str]]:
    return {patient.slot: contents(fleet.folder(patient)) for patient in fleet.wearers()}


def everything(patient: Patient, fleet: Fleet) -> list[str]:
    return [row.id for row in fleet.registry.records(patient.id, consented_only=False)]


@pytest.fixture(scope="session")
def rehearsed_home(tmp_path_factory, first_run_home) -> Path:
    """A workspace after the main job: one patient withdrew a record in mid-run, another one everything."""
    home = copied(first_run_home, tmp_path_factory.mktemp("rehearsed") / "home")
    fleet = Fleet(home)
    run = fleet.run(TINY.with_values(WITHDRAWALS))
    (home / "messages").mkdir()
    for number, message in enumerate(fleet.grid.received):
        parts = [value for record in message.content.config_records.values() for value in record.values()]
        (home / "messages" / f"{number}").write_bytes(b"".join(parts))
    assert len(run.unlearned) == 2
    fleet.close()
    return home


@pytest.fixture
def rehearsed(tmp_path, rehearsed_home):
    fleet = Fleet(copied(rehearsed_home, tmp_path / "home"))
    yield fleet
    fleet.close()


# A run


def test_a_first_run_gives_every_wearable_a_personal_model(fleet):
    for patient in fleet.wearers():
        state = fleet.store(patient).state
        row = told(fleet.registry, patient.slot)
        assert state.model != state.general
        assert (row.personal, row.bundle, row.general) == (state.model, state.bundle, state.general)
        files = contents(fleet.folder(patient))
        assert (files["model.safetensors"], files["bundle.onnx"]) == (state.model, state.bundle)
    result = json.loads((fleet.workspace.reports / "run-0" / "result.json").read_text())
    assert [phase["name"] for phase in result["phases"]] == ["directory", "general", "personalise", "probe"]
    assert all(row["parity"] <= 1e-4 for row in result["personal"])


def test_running_again_trains_nothing_and_changes_nothing(fleet):
    before, models = devices_files(fleet), contents(fleet.workspace.models)
    run = fleet.run()
    assert devices_files(fleet) == before
    assert contents(fleet.workspace.models) == models
    assert [model.kind for model in fleet.registry.models()].count("general") == 1
    assert all(reply.status == "ok" for reply in run.personal.values())


def test_a_general_model_travels_once(fleet):
    fleet.run()
    asked = [m for m in fleet.grid.sent if m.metadata.message_type == "train.personalise"]
    assert len(asked) == len(fleet.wearers())
    assert not any("blobs" in message.content.config_records for message in asked)


def test_the_same_workspace_gives_the_same_models_on_a_second_machine(tmp_path, enrolled_home, first_run_home):
    second = Fleet(copied(enrolled_home, tmp_path / "home"))
    second.run()
    for patient in second.wearers():
        found = [contents(second.folder(patient)), contents(first_run_home / "devices" / str(patient.slot))]
        own = {name for name in found[0] if name.endswith(("bundle.json", ".pem"))}  # what a device's own key signs
        assert own == {name for name in found[1] if name.endswith(("bundle.json", ".pem"))}
        first, again = ({name: one for name, one in each.items() if name not in own} for each in found)
        assert first == again
    second.close()


def test_other_settings_of_personalisation_make_other_copies_from_the_same_general_model(fleet):
    before = {patient.slot: fleet.store(patient).state for patient in fleet.wearers()}
    fleet.run(fleet.settings.with_values({"personalisation.steps": 3}))
    for patient in fleet.wearers():
        state = fleet.store(patient).state
        assert state.general == before[patient.slot].general
        assert state.model != before[patient.slot].model


def test_a_run_without_wearables_says_so(tmp_path, cohort_folder):
    home = enrol(tmp_path / "home", cohort_folder, replace(TINY, cohort=replace(TINY.cohort, wearables=0))).home
    fleet = Fleet(home)
    with pytest.raises(RunError, match="lethe patients add"):
        fleet.run()
    fleet.close()


def test_a_run_that_fails_is_written_down_as_failed(fleet):
    with pytest.raises(LetheError):
        fleet.run(fleet.settings.with_values({"cohort.wearables": 99}))
    row = fleet.registry.runs()[-1]
    assert row.status == "failed"
    assert "cohort.wearables is 99" in row.detail["error"]


# A withdrawal of everything


def test_full_withdrawal_leaves_the_general_model_on_the_device_byte_for_byte(fleet):
    patient = fleet.wearer(0)
    before = fleet.store(patient).state
    fleet.registry.withdraw(patient.id)
    fleet.run()
    state, files = fleet.store(patient).state, contents(fleet.folder(patient))
    general = Package.open(fleet.workspace.models / state.general)
    assert state.model == state.general == general.digest == files["model.safetensors"]
    assert (fleet.folder(patient) / "model.safetensors").read_bytes() == general.model
    assert state.bundle == files["bundle.onnx"] != before.bundle
    assert fleet.store(patient).record_ids() == ()


def test_full_withdrawal_leaves_the_same_onnx_file_on_every_device(fleet):
    first, second = fleet.wearer(0), fleet.wearer(1)
    for patient in (first, second):
        fleet.registry.withdraw(patient.id)
    fleet.run()
    assert contents(fleet.folder(first))["bundle.onnx"] == contents(fleet.folder(second))["bundle.onnx"]


def test_after_the_acknowledgement_nothing_of_the_patient_is_in_the_device_s_folder(fleet):
    patient = fleet.wearer(0)
    needles = waveforms(fleet, fleet.records(patient))
    folder = fleet.folder(patient)
    old = [(folder / name).read_bytes() for name in ("model.safetensors", "bundle.onnx")]
    assert holding(folder, needles)  # the search finds what is there
    fleet.registry.withdraw(patient.id)
    (job,) = fleet.registry.jobs()
    fleet.run()
    assert fleet.registry.job(job.id).state == "CERTIFIED"
    assert holding(folder, needles) == []
    assert holding(folder, old) == []
    assert not [path for path in contents(folder) if path.startswith("recordings/")]


def test_the_acknowledgement_says_what_was_erased(fleet):
    patient = fleet.wearer(0)
    records, before = fleet.records(patient), fleet.store(patient).state
    fleet.registry.withdraw(patient.id)
    run = fleet.run()
    ((_, reply),) = run.unlearned
    assert reply.segments_erased == 10 * len(records)
    names = {file.name for file in reply.erased}
    replaced = {"model.safetensors", "bundle.onnx", "bundle.json"}
    assert names == replaced | {f"recordings/{record}.npz" for record in records}
    assert (reply.before, reply.after, reply.general) == (before.model, before.general, before.general)
    assert told(fleet.registry, patient.slot).personal == before.general


# A withdrawal of one record


def test_partial_withdrawal_gives_bitwise_the_device_that_never_had_the_record(fleet, tmp_path, first_run_home):
    patient = fleet.with_several_records()
    record = fleet.records(patient)[0]
    fleet.registry.withdraw(patient.id, records=[record])
    fleet.run()
    never = Fleet(copied(first_run_home, tmp_path / "never"))
    never.registry.withdraw(patient.id, records=[record])
    for path in sorted(never.folder(patient).rglob("*"), reverse=True):  # a factory-new device
        path.unlink() if path.is_file() else path.rmdir()
    never.run()
    for name in ("model.safetensors", "bundle.onnx"):
        assert (fleet.folder(patient) / name).read_bytes() == (never.folder(patient) / name).read_bytes()
    state = fleet.store(patient).state
    assert state == never.store(patient).state
    assert state.model != state.general
    assert fleet.store(patient).record_ids() == never.store(patient).record_ids()
    assert record not in fleet.store(patient).record_ids()
    never.close()


def test_after_a_partial_withdrawal_only_the_named_record_is_gone(fleet):
    patient = fleet.with_several_records()
    record, *kept = fleet.records(patient)
    gone, staying = waveforms(fleet, [record]), waveforms(fleet, kept)
    fleet.registry.withdraw(patient.id, records=[record])
    fleet.run()
    assert holding(fleet.folder(patient), gone) == []
    assert holding(fleet.folder(patient), staying) == [f"recordings/{name}.npz" for name in sorted(kept)]


def test_the_run_after_a_withdrawal_changes_nothing_on_the_device(rehearsed):
    before = devices_files(rehearsed)
    rehearsed.run()
    assert devices_files(rehearsed) == before
    assert rehearsed.registry.jobs(DUE) == []


def test_a_copy_that_is_turned_down_after_a_withdrawal_is_told_as_turned_down_in_later_runs(fleet):
    budget = replace(fleet.settings.personalisation, budget=-1.0)  # no copy is good enough
    strict = replace(fleet.settings, personalisation=budget)
    patient = fleet.with_several_records()
    fleet.registry.withdraw(patient.id, records=fleet.records(patient)[:1])
    fleet.run(strict)
    first, later = fleet.run(strict).personal[patient.slot], fleet.run(strict).personal[patient.slot]
    assert first.personal == fleet.store(patient).state.general
    assert not first.accepted
    assert first.reason
    assert (later.accepted, later.reason) == (first.accepted, first.reason)


def test_a_method_that_is_not_exact_is_served_when_the_audit_chose_it(fleet, monkeypatch):
    patient = fleet.with_several_records()
    record = fleet.records(patient)[0]
    fleet.registry.withdraw(patient.id, records=[record])
    settings = fleet.settings.with_values({"unlearning.methods": "finetune"})
    monkeypatch.setattr("server.looks.choose", lambda *_, **__: "finetune")
    monkeypatch.setattr("server.certifying.close", lambda *_: None)  # it would not pass with two copies
    run = fleet.run(settings)
    ((_, reply),) = run.unlearned
    assert reply.served == "finetune"
    assert reply.after == reply.methods[0].after == fleet.store(patient).state.model
    assert reply.after not in (reply.before, reply.general, reply.methods[1].after)
    assert model_of(fleet.registry, reply.after).lineage["method"] == "finetune"
    assert fleet.store(patient).state.recipe.startswith("finetune:")
    before = devices_files(fleet)
    fleet.run()
    assert devices_files(fleet) == before


# Never again


def test_a_withdrawn_record_is_asked_of_no_device_again(rehearsed):
    patients = rehearsed.wearers()
    gone = {record for patient in patients for record in withdrawn(rehearsed.registry, patient.id)}
    assert gone
    rehearsed.run()
    for message in rehearsed.grid.sent:
        if message.metadata.message_type == "train.personalise":
            asked = json.loads(message.content.config_records["payload"]["json"])["records"]
            assert asked
            assert not gone & set(asked)


def test_a_withdrawal_before_the_first_run_is_never_trained_on(new_fleet):
    patient = new_fleet.with_several_records()
    record = new_fleet.records(patient)[0]
    new_fleet.registry.withdraw(patient.id, records=[record])
    new_fleet.run()
    assert record not in new_fleet.store(patient).record_ids()
    assert holding(new_fleet.workspace.home, waveforms(new_fleet, [record])) == []
    (job,) = new_fleet.registry.jobs()
    assert job.state == "CERTIFIED"


def test_a_record_that_is_gone_from_consent_is_erased_even_when_no_job_said_so(fleet):
    patient = fleet.with_several_records()
    record = fleet.records(patient)[0]
    fleet.registry.withdraw(patient.id, records=[record])
    (job,) = fleet.registry.jobs()
    fleet.registry.advance(job.id, "DISPATCHED")
    fleet.registry.advance(job.id, "UNLEARNED", detail={"lied": True})
    fleet.run()
    assert record not in fleet.store(patient).record_ids()
    assert holding(fleet.folder(patient), waveforms(fleet, [record])) == []


@pytest.mark.parametrize("role", ["corpus", "control"])
def test_when_a_public_patient_withdraws_all_models_are_made_without_him(fleet, role):
    """Public segments travel to devices and stand in the package, so all of these must go."""
    old = fleet.registry.models()[0].digest
    wearer = fleet.wearer(0)
    fleet.registry.withdraw(wearer.id)  # his device makes no model any more, yet it holds public segments
    fleet.run()
    pieces = {patient.id: waveforms(fleet, everything(patient, fleet)) for patient in fleet.registry.patients(role)}
    chosen = next(patient for patient in pieces if holding(fleet.workspace.models, pieces[patient]))
    for folder in ("cache", "models", f"devices/{wearer.slot}", "devices/1"):
        assert holding(fleet.workspace.home / folder, pieces[chosen]), folder
    fleet.registry.withdraw(chosen)
    run = fleet.run()
    for folder in ("cache", "models", "devices"):
        assert holding(fleet.workspace.home / folder, pieces[chosen]) == [], folder
    (folder,) = fleet.workspace.models.iterdir()
    assert (folder.name != old) == (role == "corpus")  # nothing was learnt from a control patient
    for patient in fleet.wearers():
        assert fleet.store(patient).state.general == folder.name
    assert fleet.store(wearer).state.model == told(fleet.registry, wearer.slot).personal == folder.name
    assert set(run.probes) == {1, 2, 3}
    result = json.loads((fleet.workspace.reports / run.name / "result.json").read_text())
    part = result["split"]["corpus" if role == "corpus" else "controls"]
    kept = fleet.registry.records(role=role)
    assert (part["patients"], part["records"]) == (len({row.patient for row in kept}), len(kept))
    assert part["withdrawn"] == len(fleet.registry.records(chosen, consented_only=False))
    before = contents(fleet.workspace.models), devices_files(fleet)
    fleet.run()
    assert (contents(fleet.workspace.models), devices_files(fleet)) == before


# Who sees what


def test_no_waveform_leaves_a_device(rehearsed):
    needles = [waveforms(rehearsed, everything(patient, rehearsed)) for patient in rehearsed.wearers()]
    everyone = [needle for one in needles for needle in one]
    for folder in ("messages", "models", "cache", "reports", "flower"):
        assert contents(rehearsed.workspace.home / folder), folder
        assert holding(rehearsed.workspace.home / folder, everyone) == [], folder
    assert not any(needle in rehearsed.workspace.registry_path.read_bytes() for needle in everyone)
    for slot, own in enumerate(needles):
        for other in rehearsed.wearers():
            if other.slot != slot:
                assert holding(rehearsed.folder(other), own) == []


def test_an_answer_is_far_too_small_to_hold_the_segments_that_it_is_about(rehearsed):
    """Margins and hits are a few numbers a segment; a segment is 6,000."""
    records = min(patient.records for patient in rehearsed.wearers())
    for path in (rehearsed.workspace.home / "messages").iterdir():
        assert len(path.read_bytes()) < records * 5000 * 12


def test_the_result_names_no_patient(rehearsed):
    text = (rehearsed.workspace.reports / "run-1" / "result.json").read_text()
    result = json.loads(text)
    pseudonyms = {patient.pseudonym for patient in rehearsed.wearers()}
    assert {row["pseudonym"] for row in result["personal"]} <= pseudonyms
    assert {row["pseudonym"] for row in result["withdrawals"]} <= pseudonyms
    assert not {patient.id for patient in rehearsed.wearers()} & set(_strings(result["personal"]))


def _strings(value):
    if isinstance(value, dict):
        return [text for part in value.values() for text in _strings(part)]
    if isinstance(value, list):
        return [text for part in value for text in _strings(part)]
    return [value] if isinstance(value, str) else []


def test_the_result_of_the_main_job_holds_what_the_summary_and_the_report_need(rehearsed):
    result = json.loads((rehearsed.workspace.reports / "run-1" / "result.json").read_text())
    assert sorted(row["scope"] for row in result["withdrawals"]) == ["patient", "records"]
    for row in result["withdrawals"]:
        assert [method["method"] for method in row["methods"]] == ["finetune", "exact"]
        assert row["equals_general"] == (row["scope"] == "patient")
        for method in row["methods"]:
            for group in method["difference"].values():
                assert len(group["before"]) == len(group["after"]) == 2
            assert method["difference"]["forgotten"]["segments"] > 0
        exact = row["methods"][1]
        if row["scope"] == "patient":  # the general model is served, so nothing is left of the difference
            assert exact["difference"]["forgotten"]["after"] == [0.0, 0.0]
    phases = [phase["name"] for phase in result["phases"]]
    assert phases == ["directory", "general", "personalise", "probe", "audit", "unlearn", "verify"]
    console = Console(width=110, file=io.StringIO())
    console.print(summary.render({**result, "report": "report.html"}))
    text = console.file.getvalue()
    for said in ("2 withdrew", "unlearned, finetune", "unlearned, exact", "> general", "forgotten, before"):
        assert said in text


# Repeats, silence and strangers


def test_a_repeated_request_gets_the_first_answer_and_changes_nothing(fleet):
    patient = fleet.with_several_records()
    fleet.registry.withdraw(patient.id, records=fleet.records(patient)[:1])
    ((_, first),) = fleet.run().unlearned
    request = next(m for m in fleet.grid.sent if m.metadata.message_type == "train.unlearn")
    before = contents(fleet.folder(patient))
    (again,) = fleet.grid.send_and_receive([_again(request)])
    second = read(UnlearnReply, again)
    plain = tuple(replace(method, before_groups={}, after_groups={}) for method in first.methods)
    assert second == replace(first, methods=plain)  # all but the segments' margins, which are not kept
    assert contents(fleet.folder(patient)) == before


def _again(message: Message) -> Message:
    kind = message.metadata.message_type
    return Message(message.content, dst_node_id=message.metadata.dst_node_id, message_type=kind)


def test_a_device_without_a_model_repeats_its_answer_too(new_fleet):
    patient = new_fleet.wearer(0)
    store = new_fleet.store(patient)
    store.add(new_fleet.recordings(patient))
    records = store.record_ids()
    new_fleet.registry.withdraw(patient.id)
    ((_, first),) = new_fleet.run().unlearned
    request = next(m for m in new_fleet.grid.sent if m.metadata.message_type == "train.unlearn")
    (again,) = new_fleet.grid.send_and_receive([_again(request)])
    assert first.segments_erased == 10 * len(records) > 0
    assert read(UnlearnReply, again) == first
    assert new_fleet.store(patient).record_ids() == ()


def test_an_answer_that_is_lost_is_given_again_in_the_next_run(fleet):
    fleet.answer_s = 0.3
    patient = fleet.wearer(0)
    fleet.registry.withdraw(patient.id)
    fleet.grid.lost.add("train.unlearn")
    fleet.run()
    (job,) = fleet.registry.jobs()
    assert job.state == "DISPATCHED"
    before = contents(fleet.folder(patient))
    fleet.grid.lost.clear()
    ((_, reply),) = fleet.run().unlearned
    assert fleet.registry.job(job.id).state == "CERTIFIED"
    assert reply.segments_erased == 10 * patient.records
    assert contents(fleet.folder(patient)) == before


def test_a_silent_device_leaves_its_job_dispatched_and_is_asked_again_in_the_next_run(fleet):
    fleet.answer_s = 0.3
    silent, other = fleet.wearer(0), fleet.wearer(1)
    for patient in (silent, other):
        fleet.registry.withdraw(patient.id)
    fleet.grid.silent.add(FIRST_NODE + silent.slot)
    run = fleet.run()
    first, second = sorted(fleet.registry.jobs(), key=lambda job: job.slot)
    assert (first.state, second.state) == ("DISPATCHED", "CERTIFIED")
    assert set(run.personal) == {2, 3}
    fleet.run()
    assert fleet.registry.job(first.id).state == "DISPATCHED"
    fleet.grid.silent.clear()
    fleet.answer_s = 60.0
    fleet.run()
    assert fleet.registry.job(first.id).state == "CERTIFIED"
    assert fleet.store(silent).state.model == fleet.store(silent).state.general


def test_a_silent_device_does_not_stop_the_others_from_being_personalised(new_fleet):
    new_fleet.answer_s = 20.0
    fast = {patient.slot for patient in new_fleet.wearers()} - {0}
    app = _answering("query.whoami", lambda message: Message(RecordDict(), reply_to=message))
    new_fleet.grid.apps[FIRST_NODE] = app  # an answer that is none
    assert set(new_fleet.run().personal) == fast


def _answering(kind: str, answer) -> ClientApp:
    """The device's app, but for one message type."""
    app = ClientApp()
    handlers = {
        "query.whoami": client.app.whoami,
        "train.personalise": client.app.personalise,
        "query.probe": client.app.probe,
        "query.audit": client.app.audit,
        "train.unlearn": client.app.unlearn,
        "query.verify": client.app.verify,
    }
    for name, handler in handlers.items():
        category, action = name.split(".")
        chosen = (lambda message, _: answer(message)) if name == kind else handler
        getattr(app, category)(action)(chosen)
    return app


def strange(slot: int, fleet: Fleet) -> None:
    identity = Identity(slot, "p-00000000", "", "", "another checkout")
    fleet.grid.apps[FIRST_NODE + slot] = _answering(
        "query.whoami", lambda message: Message(write(identity), reply_to=message)
    )


def test_a_device_that_runs_other_code_is_left_out_and_told(new_fleet):
    strange(1, new_fleet)
    run = new_fleet.run()
    assert set(run.personal) == {0, 2, 3}
    (told,) = run.refusals
    assert f"slot 1 runs code another checkout, the server {code_version()}" in told.reason
    assert list(new_fleet.folder(new_fleet.wearer(1)).rglob("model.safetensors")) == []


def test_where_every_device_runs_other_code_the_run_ends_before_anything_is_sent(new_fleet):
    for slot in range(4):
        strange(slot, new_fleet)
    with pytest.raises(RunError, match=f"slot 0 runs code another checkout, the server {code_version()}"):
        new_fleet.run()
    assert list(new_fleet.workspace.devices.rglob("model.safetensors")) == []


MALFORMED = {
    "nothing": RecordDict(),
    "no JSON": RecordDict({"payload": ConfigRecord({"json": b"{"})}),
    "text": RecordDict({"payload": ConfigRecord({"json": "{}"})}),
    "another message": write(Identity(0, "p", "", "", "code")),
    "wrong types": RecordDict({"payload": ConfigRecord({"json": b'{"job": 1, "slot": "0", "status": "ok"}'})}),
    "another status": RecordDict({"payload": ConfigRecord({"json": b'{"job": "j", "slot": 0, "status": "done"}'})}),
    "another job": write(UnlearnReply("j-00000000", 0, "ok", unlearned_at="now")),
    "another slot": write(UnlearnReply("JOB", 3, "ok", unlearned_at="now")),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_a_malformed_acknowledgement_is_ignored_and_the_job_stays_due(fleet, what):
    content = MALFORMED[what]
    fleet.registry.withdraw(fleet.wearer(0).id)
    (job,) = fleet.registry.jobs()
    if what == "another slot":
        content = write(UnlearnReply(job.id, 3, "ok", unlearned_at="now"))
    fleet.grid.apps[FIRST_NODE] = _answering("train.unlearn", lambda m: Message(content, reply_to=m))
    run = fleet.run()
    assert run.unlearned == []
    assert fleet.registry.job(job.id).state == "DISPATCHED"
    assert fleet.registry.jobs(DUE) == [fleet.registry.job(job.id)]


def test_a_device_cannot_acknowledge_for_another_one(fleet):
    first, second = fleet.wearer(0), fleet.wearer(1)
    for patient in (first, second):
        fleet.registry.withdraw(patient.id)
    jobs = {job.slot: job.id for job in fleet.registry.jobs()}
    lie = UnlearnReply(jobs[1], 1, "ok", unlearned_at="now")
    fleet.grid.apps[FIRST_NODE] = _answering("train.unlearn", lambda m: Message(write(lie), reply_to=m))
    fleet.grid.apps[FIRST_NODE + 1] = _answering("train.unlearn", lambda m: Message(RecordDict(), reply_to=m))
    fleet.run()
    assert {job.state for job in fleet.registry.jobs()} == {"DISPATCHED"}


def test_a_copy_is_not_entered_for_another_device(fleet):
    lie = PersonaliseReply(3, "ok", personal="f" * 64, bundle="f" * 64, accepted=True)
    fleet.grid.apps[FIRST_NODE] = _answering("train.personalise", lambda m: Message(write(lie), reply_to=m))
    run = fleet.run()
    assert set(run.personal) == {1, 2, 3}
    assert told(fleet.registry, 3).personal == fleet.store(fleet.wearer(3)).state.model


def test_a_device_that_fails_is_told_as_failed_with_its_reason_and_asked_again(fleet):
    patient = fleet.wearer(0)
    fleet.registry.withdraw(patient.id)
    (job,) = fleet.registry.jobs()
    full = UnlearnReply(job.id, patient.slot, "refused", "no space left")
    fleet.grid.apps[FIRST_NODE] = _answering("train.unlearn", lambda m: Message(write(full), reply_to=m))
    fleet.run()
    assert fleet.registry.job(job.id).state == "FAILED"
    assert fleet.registry.job(job.id).detail["reason"] == "no space left"
    fleet.grid.apps.clear()
    fleet.run()
    assert fleet.registry.job(job.id).state == "CERTIFIED"


@pytest.mark.parametrize("name", ["model.safetensors", "bundle.onnx", "state.json", "staged.json", "feed"])
def test_a_damaged_device_forgets_all_the_same(fleet, name):
    patient = fleet.wearer(0)
    folder, needles = fleet.folder(patient), waveforms(fleet, fleet.records(patient))
    old = (folder / "model.safetensors").read_bytes()
    (fleet.workspace.feed(patient.slot) if name == "feed" else folder / name).write_bytes(old[:1000])
    fleet.registry.withdraw(patient.id)
    (job,) = fleet.registry.jobs()
    fleet.run()
    assert fleet.registry.job(job.id).state == "CERTIFIED"
    assert holding(folder, [*needles, old]) == []
    state = fleet.store(patient).state
    assert state.model == state.general == told(fleet.registry, patient.slot).personal


def test_a_record_that_the_device_never_had_is_forgotten_too(fleet):
    """It could not be used, or the device had lost it: there is nothing to measure, and the job ends."""
    patient = fleet.with_several_records()
    record = fleet.records(patient)[0]
    before = fleet.store(patient)
    before.erase([record])
    fleet.registry.withdraw(patient.id, records=[record])
    run = fleet.run()
    ((_, reply),) = run.unlearned
    assert reply.segments_erased == 0
    assert reply.methods[0].before_groups["forgotten"].general_hits == ((), ())


def test_jobs_of_one_device_are_done_one_after_the_other(fleet):
    patient = fleet.with_several_records()
    records = fleet.records(patient)
    fleet.registry.withdraw(patient.id, records=records[:1])
    fleet.registry.withdraw(patient.id, records=records[1:2])
    fleet.registry.withdraw(patient.id)
    run = fleet.run()
    assert [job.records for job, _ in run.unlearned] == [(records[0],), (records[1],), tuple(records)]
    assert [reply.segments_erased for _, reply in run.unlearned] == [10, 10, 10 * (len(records) - 2)]
    assert run.unlearned[-1][1].after == fleet.store(patient).state.general
    assert [reply.before for _, reply in run.unlearned[1:]] == [reply.after for _, reply in run.unlearned[:-1]]


def test_a_new_general_model_that_a_device_could_not_use_does_not_keep_it_from_forgetting(fleet):
    """A crash between installing a package and making the copy leaves the old model in use."""
    patient = fleet.wearer(0)
    store = fleet.store(patient)
    store.install(_other_weights(Package.open(fleet.workspace.models / store.state.general)))
    fleet.registry.withdraw(patient.id)
    fleet.run()
    (job,) = fleet.registry.jobs()
    assert job.state == "CERTIFIED", job.detail
    assert fleet.store(patient).state.model == fleet.store(patient).state.general


def _other_weights(package: Package) -> Package:
    return Package(package.model[:-4] + b"\0\0\0\0", package.template, package.public)


def test_a_changed_recording_is_refused_and_the_run_goes_on(new_fleet, tmp_path, cohort_folder):
    data = copied(cohort_folder, tmp_path / "cohort")
    feed_path = new_fleet.workspace.feed(0)
    feed = json.loads(feed_path.read_text())
    feed_path.write_text(json.dumps({**feed, "data": str(data)}))
    changed = data / f"{feed['records'][0]['path']}.dat"
    changed.write_bytes(changed.read_bytes()[::-1])
    run = new_fleet.run()
    assert run.personal[0].status == "refused"
    assert "has changed since it was enrolled" in run.personal[0].reason
    assert all(run.personal[slot].status == "ok" for slot in (1, 2, 3))


@pytest.mark.usefixtures("fleet")  # its grid gives messages an identity
def test_a_relative_home_is_refused_by_both_sides():
    def context(**config):
        return Context(run_id=1, node_id=1, node_config={"partition-id": 0}, state=RecordDict(), run_config=config)

    with pytest.raises(UsageError, match="absolute"):
        server_app.app(None, context(home="here", run="", devices=0))
    message = Message(write(Whoami("run")), dst_node_id=1, message_type="query.whoami")
    with pytest.raises(DataError, match="absolute"):
        client.app.app(message, context(home="here"))


def test_a_feed_that_is_missing_or_damaged_is_said(tmp_path):
    with pytest.raises(DataError, match="enrol the patient again"):
        Feed.open(tmp_path / "0.json")
    (tmp_path / "0.json").write_text("{}")
    with pytest.raises(DataError, match="enrol the patient again"):
        Feed.open(tmp_path / "0.json")
    assert Store(tmp_path / "device").state.model == ""


def test_a_patient_who_enrols_while_a_run_starts_waits_for_the_next_one(fleet, tmp_path):
    """The launcher has counted the devices by then, and no more of them will come."""
    write_cohort(tmp_path / "more", patients=40, seed=5)
    new = next(r for r in index(tmp_path / "more").records if int(r.patient) > 30 and len(r.superclasses) == 1)
    added = enrol_patient(fleet.workspace, new.patient, data=tmp_path / "more")
    assert added.slot == len(fleet.wearers()) - 1
    run = fleet.run(nodes=added.slot)
    assert sorted(run.personal) == list(range(added.slot))
