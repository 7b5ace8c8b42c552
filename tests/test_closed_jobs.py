"""A job that failed for good: the operator closes it, nothing is certified, and the patient can give consent again."""

import json

import pytest
from local_grid import FIRST_NODE
from test_lying_devices import TOLD, lying
from typer.testing import CliRunner

from client.app import app as client_app
from server.history_check import check
from server.registry import DUE
from server.rows import LOOKED
from server.workspace_settings import keep
from shared.audit_messages import AUDIT, VERIFY
from shared.errors import ConsentError, UsageError, WorkspaceError
from simulations.cli import app

WHY = "its answer about copies could not be judged; the device was replaced"
WAY = ("DISPATCHED", "UNLEARNED", "AUDITED", "CERTIFIED")


def lethe(fleet, *words: str):
    return CliRunner(env={"LETHE_HOME": str(fleet.workspace.home)}).invoke(app, list(words))


def failed_for_good(fleet, patient, records=None):
    """A withdrawal of which the device's answer could not be used, and that no later run can certify."""
    (job,) = fleet.registry.withdraw(patient.id, records=records)
    path, bad, _ = TOLD[AUDIT]
    fleet.grid.apps[FIRST_NODE + job.slot] = lying(AUDIT, *path, to=bad)
    fleet.run()
    fleet.grid.apps.clear()
    fleet.run()
    assert fleet.registry.job(job.id).state == "FAILED"
    return job


def test_a_closed_job_is_over_and_its_record_can_be_given_and_withdrawn_again(fleet):
    patient = fleet.with_several_records()
    record = fleet.records(patient)[0]
    job = failed_for_good(fleet, patient, [record])
    with pytest.raises(ConsentError, match=f"`lethe jobs close {job.id}` ends it uncertified"):
        fleet.registry.consent_again(patient.id, records=[record])
    keep(fleet.settings, home=fleet.workspace.home, folder=fleet.workspace.home)
    done = lethe(fleet, "jobs", "close", job.id, "--reason", WHY)
    assert (done.exit_code, done.stdout) == (
        0,
        f"Job {job.id} is closed: no run takes it up again, and there is no certificate about it.\n",
    )
    assert fleet.registry.jobs(DUE) == []
    assert fleet.registry.job_events(job.id)[-1].detail == {}  # it may name anybody, and an entry stays for ever
    assert WHY in " ".join(lethe(fleet, "jobs", "show", job.id).stdout.split())
    checked = lethe(fleet, "jobs", "check")
    assert (checked.exit_code, checked.stdout) == (
        0,
        "Nothing is due: every withdrawal is certified but 1, closed without a certificate.\n",
    )
    fleet.run()
    assert fleet.registry.job(job.id).state == "CLOSED"
    assert list(fleet.workspace.certificates.glob("*")) == []

    assert fleet.registry.consent_again(patient.id, records=[record]) == [record]
    fleet.run()
    assert record in fleet.store(patient).record_ids()
    again = fleet.registry.withdraw(patient.id, records=[record])[-1]
    fleet.run()
    assert record not in fleet.store(patient).record_ids()
    assert fleet.registry.job(again.id).state == "CERTIFIED"
    assert check(fleet.workspace, fleet.registry, head=None)[1] == []


def test_closing_forgets_nobody_and_what_is_certified_later_leaves_no_word_of_it(fleet):
    patient = fleet.wearers()[0]
    job = failed_for_good(fleet, patient)
    fleet.registry.close_job(job.id, WHY)
    assert fleet.registry.events(patient.id) != []
    assert check(fleet.workspace, fleet.registry, head=None)[1] == []
    fleet.run()
    assert fleet.store(patient).record_ids() == ()

    fleet.registry.consent_again(patient.id)
    fleet.run()
    assert fleet.store(patient).record_ids() != ()
    again = fleet.registry.withdraw(patient.id)[-1]
    fleet.run()
    (left,) = fleet.registry.jobs()
    assert (left.id, left.state, left.method, left.detail) == (again.id, "CERTIFIED", None, {})
    assert fleet.registry.events(patient.id) == []
    assert check(fleet.workspace, fleet.registry, head=None)[1] == []


