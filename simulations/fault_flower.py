"""`lethe run` with its own SuperLink and Ray, of which one process is killed while a withdrawal is carried out."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from simulations.fault_cli import CHECKOUT, LETHE
from simulations.processes import HOME_MARK, marked

POLL_S = 0.02
RUN_S = 300.0  # a run of this workspace takes half a minute
GONE_S = 20.0  # until nothing of a killed run is alive
VICTIMS = {"launcher": "lethe run", "serverapp": "flwr-simulation", "device": "ray::ClientAppActor"}
VICTIMS |= {"superlink": "flower-superlink"}


@dataclass
class FlowerRun:
    """How a `lethe run` ended.

    Attributes:
        code: its exit code.
        said: what it printed last on stderr.
        window: seconds from its start to the ServerApp's first word, and from there to the last certificate.
        killed: the moment of the kill; None where none was.
        certified: the moment in which no job was due any more; None where that did not come.
        ended: the moment of its end.
    """

    code: int = 1
    said: str = ""
    window: tuple[float, float] = (0.0, 0.0)
    killed: float | None = None
    certified: float | None = None
    ended: float = 0.0


def run_flower(home: Path, victim: str = "", *, after: float = 0.0, rng: random.Random | None = None) -> FlowerRun:
    """Run what is due; kill a process so many seconds after the ServerApp's first word.

    Args:
        home: the workspace.
        victim: one of `VICTIMS`, or "" for none.
        after: seconds.
        rng: chooses among several, such as the processes that simulate devices.
    """
    run, began, first = FlowerRun(), time.monotonic(), 0.0
    with _lethe_run(home) as process:
        while process.poll() is None and time.monotonic() < began + RUN_S:
            now = time.monotonic()
            if not first and list((home / "flower").glob("*.json")) and _told(home):
                first = now
            if first and run.certified is None and _certified(home):
                run.certified = now
            if victim and first and run.killed is None and now >= first + after and _kill(home, victim, process, rng):
                run.killed = time.monotonic()
            time.sleep(POLL_S)
        process.kill()
        run.said = "\n".join(process.communicate()[1].splitlines()[-1:])
        run.ended, run.code = time.monotonic(), process.returncode
    run.certified = run.certified or (run.ended if _certified(home) else None)
    run.window = (first - began, (run.certified or first) - first)
    return run


@contextmanager
def _lethe_run(home: Path) -> "Iterator[subprocess.Popen[str]]":
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", LETHE, "run", "--home", str(home)],
        cwd=home.parent,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _told(home: Path) -> bool:
    """Return whether the ServerApp has said anything."""
    return any(path.stat().st_size > 2 for path in (home / "flower").glob("*.json") if path.exists())


def _certified(home: Path) -> bool:
    """Look at the jobs without opening the registry as a program of Lethe's would."""
    with (
        suppress(sqlite3.Error),
        closing(sqlite3.connect(f"{(home / 'registry.db').as_uri()}?mode=ro", uri=True)) as db,
    ):
        return not db.execute("SELECT 1 FROM jobs WHERE state <> 'CERTIFIED'").fetchall()
    return False


def _kill(home: Path, victim: str, launcher: "subprocess.Popen[str]", rng: random.Random | None) -> bool:
    """Kill one process of a kind, as `kill -9` does; a device's rather while it is at work."""
    if victim == "launcher":
        launcher.kill()
        return True
    found = [process for process in marked(HOME_MARK, str(home)) if VICTIMS[victim] in _title(process)]
    if at_work := [process for process in found if "ClientAppActor.run" in _title(process)]:
        found = at_work
    if not found:
        return False
    with suppress(psutil.Error):
        (rng or random.Random(0)).choice(found).send_signal(signal.SIGKILL)
        return True
    return False


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def nothing_is_alive(home: Path, *, within: float = GONE_S) -> list[str]:
    """Return what a killed run has left running after a while."""
    until = time.monotonic() + within
    alive: Callable[[], list[str]] = lambda: [_title(one)[:80] for one in marked(HOME_MARK, str(home))]  # noqa: E731
    while (left := alive()) and time.monotonic() < until:
        time.sleep(0.1)
    return [f"process: {one} is left" for one in left]
