"""A wearer's withdrawal when the corpus cannot be read, or has just lost a patient itself."""

import json

import pytest
from fleet import Fleet, copied

from server import general
from shared.errors import DataError


@pytest.fixture
def used(tmp_path, first_run_home):
    """Devices with personal models, in a workspace of this test's own."""
    found = Fleet(copied(first_run_home, tmp_path / "home"))
    yield found
    found.close()


def test_a_device_forgets_also_when_the_data_folder_is_gone(used, tmp_path):
    patient = used.with_several_records()
    record = used.records(patient)[0]
    manifest = used.workspace.home / "workspace.json"
    gone = json.loads(manifest.read_text()) | {"data": str(tmp_path / "no such folder")}
    manifest.write_text(json.dumps(gone))
    (job,) = used.registry.withdraw(patient.id, records=[record])
    with pytest.raises(DataError):
        used.run()  # nothing can be trained
    assert used.registry.job(job.id).state == "CERTIFIED"
    assert record not in used.store(patient).record_ids()


def test_nothing_is_trained_on_a_general_model_that_holds_withdrawn_records(used):
    wearer, learnt_from = used.with_several_records(), used.registry.patients("corpus")[0]
    record = used.records(wearer)[0]
    before = used.store(wearer).state
    used.registry.withdraw(learnt_from.id)
    used.registry.withdraw(wearer.id, records=[record])
    run = used.run()
    ((_, reply),) = run.unlearned
    assert reply.methods == ()
    assert reply.after == reply.general == before.general  # until the general model is made again
    assert "remade" in reply.reason
    after = used.store(wearer).state
    assert after.general != before.general
    assert after.recipe  # and the copy is made again, of what is kept
    assert record not in used.store(wearer).record_ids()


@pytest.mark.parametrize("remade", [False, True])
def test_a_withdrawal_during_training_is_given_account_of(used, monkeypatch, remade):
    wearer = used.with_several_records()
    record, before = used.records(wearer)[0], used.store(wearer).state
    if remade:
        used.registry.withdraw(used.registry.patients("corpus")[0].id)

    train = general.train_general

    def withdrawn_meanwhile(*args, **kwargs):
        trained = train(*args, **kwargs)
        used.registry.withdraw(wearer.id, records=[record])
        return trained

    monkeypatch.setattr(general, "train_general", withdrawn_meanwhile)
    run = used.run()
    ((job, reply),) = run.unlearned
    assert job.state == "CERTIFIED"
    assert reply.before == before.model
    assert reply.segments_erased == 10
    assert f"recordings/{record}.npz" in [file.name for file in reply.erased]
    assert (reply.methods == ()) == remade
    after = used.store(wearer).state
    assert after.recipe
    assert (after.general != before.general) == remade
    assert record not in used.store(wearer).record_ids()


def test_a_device_that_has_an_older_general_model_does_not_train_on_it(used):
    wearer, learnt_from = used.with_several_records(), used.registry.patients("corpus")[0]
    record, before = used.records(wearer)[0], used.store(wearer).state
    used.registry.withdraw(learnt_from.id)
    new = general.train_general(used.workspace, used.registry, used.settings, tell=lambda _, __: None)
    assert new.digest != before.general  # the hospital has a new one, the devices have not been sent it
    used.registry.withdraw(wearer.id, records=[record])
    ((_, reply),) = used.run().unlearned
    assert reply.methods == ()
    assert "remade" in reply.reason
    assert used.store(wearer).state.general == new.digest


def test_a_withdrawal_that_is_not_acknowledged_is_in_the_result(used):
    wearer = used.with_several_records()
    used.grid.silent = {100 + wearer.slot}
    used.answer_s = 0.5
    (job,) = used.registry.withdraw(wearer.id)
    run = used.run()
    result = json.loads((used.workspace.reports / run.name / "result.json").read_text())
    (row,) = result["withdrawals"]
    assert (row["job"], row["unlearned_at"], row["methods"]) == (job.id, None, [])
    assert row["reason"]
