"""Starts a Flower SuperLink of its own, runs the app on it, and leaves no process behind.

`flwr run` alone would start a SuperLink that outlives the run and serves later runs, also those of other
checkouts, with its own old folder and environment. The one started here works in the workspace's `flower/`
folder, listens on a port of its own and ends with the run. Every process of a run carries the workspace in its
environment, so that also those that have left the family are found.
"""

import ctypes
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

from server.workspace import Workspace
from shared.errors import AuditError, ConsentError, DataError, LetheError, RunError, UsageError, WorkspaceError
from shared.settings import Settings

State = Mapping[str, Any]

APP = Path(__file__).resolve().parent.parent
CONNECTION = "lethe"
MARK = "LETHE_RUN_HOME"
START_S = 120.0
POLL_S = 0.2
ASK_FLOWER_EVERY_S = 20.0  # `flwr list` costs a second of a core
STOP_S = 10.0
_ERRORS: dict[int, type[LetheError]] = {2: UsageError, 3: ConsentError, 4: AuditError, 5: DataError}


def launch(workspace: Workspace, settings: Settings, *, slots: int, on_state: Callable[[State], None]) -> str:
    """Run the app once and return the run's name.

    Args:
        workspace: whose due work is done.
        settings: of the run.
        slots: how many devices to simulate.
        on_state: told what `server/progress.py` writes, whenever it changes.

    Raises:
        LetheError: what the ServerApp raised, or that Flower failed, hung or was interrupted.
    """
    if not (APP / "pyproject.toml").exists():
        raise RunError(f"no pyproject.toml in {APP}: runs need a checkout of Lethe, installed with scripts/setup")
    name = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{os.urandom(2).hex()}"
    with _only_one(workspace), _signals_interrupt(), superlink(workspace) as environment:
        run_id = _submit(workspace, environment, settings, name=name, slots=slots)
        _follow(workspace, environment, run_id, workspace.flower / f"{name}.json", on_state)
    return name


@contextmanager
def superlink(workspace: Workspace) -> Iterator[dict[str, str]]:
    """Give the environment in which `flwr` talks to a SuperLink that ends with this block."""
    folder = workspace.flower
    scratch = Path(tempfile.mkdtemp(prefix="lethe-"))  # short: Ray puts sockets there, whose paths are limited
    environment = _environment(workspace, scratch)
    sweep(workspace)
    try:
        port = _free_port()
        _write_connection(Path(environment["FLWR_HOME"]), port)
        command = [_tool("flower-superlink"), "--insecure", "--simulation", "--host", "127.0.0.1", "--port", str(port)]
        command += ["--disable-runtime-dependency-installation", "--log-file", str(folder / "superlink.log")]
        with (folder / "superlink.out").open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C reaches this process alone, which then stops that one
                preexec_fn=_end_with_parent,
            )
        _wait_until_healthy(process, port, folder)
        yield environment
    finally:
        sweep(workspace)
        shutil.rmtree(scratch, ignore_errors=True)


def sweep(workspace: Workspace) -> None:
    """Stop every process that a run in this workspace has started, politely first."""
    found = _processes(workspace)
    for process in found:
        _quietly(process.terminate)
    psutil.wait_procs(found, timeout=STOP_S)
    while left := _processes(workspace):
        for process in left:
            _quietly(process.kill)
        psutil.wait_procs(left, timeout=STOP_S)


