"""The clock steps by a year in mid withdrawal: nothing crashes, and nothing is certified that ended before it began."""

import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo

import pytest
from typer.testing import CliRunner

from client import bundle
from client.app import app as client_app
from server.deadlines import due
from server.evidence import moment, read, read_payload
from server.history_check import check
from server.ledger import verify as verify_chain
from server.workspace_settings import keep
from shared.errors import BundleError
from simulations import main_job
from simulations.cli import app

YEAR = timedelta(days=365)
PARTS = ("server.", "client.", "shared.", "simulations.")


@pytest.fixture
def step(monkeypatch) -> Callable[[timedelta], None]:
    """Give a function that steps the clock of the whole program."""
    behind = [timedelta(0)]

    class Stepped(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return datetime.now(tz) + behind[0]

    for name, module in list(sys.modules.items()):
        if name.startswith(PARTS) and getattr(module, "datetime", None) is datetime:
            monkeypatch.setattr(module, "datetime", Stepped)

    def by(how_far: timedelta) -> None:
        behind[0] = how_far

    return by


def at_message(fleet, patient, kind: str, do: Callable[[], None]) -> None:
    """Do something when the patient's device has answered the first message of a type."""
    done = []

    def stepping(message, context):
        answer = client_app(message, context)
        if message.metadata.message_type == kind and not done:
            done.append(kind)
            do()
        return answer

    fleet.grid.apps[100 + patient.slot] = stepping


def ledger_is_whole(fleet) -> bool:
    entries, findings = check(fleet.workspace, fleet.registry, head=None)
    times = [entry.at for entry in entries]
    return findings == [] and verify_chain(entries) == [] and times == sorted(times)


def certificates(fleet) -> list[dict]:
    paths = sorted(fleet.workspace.certificates.glob("*.json"))
    return [read_payload(read(path.read_bytes()).payload).predicate for path in paths]


def told(fleet, *words: str) -> tuple[int, str]:
    keep(fleet.settings, home=fleet.workspace.home, folder=fleet.workspace.home)
    done = CliRunner().invoke(app, [*words, "--home", str(fleet.workspace.home)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


@pytest.mark.parametrize("after", ["query.audit", "train.unlearn", "query.verify"])
def test_a_clock_that_steps_back_in_a_run_certifies_nothing_that_ended_before_it_began(fleet, step, after):
    patient = fleet.with_several_records()
    (job,) = fleet.registry.withdraw(patient.id)
    at_message(fleet, patient, after, lambda: step(-YEAR))
    fleet.run()
    stands = fleet.registry.job(job.id)
    assert stands.state == "FAILED", stands
    assert "is not certified" in stands.detail["reason"]
    assert certificates(fleet) == []
    assert fleet.store(patient).record_ids() == ()  # erased all the same
    assert ledger_is_whole(fleet)
    assert told(fleet, "jobs", "check")[0] == 0
    step(timedelta(0))
    fleet.run()
    assert fleet.registry.job(job.id).state == "CERTIFIED"
    (one,) = certificates(fleet)  # what the device dated before the request was done by the time it was certified
    assert moment(one.request.requested_at) <= moment(one.erased.at) <= moment(one.issued_at)
    assert ledger_is_whole(fleet)


@pytest.mark.parametrize("after", ["query.audit", "train.unlearn", "query.verify"])
def test_a_clock_that_steps_forward_in_a_run_is_certified_as_late(fleet, step, after):
    patient = fleet.with_several_records()
    (job,) = fleet.registry.withdraw(patient.id, records=fleet.records(patient)[:1])
    at_message(fleet, patient, after, lambda: step(YEAR))
    fleet.run()
    assert fleet.registry.job(job.id).state == "CERTIFIED"
    (one,) = certificates(fleet)
    assert not one.request.kept
    assert moment(one.request.requested_at) < moment(one.issued_at) < moment(one.valid_until)
    step(timedelta(0))  # the clock is put right: what was written meanwhile is of a day to come
    assert ledger_is_whole(fleet)
    code, said = told(fleet, "certificate", "list", "--json")
    assert code == 0
    assert "one clock is wrong" in said
    fleet.run()
    assert ledger_is_whole(fleet)


def test_what_waits_is_overdue_when_the_clock_says_so_and_only_then(fleet, step):
    patient = fleet.wearer(0)
    fleet.registry.withdraw(patient.id)
    fleet.grid.silent.add(100)
    fleet.answer_s = 0.1
    fleet.run()
    step(YEAR)
    assert told(fleet, "jobs", "check")[0] == 3
    assert "1 job overdue" in told(fleet, "jobs", "list")[1]
    step(-YEAR)
    assert told(fleet, "jobs", "check")[0] == 0
    (one,) = due(fleet.registry.jobs(), days=30, now=datetime.now(UTC))
    assert not one.overdue


def test_a_bundle_that_a_wrong_clock_signed_is_signed_anew_in_the_next_run(fleet, step):
    patient = fleet.wearer(0)
    folder = fleet.folder(patient)
    step(YEAR)
    fleet.run()
    step(timedelta(0))
    today = datetime.now(UTC).date()
    with pytest.raises(BundleError, match="valid from"):
        bundle.read(folder, public=folder, today=today)
    fleet.run()
    assert bundle.read(folder, public=folder, today=today).issued == today.isoformat()


def test_a_run_in_which_the_clock_steps_back_took_no_negative_time(fleet, step):
    patient = fleet.with_several_records()
    at_message(fleet, patient, "query.probe", lambda: step(-YEAR))
    run = fleet.run()
    result = main_job.read_result(fleet.workspace.reports / run.name)
    assert result["seconds"] >= 0
    assert all(phase["seconds"] >= 0 for phase in result["phases"])
