"""Files and folders that are there whole or not at all, also after a kill."""

import signal
import subprocess
import sys

import pytest

from shared.files import folder_beside

BUILDER = """
import sys, time
from pathlib import Path
from shared.files import folder_beside
with folder_beside(Path(sys.argv[1])) as beside:
    (beside / "half").write_text("made")
    print(flush=True)
    time.sleep(300)
"""


@pytest.fixture
def builder(tmp_path):
    """Another process that is building tmp_path / "data [1]"."""
    process = subprocess.Popen([sys.executable, "-c", BUILDER, str(tmp_path / "data [1]")], stdout=subprocess.PIPE)
    with process, process.stdout as stdout:
        stdout.readline()
        yield process
        process.kill()


def test_what_a_killed_builder_left_goes_when_the_next_one_begins(tmp_path, builder):
    builder.send_signal(signal.SIGKILL)
    builder.wait()
    (left,) = tmp_path.iterdir()
    assert (left / "half").exists()
    with folder_beside(tmp_path / "data [1]") as beside:
        assert list(tmp_path.iterdir()) == [beside]
        beside.replace(tmp_path / "data [1]")
    assert [path.name for path in tmp_path.iterdir()] == ["data [1]"]


@pytest.mark.usefixtures("builder")
def test_two_who_build_for_the_same_place_leave_each_other_alone(tmp_path):
    (theirs,) = tmp_path.iterdir()
    with folder_beside(tmp_path / "data [1]") as beside:
        assert beside != theirs
        assert (theirs / "half").exists()
    assert list(tmp_path.iterdir()) == [theirs]


def test_other_places_are_left_alone(tmp_path):
    other = tmp_path / ".data [1]x.0.partial"
    other.mkdir()
    with folder_beside(tmp_path / "data [1]"):
        assert other.exists()
