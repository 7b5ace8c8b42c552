"""A corpus or control patient withdraws: the general model is made again, every copy with it, and that is certified."""

import json
from datetime import UTC, datetime

import pytest
from fleet import TINY, Fleet
from local_grid import LocalGrid

from client.app import app as client_app
from server import corpus_jobs
from server.corpus_jobs import dispatch
from server.evidence import read, read_payload
from server.forgotten import unname
from server.history_check import check
from server.holdings import public_files
from server.rows import HOSPITAL, Patient
from server.verification import verify
from shared.errors import ConsentError, RunError
from simulations.summary import closing


def jobs_of(fleet: Fleet, who: Patient):
    return [job for job in fleet.registry.jobs() if job.patient == who.id]


def statement_of(fleet: Fleet, certificate: str):
    data = (fleet.workspace.certificates / certificate).read_bytes()
    return data, read_payload(read(data).payload)


def result_of(fleet: Fleet, run) -> dict:
    return json.loads((fleet.workspace.reports / run.name / "result.json").read_text())


def several(fleet: Fleet, role: str) -> Patient:
    """A patient with two records at least, whose first record can go."""
    return next(patient for patient in fleet.registry.patients(role) if patient.records > 1)


def accepted(fleet: Fleet, certificate: str) -> bool:
    public = (fleet.workspace.keys / "signing.pub.pem").read_bytes()
    data, _ = statement_of(fleet, certificate)
    entries, _ = fleet.registry.verify_ledger()
    report = verify(data, [public], now=datetime.now(UTC), ledger=entries)
    assert report.accepted, report.sentence
    return True


@pytest.mark.parametrize("role", ["corpus", "control"])
def test_it_ends_with_a_certificate_that_holds(fleet, role):
    who, old = fleet.registry.patients(role)[0], fleet.registry.models()[0].digest
    (job,) = fleet.registry.withdraw(who.id)
    assert (job.slot, job.scope, job.state) == (HOSPITAL, "patient", "REQUESTED")
    files = [file for one in public_files(fleet.workspace) for file in one.files]
    assert len(files) > len(list(public_files(fleet.workspace)))  # a package is several
    run = fleet.run()
    (job,) = jobs_of(fleet, who)
    (row,) = result_of(fleet, run)["public_withdrawals"]
    assert (job.state, row["state"], row["reason"]) == ("CERTIFIED", "CERTIFIED", "")
    assert accepted(fleet, row["certificate"])
    _, statement = statement_of(fleet, row["certificate"])
    told = statement.predicate
    (folder,) = fleet.workspace.models.iterdir()
    assert (told.erased.where, told.method.name, told.method.exact) == ("hospital", "exact", True)
    assert (told.lineage.before, told.lineage.after) == (old, folder.name)
    assert told.erased.files == len(files)
    assert not any(
        one.holds([row.id for row in fleet.registry.records(who.id)]) for one in public_files(fleet.workspace)
    )
    assert fleet.registry.subject(who.id) == ""  # all of the patient is forgotten, the name in the ledger with it
    assert check(fleet.workspace, fleet.registry, head=None)[1] == []


def test_one_record_goes_and_the_patient_s_others_stay_in_the_model(fleet):
    who = several(fleet, "corpus")
    gone, *kept = fleet.records(who)
    fleet.registry.withdraw(who.id, records=[gone])
    fleet.run()
    (job,) = jobs_of(fleet, who)
    assert (job.scope, job.state) == ("records", "CERTIFIED")
    for one in public_files(fleet.workspace):
        assert not one.holds([gone])
        assert one.holds(kept)
    assert fleet.registry.subject(who.id) != ""


def test_copies_are_stale_from_the_withdrawal_until_they_are_made_anew(fleet):
    assert fleet.registry.stale() == set()
    fleet.registry.withdraw(fleet.registry.patients("corpus")[0].id)
    assert fleet.registry.stale() == {0, 1, 2, 3}
    fleet.run()
    assert fleet.registry.stale() == set()


def test_a_device_that_is_away_holds_up_the_certificate_and_nothing_else(fleet):
    who, away = fleet.registry.patients("corpus")[0], fleet.wearer(3)
    fleet.registry.withdraw(who.id)
    whole = fleet.grid
    fleet.grid = LocalGrid(client_app, nodes=3, run_config={"home": str(fleet.workspace.home)})
    (row,) = result_of(fleet, fleet.run(nodes=3))["public_withdrawals"]
    assert (row["state"], row["certificate"]) == ("UNLEARNED", "")
    assert row["reason"] == "device 3 still has a model that descends from an older general one"
    assert fleet.registry.stale() == {away.slot}
    fleet.grid = whole
    (row,) = result_of(fleet, fleet.run())["public_withdrawals"]
    assert accepted(fleet, row["certificate"])


def test_who_withdraws_after_training_waits_for_the_next_run(fleet, monkeypatch):
    push, gone = fleet.grid.push_messages, []

    def watched(messages):
        for message in (messages := list(messages)):
            if message.metadata.message_type == "query.probe" and not gone:
                gone.append(fleet.registry.patients("corpus")[0])
                fleet.registry.withdraw(gone[0].id)
        return push(messages)

    monkeypatch.setattr(fleet.grid, "push_messages", watched)
    (row,) = result_of(fleet, fleet.run())["public_withdrawals"]
    assert (row["state"], row["certificate"]) == ("REQUESTED", "")
    assert "the next run trains it without" in row["reason"]
    (row,) = result_of(fleet, fleet.run())["public_withdrawals"]
    assert row["state"] == "CERTIFIED"


