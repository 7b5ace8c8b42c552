"""The disk of hospital and devices fills up in mid withdrawal, to the last byte, and later has room again.

A real one: a tmpfs in a mount namespace of the test's own. What is done on it is done by a program in there.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from flower_runs import CHECKOUT
from test_full_disk import can_mount, own_mounts

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(not can_mount(), reason="needs mounts of its own"),
]

MOUNT = 'mount -t tmpfs -o size=60m tmpfs "$1" && cp -a "$2" "$1/home" && shift 2 && "$@"'
PROGRAM = """
import json, sys
from contextlib import suppress
from pathlib import Path
checkout, disk, message_type = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
sys.path[:0] = [str(checkout), str(checkout / "tests")]
from conftest import SHALLOW
from shared import model
model.DEPTHS = SHALLOW
from client.app import app as client_app
from fleet import Fleet
from server.history_check import check
from server.registry import Registry
from shared.errors import LetheError
from shared.training import one_thread

def fill():
    with (disk / "filler").open("wb", buffering=0) as file, suppress(OSError):
        while file.write(b"x" * 4096):
            pass

def answering(message, context):
    if message.metadata.message_type == message_type:
        fill()
    return client_app(message, context)

def seen(fleet):
    with Registry.open(disk / "home" / "registry.db") as registry:
        return {
            "jobs": [job.state for job in registry.jobs()],
            "withdrawn": [row.id for row in registry.records(patient.id, consented_only=False) if row.withdrawn],
            "findings": [one.words for one in check(fleet.workspace, registry, head=None)[1]],
            "held": list(fleet.store(patient).record_ids()),
        }

told = {}
with one_thread():
    fleet = Fleet(disk / "home")
    patient, other = fleet.wearer(0), fleet.wearer(1)
    fleet.registry.withdraw(patient.id)
    fleet.grid.apps[100 + patient.slot] = answering
    try:
        fleet.run()
        told["error"] = ""
    except (LetheError, OSError) as error:
        told["error"] = f"{type(error).__name__}: {error}"
    if message_type == "none":
        fill()
        try:
            fleet.registry.withdraw(other.id)
            told["error"] = ""
        except LetheError as error:
            told["error"] = f"{type(error).__name__}: {error}"
    fleet.grid.apps.clear()
    fleet.registry.close()
    told["full"] = seen(fleet)
    (disk / "filler").unlink()
    fleet = Fleet(disk / "home")
    if message_type == "none":
        fleet.registry.withdraw(other.id)
    fleet.run()
    fleet.close()
    told["after"] = seen(fleet)
    told["left"] = [path.name for path in (disk / "home").rglob("*") if path.name.startswith((".", "staged."))]
print(json.dumps(told))
"""


def ran(tmp_path: Path, home: Path, message_type: str) -> dict[str, Any]:
    """Fill the disk when a device gets its first message of a type; "none": when the run has ended."""
    disk = tmp_path / "disk"
    disk.mkdir()
    program = [sys.executable, "-P", "-c", PROGRAM, str(CHECKOUT), str(disk), message_type]
    command = own_mounts("bash", "-c", MOUNT, "bash", str(disk), str(home), *program)
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


@pytest.mark.parametrize("message_type", ["query.audit", "train.unlearn", "query.verify"])
def test_a_disk_that_fills_up_in_mid_withdrawal_loses_nothing_and_goes_on_when_there_is_room(
    tmp_path, first_run_home, message_type
):
    home = shutil.copytree(first_run_home, tmp_path / "home")
    told = ran(tmp_path, home, message_type)
    assert "full" in told["error"]
    assert told["full"]["jobs"] != ["CERTIFIED"]
    assert told["after"] == {"jobs": ["CERTIFIED"], "withdrawn": told["full"]["withdrawn"], "findings": [], "held": []}
    assert told["full"]["findings"] == []
    assert told["full"]["withdrawn"]
    assert told["left"] == []


def test_a_withdrawal_for_which_there_is_no_room_is_refused_and_can_be_made_when_there_is(tmp_path, first_run_home):
    home = shutil.copytree(first_run_home, tmp_path / "home")
    told = ran(tmp_path, home, "none")
    assert told["error"].startswith("WorkspaceError: cannot use registry")
    assert "full; nothing was changed" in told["error"]
    assert told["full"]["jobs"] == ["CERTIFIED"]
    assert told["full"]["findings"] == []
    assert told["after"]["jobs"] == ["CERTIFIED", "CERTIFIED"]
    assert told["left"] == []
