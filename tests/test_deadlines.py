"""A withdrawal has a month: what is left of it is told, and what is late is no success."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import Result
from databases import by_hand
from enrolled import digests, enrol
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from server.deadlines import deadline_of, due
from server.registry import Registry
from server.rows import ENDED, STATES, Job
from server.workspace import Workspace
from server.workspace_settings import keep
from shared.errors import DamagedError, WorkspaceError
from shared.settings import Settings
from simulations.cli import app

NOW = datetime(2026, 3, 31, 12, tzinfo=UTC)


def job(asked: datetime, state: str = "REQUESTED") -> Job:
    return Job("j-1", "7", 0, "patient", ("70",), state, None, asked.isoformat(), asked.isoformat())


def test_the_deadline_is_so_many_days_after_the_request():
    assert deadline_of(job(datetime(2026, 3, 1, 12, tzinfo=UTC)), 30) == NOW
    (one,) = due([job(NOW - timedelta(days=30))], days=30, now=NOW)
    assert (one.left, one.overdue) == (timedelta(0), False)
    (one,) = due([job(NOW - timedelta(days=30, microseconds=1))], days=30, now=NOW)
    assert one.overdue


@pytest.mark.parametrize("days", [400_000_000, 10**12])
def test_a_deadline_beyond_the_calendar_is_its_end(days):
    (one,) = due([job(NOW)], days=days, now=NOW)
    assert (one.deadline.year, one.overdue) == (9999, False)


@pytest.mark.parametrize("at", ["", "yesterday", "2026-13-45", "0001-01-01T00:00:00+23:00"])
def test_a_time_that_is_none_is_a_damaged_registry(at):
    with pytest.raises(DamagedError, match=r"job j-1 was asked for at .* which is no time"):
        due([replace(job(NOW), requested_at=at)], days=30, now=NOW)


@given(st.lists(st.tuples(st.integers(0, 90), st.sampled_from(STATES))), st.integers(1, 60))
def test_what_has_ended_is_never_due_and_the_rest_is_in_the_order_of_its_deadlines(asked, days):
    jobs = [job(NOW - timedelta(days=ago), state) for ago, state in asked]
    found = due(jobs, days=days, now=NOW)
    assert len(found) == sum(state not in ENDED for _, state in asked)
    assert [one.left for one in found] == sorted(one.left for one in found)
    assert sum(one.overdue for one in found) == sum(ago > days and state not in ENDED for ago, state in asked)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Two patients who withdrew, forty and ten days ago, and one who did not."""
    workspace = Workspace.create(tmp_path / "home", data=tmp_path / "data")
    keep(Settings(), home=workspace.home, folder=workspace.home)
    Registry.create(workspace.registry_path).close()
    for patient, days in (("7", 40), ("8", 10)):
        at = (datetime.now(UTC) - timedelta(days=days)).isoformat()
        with Registry.open(workspace.registry_path, clock=lambda at=at: at) as registry:
            enrol(registry, patient, role="wearable", records=digests(f"{patient}0"))
            registry.withdraw(patient)
    return workspace.home


def lethe(home: Path, *words: str) -> Result:
    return CliRunner().invoke(app, ["jobs", *words, "--home", str(home)])


def test_the_list_warns_of_what_is_overdue(home):
    done = lethe(home, "list")
    assert done.exit_code == 0, done.output
    assert "10 d late" in done.stdout
    assert "19 d" in done.stdout
    assert "1 job overdue" in done.stdout
    rows = json.loads(lethe(home, "list", "--json").stdout)["jobs"]
    assert f"`lethe jobs show {rows[0]['id']}`" in " ".join(done.stdout.split())
    assert [row["overdue"] for row in rows] == [True, False]


def test_the_check_fails_while_something_is_overdue_and_only_then(home):
    done = lethe(home, "check", "--json")
    assert done.exit_code == 3
    result = json.loads(done.stdout)
    assert [(one["patient"], one["overdue"]) for one in result["jobs"]] == [("7", True), ("8", False)]
    assert result["deadline_days"] == 30
    keep(Settings().with_values({"audit.deadline_days": 50}), home=home, folder=home)
    done = lethe(home, "check")
    assert done.exit_code == 0
    assert "In time: the deadline is 50 days after the withdrawal." in done.stdout


def test_nothing_is_due_when_all_is_certified(home):
    with Registry.open(Workspace.open(home).registry_path) as registry:
        for one in registry.jobs():
            for state in ("DISPATCHED", "UNLEARNED", "AUDITED", "CERTIFIED"):
                registry.advance(one.id, state)
    done = lethe(home, "check")
    assert (done.exit_code, done.stdout) == (0, "Nothing is due: every withdrawal is certified.\n")
    assert "overdue" not in lethe(home, "list").stdout


def test_without_its_settings_no_deadline_is_made_up(home):
    (home / "settings.toml").unlink()
    done = lethe(home, "check")
    assert isinstance(done.exception, WorkspaceError)
    assert "settings.toml" in str(done.exception)


@pytest.mark.parametrize("command", ["check", "list"])
def test_a_request_time_that_was_altered_into_none_is_told_by_the_commands(home, command):
    with by_hand(home / "registry.db") as database:
        database.execute("UPDATE jobs SET requested_at = 'soon' WHERE patient = '7'")
    done = lethe(home, command)
    assert isinstance(done.exception, DamagedError)
    assert "'soon', which is no time" in str(done.exception)
