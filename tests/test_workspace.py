"""The workspace: refused early and clearly, one run at a time, nothing half-made."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from server.workspace import Workspace
from shared.errors import WorkspaceError

HOLD = """
import sys, time
from pathlib import Path
from server.workspace import Workspace
with Workspace.open(Path(sys.argv[1])).lock("lethe run"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.create(tmp_path / "home", data=tmp_path / "data")


def test_a_workspace_opens_as_it_was_created(workspace, tmp_path):
    opened = Workspace.open(tmp_path / "home")
    assert opened == workspace
    assert opened.data == tmp_path / "data"
    assert all(room.is_dir() for room in opened.rooms)
    assert json.loads((opened.home / "workspace.json").read_text()) == {
        "lethe_workspace": 3,
        "data": str(tmp_path / "data"),
    }


def test_relative_paths_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    workspace = Workspace.create(Path("home"), data=Path("data"))
    monkeypatch.chdir("/")
    assert workspace.home == tmp_path / "home"
    assert workspace.data == tmp_path / "data"


def test_an_existing_workspace_is_never_overwritten(workspace):
    before = (workspace.home / "workspace.json").read_bytes()
    with pytest.raises(WorkspaceError, match="already"):
        Workspace.create(workspace.home, data=Path("elsewhere"))
    assert (workspace.home / "workspace.json").read_bytes() == before


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(WorkspaceError, match="not an empty folder"):
        Workspace.create(tmp_path, data=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_empty_folder_becomes_a_workspace(tmp_path):
    assert Workspace.create(tmp_path, data=tmp_path).home == tmp_path


def test_a_place_that_cannot_be_written_is_an_error_that_names_it(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkspaceError, match=r"cannot write workspace .*file/home"):
        Workspace.create(tmp_path / "file" / "home", data=tmp_path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "lethe init"),
        ('{"lethe_workspace": 2, "da', "cannot be read"),
        ("\x00\xff", "cannot be read"),
        ("[]", "version None"),
        ('{"lethe_workspace": 1, "data": "x"}', "version 1, this Lethe reads version 3"),
        ('{"lethe_workspace": 3}', "data folder"),
    ],
)
def test_what_is_no_workspace_of_this_version_is_refused(tmp_path, content, says):
    if content is not None:
        (tmp_path / "workspace.json").write_text(content)
    with pytest.raises(WorkspaceError, match=says):
        Workspace.open(tmp_path)


def test_a_workspace_that_was_built_stands_under_its_final_name(tmp_path):
    with Workspace.building(tmp_path / "home", data=tmp_path / "data") as inside:
        (inside.feeds / "0.json").write_text("{}")
        assert not (tmp_path / "home").exists()
    assert (Workspace.open(tmp_path / "home").feeds / "0.json").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


@pytest.mark.parametrize("failure", [RuntimeError, FileNotFoundError, KeyboardInterrupt])
def test_a_build_that_fails_leaves_nothing(tmp_path, failure):
    def build() -> None:
        with Workspace.building(tmp_path / "home", data=tmp_path) as inside:
            (inside.models / "half").write_text("made")
            raise failure

    with pytest.raises(failure):
        build()
    assert list(tmp_path.iterdir()) == []


def test_a_build_never_replaces_what_came_there_meanwhile(tmp_path):
    home = tmp_path / "home"
    with pytest.raises(WorkspaceError, match="already"), Workspace.building(home, data=tmp_path):
        Workspace.create(home, data=tmp_path / "first")
    assert Workspace.open(home).data == tmp_path / "first"
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_a_second_run_is_refused_at_once_and_told_who_holds_the_workspace(workspace):
    with (
        workspace.lock("lethe run"),
        pytest.raises(WorkspaceError, match=rf"lethe run \(process {os.getpid()}, since 20\d\d-"),
        workspace.lock("lethe train"),
    ):
        pytest.fail("two runs at a time")
    with workspace.lock("lethe train"):
        pass


def test_a_failing_run_gives_the_lock_back(workspace):
    with pytest.raises(ZeroDivisionError), workspace.lock("lethe run"):
        raise ZeroDivisionError
    with workspace.lock("lethe run"):
        pass


def test_the_lock_dies_with_its_process(workspace):
    command = [sys.executable, "-c", HOLD, str(workspace.home)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(WorkspaceError, match=f"process {holder.pid}"), workspace.lock("lethe run"):
            pytest.fail("two runs at a time")
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with workspace.lock("lethe run"):
            pass


def test_a_process_that_the_run_started_does_not_inherit_the_lock(workspace):
    with workspace.lock("lethe run"):
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        with workspace.lock("lethe run"):
            pass
    finally:
        child.communicate(b"\n")
