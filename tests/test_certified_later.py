"""A withdrawal that is certified later than it was carried out, when the device has another model or other settings."""

import pytest
from audited_withdrawals import answer
from local_grid import FIRST_NODE
from test_auditing import now
from test_lying_devices import lying

from client.store import Change, State
from server import evidence
from server.auditor import look
from server.looks import Looks
from server.registry import DUE
from shared.audit_messages import VERIFY
from shared.unlearning import METHODS


def certified(fleet, job):
    """What the certificate says; the run before issued one."""
    (path,) = (fleet.workspace.certificates / now(fleet, job).detail["certificate"]["file"],)
    return evidence.read_payload(evidence.read(path.read_bytes()).payload).predicate


@pytest.fixture
def unmade(new_fleet):
    """A fleet of which no device has made a model, and a wearer of several records who withdraws one."""
    patient = new_fleet.with_several_records()
    (job,) = new_fleet.registry.withdraw(patient.id, records=new_fleet.records(patient)[:1])
    return new_fleet, job


def test_a_copy_made_since_of_what_is_kept_is_certified_as_exact(unmade):
    fleet, job = unmade
    fleet.answer_s = 3.0
    fleet.grid.lost.add(VERIFY)
    fleet.run()  # the device erases, and only then makes its first copy
    assert (now(fleet, job).state, now(fleet, job).method) == ("UNLEARNED", "")
    store = fleet.store(fleet.wearer(job.slot))
    assert store.state.model not in ("", store.state.general)
    fleet.grid.lost.clear()
    fleet.answer_s = 1800.0
    run = fleet.run()
    assert now(fleet, job).state == "CERTIFIED", run.withdrawals[job.id].verdict["words"]
    told = certified(fleet, job)
    assert (told.method.name, told.lineage.after) == ("exact", store.state.model)
    assert "the bytes of a fresh copy" in {check.name for check in told.audit.bytes.checks}


def test_a_copy_made_since_that_is_not_what_a_fresh_one_is_fails(unmade):
    fleet, job = unmade
    fleet.answer_s = 3.0
    fleet.grid.lost.add(VERIFY)
    fleet.run()
    fleet.grid.lost.clear()
    fleet.answer_s = 1800.0
    fleet.grid.apps[FIRST_NODE + job.slot] = lying(VERIFY, "fresh", to="f" * 64)
    verdict = fleet.run().withdrawals[job.id].verdict
    assert verdict["verdict"] == "FAIL"
    assert "the bytes of a fresh copy" in verdict["words"]
    assert now(fleet, job).state == "FAILED"


def test_without_a_key_a_job_waits_though_the_device_is_personalised_meanwhile(fleet):
    wearer, corpus = fleet.with_several_records(), fleet.registry.patients("corpus")[0]
    fleet.registry.withdraw(
        corpus.id
    )  # the general model has to be made again: first the device serves none of its own
    (job,) = fleet.registry.withdraw(wearer.id, records=fleet.records(wearer)[:1])
    key = fleet.workspace.keys / "signing.pem"
    aside = key.rename(key.with_name("aside"))
    fleet.run()
    assert now(fleet, job).state == "AUDITED"
    aside.rename(key)
    fleet.run()
    assert fleet.registry.jobs(DUE) == []
    assert now(fleet, job).detail["verdict"]["method"] == certified(fleet, job).method.name
    assert certified(fleet, job).lineage.after == fleet.store(wearer).state.model


def test_a_device_that_has_no_model_any_more_is_certified_once_there_is_a_key(fleet, monkeypatch):
    wearer = fleet.with_several_records()
    (job,) = fleet.registry.withdraw(wearer.id)
    key = fleet.workspace.keys / "signing.pem"
    aside = key.rename(key.with_name("aside"))

    def fails(*_):
        raise RuntimeError("no memory")

    with monkeypatch.context() as patch:
        patch.setitem(METHODS, "exact", fails)
        patch.setattr("client.forgetting._without_training", lambda *_: Change(State()))
        fleet.run()
    assert now(fleet, job).state == "AUDITED"
    assert fleet.store(wearer).state.model == ""
    aside.rename(key)
    fleet.run()
    assert now(fleet, job).state == "CERTIFIED"
    row = next(row for row in fleet.registry.devices() if row.slot == job.slot)
    assert (row.personal, row.accepted) == (None, False)


def test_a_second_look_has_four_times_the_copies_of_the_first_whatever_is_set_now(fleet):
    wearer = fleet.with_several_records()
    (job,) = fleet.registry.withdraw(wearer.id, records=fleet.records(wearer)[:1])
    chance = look(answer(1, copies=8, means=(0.4, 1.9, 9.0), exact=True), "exact", exact=True, seed=7)
    assert chance["after"]["verdict"] == "FAIL"  # as one faultless job in twenty
    kept = Looks("exact", (chance,)).detail
    fleet.registry.advance(job.id, "DISPATCHED", detail={"method": "exact", **kept})
    assert fleet.settings.audit.copies == 2
    run = fleet.run()
    verdict = run.withdrawals[job.id].verdict
    assert (verdict["verdict"], verdict["copies"], len(verdict["seeds"])) == ("PASS", 32, 2)
    assert now(fleet, job).state == "CERTIFIED"
