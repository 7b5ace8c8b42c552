"""Runs one real device: Flower's SuperNode, which is told which device it is and where its files lie.

It opens no registry, and takes no path from the hospital. Each message is carried out by a fresh process of its own.
"""

import fcntl
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from server.workspace import Workspace
from shared.errors import RunError, WorkspaceError
from shared.interrupts import heed
from shared.notice import FOLDER
from simulations.credentials import Kit
from simulations.launcher import write_config
from simulations.processes import watched
from simulations.superlink import environment_of, free_port, start, tool

POLL_S = 0.2
STOP_S = 5.0  # a process that is working on a message is not waited for
CONNECTED = re.compile(r"SuperNode ID: \d+")
REFUSED = "Failed to activate SuperNode"


@dataclass(frozen=True)
class Device:
    """One device on this machine.

    Attributes:
        kit: its key, and where the hospital is.
        folder: its private folder.
        feed: what its sensor records.
        notice: where word of a withdrawal reaches it while it works; None on a machine of its own.
        log: where it tells what it does.
    """

    kit: Kit
    folder: Path
    feed: Path
    notice: Path | None
    log: Path

    @classmethod
    def beside(cls, workspace: Workspace, slot: int) -> "Device":
        """Return a device on the hospital's own machine; its files lie in the workspace."""
        return cls(
            kit=Kit.open(workspace.deploy / "devices" / str(slot)),
            folder=workspace.devices / str(slot),
            feed=workspace.feed(slot),
            notice=workspace.home / FOLDER / str(slot),
            log=workspace.flower / f"device-{slot}.log",
        )

    @classmethod
    def carried(cls, folder: Path) -> "Device":
        """Return a device on a machine of its own, where everything lies in the folder that its kit was carried to."""
        kit = Kit.open(folder)
        return cls(kit, kit.folder / "device", kit.folder / "feed.json", None, kit.folder / "device.log")


def wear(device: Device, *, connected: Callable[[], None]) -> None:
    """Run a device until it is interrupted.

    Args:
        device: which one.
        connected: told once the hospital lets it in.

    Raises:
        RunError: it does not, or not any more.
    """
    token = os.urandom(8).hex()
    with _only_one(device), watched(token, device.log.with_suffix(".scratch")) as scratch:
        process = start(_command(device, scratch), environment_of(token, scratch), scratch, device.log)
        try:
            _follow(process, device, connected)
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):  # the watchdog does the rest
                process.wait(timeout=STOP_S)


@contextmanager
def _only_one(device: Device) -> Iterator[None]:
    """Hold the device's log, and begin it anew."""
    with device.log.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WorkspaceError(f"device {device.kit.slot} runs already, and writes {device.log}") from None
        file.truncate(0)
        yield


def _command(device: Device, scratch: Path) -> list[str]:
    told: dict[str, int | str] = {"slot": device.kit.slot, "folder": str(device.folder), "feed": str(device.feed)}
    if device.notice is not None:
        told["notice"] = str(device.notice)
    write_config(scratch / "node.toml", told)
    return [
        *(tool("flower-supernode"), "--superlink", device.kit.superlink),
        *("--root-certificates", str(device.kit.authority), "--auth-supernode-private-key", str(device.kit.key)),
        *("--node-config", str(scratch / "node.toml"), "--host", "127.0.0.1", "--port", str(free_port())),
    ]


def _follow(process: "subprocess.Popen[bytes]", device: Device, connected: Callable[[], None]) -> None:
    """Wait until the SuperNode ends, and say why it did."""
    told = False
    while process.poll() is None:
        time.sleep(POLL_S)
        heed()
        if not told and CONNECTED.search(_said(device)):
            connected()
            told = True
    if REFUSED in _said(device):
        raise RunError(
            f"the hospital at {device.kit.superlink} does not let device {device.kit.slot} in: its key is not "
            "registered there, or not any more; or it is connected already, which after a crash lasts a minute"
        )
    if told and process.returncode >= 0:  # by itself
        raise RunError(
            f"device {device.kit.slot} was cut off by the hospital at {device.kit.superlink}, which does not know its "
            f"key any more, or was started anew; see {device.log}"
        )
    raise RunError(f"Flower's SuperNode ended with {process.returncode}; see {device.log}")


def _said(device: Device) -> str:
    return device.log.read_text(errors="replace")
