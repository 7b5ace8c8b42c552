"""A workspace that cannot be written: what is in it can be read, what would change it is refused, nothing is touched.

It lies on a small tmpfs in a mount namespace of the test's own, which is made read-only: nothing here needs root.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from flower_runs import CHECKOUT, error_line
from test_full_disk import can_mount, own_mounts

from server.registry import Registry
from server.workspace_settings import keep

READ_ONLY = """
mount -t tmpfs -o size=200m tmpfs "$1" && cp -a "$2" "$1/home" && mount -o remount,ro "$1" || exit 99
shift 2
"$@"
"""
# Every command in one process: each by itself would load the libraries anew.
COMMANDS = """
import contextlib, io, json, sys
sys.path.insert(0, sys.argv[1])
from simulations.cli import main
told = []
for words in json.loads(sys.argv[2]):
    out, err = io.StringIO(), io.StringIO()
    sys.argv = ["lethe", *words]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            told.append([end.code, out.getvalue(), err.getvalue()])
print(json.dumps(told))
"""

pytestmark = pytest.mark.skipif(not can_mount(), reason="needs mounts of its own")


def lethe(disk: Path, home: Path, *commands: list[str]) -> list[tuple[int, str, str]]:
    """Run commands on a copy of the workspace that is read-only; its files are gone afterwards."""
    asked = json.dumps([[*words, "--home", f"{disk}/home"] for words in commands])
    program = [sys.executable, "-P", "-c", COMMANDS, str(CHECKOUT), asked]
    command = own_mounts("bash", "-c", READ_ONLY, "bash", str(disk), str(home), *program)
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return [(code, out, err) for code, out, err in json.loads(done.stdout)]


def still_here(home: Path) -> str:
    """A wearer who has withdrawn nothing."""
    with Registry.open(home / "registry.db") as registry:
        return next(one.id for one in registry.patients("wearable") if one.status == "active")


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    (tmp_path / "disk").mkdir()
    return tmp_path / "disk"


@pytest.fixture
def withdrawn(fleet: Any) -> tuple[Path, str, str]:
    """A workspace in which a record was withdrawn and certified, and then another patient withdrew; all is closed."""
    first = fleet.with_several_records()
    fleet.registry.withdraw(first.id, records=fleet.records(first)[:1])
    fleet.run()
    second = next(one for one in fleet.wearers() if one.id != first.id)
    fleet.registry.withdraw(second.id)
    fleet.close()
    keep(fleet.settings, home=fleet.workspace.home, folder=fleet.workspace.home)
    (certificate,) = (fleet.workspace.home / "certificates").glob("*.json")
    return fleet.workspace.home, second.id, certificate.stem


def test_what_is_in_a_read_only_workspace_can_be_read(withdrawn, disk):
    home, patient, certificate = withdrawn
    commands = [
        ["patients", "list", "--json"],
        ["patients", "show", patient],
        ["patients", "trace", patient],
        ["devices", "list"],
        ["jobs", "list", "--json"],
        ["jobs", "check"],
        ["ledger", "verify"],
        ["ledger", "list"],
        ["certificate", "list"],
        ["certificate", "show", certificate],
        ["certificate", "verify", f"{disk}/home/certificates/{certificate}.json"],
        ["keys", "show"],
    ]
    found = lethe(disk, home, *commands)
    assert [(code, err) for code, _, err in found] == [(0, "")] * len(commands)
    people = json.loads(found[0][1])["patients"]
    assert [one["status"] for one in people if one["id"] == patient] == ["withdrawn"]
    assert [job["state"] for job in json.loads(found[4][1])["jobs"]] == ["CERTIFIED", "REQUESTED"]


def test_what_would_change_a_read_only_workspace_says_so_and_is_exit_code_5(withdrawn, disk):
    home, _, _ = withdrawn
    commands = [
        ["patients", "withdraw", still_here(home), "--yes"],
        ["run"],
        ["train"],
        ["keys", "rotate", "--yes"],
        ["report"],
    ]
    for words, (code, out, err) in zip(commands, lethe(disk, home, *commands), strict=True):
        assert code == 5, (words, out, err)
        assert out == ""
        assert "read-only" in error_line(err).lower(), err


def test_what_a_killed_process_has_left_in_the_log_is_read_as_well(withdrawn, disk, tmp_path):
    home, _, _ = withdrawn
    other = still_here(home)
    with Registry.open(home / "registry.db") as registry:
        registry.withdraw(other)
        assert (home / "registry.db-wal").stat().st_size
        shutil.copytree(home, tmp_path / "as it was")  # with the log, as a kill leaves it
    (listed,) = lethe(disk, tmp_path / "as it was", ["patients", "list", "--json"])
    assert [one["status"] for one in json.loads(listed[1])["patients"] if one["id"] == other] == ["withdrawn"]


def test_a_log_that_cannot_be_read_is_never_passed_over(withdrawn, disk, tmp_path):
    home, _, _ = withdrawn
    other = still_here(home)
    with Registry.open(home / "registry.db") as registry:
        registry.withdraw(other)
        shutil.copytree(home, tmp_path / "copy", ignore=shutil.ignore_patterns("*-shm"))
    ((code, out, err),) = lethe(disk, tmp_path / "copy", ["patients", "list", "--json"])
    assert code != 0, out
    assert "registry.db" in err
