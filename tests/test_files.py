"""Files and folders that are there whole or not at all, also after a kill."""

import fcntl
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from shared.files import flush_folder, folder_beside, sweep, write_atomically

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


@pytest.fixture
def told(monkeypatch) -> list[tuple[str, str]]:
    """What is flushed to the disk and what is renamed, in order, by the names that things have at that moment."""
    found: list[tuple[str, str]] = []
    fsync, replace = os.fsync, Path.replace

    def flushed(descriptor):
        found.append(("fsync", Path(f"/proc/self/fd/{descriptor}").readlink().name))
        fsync(descriptor)

    def renamed(self, target):
        found.append(("rename", Path(target).name))
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(Path, "replace", renamed)
    return found


def test_a_file_is_on_the_disk_before_it_has_its_name_and_its_name_before_the_function_returns(tmp_path, told):
    write_atomically(tmp_path / "state.json", b"{}")
    (first, name), second, third = told
    assert first == "fsync"
    assert name.startswith(".state.json.")
    assert (second, third) == (("rename", "state.json"), ("fsync", tmp_path.name))


def test_a_removal_is_durable_once_its_folder_is_flushed(tmp_path, told):
    flush_folder(tmp_path)
    assert told == [("fsync", tmp_path.name)]


def test_an_interrupt_right_after_the_folder_is_made_leaves_nothing(tmp_path, monkeypatch):
    make = Path.mkdir

    def interrupted(self, *arguments):
        make(self, *arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "mkdir", interrupted)
    with pytest.raises(KeyboardInterrupt), folder_beside(tmp_path / "data"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_named_as_it_was_asked_for(tmp_path):
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "missing" / "table.md", tmp_path / "folder"):  # neither made, nor put into its place
        with pytest.raises((FileNotFoundError, IsADirectoryError)) as caught:
            write_atomically(path, b"")
        assert (caught.value.filename, caught.value.filename2) == (str(path), None)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_what_killed_processes_left_is_swept_and_what_is_being_written_is_not(tmp_path):
    spare = tmp_path / "devices"
    for folder in (tmp_path, tmp_path / "notices", spare):
        folder.mkdir(exist_ok=True)
        for name in (".a.json.k3_x9abc", "a.json", ".keep", ".a.json.KEEPTHIS"):
            (folder / name).write_text("half")
    with (tmp_path / ".a.json.writing_").open("w") as writing:
        fcntl.flock(writing, fcntl.LOCK_EX)
        sweep(tmp_path, spare=spare)
        left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.json.*")}
    assert left == {
        ".a.json.writing_",
        ".a.json.KEEPTHIS",
        "notices/.a.json.KEEPTHIS",
        "devices/.a.json.k3_x9abc",
        "devices/.a.json.KEEPTHIS",
    }
    assert (tmp_path / "notices" / ".keep").exists()


def test_a_file_is_written_while_others_sweep(tmp_path):
    done = threading.Event()

    def sweeping():
        while not done.is_set():
            sweep(tmp_path, spare=tmp_path / "none")

    thread = threading.Thread(target=sweeping)
    thread.start()
    try:
        for number in range(300):
            write_atomically(tmp_path / "a", str(number).encode())
    finally:
        done.set()
        thread.join()
    assert (tmp_path / "a").read_bytes() == b"299"