def _processes(workspace: Workspace) -> list[psutil.Process]:
    """Return the processes that carry this workspace's mark, this one excepted."""
    found = []
    for process in psutil.process_iter():
        try:
            marked = process.pid != os.getpid() and process.environ().get(MARK) == str(workspace.home)
            if marked and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def _environment(workspace: Workspace, scratch: Path) -> dict[str, str]:
    """Return the environment of everything that a run starts."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "RAY_ADDRESS")}
    return {
        **inherited,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        MARK: str(workspace.home),
        "FLWR_HOME": str(workspace.flower / "flwr"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # a client without a GPU must not hide it from the server
        "RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES": "2000000000",
        "RAY_TMPDIR": str(scratch),
    }


def _write_connection(flwr_home: Path, port: int) -> None:
    """Tell `flwr` where the SuperLink is."""
    flwr_home.mkdir(parents=True, exist_ok=True)
    text = f'[superlink]\ndefault = "{CONNECTION}"\n\n[superlink.{CONNECTION}]\naddress = "127.0.0.1:{port}"\n'
    (flwr_home / "config.toml").write_text(text + "insecure = true\n")


def _wait_until_healthy(process: subprocess.Popen[bytes], port: int, folder: Path) -> None:
    import httpx

    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RunError(f"Flower's SuperLink ended with {process.returncode} before it was ready; see {folder}")
        try:
            if httpx.get(f"http://127.0.0.1:{port}/health", timeout=2.0, trust_env=False).is_success:
                return
        except httpx.HTTPError:
            time.sleep(POLL_S)
    raise RunError(f"Flower's SuperLink was not ready within {START_S:.0f} s; see {folder}/superlink.log")


def _submit(workspace: Workspace, environment: dict[str, str], settings: Settings, *, name: str, slots: int) -> str:
    """Hand the app to the SuperLink and return Flower's run id."""
    values = {"home": str(workspace.home), "run": name, **settings.flat()}
    config = workspace.flower / f"{name}.toml"
    config.write_text("".join(f"{json.dumps(key)} = {json.dumps(value)}\n" for key, value in values.items()))
    cores = os.cpu_count() or 1
    federation = f"num-supernodes={slots} client-resources-num-cpus=1 init-args-num-cpus={cores}"
    answer = _flwr(
        environment, "run", str(APP), CONNECTION, "--run-config", str(config), "--federation-config", federation
    )
    return str(answer["run-id"])


def _follow(
    workspace: Workspace, environment: dict[str, str], run_id: str, path: Path, on_state: Callable[[State], None]
) -> None:
    """Watch the run until it has ended, and raise what it raised."""
    asked = began = time.monotonic()
    state: State = {}
    while state.get("phase") != "end":
        time.sleep(POLL_S)
        now = time.monotonic()
        ended = False
        if now - asked > ASK_FLOWER_EVERY_S:  # before reading: what the run wrote last is then seen first
            asked, ended = now, _status(environment, run_id).startswith("finished")
        before, state = state, json.loads(path.read_text()) if path.exists() else {}
        if state != before:
            on_state(state)
        elif ended:
            raise RunError(f"Flower ended the run without a word of its own; see {workspace.flower}/superlink.log")
        if not state and now - began > START_S:
            raise RunError(f"the run did not start within {START_S:.0f} s; see {workspace.flower}/superlink.log")
    if state["error"]:
        raise _ERRORS.get(state["exit_code"], RunError)(state["error"])


def _status(environment: dict[str, str], run_id: str) -> str:
    answer = _flwr(environment, "list", CONNECTION, "--run-id", run_id)
    return str(answer["runs"][0]["status"])


def _flwr(environment: dict[str, str], *arguments: str) -> dict[str, Any]:
    """Call `flwr` and return its JSON."""
    done = subprocess.run(
        [_tool("flwr"), *arguments, "--format", "json"],
        cwd=environment["FLWR_HOME"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=START_S,
        check=False,
    )
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        answer = {}
    if done.returncode or not answer.get("success", False):
        said = answer.get("error-message") or done.stderr.strip() or done.stdout.strip()
        raise RunError(f"`flwr {arguments[0]}` failed: {said}")
    return answer


def _tool(name: str) -> str:
    """Return the path of a command that is installed beside this Python."""
    path = Path(sys.executable).parent / name
    if not path.exists():
        raise RunError(f"{path} is missing; set the environment up with scripts/setup")
    return str(path)


@contextmanager
def _only_one(workspace: Workspace) -> Iterator[None]:
    """Refuse a second launcher in the same workspace, before anything of the first is swept away."""
    workspace.flower.mkdir(parents=True, exist_ok=True)
    with (workspace.flower / "launcher.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise WorkspaceError(f"another run is going on in {workspace.home}; wait for it or stop it") from error
        yield


@contextmanager
def _signals_interrupt() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the run as Ctrl-C does, so that everything is stopped."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_with_parent() -> None:
    """Have the kernel stop the SuperLink when this process is killed (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _quietly(action: Callable[[], None]) -> None:
    with suppress(psutil.Error):
        action()
