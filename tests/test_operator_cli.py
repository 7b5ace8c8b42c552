"""The operator's commands: what they print, when they refuse, and that a withdrawal survives a kill."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from enrolled import digests, enrol, withdrawn
from typer.testing import CliRunner

from server import cli
from server.jobs_cli import jobs
from server.registry import GENERAL, Registry
from server.rows import HOSPITAL
from server.workspace import Workspace
from server.workspace_settings import keep
from shared.errors import ConsentError, LetheError, UsageError, WorkspaceError
from shared.ptbxl import Record, index
from shared.settings import Settings
from simulations.cohort import write_cohort

WITHDRAW = """
import os, sys
from server.cli import patients

class Killed:
    def write(self, text):
        os.write(1, text.encode())
        os.kill(os.getpid(), 9)

sys.stdout = Killed()
patients(["withdraw", "7", "--record", "71", "--yes", "--json", "--home", sys.argv[1]])
"""
ASK = """
import sys
from server.cli import patients
patients(["withdraw", "7", "--json", "--home", sys.argv[1]])
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    workspace = Workspace.create(tmp_path / "home", data=tmp_path / "data")
    keep(Settings(), home=workspace.home, folder=workspace.home)
    with Registry.create(workspace.registry_path) as registry:
        enrol(registry, "7", role="wearable", records=digests("70", "71", "72"), slot=0)
        enrol(registry, "17", role="wearable", records=digests("170"), slot=1)
        enrol(registry, "9", role="corpus", records=digests("90", "91"))
        enrol(registry, "10", role="control", records=digests("100"))
    return workspace.home


@pytest.fixture
def lethe(home):
    app = typer.Typer()
    app.add_typer(cli.patients, name="patients")
    app.add_typer(jobs, name="jobs")
    app.add_typer(cli.devices, name="devices")

    def run(*arguments: str) -> str:
        """Return what is printed on stdout, or raise what the root would report."""
        result = CliRunner(env={"LETHE_HOME": str(home), "COLUMNS": "80"}).invoke(app, arguments)
        if isinstance(result.exception, LetheError):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.stdout

    return run


def registry_of(home: Path) -> Registry:
    return Registry.open(home / "registry.db")


# Withdrawing


def test_a_withdrawal_prints_the_event_the_job_and_what_happens_next(lethe, home):
    printed = lethe("patients", "withdraw", "7", "--record", "71", "--yes")
    with registry_of(home) as registry:
        (job,) = registry.jobs()
        event = registry.events("7")[-1]
    assert "Patient 7 has withdrawn consent for 1 record" in printed
    assert job.id in printed
    assert f"consent event  {event.seq}, " in printed
    assert "then erase them and unlearn" in " ".join(printed.split())


def test_a_withdrawal_prints_the_same_as_json(lethe, home):
    result = json.loads(lethe("patients", "withdraw", "7", "--record", "71", "--record", "70", "--yes", "--json"))
    assert result["changed"] is True
    assert result["event"]["records"] == ["70", "71"]
    assert [job["records"] for job in result["jobs"]] == [["70", "71"]]
    assert result["patient"]["status"] == "partly withdrawn"
    with registry_of(home) as registry:
        assert withdrawn(registry, "7") == ("70", "71")


def test_withdrawing_twice_says_that_nothing_changed_and_asks_nothing(lethe, home):
    first = json.loads(lethe("patients", "withdraw", "7", "--record", "71", "--yes", "--json"))
    lethe("patients", "withdraw", "7", "--record", "70", "--yes")
    again = json.loads(lethe("patients", "withdraw", "7", "--record", "71", "--json"))
    assert again["changed"] is False
    assert (again["event"], again["jobs"]) == (first["event"], first["jobs"])
    assert "nothing changed" in lethe("patients", "withdraw", "7", "--record", "71")
    with registry_of(home) as registry:
        assert len(registry.events("7")) == 3


def test_remove_is_another_name_for_withdrawing_everything(lethe, home):
    result = json.loads(lethe("patients", "remove", "7", "--yes", "--json"))
    assert result["event"]["scope"] == "patient"
    assert json.loads(lethe("patients", "withdraw", "7", "--json"))["jobs"] == result["jobs"]
    with registry_of(home) as registry:
        assert registry.patient("7").status == "withdrawn"


def test_a_patient_without_a_device_is_told_what_happens_instead(lethe):
    corpus = json.loads(lethe("patients", "withdraw", "9", "--yes", "--json"))
    assert [(job["slot"], job["state"]) for job in corpus["jobs"]] == [(HOSPITAL, "REQUESTED")]
    assert "general model without these records" in corpus["next"]
    assert "the hospital, general model" in lethe("patients", "withdraw", "10", "--yes")


