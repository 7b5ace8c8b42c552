"""A Flower SuperLink of our own: starts it, and calls `flwr` on it.

`flwr run` alone would start a SuperLink that outlives the run and serves later runs, also those of other
checkouts, with its own old folder and environment. This one works in a new folder, listens on a port of its own
and takes nothing from the caller's environment that could lead it, Ray or `flwr` elsewhere. It ends with its
block, however that ends: see `simulations/processes.py`.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from server.workspace import Workspace
from shared.errors import RunError
from simulations.processes import GRACE_S, HOME_MARK, RUN_MARK, watched

CONNECTION = "lethe"
START_S = 120.0
NO_INSTALLING = "--disable-runtime-dependency-installation"  # each run would call `uv sync`
POLL_S = 0.1
SCRATCH_NOTE = "scratch"  # in the workspace: where this run keeps its temporary files
PORTS = 3  # tries: another process may take a free port before the SuperLink does
# Would lead Flower or Ray to others' servers or code, or have a server believe who says where he comes from.
FOREIGN = ("FLWR_", "RAY_", "PYTHONPATH", "PYTHONHOME", "UVICORN_", "FORWARDED_ALLOW_IPS")
LOCAL = "127.0.0.1,localhost"


@dataclass(frozen=True)
class SuperLink:
    """A SuperLink that listens.

    Attributes:
        process: the SuperLink itself; of a deployment it is another command's.
        environment: in which `flwr` talks to it.
        log: where it tells what it does.
        scratch: a folder for temporary files that ends with its block.
        online: how many devices are connected to it; None where they are simulated.
    """

    process: "subprocess.Popen[bytes] | psutil.Process"
    environment: Mapping[str, str]
    log: Path
    scratch: Path
    online: int | None = None

    def ended(self) -> str:
        """Say how the SuperLink ended; "" while it lives."""
        if isinstance(self.process, psutil.Process):
            return "" if self.process.is_running() else "ended"
        code = self.process.poll()
        return "" if code is None else f"ended with {code}"

    def flwr(self, command: str, *arguments: str) -> dict[str, Any]:
        """Call `flwr` and return its JSON.

        Raises:
            RunError: it failed, or took too long.
        """
        done = self._call(command, *arguments, "--format", "json")
        answer: dict[str, Any] = {}
        with suppress(ValueError):
            answer = json.loads(done.stdout)
        if done.returncode or not answer.get("success", False):
            said = answer.get("error-message") or done.stderr.strip() or done.stdout.strip()
            raise RunError(f"`flwr {command}` failed: {said}")
        return answer

    def output_of(self, run_id: str) -> str:
        """Return what the processes of a run have printed, as far as Flower knows; "" if it cannot be asked."""
        if self.ended():
            return ""
        with suppress(RunError):
            return self._call("log", run_id, CONNECTION, "--show").stdout.strip()
        return ""

    def _call(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        try:
            return subprocess.run(
                [tool("flwr"), *arguments],
                cwd=self.environment["FLWR_HOME"],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=START_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise RunError(f"`flwr {arguments[0]}` did not answer within {START_S:.0f} s; see {self.log}") from error


@contextmanager
def superlink(workspace: Workspace) -> Iterator[SuperLink]:
    """Give a SuperLink that ends with this block, and so does everything it has started."""
    token, log = os.urandom(8).hex(), workspace.flower / "superlink.log"
    with watched(token, workspace.flower / SCRATCH_NOTE) as scratch:
        environment = {**environment_of(token, scratch), HOME_MARK: str(workspace.home)}
        process, port = _listening(environment, scratch, log)
        connect(environment, port)
        try:
            yield SuperLink(process, environment, log, scratch)
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):  # the watchdog does the rest
                process.wait(timeout=GRACE_S)


def _listening(environment: Mapping[str, str], scratch: Path, log: Path) -> "tuple[subprocess.Popen[bytes], int]":
    """Start a SuperLink and return it with its port, once it listens there."""
    for _ in range(PORTS):
        port = free_port()
        command = [tool("flower-superlink"), "--insecure", "--simulation", "--host", "127.0.0.1", "--port", str(port)]
        process = start([*command, NO_INSTALLING], environment, scratch, log)
        if listens(process, port):
            return process, port
    raise RunError(f"Flower's SuperLink ended with {process.returncode} before it was ready; see {log}")


def past_proxies() -> dict[str, str]:
    """Return what the environment is to say so that this machine is not reached by way of a proxy."""
    direct = ",".join(filter(None, [os.environ.get("NO_PROXY") or os.environ.get("no_proxy"), LOCAL]))
    return {"NO_PROXY": direct, "no_proxy": direct}


def environment_of(token: str, scratch: Path) -> dict[str, str]:
    """Return the environment of everything that is started under a token, and make Flower's folder in it."""
    (scratch / "flwr").mkdir()
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    return {
        **inherited,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        **past_proxies(),
        RUN_MARK: token,
        "FLWR_HOME": str(scratch / "flwr"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # a client without a GPU must not hide it from the server
        "RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES": "2000000000",
        "RAY_TMPDIR": str(scratch),
    }


def start(
    command: Sequence[str], environment: Mapping[str, str], scratch: Path, log: Path
) -> "subprocess.Popen[bytes]":
    """Start a process of Flower's in a session of its own, and let it write to a log."""
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            cwd=scratch,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C reaches this process alone, which then stops that one
        )


def listens(process: "subprocess.Popen[bytes]", port: int) -> bool:
    """Wait until this very process listens on the port; False when it has ended."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            return False
        with suppress(psutil.Error):
            sockets = psutil.Process(process.pid).net_connections(kind="tcp")
            if any(one.status == psutil.CONN_LISTEN and one.laddr[1] == port for one in sockets):
                return True
        time.sleep(POLL_S)
    raise RunError(f"Flower's SuperLink was not ready within {START_S:.0f} s; is the machine overloaded?")


def connect(environment: Mapping[str, str], port: int, *, authority: Path | None = None) -> None:
    """Tell `flwr` where the SuperLink is; without an `authority` for its certificate they speak in the clear."""
    home = Path(environment["FLWR_HOME"])
    secured = "insecure = true"
    if authority is not None:
        shutil.copyfile(authority, home / "ca.pem")  # whatever the path of the workspace, this one is plain
        secured = f'root-certificates = "{home / "ca.pem"}"'
    text = f'[superlink]\ndefault = "{CONNECTION}"\n\n[superlink.{CONNECTION}]\naddress = "127.0.0.1:{port}"\n'
    (home / "config.toml").write_text(f"{text}{secured}\n")


def tool(name: str) -> str:
    """Return the path of a command that is installed beside this Python."""
    path = Path(sys.executable).parent / name
    if not path.exists():
        raise RunError(f"{path} is missing; set the environment up with scripts/setup")
    return str(path)


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
