"""A whole run on a disk that fills up while the general model is published, a withdrawal being due.

The disk is a small tmpfs in a mount namespace of the test's own: nothing here needs root.
"""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from flower_runs import CHECKOUT, LETHE, alive, error_line, prepared, registry_is_sound

from server.registry import Registry

# Of the run, 5.8 MB of cached signals fit; of 1.8 MB of general model, the template does.
ON_A_SMALL_DISK = """
mount -t tmpfs -o size=6800k tmpfs "$1" && cp -a "$2" "$1/home" || exit 99
"$3" -P -c "$4" run --yes --home "$1/home"
code=$?
cp -a "$1/home" "$5"
exit $code
"""


def own_mounts(*command: str) -> list[str]:
    """Return the command that runs another one in a mount namespace of its own."""
    return ["unshare", "--user", "--map-root-user", "--mount", *command]


def can_mount() -> bool:
    """Tell whether this machine lets users have mounts of their own."""
    if shutil.which("unshare") is None:
        return False
    test = own_mounts("mount", "-t", "tmpfs", "tmpfs", "/mnt")
    return subprocess.run(test, check=False, capture_output=True).returncode == 0


pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(200),
    pytest.mark.skipif(not can_mount(), reason="needs mounts of its own"),
]


@dataclass
class Ran:
    """A run that found its disk full."""

    disk: Path
    after: Path
    code: int
    err: str


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("full")
    home = prepared(folder / "home", data=folder / "data").home
    with Registry.open(home / "registry.db") as registry:
        registry.withdraw(registry.patients("wearable")[0].id)
    disk, after = folder / "disk", folder / "after"
    disk.mkdir()
    program = f"import sys; sys.path.insert(0, {str(CHECKOUT)!r}); {LETHE}"
    paths = [str(disk), str(home), sys.executable, program, str(after)]
    command = own_mounts("bash", "-c", ON_A_SMALL_DISK, "bash", *paths)
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=180)
    return Ran(disk, after, done.returncode, done.stderr)


def test_the_run_ends_with_one_line_that_says_which_file_had_no_room(ran):
    assert ran.code == 1, ran.err
    line = error_line(ran.err)
    assert line.startswith(f"error: the disk is full ({ran.disk}/home/models/")
    assert line.endswith("public.safetensors); free some space and run the command again")


def test_nothing_half_written_is_left_and_nothing_runs(ran):
    names = [path.name for path in ran.after.rglob("*")]
    assert not [name for name in names if name.startswith(".") or name.endswith((".tmp", ".part"))]
    assert not list(ran.after.glob("models/*/*.safetensors"))
    assert sorted(path.name for path in (ran.after / "flower").iterdir()) == ["launcher.lock", "superlink.log"]
    assert alive(ran.disk / "home") == []


def test_consent_is_as_it_was_and_the_device_has_been_told(ran):
    assert registry_is_sound(ran.after)
    with Registry.open(ran.after / "registry.db") as registry:
        assert [patient.status for patient in registry.patients("wearable")].count("withdrawn") == 1
        assert [job.state for job in registry.jobs()] == ["CERTIFIED"]
