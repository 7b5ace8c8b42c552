"""`lethe certificate` and `lethe keys`: offline, in words, with the right exit code and never a traceback."""

import base64
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from server import history, keys
from server.registry import Enrolment, Registry
from server.workspace import Workspace
from shared.model import digest
from shared.settings import Settings
from simulations import cli
from simulations.cohort import write_cohort
from tests.certified import BUNDLE, MODEL, PATIENT, Hospital, acknowledgement, job


@pytest.fixture
def lethe(monkeypatch, capsys):
    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["lethe", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        assert "a bug in Lethe" not in err
        return end.value.code or 0, out, err

    return run


@pytest.fixture
def hospital(tmp_path) -> Hospital:
    found = Hospital.found(tmp_path / "home")
    with Registry.create(found.workspace.registry_path) as registry:
        registry.enrol_many([Enrolment(PATIENT, "corpus", {"1": "0" * 64})])
        registry.note_key(keys.fingerprint(found.public))
        found.head = registry.ledger_head()
    return found


def issued(hospital: Hospital, **values) -> Path:
    now = values.setdefault("now", datetime.now(UTC))
    asked, erased = ((now - timedelta(hours=hours)).isoformat(timespec="milliseconds") for hours in (48, 1))
    reply = replace(acknowledgement(), unlearned_at=erased)
    return hospital.issue(job=job(requested_at=asked), acknowledgement=reply, **values)


def entered(hospital: Hospital) -> Path:
    """A certificate whose issue the hospital's ledger knows, as a run enters it."""
    path = issued(hospital)
    body = {"detail": {"certificate": {"sha256": digest(path.read_bytes())}}}
    with Registry.open(hospital.workspace.registry_path) as registry, registry._writing() as connection:
        history.append(connection, "certificate", body, at=datetime.now(UTC).isoformat())
    return path


@pytest.fixture
def elsewhere(hospital, tmp_path) -> Path:
    """A machine that has a certificate, the public key and the served files, and nothing else of the hospital."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    shutil.copy(issued(hospital), folder / "certificate.json")
    shutil.copy(hospital.workspace.keys / "signing.pub.pem", folder)
    (folder / "bundle.onnx").write_bytes(BUNDLE)
    (folder / "model.safetensors").write_bytes(MODEL)
    shutil.rmtree(hospital.workspace.home)
    return folder


def test_a_machine_with_the_public_key_alone_accepts_it(elsewhere):
    program = "import sys; from simulations.entry import main; sys.argv[0] = 'lethe'; main()"
    given = "certificate verify certificate.json --key signing.pub.pem --bundle bundle.onnx --model model.safetensors"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "LETHE_HOME": str(elsewhere / "none")}
    done = subprocess.run(
        [sys.executable, "-c", program, *given.split()],
        cwd=elsewhere,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("✓") == 11
    assert "✗" not in done.stdout
    assert "Accepted: signed, whole and consistent; it certifies exact unlearning" in done.stdout
    assert "ledger" in done.stdout


def test_json_says_the_same(elsewhere, lethe):
    code, out, _ = lethe(
        "certificate", "verify", elsewhere / "certificate.json", "--key", elsewhere / "signing.pub.pem", "--json"
    )
    result = json.loads(out)
    assert (code, result["accepted"]) == (0, True)
    assert {check["check"]: check["holds"] for check in result["checks"]}["served-bundle.onnx"] is None
    assert result["certificate"]["predicate"]["request"]["records"] == 2


@pytest.mark.parametrize("option", ["--bundle", "--model"])
def test_a_file_that_is_not_the_certified_one_gives_code_4(elsewhere, lethe, option):
    name = {"--bundle": "bundle.onnx", "--model": "model.safetensors"}[option]
    (elsewhere / name).write_bytes(b"another")
    files = (elsewhere / "certificate.json", "--key", elsewhere / "signing.pub.pem", option, elsewhere / name)
    code, out, err = lethe("certificate", "verify", *files)
    assert code == 4
    assert "✗" in out
    assert "Not to be relied on" in err
    assert "accepted" not in (out + err).lower()


def test_another_key_gives_code_4(elsewhere, lethe, tmp_path):
    other = Hospital.found(tmp_path / "other").workspace.keys / "signing.pub.pem"
    code, out, err = lethe("certificate", "verify", elsewhere / "certificate.json", "--key", other)
    assert code == 4
    assert "names key" in err
    assert "accepted" not in (out + err).lower()
    both = ("--key", other, "--key", elsewhere / "signing.pub.pem")
    assert lethe("certificate", "verify", elsewhere / "certificate.json", *both)[0] == 0


def test_an_expired_certificate_and_one_of_the_future_give_code_4(hospital, lethe):
    short, now = Settings().with_values({"audit.valid_days": 1}), datetime.now(UTC)
    public = hospital.workspace.keys / "signing.pub.pem"
    for shift, says in ((timedelta(days=-2), "expired"), (timedelta(hours=2), "clock")):
        path = issued(hospital, settings=short, now=now + shift)
        code, out, err = lethe("certificate", "verify", path, "--key", public)
        assert code == 4
        assert says in err
        assert "accepted" not in (out + err).lower()


def test_a_swapped_subject_gives_code_4(elsewhere, lethe):
    content = json.loads((elsewhere / "certificate.json").read_text())
    payload = base64.b64decode(content["payload"]).replace(b"served-model", b"served-bundle.onnx", 1)
    content["payload"] = base64.b64encode(payload).decode()
    (elsewhere / "swapped.json").write_text(json.dumps(content, sort_keys=True, separators=(",", ":")) + "\n")
    code, out, err = lethe("certificate", "verify", elsewhere / "swapped.json", "--key", elsewhere / "signing.pub.pem")
    assert code == 4
    assert "the signature is not one of key" in err
    assert "accepted" not in (out + err).lower()


@pytest.mark.parametrize("change", [lambda data: data[:700], lambda _: b"", lambda _: b"{}", lambda data: data + b" "])
def test_what_is_no_certificate_gives_code_5_and_one_line(elsewhere, lethe, change):
    file = elsewhere / "certificate.json"
    file.write_bytes(change(file.read_bytes()))
    for command in (("verify", file, "--key", elsewhere / "signing.pub.pem"), ("show", file)):
        code, out, err = lethe("certificate", *command)
        assert (code, out, err.count("\n")) == (5, "", 1)


def test_what_never_ends_or_is_no_file_gives_code_5_at_once(elsewhere, lethe, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    key = ("--key", elsewhere / "signing.pub.pem")
    for path in ("/dev/zero", tmp_path, tmp_path / "pipe", tmp_path / "missing"):
        assert lethe("certificate", "verify", path, *key)[0] == 5
        assert lethe("certificate", "verify", elsewhere / "certificate.json", *key, "--bundle", path)[0] == 5
    huge = tmp_path / "huge"
    with huge.open("wb") as file:
        file.truncate(10**11)  # sparse: reading all of it would take minutes and more memory than there is
    assert lethe("certificate", "verify", huge, *key)[0] == 5
    assert lethe("certificate", "verify", elsewhere / "certificate.json", "--key", huge)[0] == 5


@pytest.mark.parametrize("key", ["certificate.json", "none.pem", "."])
def test_a_key_that_is_none_gives_code_5(elsewhere, lethe, key):
    code, out, err = lethe("certificate", "verify", elsewhere / "certificate.json", "--key", elsewhere / key)
    assert (code, out, err.count("\n")) == (5, "", 1)


def test_without_a_key_and_a_workspace_it_says_how_to_give_one(elsewhere, lethe):
    code, out, err = lethe("certificate", "verify", elsewhere / "certificate.json", "--home", elsewhere)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "outside of a workspace give the hospital's public key with --key" in err


def test_in_a_workspace_its_own_keys_and_its_ledger_are_used(hospital, lethe):
    path, home = entered(hospital), ("--home", hospital.workspace.home)
    code, out, _ = lethe("certificate", "verify", path, *home, "--json")
    assert code == 0
    assert {check["check"]: check["holds"] for check in json.loads(out)["checks"]}["ledger"] is True
    hospital.head = (hospital.head[0] + 5, "0" * 64)
    code, _, err = lethe("certificate", "verify", issued(hospital), *home)
    assert code == 4
    assert "was seen and is gone" in err


def test_a_workspace_lists_and_shows_its_certificates(hospital, lethe):
    home = ("--home", hospital.workspace.home)
    assert "No certificate yet" in lethe("certificate", "list", *home)[1]
    path = issued(hospital)
    (path.parent / "job-torn.json").write_bytes(path.read_bytes()[:99])
    code, out, _ = lethe("certificate", "list", *home, "--json")
    assert code == 0
    assert {row["name"]: row["accepted"] for row in json.loads(out)["certificates"]} == {
        path.stem: True,
        "job-torn": False,
    }
    assert "✓" in lethe("certificate", "list", *home)[1]
    for name in (path, path.stem):
        code, out, _ = lethe("certificate", "show", name, *home)
        out = " ".join(out.split())
        assert code == 0
        assert "The signature is not checked here" in out
        assert "forget 2 records" in out
        assert re.search(r"AUC 0\.\d{3}, 90 % interval 0\.\d{3} to 0\.\d{3}", out)


@pytest.mark.parametrize("name", ["job-none", "../workspace", "../registry"])
def test_a_job_without_a_certificate_is_named_with_code_2(hospital, lethe, name):
    code, _, err = lethe("certificate", "show", name, "--home", hospital.workspace.home)
    assert code == 2
    assert "no certificate and no job with one" in err


def test_what_a_stolen_key_signs_is_not_in_the_ledger(hospital, lethe):
    entered(hospital)
    forged = issued(hospital, run="never-happened")
    code, _, err = lethe("certificate", "verify", forged, "--home", hospital.workspace.home)
    assert code == 4
    assert "knows of no certificate with the sha256 of this file" in err


@pytest.mark.parametrize(("keep", "says"), [(1, "was there, with another hash"), (0, "its issue is not entered")])
def test_a_ledger_whose_end_was_cut_off_is_found_by_the_certificates(hospital, lethe, keep, says):
    path, home = entered(hospital), ("--home", hospital.workspace.home)
    assert lethe("ledger", "verify", *home)[0] == 0
    with closing(sqlite3.connect(hospital.workspace.registry_path)) as database:
        for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            database.execute(f"DROP TRIGGER {name}")
        last = hospital.head[0] - keep
        database.execute("DELETE FROM ledger WHERE seq > ?", (last,))
        database.commit()
    code, out, _ = lethe("ledger", "verify", *home)
    assert code == 4
    assert says in " ".join(out.split())
    assert path.name in out


def test_rotation_needs_a_yes_and_old_certificates_go_on_verifying(hospital, lethe):
    home, path = ("--home", hospital.workspace.home), entered(hospital)
    before = keys.known(hospital.workspace.keys)[0].fingerprint
    assert lethe("keys", "rotate", *home)[0] == 2
    assert keys.known(hospital.workspace.keys)[0].fingerprint == before
    code, out, _ = lethe("keys", "rotate", "--yes", *home)
    new = keys.known(hospital.workspace.keys)[0].fingerprint
    assert code == 0
    assert before in out
    assert new in out
    with Registry.open(hospital.workspace.registry_path) as registry:
        noted = [json.loads(entry.body)["public_key"] for entry in registry.ledger() if entry.kind == "key"]
    assert noted == [before, new]
    assert lethe("certificate", "verify", path, *home)[0] == 0
    told = json.loads(lethe("keys", "show", "--json", *home)[1])
    assert [(one["fingerprint"], one["current"]) for one in told["keys"]] == [(new, True), (before, False)]


def test_a_lost_key_is_told_and_made_anew_without_asking(hospital, lethe):
    home = ("--home", hospital.workspace.home)
    (hospital.workspace.keys / "signing.pem").unlink()
    assert "No private key" in lethe("keys", "show", *home)[1]
    assert lethe("keys", "rotate", *home)[0] == 0
    assert "No private key" not in lethe("keys", "show", *home)[1]


def test_a_running_run_keeps_its_key(hospital, lethe):
    with hospital.workspace.lock("run"):
        code, _, err = lethe("keys", "rotate", "--yes", "--home", hospital.workspace.home)
    assert code == 1
    assert "in use by" in err


def test_init_makes_a_key_notes_it_and_prints_it_nowhere(tmp_path, lethe):
    write_cohort(tmp_path / "data", patients=12, seed=0)
    small = ("--set", "cohort.wearables=2", "--set", "cohort.controls=2")
    code, out, err = lethe("init", "--data", tmp_path / "data", "--home", tmp_path / "home", *small)
    assert code == 0
    workspace = Workspace.open(tmp_path / "home")
    private = workspace.keys / "signing.pem"
    assert private.stat().st_mode & 0o777 == 0o600
    assert workspace.keys.stat().st_mode & 0o777 == 0o700
    with Registry.open(workspace.registry_path) as registry:
        (noted,) = (json.loads(entry.body)["public_key"] for entry in registry.ledger() if entry.kind == "key")
    assert noted == keys.known(workspace.keys)[0].fingerprint
    for extra in ((), ("--json",)):
        shown = lethe("keys", "show", "--home", workspace.home, *extra)
        out += shown[1] + shown[2]
    secret = private.read_text().splitlines()[1]
    assert secret not in out + err
    assert [one for one in tmp_path.rglob("*") if one.is_file() and secret.encode() in one.read_bytes()] == [private]