@pytest.mark.parametrize("audited", [True, False])
def test_a_job_is_not_closed_while_the_records_are_seen_on_the_device(fleet, audited):
    """Whatever was acknowledged: what the server saw on the disk counts, also where an answer about copies did not."""
    patient = fleet.wearers()[0]
    lies = {VERIFY: lying(VERIFY, "records", to=[fleet.records(patient)[0]])}
    (job,) = fleet.registry.withdraw(patient.id)
    if not audited:
        path, bad, _ = TOLD[AUDIT]
        lies[AUDIT] = lying(AUDIT, *path, to=bad)

    def app(message, context):
        return lies.get(message.metadata.message_type, client_app)(message, context)

    fleet.grid.apps[FIRST_NODE + job.slot] = app
    fleet.run()
    assert "acknowledged_at" in fleet.registry.job(job.id).detail
    with pytest.raises(UsageError, match="is FAILED and cannot be closed: the next `lethe run` looks"):
        fleet.registry.close_job(job.id, WHY)
    fleet.grid.apps.clear()
    fleet.run()
    if audited:
        assert fleet.registry.job(job.id).state == "CERTIFIED"
    else:
        assert fleet.registry.close_job(job.id, WHY).state == "CLOSED"


def test_what_the_next_run_certifies_is_not_closed(fleet):
    (job,) = fleet.registry.withdraw(fleet.wearers()[0].id)
    fleet.grid.apps[FIRST_NODE + job.slot] = lying(VERIFY, "served", to="f" * 64)
    fleet.run()
    with pytest.raises(UsageError, match="may certify it"):
        fleet.registry.close_job(job.id, WHY)
    fleet.grid.apps.clear()
    fleet.run()
    assert fleet.registry.job(job.id).state == "CERTIFIED"


def test_a_job_that_failed_for_good_can_be_closed_when_its_device_is_away_for_good(fleet):
    job = failed_for_good(fleet, fleet.with_several_records(), [fleet.records(fleet.with_several_records())[0]])
    fleet.answer_s = 0.3
    fleet.grid.silent.add(FIRST_NODE + job.slot)
    fleet.run()
    assert fleet.registry.job(job.id).state == "FAILED"
    assert fleet.registry.close_job(job.id, WHY).state == "CLOSED"


def test_a_later_job_does_not_wait_for_one_that_failed_for_good(fleet):
    patient = fleet.with_several_records()
    first, second = fleet.records(patient)[:2]
    failed_for_good(fleet, patient, [first])
    again = fleet.registry.withdraw(patient.id, records=[second])[-1]
    fleet.run()
    assert fleet.registry.job(again.id).state == "CERTIFIED"


@pytest.mark.parametrize("steps", range(len(WAY) + 1))
def test_what_a_run_can_still_carry_out_or_has_certified_is_not_closed(fleet, steps):
    (job,) = fleet.registry.withdraw(fleet.wearers()[0].id)
    for state in WAY[:steps]:
        fleet.registry.advance(job.id, state)
    before = fleet.registry.job(job.id)
    with pytest.raises(UsageError, match=f"job {job.id} is {before.state} and cannot be closed"):
        fleet.registry.close_job(job.id, WHY)
    assert fleet.registry.job(job.id) == before


def test_what_failed_before_the_erasure_is_not_closed(fleet):
    (job,) = fleet.registry.withdraw(fleet.wearers()[0].id)
    fleet.registry.advance(job.id, "FAILED", detail={"reason": "the device had no room"})
    done = lethe(fleet, "jobs", "close", job.id, "--reason", WHY)
    assert isinstance(done.exception, UsageError)
    assert "nobody has seen yet that the data are erased" in str(done.exception)
    assert fleet.registry.job(job.id).state == "FAILED"


@pytest.mark.parametrize("reason", ["", "  ", "x" * 501])
def test_closing_takes_a_reason_that_somebody_can_read(fleet, reason):
    done = lethe(fleet, "jobs", "close", "j-0", "--reason", reason)
    assert isinstance(done.exception, UsageError)
    assert "expected 1 to 500" in str(done.exception)


def test_nothing_is_closed_under_a_run(fleet):
    (job,) = fleet.registry.withdraw(fleet.wearers()[0].id)
    fleet.registry.advance(job.id, "FAILED", detail={"reason": "test", LOOKED: {"holds": True, "checks": []}})
    with fleet.workspace.lock("run r-1"):
        done = lethe(fleet, "jobs", "close", job.id, "--reason", WHY)
    assert isinstance(done.exception, WorkspaceError)
    assert "is in use by run r-1" in str(done.exception)
    assert fleet.registry.job(job.id).state == "FAILED"
    assert json.loads(lethe(fleet, "jobs", "close", job.id, "--reason", WHY, "--json").stdout)["changed"] is True
    assert json.loads(lethe(fleet, "jobs", "close", job.id, "--reason", WHY, "--json").stdout)["changed"] is False
