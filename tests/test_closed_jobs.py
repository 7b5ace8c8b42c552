"""A job that failed for good: the operator closes it, nothing is certified, and the patient can give consent again."""

import json

import pytest
from local_grid import FIRST_NODE
from test_lying_devices import TOLD, lying
from typer.testing import CliRunner

from server.history_check import check
from server.registry import DUE
from server.workspace_settings import keep
from shared.audit_messages import AUDIT
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
    assert fleet.registry.job_events(job.id)[-1].detail == {"closed": WHY}
    assert WHY in " ".join(lethe(fleet, "jobs", "show", job.id).stdout.split())
    assert lethe(fleet, "jobs", "check").exit_code == 0
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


def test_with_the_last_job_of_a_patient_who_withdrew_all_the_name_goes(fleet):
    patient = fleet.wearers()[0]
    job = failed_for_good(fleet, patient)
    assert fleet.registry.events(patient.id) != []
    fleet.registry.close_job(job.id, WHY)
    assert fleet.registry.events(patient.id) == []
    assert fleet.registry.job(job.id).detail.keys() <= {"method"}
    assert check(fleet.workspace, fleet.registry, head=None)[1] == []
    fleet.run()
    assert fleet.store(patient).record_ids() == ()


@pytest.mark.parametrize("steps", range(len(WAY) + 1))
def test_what_a_run_can_still_carry_out_or_has_certified_is_not_closed(fleet, steps):
    (job,) = fleet.registry.withdraw(fleet.wearers()[0].id)
    for state in WAY[:steps]:
        fleet.registry.advance(job.id, state)
    before = fleet.registry.job(job.id)
    with pytest.raises(UsageError, match=f"job {job.id} is {before.state}; only what FAILED after the erasure"):
        fleet.registry.close_job(job.id, WHY)
    assert fleet.registry.job(job.id) == before


def test_what_failed_before_the_erasure_is_not_closed(fleet):
    (job,) = fleet.registry.withdraw(fleet.wearers()[0].id)
    fleet.registry.advance(job.id, "FAILED", detail={"reason": "the device had no room"})
    done = lethe(fleet, "jobs", "close", job.id, "--reason", WHY)
    assert isinstance(done.exception, UsageError)
    assert "nobody has said yet that the data are erased" in str(done.exception)
    assert fleet.registry.job(job.id).state == "FAILED"


@pytest.mark.parametrize("reason", ["", "  ", "x" * 501])
def test_closing_takes_a_reason_that_somebody_can_read(fleet, reason):
    done = lethe(fleet, "jobs", "close", "j-0", "--reason", reason)
    assert isinstance(done.exception, UsageError)
    assert "expected 1 to 500" in str(done.exception)


def test_nothing_is_closed_under_a_run(fleet):
    (job,) = fleet.registry.withdraw(fleet.wearers()[0].id)
    fleet.registry.advance(job.id, "FAILED", detail={"reason": "test", "acknowledged_at": "2026-01-01T00:00:00+00:00"})
    with fleet.workspace.lock("run r-1"):
        done = lethe(fleet, "jobs", "close", job.id, "--reason", WHY)
    assert isinstance(done.exception, WorkspaceError)
    assert "is in use by run r-1" in str(done.exception)
    assert fleet.registry.job(job.id).state == "FAILED"
    assert json.loads(lethe(fleet, "jobs", "close", job.id, "--reason", WHY, "--json").stdout)["changed"] is True
    assert json.loads(lethe(fleet, "jobs", "close", job.id, "--reason", WHY, "--json").stdout)["changed"] is False