def test_after_the_device_has_forgotten_nothing_is_left_to_do(lethe, home):
    lethe("patients", "withdraw", "7", "--yes")
    with registry_of(home) as registry:
        (job,) = registry.jobs()
        registry.advance(job.id, "DISPATCHED")
        registry.advance(job.id, "UNLEARNED")
    assert "forgotten them already" in lethe("patients", "withdraw", "7", "--yes")


@pytest.mark.parametrize("command", ["withdraw", "remove"])
def test_without_a_terminal_and_without_yes_nothing_is_withdrawn(lethe, home, command):
    with pytest.raises(UsageError, match=r"70, 71, 72 \(3 of 3 records\): device 0 erases them.*--yes"):
        lethe("patients", command, "7")
    with registry_of(home) as registry:
        assert registry.patient("7").status == "active"


@pytest.mark.parametrize(("answer", "code", "status"), [("y", 0, "withdrawn"), ("n", 1, "active"), ("", 1, "active")])
def test_at_a_terminal_the_operator_is_asked_and_told_what_will_be_erased(home, answer, code, status):
    terminal, end = pty.openpty()
    asked = subprocess.Popen(
        [sys.executable, "-c", ASK, str(home)], stdin=end, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    os.write(terminal, f"{answer}\n".encode())
    out, told = asked.communicate(timeout=60)
    os.close(terminal)
    os.close(end)
    assert asked.returncode == code
    assert "70, 71, 72 (3 of 3 records)" in told
    assert "This cannot be undone" in told
    assert bool(out) == (code == 0)
    with registry_of(home) as registry:
        assert registry.patient("7").status == status


@pytest.mark.parametrize("arguments", [("8",), ("7", "--record", "90"), ("7", "--record", "70", "--record", "x")])
def test_an_unknown_patient_or_record_withdraws_nothing(lethe, home, arguments):
    with pytest.raises(UsageError):
        lethe("patients", "withdraw", *arguments, "--yes")
    with registry_of(home) as registry:
        assert len(registry.events()) == 4


def test_a_withdrawal_that_was_printed_survives_a_kill(home):
    """The process dies by SIGKILL inside the print, before it could close anything."""
    killed = subprocess.run([sys.executable, "-c", WITHDRAW, str(home)], capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    printed = json.loads(killed.stdout)
    with registry_of(home) as registry:
        assert withdrawn(registry, "7") == ("71",)
        assert [job.id for job in registry.jobs()] == [job["id"] for job in printed["jobs"]]
        assert registry.events("7")[-1].seq == printed["event"]["seq"]


def test_a_withdrawal_does_not_wait_for_a_run(lethe, home):
    with Workspace.open(home).lock("lethe run"):
        assert json.loads(lethe("patients", "withdraw", "7", "--yes", "--json"))["changed"] is True


# Looking


def test_the_list_shows_who_wears_a_device_and_which_model_it_has(lethe, home):
    lethe("patients", "withdraw", "7", "--record", "71", "--yes")
    with registry_of(home) as registry:
        told = {"general": "a" * 64, "personal": "b" * 64, "bundle": "c" * 64, "own": 0.9, "others": 0.7}
        registry.record_device(1, patient="17", accepted=True, seconds=1.0, **told)
    rows = {row["id"]: row for row in json.loads(lethe("patients", "list", "--json"))["patients"]}
    assert set(rows) == {"7", "17"}
    assert (rows["7"]["records"], rows["7"]["withdrawn"], rows["7"]["model"]) == (3, 1, "to unlearn")
    assert rows["17"]["model"] == "personal"
    with registry_of(home) as registry:
        registry.remember(GENERAL, {"digest": "d" * 64})
    assert "stale" in lethe("patients", "list")
    with registry_of(home) as registry:
        registry.remember(GENERAL, {"digest": "a" * 64})
    printed = lethe("patients", "list")
    assert all(row["pseudonym"] in printed and row["model"] in printed for row in rows.values())


def test_other_roles_are_listed_when_asked_for(lethe):
    assert [row["id"] for row in json.loads(lethe("patients", "list", "--role", "corpus", "--json"))["patients"]] == [
        "9"
    ]
    _, _, *rows = lethe("patients", "list", "--role", "control").splitlines()
    assert [row.split()[0] for row in rows] == ["10"]


MODELS = [
    (["DISPATCHED"], "unlearning"),
    (["FAILED"], "unlearning failed"),
    (["DISPATCHED", "UNLEARNED"], "personal, unlearned"),
]


@pytest.mark.parametrize(("states", "model"), MODELS)
def test_the_model_of_a_patient_follows_the_job(lethe, home, states, model):
    with registry_of(home) as registry:
        told = {"general": "a", "personal": "b", "bundle": "c", "own": 0.9, "others": 0.7, "seconds": 1.0}
        registry.record_device(0, patient="7", accepted=True, **told)
        (job,) = registry.withdraw("7", records=["70"])
        for state in states:
            registry.advance(job.id, state, detail={"reason": "test"})
    assert json.loads(lethe("patients", "show", "7", "--json"))["patient"]["model"] == model


def test_show_tells_all_about_one_patient(lethe):
    lethe("patients", "withdraw", "7", "--record", "71", "--yes")
    result = json.loads(lethe("patients", "show", "7", "--json"))
    assert [(row["id"], row["withdrawn"]) for row in result["records"]] == [("70", False), ("71", True), ("72", False)]
    assert [event["kind"] for event in result["events"]] == ["given", "withdrawn"]
    assert len(result["jobs"]) == 1
    assert result["device"] is None
    printed = lethe("patients", "show", "7")
    assert result["jobs"][0]["id"] in printed
    assert result["patient"]["pseudonym"] in printed


def test_jobs_are_listed_and_shown_with_every_step(lethe, home):
    lethe("patients", "withdraw", "7", "--yes")
    (job,) = json.loads(lethe("jobs", "list", "--json"))["jobs"]
    with registry_of(home) as registry:
        registry.advance(job["id"], "DISPATCHED", detail={"method": "exact", "run": "r1"})
    result = json.loads(lethe("jobs", "show", job["id"], "--json"))
    assert [step["state"] for step in result["steps"]] == ["REQUESTED", "DISPATCHED"]
    assert result["job"]["method"] == "exact"
    assert "run: r1" in lethe("jobs", "show", job["id"])


def test_a_job_that_was_audited_is_shown_on_one_screen(lethe, home):
    lethe("patients", "withdraw", "7", "--record", "71", "--yes")
    (job,) = json.loads(lethe("jobs", "list", "--json"))["jobs"]
    look = {"after": {"n": 16, "verdict": "INCONCLUSIVE", "scores": [{"auc": 0.5}] * 20}}
    kept = {"method": "exact", "found": [look], "unusable": "", "unmeasured": ""}
    erased = {"erased": ["recordings/1.npz", "model.safetensors"], "before": "b" * 64, "after": "a" * 64, "note": ""}
    verdict = {"verdict": "PASS", "words": "…" * 500, "scores": [0.1] * 500}
    with registry_of(home) as registry:
        registry.advance(job["id"], "DISPATCHED", detail={"method": "exact", "audit": kept})
        registry.advance(job["id"], "UNLEARNED", detail=erased | {"acknowledged_at": "2026-01-01T00:00:00"})
        registry.advance(job["id"], "AUDITED", detail={"verdict": verdict})
        registry.advance(job["id"], "CERTIFIED", detail={"certificate": {"file": "1.json", "sha256": "c" * 64}})
    printed = lethe("jobs", "show", job["id"])
    assert len(printed.splitlines()) < 24
    assert max(map(len, printed.splitlines())) <= 80
    told = " ".join(printed.split())
    for words in ("16 copies an arm: INCONCLUSIVE", "erased: 2 files", "model before: bbbbbbb", "model now: aaaaaaa"):
        assert words in told
    for words in ("verdict: PASS", "certificate: 1.json"):
        assert words in told
    with pytest.raises(UsageError, match="lethe jobs list"):
        lethe("jobs", "show", "j-0")


def test_devices_are_listed_with_what_they_told(lethe, home):
    with registry_of(home) as registry:
        told = {"general": "a" * 64, "personal": "b" * 64, "bundle": "c" * 64, "own": 0.9, "others": 0.712}
        registry.record_device(0, patient="7", accepted=False, seconds=1.0, **told)
    (device,) = json.loads(lethe("devices", "list", "--json"))["devices"]
    assert (device["slot"], device["own"], device["accepted"]) == (0, 0.9, False)
    printed = lethe("devices", "list")
    assert "0.712" in printed
    assert "general  20" in printed


def test_empty_tables_say_what_to_do(tmp_path):
    workspace = Workspace.create(tmp_path / "new", data=tmp_path)
    keep(Settings(), home=workspace.home, folder=workspace.home)
    Registry.create(workspace.registry_path).close()
    for app, command in ((cli.patients, "list"), (jobs, "list"), (cli.devices, "list")):
        result = CliRunner().invoke(typer_of(app), ["x", command, "--home", str(workspace.home)])
        assert "No " in result.stdout, result.output


def typer_of(app: typer.Typer) -> typer.Typer:
    root = typer.Typer()
    root.add_typer(app, name="x")
    return root


def test_every_table_fits_eighty_columns_without_cutting_a_word(lethe, home):
    with registry_of(home) as registry:
        for n in range(20_000, 20_030):
            enrol(registry, str(n), role="wearable", records=digests(f"{n}", f"{n + 100}"))
            told = {"general": "a" * 64, "personal": "b" * 64, "bundle": "c" * 64, "own": 0.9, "others": 0.712}
            registry.record_device(n - 19_998, patient=str(n), accepted=n % 2 == 0, seconds=1.0, **told)
        (job,) = registry.withdraw("20000")
        registry.advance(job.id, "DISPATCHED", detail={"method": "finetune"})
    commands = (
        ("patients", "list"),
        ("jobs", "list"),
        ("jobs", "check"),
        ("devices", "list"),
        ("patients", "show", "20000"),
    )
    for command in commands:
        printed = lethe(*command)
        lines = printed.splitlines()
        assert max(map(len, lines)) <= 80
        assert not any(line.rstrip().endswith(("-", "…")) for line in lines), printed
        assert command == ("patients", "list") or re.search(r"\d{4}-\d\d-\d\d( \d\d:\d\d)?\b", printed), printed


def test_all_of_ptb_xl_is_no_table(lethe, home):
    from server.registry import Enrolment

    with registry_of(home) as registry:
        registry.enrol_many(Enrolment(str(n), "corpus", digests(str(n))) for n in range(1000, 3000))
    printed = lethe("patients", "list", "--role", "corpus")
    assert len(printed.splitlines()) < 220
    assert "1,801 more; --json prints all" in printed
    assert len(json.loads(lethe("patients", "list", "--role", "corpus", "--json"))["patients"]) == 2001


def test_brackets_in_an_id_are_no_markup(lethe, home):
    with registry_of(home) as registry:
        enrol(registry, "[bold]x[/nonsense]", role="wearable", records=digests("5"))
    assert "[bold]x[/nonsense]" in lethe("patients", "list")
    assert "[bold]x[/nonsense]" in lethe("patients", "remove", "[bold]x[/nonsense]", "--yes")


# Adding, and places that are no workspace


def test_add_enrols_a_patient_and_says_what_happens_next(lethe, home, tmp_path):
    write_cohort(tmp_path / "data", patients=3, seed=0)
    known = json.loads(lethe("patients", "add", "1", "--json"))["patient"]
    assert (known["role"], known["slot"]) == ("wearable", 2)
    assert (home / "feeds" / "2.json").exists()
    assert "wears device 3" in lethe("patients", "add", "2", "--data", str(tmp_path / "data"))
    with pytest.raises(ConsentError):
        lethe("patients", "add", "1")
    with pytest.raises(UsageError):
        lethe("patients", "add", "999")


def test_add_says_what_was_seen_in_a_record_that_is_left_out(home, tmp_path):
    write_cohort(tmp_path / "data", patients=3, seed=0)
    own: dict[str, list[Record]] = {}
    for record in index(tmp_path / "data").records:
        if len(record.superclasses) == 1:
            own.setdefault(record.patient, []).append(record)
    patient, (bad, *others) = max(own.items(), key=lambda item: len(item[1]))
    assert others
    (tmp_path / "data" / f"{bad.path}.dat").unlink()
    result = CliRunner(env={"LETHE_HOME": str(home)}).invoke(cli.patients, ["add", patient, "--json"])
    (told,) = [one for one in json.loads(result.stdout)["left_out"] if one["record"] == bad.id]
    assert told["reason"] == "missing file"
    assert f"record {bad.id} has no file" in told["detail"]
    assert "expected it in" in told["detail"]
    assert f"left out: {told['detail']}" in result.stderr.splitlines()


def test_a_place_without_a_workspace_is_refused(lethe, tmp_path):
    with pytest.raises(WorkspaceError, match="lethe init"):
        lethe("patients", "list", "--home", str(tmp_path))
    assert not (tmp_path / "registry.db").exists()


def test_the_commands_load_nothing_heavy():
    heavy = "{'torch', 'wfdb', 'sqlalchemy', 'numpy', 'matplotlib', 'flwr'}"
    code = f"import sys, server.cli; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_who_is_overtaken_by_another_command_changed_nothing(lethe, monkeypatch):
    mine = Registry.withdraw

    def overtaken(registry, patient, **given):
        mine(registry, patient)
        return mine(registry, patient, **given)

    monkeypatch.setattr(Registry, "withdraw", overtaken)
    told = json.loads(lethe("patients", "withdraw", "17", "--yes", "--json"))
    assert (told["changed"], told["event"]["records"]) == (False, ["170"])
