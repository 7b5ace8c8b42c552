"""From a withdrawal on nothing is made of its records, also while another job of the patient is carried out."""

import json
from dataclasses import replace

import numpy as np
import pytest
from fleet import TINY
from local_grid import FIRST_NODE
from test_auditing import audit_of, verify_of
from test_forgetting import MIDDLE, NEW, OLD, personalised, request
from typer.testing import CliRunner

from client import auditing
from client.auditing import audit, verify
from client.forgetting import forget
from server import asking, general
from server.run import Run
from server.workspace_settings import keep
from shared import shadows
from shared.messages import PERSONALISE, PersonaliseRequest, read
from shared.package import Package
from shared.unlearning import exact
from simulations.cli import app as cli


@pytest.fixture
def learnt_from(monkeypatch) -> list[set[bytes]]:
    """The first values of every segment that a copy is made of, one set a copy."""
    found: list[set[bytes]] = []
    for module in (shadows, exact, auditing):
        make = module.personalise

        def watched(start, own, *rest, make=make, **options):
            found.append({segment[0, :8].numpy().tobytes() for segment in own.segments})
            return make(start, own, *rest, **options)

        monkeypatch.setattr(module, "personalise", watched)
    return found


def starts(store, record) -> set[bytes]:
    (found,) = (one for one in store.recordings() if one.id == record)
    return {np.ascontiguousarray(segment[0, :8]).tobytes() for segment in found.segments}


def test_a_device_makes_nothing_of_the_records_of_a_job_that_waits(tmp_path, package, public, learnt_from, fleet):
    store = personalised(tmp_path / "device", package, public, (OLD, MIDDLE, NEW))
    waiting = starts(store, MIDDLE)
    settings = replace(fleet.settings, personalisation=TINY.personalisation)
    fleet.settings = settings
    reply = audit(store, replace(audit_of(fleet, OLD), barred=(MIDDLE,)), slot=0)
    assert reply.status == "ok"
    first = forget(store, replace(request(OLD), barred=(MIDDLE,)), slot=0)
    looked = verify(store, replace(verify_of(fleet, OLD), barred=(MIDDLE,)), slot=0)
    assert looked.fresh == looked.served == first.after
    assert len(learnt_from) > 4
    assert not any(made & waiting for made in learnt_from)
    second = forget(store, replace(request(MIDDLE), job="j-2"), slot=0)
    assert second.after == first.after  # there was nothing left of it in the model
    assert store.record_ids() == (NEW,)


def test_two_withdrawals_of_one_patient_are_both_out_of_the_first_model(fleet, learnt_from):
    patient = fleet.with_several_records()
    records, store = fleet.records(patient), fleet.store(patient)
    gone = starts(store, records[1])
    jobs = [fleet.registry.withdraw(patient.id, records=[record])[0] for record in records[:2]]
    run = fleet.run()
    assert {fleet.registry.job(job.id).state for job in jobs} == {"CERTIFIED"}
    first, second = (run.withdrawals[job.id].reply for job in jobs)
    assert first.after == second.after
    assert sum(bool(made & gone) for made in learnt_from) <= fleet.settings.audit.copies  # only its own job's audit


def test_a_patient_who_takes_everything_back_record_by_record_is_trained_on_no_more(fleet):
    patient = fleet.with_several_records()
    records = fleet.records(patient)
    fleet.registry.withdraw(patient.id, records=records[:1])
    fleet.registry.withdraw(patient.id)
    run = fleet.run()
    assert {reply.after for _, reply in run.unlearned} == {fleet.store(patient).state.general}
    assert {job.state for job in fleet.registry.jobs()} == {"CERTIFIED"}


def test_a_device_that_was_stopped_before_using_a_new_version_trains_on_neither(fleet):
    """It has two packages, and the one in use holds a corpus patient who has withdrawn."""
    patient = fleet.with_several_records()
    fleet.registry.withdraw(fleet.registry.patients("corpus")[0].id)
    trained = general.train_general(fleet.workspace, fleet.registry, fleet.settings, tell=lambda *_: None)
    store = fleet.store(patient)
    store.install(Package.open(fleet.workspace.models / trained.digest))
    fleet.registry.withdraw(patient.id, records=fleet.records(patient)[:1])
    run = fleet.run()
    ((_, reply),) = run.unlearned
    assert reply.methods == ()
    assert "remade" in reply.reason


@pytest.fixture
def epochs(fleet, monkeypatch) -> list[int]:
    """The epochs that are told; a corpus patient withdraws at the end of the first one."""
    found: list[int] = []
    train = general.train_general

    def watched(workspace, registry, settings, *, tell):
        def told(done, of):
            found.append(done)
            if len(found) == 1:
                fleet.registry.withdraw(fleet.registry.patients("corpus")[0].id)
            tell(done, of)

        return train(workspace, registry, settings, tell=told)

    monkeypatch.setattr(general, "train_general", watched)
    monkeypatch.setattr(general, "LOOK_S", 0.0)
    return found


def test_training_stops_when_a_corpus_patient_withdraws(fleet, epochs):
    run: Run = fleet.run(fleet.settings.with_values({"general.seed": 7, "general.epochs": 3}))
    assert epochs == [1, 1, 2, 3]  # the first training ended with the next step
    assert run.personal


