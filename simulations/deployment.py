"""The SuperLink of a deployment, which real devices connect to: runs it, and says which devices it lets in.

Flower keeps who is registered in memory, and the messages too: what devices answer is on no disk. The kits in
`deploy/devices` are what lasts: `admit` registers each with the SuperLink that runs, and unregisters whoever has none.
A patient of whom all is certified as forgotten has none any more.
"""

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime

import psutil

from server.roll_call import node_name
from server.workspace import Workspace
from shared.errors import RunError, WorkspaceError
from simulations import credentials, gate
from simulations.processes import watched
from simulations.roster import Roster
from simulations.superlink import NO_INSTALLING, SuperLink, connect, environment_of, listens, start

LOCK = "superlink.lock"  # names the process that runs, and is locked while it does
STOP_S = 5.0


@dataclass(frozen=True)
class Admitted:
    """What `admit` changed, by slot."""

    registered: tuple[int, ...]
    cut_off: tuple[int, ...]


@contextmanager
def serving(workspace: Workspace) -> Iterator[SuperLink]:
    """Give a SuperLink that real devices can connect to; it ends with this block, and so does what it has started.

    Raises:
        WorkspaceError: no keys, a certificate that has ended, or a SuperLink that runs already.
        RunError: it does not start.
    """
    address, until = credentials.address(workspace.deploy), credentials.valid_until(workspace.deploy)
    if until <= datetime.now(UTC):
        raise WorkspaceError(f"the server's certificate ended on {until:%Y-%m-%d}; `lethe deploy keys` makes the next")
    token, log = os.urandom(8).hex(), workspace.flower / "superlink.log"
    with _only_one(workspace) as note, watched(token, workspace.deploy / "scratch") as scratch:
        environment = environment_of(token, scratch)
        process = start(_command(workspace, address), environment, scratch, log)
        try:
            if not listens(process, address.port):
                raise RunError(
                    f"Flower's SuperLink ended with {process.returncode} before it was ready, perhaps because port "
                    f"{address.port} is taken; see {log}"
                )
            note(process.pid)
            yield SuperLink(process, environment, log, scratch)
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):  # the watchdog does the rest
                process.wait(timeout=STOP_S)


def _command(workspace: Workspace, address: credentials.Address) -> list[str]:
    """Return the command of a SuperLink that nobody else reaches if devices are on this machine alone."""
    folder = workspace.deploy
    host = "127.0.0.1" if address.here else "0.0.0.0"
    return [
        *(sys.executable, "-P", gate.__file__, "--host", host, "--port", str(address.port)),
        *("--ssl-ca-certfile", str(folder / "ca.pem"), "--ssl-certfile", str(folder / "server.pem")),
        *("--ssl-keyfile", str(folder / "server.key"), "--enable-supernode-auth", NO_INSTALLING),
    ]


@contextmanager
def running(workspace: Workspace) -> Iterator[SuperLink]:
    """Give the SuperLink that another command runs for this workspace's devices.

    Raises:
        RunError: none runs.
    """
    process = _running(workspace)
    if process is None:
        raise RunError(
            f"the devices of this workspace are deployed (its keys are in {workspace.deploy}), and no SuperLink runs "
            "for them; start one with `lethe deploy superlink`, and keep it running"
        )
    token = os.urandom(8).hex()
    with watched(token, workspace.flower / "scratch") as scratch, roster(workspace) as known:
        environment = environment_of(token, scratch)
        connect(environment, credentials.address(workspace.deploy).port, authority=workspace.deploy / "ca.pem")
        online = sum(node.online for node in known.nodes().values())
        yield SuperLink(process, environment, workspace.flower / "superlink.log", scratch, online=online)


def is_running(workspace: Workspace) -> bool:
    """Return whether a SuperLink runs for this workspace's devices."""
    return _running(workspace) is not None


@contextmanager
def roster(workspace: Workspace) -> Iterator[Roster]:
    """Give the list of devices of the SuperLink that runs on this machine."""
    folder = workspace.deploy
    with Roster.of(credentials.address(folder).port, authority=(folder / "ca.pem").read_bytes()) as known:
        yield known


def admit(workspace: Workspace) -> Admitted:
    """Let in whoever has a kit, and cut off whoever has none or is forgotten, on the SuperLink that runs.

    The kits of forgotten patients go, whether a SuperLink runs or not.
    """
    from server.registry import Registry

    with Registry.open(workspace.registry_path) as registry:
        forgotten = registry.forgotten()
    kits = credentials.kits(workspace.deploy)
    for slot in forgotten & kits.keys():
        credentials.discard(kits.pop(slot))
    if not is_running(workspace):
        return Admitted((), ())
    wanted = {node_name(slot): kit.public.read_bytes() for slot, kit in kits.items()}
    with roster(workspace) as known:
        before = known.nodes()
        gone = [name for name, node in before.items() if node.key != wanted.get(name)]
        for name in gone:
            known.unregister(before[name])
        new = [name for name in wanted if name not in before or name in gone]
        for name in new:
            known.register(name, wanted[name])
    return Admitted(_slots(new), _slots(gone))


def _slots(names: list[str]) -> tuple[int, ...]:
    return tuple(sorted(int(name.rpartition("-")[2]) for name in names))


@contextmanager
def _only_one(workspace: Workspace) -> Iterator[Callable[[int], None]]:
    """Hold the lock of the deployment's SuperLink, and give what notes its process for others."""
    with (workspace.deploy / LOCK).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WorkspaceError(
                f"a SuperLink runs for {workspace.home} already; stop it first, or use that one"
            ) from None

        def note(pid: int) -> None:
            file.truncate(0)
            file.write(str(pid))
            file.flush()

        yield note
        file.truncate(0)


def _running(workspace: Workspace) -> psutil.Process | None:
    """Return the SuperLink's process, if one runs: its lock dies with the command that owns it."""
    try:
        with (workspace.deploy / LOCK).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return None
    except BlockingIOError:
        with suppress(ValueError, psutil.Error):
            return psutil.Process(int((workspace.deploy / LOCK).read_text()))
    return None