def test_without_a_key_all_is_forgotten_and_certified_once_there_is_one(fleet):
    fleet.registry.withdraw(fleet.registry.patients("corpus")[0].id)
    away = fleet.workspace.keys.rename(fleet.workspace.home / "away")
    (row,) = result_of(fleet, fleet.run())["public_withdrawals"]
    assert (row["state"], row["certificate"]) == ("AUDITED", "")
    assert "key" in row["reason"]
    away.rename(fleet.workspace.keys)
    (row,) = result_of(fleet, fleet.run())["public_withdrawals"]
    assert accepted(fleet, row["certificate"])


def test_a_damaged_file_that_may_hold_the_record_is_a_reason_not_to_certify(fleet):
    """What does not say of whom it is made counts as made of all."""
    fleet.registry.withdraw(fleet.registry.patients("corpus")[0].id)
    (fleet.workspace.home / "slices").mkdir(exist_ok=True)
    stray = fleet.workspace.slices / "0-1.pt"

    def strew(*_):
        fleet.workspace.slices.mkdir(exist_ok=True)
        stray.write_bytes(b"weights")

    run_personalise = fleet.grid.push_messages

    def watched(messages):
        messages = list(messages)
        if any(message.metadata.message_type == "train.personalise" for message in messages):
            strew()
        return run_personalise(messages)

    fleet.grid.push_messages = watched
    (row,) = result_of(fleet, fleet.run())["public_withdrawals"]
    assert row["state"] == "FAILED"
    assert row["certificate"] == ""
    assert "withdrawn records" in row["reason"]
    fleet.grid.push_messages = run_personalise
    stray.unlink()
    (row,) = result_of(fleet, fleet.run())["public_withdrawals"]
    assert row["state"] == "CERTIFIED"


def test_slices_are_named_as_the_method(fleet):
    sliced = TINY.with_values({"general.unlearning": "sisa", "general.slices": 2})
    fleet.run(sliced)
    fleet.registry.withdraw(fleet.registry.patients("corpus")[0].id)
    (row,) = result_of(fleet, fleet.run(sliced))["public_withdrawals"]
    assert row["method"] == "sisa"
    assert accepted(fleet, row["certificate"])
    assert statement_of(fleet, row["certificate"])[1].predicate.method.name == "sisa"


@pytest.mark.parametrize(("first", "then"), [("sisa", "exact"), ("exact", "sisa")])
def test_the_method_named_is_that_of_the_run_that_trained_though_an_earlier_one_had_begun(
    fleet, monkeypatch, first, then
):
    runs = {name: TINY.with_values({"general.unlearning": name}) for name in (first, then)}
    fleet.run(runs[first])
    fleet.registry.withdraw(fleet.registry.patients("corpus")[0].id)

    def killed(run):
        dispatch(run)
        raise RunError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(corpus_jobs, "dispatch", killed)
        with pytest.raises(RunError, match="killed"):
            fleet.run(runs[first])
    assert [job.method for job in fleet.registry.jobs()] == [first]
    (row,) = result_of(fleet, fleet.run(runs[then]))["public_withdrawals"]
    assert (row["method"], row["state"]) == (then, "CERTIFIED")
    assert fleet.workspace.slices.exists() == (then == "sisa")


def test_consent_is_given_again_once_it_is_certified_and_the_old_model_comes_back(fleet):
    who, old = fleet.registry.patients("corpus")[0], fleet.registry.models()[0].digest
    fleet.registry.withdraw(who.id)
    with pytest.raises(ConsentError):
        fleet.registry.consent_again(who.id)
    fleet.run()
    assert fleet.registry.consent_again(who.id)
    fleet.run()
    (folder,) = fleet.workspace.models.iterdir()
    assert folder.name == old
    assert fleet.registry.stale() == set()


def test_the_summary_says_where_the_certificate_is(fleet):
    fleet.registry.withdraw(fleet.registry.patients("corpus")[0].id)
    run = fleet.run()
    result = result_of(fleet, run) | {"report": str(fleet.workspace.reports / run.name / "report.html")}
    (row,) = result["public_withdrawals"]
    assert f"certified, {fleet.workspace.certificates / row['certificate']}" in closing(result)


def test_what_runs_told_of_it_names_nobody_once_all_is_forgotten(fleet):
    who = fleet.registry.patients("corpus")[0]
    fleet.registry.withdraw(who.id)
    run = fleet.run()
    assert result_of(fleet, run)["public_withdrawals"][0]["pseudonym"] == who.pseudonym
    unname(fleet.workspace.reports, fleet.registry)
    (row,) = result_of(fleet, run)["public_withdrawals"]
    assert (row["pseudonym"], row["job"]) == ("a forgotten patient", "")
    assert who.pseudonym not in (fleet.workspace.reports / run.name / "result.json").read_text()


@pytest.mark.parametrize("last", [0, 7])
def test_the_model_before_is_the_one_that_was_in_use_where_several_are_kept(fleet, last):
    for seed in (7 - last, last):
        fleet.run(fleet.settings.with_values({"general.seed": seed}))
    assert len(list(fleet.workspace.models.iterdir())) == 2
    (in_use,) = {row.general for row in fleet.registry.devices()}
    fleet.registry.withdraw(fleet.registry.patients("corpus")[0].id)
    (row,) = result_of(fleet, fleet.run())["public_withdrawals"]
    assert statement_of(fleet, row["certificate"])[1].predicate.lineage.before == in_use
