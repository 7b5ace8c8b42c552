"""Once everything of a patient is certified as forgotten, nothing that is kept says which certificate was for whom."""

import json
import random
import sqlite3
from contextlib import closing

import pytest
from fleet import Fleet, copied, holding
from typer.testing import CliRunner

from server import evidence, personalising
from server.forgotten import without_names
from server.history_check import check
from server.report import build
from shared.errors import UsageError
from simulations import main_job
from simulations.cli import app


@pytest.fixture(scope="module")
def after(tmp_path_factory, first_run_home):
    """Two patients of whom all has gone, one in two steps, and one who keeps some; pages were built meanwhile."""
    fleet = Fleet(copied(first_run_home, tmp_path_factory.mktemp("forgotten") / "home"))
    first = fleet.with_several_records()
    second, third = [patient for patient in fleet.wearers() if patient != first][:2]
    named = {patient.id: fleet.records(patient) for patient in (first, second)}
    fleet.registry.withdraw(first.id, records=named[first.id][:1])
    fleet.run()
    for folder in fleet.workspace.reports.iterdir():
        build(folder)
    fleet.registry.withdraw(first.id)
    fleet.registry.withdraw(second.id)
    fleet.registry.withdraw(third.id, records=fleet.records(third)[:1])
    fleet.run()
    main_job.tidy(fleet.workspace)
    yield fleet, [first, second], third, named
    fleet.close()


def results(fleet):
    return [json.loads(path.read_text()) for path in sorted(fleet.workspace.reports.glob("*/result.json"))]


def rows(fleet, part):
    return [row for result in results(fleet) for row in result[part]]


def test_no_file_of_the_hospital_s_names_them_any_more(after):
    fleet, forgotten, third, _ = after
    jobs = [job.id for job in fleet.registry.jobs() if job.patient in {one.id for one in forgotten}]
    assert len(jobs) == 3
    names = [*jobs, *(patient.pseudonym for patient in forgotten)]
    needles = [name.encode() for name in names]
    for folder in ("reports", "certificates", "flower", "models"):
        assert holding(fleet.workspace.home / folder, needles) == []
        assert not [
            path for path in (fleet.workspace.home / folder).rglob("*") if any(name in path.name for name in names)
        ]
    assert holding(fleet.workspace.reports, [third.pseudonym.encode()]) != []


def test_their_rows_have_no_device_no_record_and_no_digest_that_an_earlier_run_told(after):
    fleet, forgotten, _, named = after
    slots = {patient.slot for patient in forgotten}
    certificates = [evidence.read(path.read_bytes()) for path in fleet.workspace.certificates.glob("*.json")]
    before = {evidence.read_payload(one.payload).predicate.lineage.before for one in certificates}
    assert len(certificates) == 4
    assert not [
        row for part in ("personal", "withdrawals", "silent") for row in rows(fleet, part) if row["slot"] in slots
    ]
    unnamed = [row for row in rows(fleet, "personal") if row["slot"] is None]
    assert len(unnamed) >= 4
    assert {row["personal"] for row in unnamed} | {row["bundle"] for row in unnamed} == {""}
    gone = [row for row in rows(fleet, "withdrawals") if row["slot"] is None]
    assert [row["named"] for row in gone] == [[]] * 3
    assert sum(row["records"] for row in gone) >= sum(map(len, named.values()))
    assert {row["before"] for row in gone} <= before  # the certificate's holder recognises it; it leads to nobody
    files = [name for row in gone for name in row["erased"]["files"] if name.startswith("recordings")]
    assert set(files) == {"recordings/…"}


def test_nothing_beside_their_names_leads_to_a_certificate_by_a_number_or_by_where_it_stands(after):
    fleet, forgotten, third, _ = after
    gone = {patient.slot for patient in forgotten}
    told = [row for row in fleet.registry.devices() if row.slot in gone]
    assert [(row.own, row.others, row.seconds) for row in told] == [(None, None, 0.0)] * 2
    jobs = [job for job in fleet.registry.jobs() if job.slot in gone]
    assert (len(jobs) >= 2, {job.method for job in jobs}, [job.detail for job in jobs if job.detail]) == (
        True,
        {None},
        [],
    )
    assert any(row.seconds for row in fleet.registry.devices() if row.slot == third.slot)
    for result in results(fleet):
        for part in ("personal", "withdrawals", "silent", "refused"):
            unnamed = [row["slot"] is None for row in result[part]]
            assert unnamed == sorted(unnamed)


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("UPDATE jobs SET state = 'REQUESTED' WHERE patient = ?", "is destroyed, and not all of it is forgotten"),
        ("DELETE FROM jobs WHERE patient = ?", "counts as forgotten, and there is no job about that"),
    ],
)
def test_a_forgotten_patient_s_job_that_is_taken_back_or_away_is_found(after, tmp_path, statement, says):
    fleet, (first, _), *_ = after
    again = Fleet(copied(fleet.workspace.home, tmp_path / "home"))
    assert check(again.workspace, again.registry, head=None)[1] == []
    with closing(sqlite3.connect(again.workspace.registry_path)) as raw, raw:
        raw.execute(statement, (first.id,))
    (found,) = check(again.workspace, again.registry, head=None)[1]
    assert found.problem == "contradicted"
    assert says in found.words
    again.close()


def test_models_are_entered_in_an_order_that_is_drawn_and_not_the_devices(new_fleet, monkeypatch):
    monkeypatch.setattr(personalising.random, "SystemRandom", lambda: random.Random(1))
    new_fleet.run()
    slots = {new_fleet.registry.subject(patient.id): patient.slot for patient in new_fleet.wearers()}
    entered = [slots[entry.subject] for entry in new_fleet.registry.ledger() if entry.kind == "model" and entry.subject]
    assert entered == random.Random(1).sample(range(4), 4) != sorted(entered)


def test_the_pages_are_built_again_and_say_that_nobody_knows_whose_it_was(after):
    fleet, _, third, _ = after
    pages = [path.read_text() for path in sorted(fleet.workspace.reports.glob("*/report.html"))]
    assert len(pages) == 3
    assert "forgotten 1" in pages[-1]
    assert "The hospital has kept no name that leads from here to the patient." in pages[-1]
    assert third.pseudonym in pages[-1]


def test_no_job_leads_to_their_certificates_and_another_s_does(after):
    fleet, _, third, _ = after
    home = ["--home", str(fleet.workspace.home)]
    for job in fleet.registry.jobs():
        done = CliRunner().invoke(app, ["certificate", "show", job.id, *home])
        if job.patient == third.id:
            assert done.exit_code == 0
        else:
            assert isinstance(done.exception, UsageError)
            assert "found by no job any more" in str(done.exception)


def test_results_that_name_nobody_who_is_forgotten_stay_as_they_are(after):
    fleet, *_ = after
    for result in results(fleet):
        same = json.loads(json.dumps(result))
        assert not without_names(same, fleet.registry.forgotten())
        assert same == result
