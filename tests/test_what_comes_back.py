"""A model that a device never told of, a folder that is put back as it was, and what is done where little is left."""

import shutil

import pytest
from fleet import holding, traces
from local_grid import LocalGrid
from test_a_corpus_patient_is_forgotten import jobs_of, result_of

from client.app import app as client_app
from server.corpus import NothingToLearnError
from server.holdings import public_files
from shared.ptbxl import index
from shared.settings import LEAST_CONTROLS


def test_a_device_that_took_a_model_and_never_answered_holds_up_a_corpus_patient_s_certificate(new_fleet):
    fleet, old = new_fleet, new_fleet.grid
    fleet.answer_s, fleet.grid.lost = 1.0, {"train.personalise"}  # devices act, and what they say is lost
    fleet.run()
    assert [row.personal for row in fleet.registry.devices()] == [None] * 4
    who = fleet.registry.patients("corpus")[0]
    fleet.registry.withdraw(who.id)
    fleet.answer_s = 1800.0
    fleet.grid = LocalGrid(client_app, nodes=3, run_config={"home": str(fleet.workspace.home)})
    (row,) = result_of(fleet, fleet.run(nodes=3))["public_withdrawals"]
    assert list((fleet.folder(fleet.wearer(3)) / "general").iterdir())  # it has the patient's segments
    assert (row["state"], row["certificate"]) == ("UNLEARNED", "")
    assert row["reason"] == "device 3 still has a model that descends from an older general one"
    fleet.grid, old.lost = old, set()
    (row,) = result_of(fleet, fleet.run())["public_withdrawals"]
    assert row["state"] == "CERTIFIED"


def test_a_forgotten_patient_s_device_that_is_put_back_as_it_was_erases_once_more(fleet, tmp_path):
    who = fleet.with_several_records()
    folder, kept = fleet.folder(who), tmp_path / "backup"
    shutil.copytree(folder, kept)
    known = set(fleet.records(who))
    needles = [
        piece
        for one in index(fleet.workspace.data).records
        if one.id in known
        for piece in traces(one, fleet.workspace.data)
    ]
    fleet.registry.withdraw(who.id)
    fleet.run()
    assert [job.state for job in jobs_of(fleet, who)] == ["CERTIFIED"]
    shutil.rmtree(folder)
    shutil.copytree(kept, folder)
    assert fleet.store(who).record_ids()
    run = fleet.run()
    (told,) = [one for one in run.refusals if one.slot == who.slot]
    assert f"it has {who.records} recordings" in told.reason
    assert "an older state was put back" in told.reason
    store = fleet.store(who)
    assert (store.record_ids(), store.state.model) == ((), store.state.general)
    assert holding(folder, needles) == []
    assert fleet.run().refusals == []


def test_without_control_patients_copies_are_not_compared_and_the_bytes_decide(fleet):
    for control in fleet.registry.patients("control"):
        fleet.registry.withdraw(control.id)
    fleet.run()
    who = fleet.wearer(0)
    fleet.registry.withdraw(who.id)
    (row,) = result_of(fleet, fleet.run())["withdrawals"]
    assert (row["served"], row["state"]) == ("exact", "CERTIFIED")
    assert f"0 control segments came with the general model, and it takes {LEAST_CONTROLS}" in row["verdict"]["words"]
    assert (row["verdict"]["before"], row["verdict"]["after"]) == (None, None)


def test_what_is_left_of_a_corpus_that_is_too_small_goes_all_the_same(fleet):
    gone = [row.id for row in fleet.registry.records(role="corpus")]
    assert any(one.holds(gone) for one in public_files(fleet.workspace))
    for patient in fleet.registry.patients("corpus"):
        fleet.registry.withdraw(patient.id)
    with pytest.raises(NothingToLearnError, match="0 usable records that consent allows"):
        fleet.run()
    assert not any(one.holds(gone) for one in public_files(fleet.workspace))
