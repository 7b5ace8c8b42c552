"""A run ends in order or leaves nothing behind: interrupts, kills, a dead SuperLink, a taken port, a second run."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from flower_runs import (
    Lethe,
    alive,
    error_line,
    gone_within,
    nothing_left_running,
    prepared,
    registry_is_sound,
    result_of,
    state,
)

from server.registry import Registry
from server.workspace import Workspace
from shared.errors import RunError, WorkspaceError
from shared.interrupts import signals_interrupt
from shared.settings import Settings
from simulations import launcher, superlink
from simulations.processes import RUN_MARK, _short_folder, clear_left, marked, stop, watched

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(300)"
LAUNCHER = """
import os, subprocess, sys, time
from pathlib import Path
from simulations.processes import RUN_MARK, watched
with watched("{token}", Path({note!r})) as scratch:
    command = [sys.executable, "-c", {stubborn!r}]
    environment = dict(os.environ, **{{RUN_MARK: "{token}"}})
    child = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, start_new_session=True)
    child.stdout.readline()
    print(scratch, flush=True)
    {then}
"""


def fake_launcher(token: str, then: str, note: Path) -> tuple["subprocess.Popen[str]", Path]:
    """Start what a launcher is to the watchdog, with one process that does not listen to SIGTERM."""
    program = LAUNCHER.format(token=token, stubborn=STUBBORN, then=then, note=str(note))
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout as stdout:
        return process, Path(stdout.readline().strip())


@pytest.mark.parametrize("then", ["time.sleep(300)", "os.kill(os.getppid(), 0); os.kill(os.getpid(), 9)"])
def test_a_killed_launcher_takes_everything_with_it(then: str, tmp_path: Path) -> None:
    token = os.urandom(8).hex()
    process, scratch = fake_launcher(token, then, tmp_path / "scratch")
    if "sleep" in then:
        assert len(marked(RUN_MARK, token)) == 1
        process.kill()
    process.wait()
    deadline = time.monotonic() + 10
    while marked(RUN_MARK, token) or scratch.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("then", ["pass", "raise KeyboardInterrupt", "sys.exit(3)"])
def test_a_launcher_that_ends_has_swept_before(then: str, tmp_path: Path) -> None:
    token, note = os.urandom(8).hex(), tmp_path / "scratch"
    process, scratch = fake_launcher(token, f"sys.stderr = open(os.devnull, 'w'); {then}", note)
    process.wait()
    assert marked(RUN_MARK, token) == []
    assert not scratch.exists()
    assert not note.exists()


def watchdog_of(launcher: psutil.Process, scratch: Path) -> psutil.Process:
    """Return the process that watches a launcher; one that has just begun has no command line for a moment."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        for one in launcher.children():
            with suppress(psutil.Error):
                if str(scratch) in one.cmdline():
                    return one
        time.sleep(0.01)
    raise AssertionError("nobody watches the launcher")


def test_a_launcher_sweeps_itself_when_its_watchdog_was_killed(tmp_path: Path) -> None:
    token = os.urandom(8).hex()
    with watched(token, tmp_path / "scratch") as scratch:
        watchdog_of(psutil.Process(), scratch).kill()
        child = subprocess.Popen([sys.executable, "-c", STUBBORN], env={**os.environ, RUN_MARK: token})
    assert child.wait(timeout=1) == -signal.SIGKILL or child.returncode == -signal.SIGTERM
    assert not scratch.exists()


def test_what_a_launcher_and_its_watchdog_left_when_both_were_killed_goes_before_the_next_run(tmp_path: Path) -> None:
    token, note = os.urandom(8).hex(), tmp_path / "scratch"
    process, scratch = fake_launcher(token, "time.sleep(300)", note)
    watchdog_of(psutil.Process(process.pid), scratch).kill()
    process.kill()
    process.wait()
    stop(RUN_MARK, token)
    assert scratch.exists()
    clear_left(note)
    assert not scratch.exists()
    assert not note.exists()
    clear_left(note)  # nothing is left