def test_the_command_that_trains_stops_and_begins_again_without_the_patient(fleet, epochs):
    settings = fleet.settings.with_values({"general.seed": 7, "general.epochs": 3})
    keep(settings, home=fleet.workspace.home, folder=fleet.workspace.home)
    done = CliRunner().invoke(cli, ["train", "--home", str(fleet.workspace.home), "--json"])
    assert done.exit_code == 0, done.output
    assert epochs == [1, 1, 2, 3]
    (folder,) = fleet.workspace.models.iterdir()
    assert folder.name == json.loads(done.stdout)["digest"]
    kept = sum(len(fleet.registry.records(role=role)) for role in ("corpus", "control"))
    assert json.loads((folder / "lineage.json").read_text())["records"] == kept


def test_a_model_is_sent_to_no_further_device_once_a_corpus_patient_withdraws(fleet, monkeypatch):
    sent: list[str] = []
    push = fleet.grid.push_messages

    def watched(messages):
        for message in (messages := list(messages)):
            if message.metadata.message_type == PERSONALISE:
                sent.append(read(PersonaliseRequest, message).general)
                if len(sent) == 1:
                    fleet.registry.withdraw(fleet.registry.patients("corpus")[0].id)
        return push(messages)

    monkeypatch.setattr(asking, "WAVE", 1)
    monkeypatch.setattr(fleet.grid, "push_messages", watched)
    fleet.run(fleet.settings.with_values({"general.seed": 7}))
    first, *others = sent
    assert first not in others
    assert len(set(others)) == 1
    assert len(others) == len(fleet.wearers())


def test_the_result_says_that_a_model_holds_who_withdrew_when_it_had_been_made(fleet, monkeypatch):
    """After the devices have their models nothing is made again in this run; the next one does it."""
    push, gone = fleet.grid.push_messages, []

    def watched(messages):
        for message in (messages := list(messages)):
            if message.metadata.message_type == "query.probe" and not gone:
                gone.append(fleet.registry.patients("corpus")[0].id)
                fleet.registry.withdraw(gone[0])
        return push(messages)

    def told(run) -> tuple[dict, str]:
        result = json.loads((fleet.workspace.reports / run.name / "result.json").read_text())
        (folder,) = fleet.workspace.models.iterdir()
        assert result["general"]["data"] == json.loads((folder / "lineage.json").read_text())["data"]
        return result["general"], folder.name

    monkeypatch.setattr(fleet.grid, "push_messages", watched)
    general, holds = told(fleet.run())
    records = len(fleet.registry.records(gone[0], consented_only=False))
    assert general["withdrawn"] == {"corpus": 0, "control": 0}
    assert general["withdrawn_since"] == {"corpus": records, "control": 0}
    general, digest = told(fleet.run())
    assert digest != holds
    assert (general["withdrawn"]["corpus"], general["withdrawn_since"]["corpus"]) == (records, 0)


def test_who_withdraws_while_models_are_made_is_forgotten_before_anything_is_measured(fleet, monkeypatch):
    patient = fleet.with_several_records()
    node, push, types = FIRST_NODE + patient.slot, fleet.grid.push_messages, []

    def watched(messages):
        for message in (messages := list(messages)):
            if message.metadata.dst_node_id == node:
                types.append(message.metadata.message_type)
                if types[-1] == PERSONALISE and types.count(PERSONALISE) == 1:
                    fleet.registry.withdraw(patient.id, records=fleet.records(patient)[:1])
        return push(messages)

    monkeypatch.setattr(fleet.grid, "push_messages", watched)
    fleet.run()
    assert types[: types.index("query.probe")] == [
        *("query.whoami", PERSONALISE, "query.audit", "train.unlearn", "query.verify", PERSONALISE)
    ]
    assert {job.state for job in fleet.registry.jobs()} == {"CERTIFIED"}


def test_no_more_is_on_the_way_than_can_be_worked_at_so_that_consent_is_not_out_of_date(fleet, monkeypatch):
    """What is sent stays in Flower's queue until a core is free, and by then its list of records may be wrong."""
    waiting, most = 0, 0
    push, pull = fleet.grid.push_messages, fleet.grid.pull_messages

    def pushed(messages):
        nonlocal waiting, most
        ids = push(messages)
        waiting += len(ids)
        most = max(most, waiting)
        return ids

    def pulled(ids):
        nonlocal waiting
        answers = pull(list(ids)[:1])  # as from one core, one at a time
        waiting -= len(answers)
        return answers

    monkeypatch.setattr(asking, "WAVE", 2)
    monkeypatch.setattr(fleet.grid, "push_messages", pushed)
    monkeypatch.setattr(fleet.grid, "pull_messages", pulled)
    run = fleet.run()
    assert len(run.personal) == len(fleet.wearers())
    assert most == 2


@pytest.mark.parametrize("damage", ["a byte", "the end"])
def test_a_damaged_package_of_the_hospital_reaches_no_device_and_is_made_anew(fleet, damage):
    patient = fleet.wearers()[0]
    state = fleet.store(patient).state
    path = fleet.workspace.models / state.general / "public.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]) if damage == "a byte" else whole[:-1000])
    fleet.run()
    assert path.read_bytes() == whole
    assert fleet.store(patient).state.model == state.model
    assert (fleet.store(patient).general_folder(state.general) / "public.safetensors").read_bytes() == whole


@pytest.mark.parametrize("content", ["", "[]", "{", '{"data": 1}'])
def test_a_lineage_that_cannot_be_read_is_no_model_s(fleet, content):
    (folder,) = fleet.workspace.models.iterdir()
    (folder / "lineage.json").write_text(content)
    trained = general.train_general(fleet.workspace, fleet.registry, fleet.settings, tell=lambda *_: None)
    assert (trained.digest, trained.reused) == (folder.name, False)
