"""Real runs for tests: `lethe` in a process of its own, on a workspace as small as it gets."""

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, ClassVar

import psutil

from server.workspace import Workspace
from shared.settings import Settings
from simulations import main_job
from simulations.cohort import write_cohort
from simulations.processes import HOME_MARK, marked

CHECKOUT = Path(__file__).parent.parent
LETHE = "import sys; sys.argv[0] = 'lethe'; from simulations.entry import main; main()"
# A budget of 1 accepts every copy, of a general model that has learnt little.
TINY = Settings().with_values(
    {
        "cohort.wearables": 3,
        "cohort.controls": 4,
        "general.width": 8,
        "general.epochs": 1,
        "general.max_segments": 400,
        "personalisation.steps": 5,
        "personalisation.anchor_segments": 16,
        "personalisation.gate_segments": 16,
        "personalisation.budget": 1.0,
        "unlearning.epochs": 2,
        "unlearning.rehearsals": 2,
        "probe.epsilons_sd": "0,0.05",
        "probe.control_segments": 20,
        "audit.copies": 2,
    }
)


def prepared(home: Path, *, data: Path, patients: int = 30, settings: Settings = TINY) -> Workspace:
    """Write a cohort and enrol it."""
    write_cohort(data, patients=patients, seed=1)
    return main_job.prepare(home, data=data, settings=settings)[0]


@contextmanager
def nothing_left_running() -> Iterator[None]:
    """Kill the commands that a failed test has left; their watchdogs do the rest."""
    try:
        yield
    finally:
        while Lethe.started:
            run = Lethe.started.pop()
            run.process.kill()
            run.process.communicate()


class Lethe:
    """A `lethe` command at work, in a session of its own as in a terminal of its own."""

    started: ClassVar[list["Lethe"]] = []

    def __init__(
        self,
        *arguments: str,
        folder: Path,
        checkout: Path = CHECKOUT,
        environment: dict[str, str] | None = None,
    ) -> None:
        # The packages of this checkout, whichever is installed.
        program = f"import sys; sys.path.insert(0, {str(checkout)!r}); {LETHE}"
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", program, *arguments],
            cwd=folder,
            env={**os.environ, **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.started.append(self)

    def end(self, *, within: float = 200) -> tuple[int, str, str]:
        """Wait, and return exit code, stdout and stderr."""
        out, err = self.process.communicate(timeout=within)
        self.started.remove(self)
        return self.process.returncode, out, err

    def until(self, ready: Callable[[], Any], *, within: float = 120) -> None:
        """Wait until the command is as far as that."""
        deadline = time.monotonic() + within
        while not ready():
            assert self.process.poll() is None, self.end()
            assert time.monotonic() < deadline
            time.sleep(0.02)


def state(home: Path) -> dict[str, Any]:
    """Return what the run that is going on has last told."""
    for path in (home / "flower").glob("*.json"):
        try:
            found: dict[str, Any] = json.loads(path.read_text())
        except FileNotFoundError:  # the run has just ended
            continue
        return found
    return {}


def error_line(text: str) -> str:
    """Return the error that a command printed, which is its last line."""
    assert "Traceback" not in text, text
    line = text.splitlines()[-1]
    assert line.startswith("error: "), text
    return line


def alive(home: Path) -> list[str]:
    """Return the command lines of what a run in this workspace has left alive."""
    found = []
    for process in marked(HOME_MARK, str(home)):
        try:
            found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found


def gone_within(home: Path, seconds: float) -> bool:
    """Tell whether every process of the workspace's runs is gone in time."""
    deadline = time.monotonic() + seconds
    while alive(home):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def registry_is_sound(home: Path) -> bool:
    """Let SQLite check the registry."""
    with closing(sqlite3.connect(home / "registry.db")) as database:
        return database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def result_of(home: Path) -> dict[str, Any]:
    """Return the result of the workspace's last run."""
    result: dict[str, Any] = json.loads((main_job.latest(Workspace.open(home), None) / "result.json").read_text())
    return result