def test_a_note_removes_no_folder_that_no_launcher_made(tmp_path: Path) -> None:
    note, theirs = tmp_path / "scratch", tmp_path / "lethe-home"
    theirs.mkdir()
    note.write_text(str(theirs))
    clear_left(note)
    assert theirs.exists()


def test_a_sweep_finds_children_that_have_lost_the_mark() -> None:
    """As Ray's agents do, whose title is written over their environment."""
    token = os.urandom(8).hex()
    child = "import time; print(flush=True); time.sleep(300)"
    program = (
        "import subprocess, sys, time; "
        f"c = subprocess.Popen([sys.executable, '-c', {child!r}], env={{}}, stdout=subprocess.PIPE, "
        "start_new_session=True); c.stdout.readline(); print(c.pid, flush=True); time.sleep(300)"
    )
    environment = {**os.environ, RUN_MARK: token}
    with subprocess.Popen(
        [sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        unmarked = psutil.Process(int(parent.stdout.readline()))
        assert unmarked not in marked(RUN_MARK, token)
        stop(RUN_MARK, token)
    assert not unmarked.is_running() or unmarked.status() == psutil.STATUS_ZOMBIE


def test_a_sweep_leaves_other_runs_alone() -> None:
    others = subprocess.Popen([sys.executable, "-c", STUBBORN], env={**os.environ, RUN_MARK: "theirs"})
    try:
        stop(RUN_MARK, "ours")
        assert others.poll() is None
    finally:
        others.kill()
        others.wait()


@pytest.mark.parametrize("usual", ["/tmp/with a space", "/var/folders/zz/zyxvpxvq6csfxvn_n0000000000000/T"])
def test_sockets_get_a_short_path(usual: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: usual)
    assert _short_folder() == "/tmp"


@pytest.fixture(autouse=True)
def _tidy() -> Iterator[None]:
    with nothing_left_running():
        yield


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.create(tmp_path / "home", data=tmp_path)


def test_a_second_launcher_in_a_workspace_is_refused(workspace: Workspace) -> None:
    with launcher._only_one(workspace), pytest.raises(WorkspaceError, match=f"process {os.getpid()}"):
        launcher.launch(workspace, Settings(), slots=1, on_state=print)


HOLDER = """
import sys, time
from pathlib import Path
from server.workspace import Workspace
with Workspace.open(Path(sys.argv[1])).lock("run of a killed launcher"):
    print(flush=True)
    time.sleep(1.5)
"""


def test_a_lock_that_is_about_to_be_let_go_is_waited_for(workspace: Workspace) -> None:
    command = [sys.executable, "-c", HOLDER, str(workspace.home)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:  # without a mark: the sweep cannot end it
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(WorkspaceError, match="in use by run of a killed launcher"), workspace.lock("train"):
            pass  # whoever has nothing to wait for is refused at once
        with launcher._only_one(workspace), workspace.lock("run"):
            pass


def test_what_nohup_has_switched_off_stays_off() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals_interrupt():
            os.kill(os.getpid(), signal.SIGHUP)
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.slow
def test_a_port_that_is_taken_meanwhile_costs_another_try(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = superlink.free_port
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ports = [taken.getsockname()[1]]
        monkeypatch.setattr(superlink, "free_port", lambda: ports.pop() if ports else free())
        with superlink.superlink(workspace) as link:
            assert link.process.poll() is None
    assert alive(workspace.home) == []


def test_a_superlink_that_cannot_start_is_an_error_that_names_the_log(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(superlink, "tool", lambda _: "/bin/false")
    with pytest.raises(RunError, match=r"superlink\.log"), superlink.superlink(workspace):
        pass


# The rest are real runs in one workspace, one fault after the other; the last one finishes.


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faults")
    return prepared(folder / "home", data=folder / "data").home


def lethe_run(home: Path, *more: str, debug: bool = False) -> Lethe:
    return Lethe(*(["--debug"] if debug else []), "run", "--yes", "--home", str(home), *more, folder=home.parent)


def simulates(home: Path) -> bool:
    return any("flwr-simulation" in command for command in alive(home))


@pytest.mark.slow
def test_ctrl_c_while_flower_starts(home: Path) -> None:
    run = lethe_run(home)
    run.until(lambda: alive(home))
    os.killpg(run.process.pid, signal.SIGINT)  # as a terminal does
    code, _, err = run.end(within=15)
    assert (code, error_line(err)) == (1, "error: interrupted; nothing is half done, run the command again")
    assert alive(home) == []


@pytest.mark.slow
def test_a_dead_superlink_is_noticed_within_seconds(home: Path) -> None:
    run = lethe_run(home)
    run.until(lambda: state(home).get("phase") == "directory")
    for process in marked("LETHE_RUN_HOME", str(home)):
        with suppress(psutil.Error):  # some have ended meanwhile
            if "flower-superlink" in " ".join(process.cmdline()):
                process.kill()
    code, _, err = run.end(within=20)
    assert code == 1
    assert "SuperLink ended with -9 in mid-run" in error_line(err)
    assert alive(home) == []


@pytest.mark.slow
def test_what_the_server_app_raises_reaches_the_command_line(home: Path) -> None:
    data = home.parent / "data"
    data.rename(home.parent / "away")
    try:
        run = lethe_run(home, debug=True)
        code, _, err = run.end()
    finally:
        (home.parent / "away").rename(data)
    assert code == 5
    assert err.splitlines()[-1].startswith("error: ")
    assert str(data) in err.splitlines()[-1]
    assert "Traceback" in err
    assert alive(home) == []


@pytest.mark.slow
def test_a_killed_launcher_leaves_no_process(home: Path) -> None:
    run = lethe_run(home, "--set", "general.epochs=500")
    run.until(lambda: state(home).get("phase") == "general" and state(home)["done"])
    assert any("ray::" in command for command in alive(home))
    run.process.kill()
    run.end()
    assert gone_within(home, 15)
    assert registry_is_sound(home)
    for told in (home / "flower").glob("*.json"):  # nobody is there any more to take it away, and `state` would read it
        told.unlink()


@pytest.mark.slow
def test_sigterm_while_devices_work_and_a_second_run_meanwhile(home: Path) -> None:
    run = lethe_run(home, "--set", "personalisation.steps=1000")
    run.until(lambda: state(home).get("phase") == "personalise")
    code, _, err = lethe_run(home).end(within=60)
    assert code == 1
    assert f"another run is going on in {home} (process {run.process.pid})" in error_line(err)
    run.process.terminate()
    code, _, err = run.end(within=15)
    assert (code, error_line(err)) == (1, "error: interrupted; nothing is half done, run the command again")
    assert alive(home) == []
    assert registry_is_sound(home)


@pytest.mark.slow
def test_after_all_that_a_run_finishes_and_a_process_killed_on_the_way_costs_no_device(home: Path) -> None:
    run = lethe_run(home, "--set", "personalisation.steps=300")
    run.until(lambda: state(home).get("phase") == "personalise")
    actors = [one for one in marked("LETHE_RUN_HOME", str(home)) if "ray::ClientAppActor" in " ".join(one.cmdline())]
    assert len(actors) > 1, "one process simulates all devices: there is nobody to take over"
    actors[0].kill()
    code, out, err = run.end()
    assert code == 0, err
    assert alive(home) == []
    assert registry_is_sound(home)
    assert len(result_of(home)["personal"]) == 3
    assert "report" in out
    with Registry.open(home / "registry.db") as registry:
        assert [job.state for job in registry.jobs()] == ["CERTIFIED", "CERTIFIED"]
    assert sorted(path.name for path in (home / "flower").iterdir()) == ["launcher.lock", "superlink.log"]
