"""A wearer's withdrawal when the corpus cannot be read, or has just lost a patient itself."""

import json

import pytest
from fleet import Fleet, copied

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
