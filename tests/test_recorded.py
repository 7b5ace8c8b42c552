"""A withdrawal of a range of days: what was recorded on them, nothing else, and nothing where nobody can tell."""

import json
from datetime import date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from server.recorded import between, days_of
from server.workspace import MANIFEST
from shared.errors import UsageError
from shared.ptbxl import index
from simulations.cli import app

DAYS = st.dates(date(1984, 1, 1), date(1984, 3, 1))


@pytest.fixture
def patient(fleet):
    """Who has several records, with their days in order."""
    who = fleet.with_several_records()
    held = {row.id for row in fleet.registry.records(who.id)}
    records = [record for record in index(fleet.workspace.data).records if record.id in held]
    days = {record.id: datetime.fromisoformat(record.recorded_at).date() for record in records}
    return who.id, dict(sorted(days.items(), key=lambda one: one[1]))


def asked(fleet, patient, *options):
    command = ["patients", "withdraw", patient, *options, "--yes", "--json", "--home", str(fleet.workspace.home)]
    return CliRunner().invoke(app, command)


def test_what_was_recorded_on_these_days_is_withdrawn_and_the_rest_stays(fleet, patient):
    who, days = patient
    first, *later = days
    told = json.loads(asked(fleet, who, "--until", str(days[first])).stdout)
    assert told["event"]["records"] == [first]
    assert {row.id for row in fleet.registry.records(who)} == set(later)
    assert [job.records for job in fleet.registry.jobs()] == [(first,)]


def test_days_that_hold_everything_withdraw_the_patient(fleet, patient):
    who, days = patient
    asked(fleet, who, "--from", str(min(days.values())), "--until", str(max(days.values())))
    assert fleet.registry.patient(who).status == "withdrawn"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--from", "1.2.1990"], "--from is '1.2.1990', expected a day such as 1990-12-31"),
        (["--from", "19840101"], "--from is '19840101', expected a day"),
        (["--until", "1984-W02-1"], "--until is '1984-W02-1', expected a day"),
        (["--until", ""], "--until is '', expected a day"),
        (["--from", "2001-01-02", "--until", "2001-01-01"], "is after --until"),
        (["--from", "2199-01-01"], "no record is of these days; the patient's are"),
        (["--record", ""], "no record ''; the records are"),
        (["--from", "1990-01-01", "--record", "1"], "expected one or the other"),
    ],
)
def test_days_that_are_none_or_match_nothing_are_refused_and_change_nothing(fleet, patient, options, says):
    result = asked(fleet, patient[0], *options)
    assert isinstance(result.exception, UsageError)
    assert says in str(result.exception)
    assert fleet.registry.patient(patient[0]).status == "active"


def test_days_of_records_from_another_folder_are_known_and_the_folder_need_not_be_there(fleet, patient, tmp_path):
    who, days = patient
    manifest = fleet.workspace.home / MANIFEST
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"data": str(tmp_path / "unplugged")}))
    told = json.loads(asked(fleet, who, "--until", str(min(days.values()))).stdout)
    assert told["event"]["records"] == [next(iter(days))]


def test_a_record_without_a_day_may_be_meant_and_is_asked_about(fleet, patient):
    who, days = patient
    undated = next(iter(days))
    slot = fleet.registry.patient(who).slot
    feed = json.loads(fleet.workspace.feed(slot).read_text())
    for entry in feed["records"]:
        entry["recorded_at"] = "" if entry["id"] == undated else entry["recorded_at"]
    fleet.workspace.feed(slot).write_text(json.dumps(feed))
    asked(fleet, who, "--until", str(days[undated]))  # the data folder's table knows
    assert {row.id for row in fleet.registry.records(who)} == set(days) - {undated}


def test_a_record_of_which_nobody_knows_the_day_is_asked_about(fleet, patient):
    who, days = patient
    with pytest.raises(UsageError, match="nobody can tell when 99 was recorded"):
        days_of(fleet.workspace, fleet.registry.patient(who), [*days, "99"])


@given(st.lists(DAYS, min_size=1, max_size=6), st.none() | DAYS, st.none() | DAYS)
def test_both_ends_are_included_and_no_end_is_no_limit(recorded, since, until):
    days = {str(number): on for number, on in enumerate(recorded)}
    inside = [name for name, on in days.items() if (not since or on >= since) and (not until or on <= until)]
    if inside and not (since and until and since > until):
        assert between(days, since=since, until=until) == inside
    else:
        with pytest.raises(UsageError):
            between(days, since=since, until=until)
