"""Runs the app on a Flower SuperLink of its own, tells how far it is, and raises what it raised.

Starting the SuperLink is for `simulations/superlink.py`, stopping everything for `simulations/processes.py`.
"""

import json
import os
import re
import shutil
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from server.workspace import Workspace
from shared.errors import AuditError, ConsentError, DataError, LetheError, RunError, UsageError
from shared.files import write_atomically
from shared.interrupts import signals_interrupt
from shared.machine import cores
from shared.settings import Settings
from simulations.deployment import running
from simulations.processes import HOME_MARK, clear_left, stop
from simulations.superlink import CONNECTION, SCRATCH_NOTE, START_S, SuperLink, superlink

State = Mapping[str, Any]

APP = Path(__file__).resolve().parent.parent
POLL_S = 0.2
LET_GO_S = 5.0  # for the lock of a process that the sweep has just killed
LOOK_S = 2.0  # between looks whether the simulation still lives
ASK_S = 10.0  # between questions to Flower while there is no simulation; one costs two seconds of a core
_ERRORS: dict[int, type[LetheError]] = {2: UsageError, 3: ConsentError, 4: AuditError, 5: DataError}


def launch(workspace: Workspace, settings: Settings, *, slots: int, on_state: Callable[[State], None]) -> str:
    """Run the app once and return the run's name.

    Args:
        workspace: whose due work is done.
        settings: of the run.
        slots: how many devices to simulate, where they are not deployed.
        on_state: told what `server/progress.py` writes, whenever it changes.

    Raises:
        LetheError: what the ServerApp raised, its traceback as a note, or that Flower failed or hung.
        KeyboardInterrupt: on Ctrl-C, SIGTERM and SIGHUP.
    """
    if not (APP / "pyproject.toml").exists():
        raise RunError(f"no pyproject.toml in {APP}: runs need a checkout of Lethe, installed with scripts/setup")
    name = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{os.urandom(2).hex()}"
    state, config = workspace.flower / f"{name}.json", workspace.flower / f"{name}.toml"
    unfinished = state.with_suffix(".tmp")
    try:
        with _only_one(workspace), signals_interrupt(), _superlink_of(workspace) as link:
            devices = slots if link.online is None else link.online
            write_config(config, {"home": str(workspace.home), "run": name, "devices": devices, **settings.flat()})
            write_atomically(state, b"{}")  # there is room to tell, in this file, that there is no room left
            with _stopped(link, _submit(link, config, slots=slots)) as run_id:
                _follow(link, run_id, state, on_state)
    finally:
        for path in (state, unfinished, config):
            if path.exists():  # where nothing can be written, a removal of nothing is an error, too
                path.unlink()
    return name


@contextmanager
def _superlink_of(workspace: Workspace) -> Iterator[SuperLink]:
    """Give the SuperLink that the devices are connected to: the deployment's, or else one that simulates them."""
    with running(workspace) if workspace.deployed else superlink(workspace) as link:
        yield link


@contextmanager
def _stopped(link: SuperLink, run_id: str) -> Iterator[str]:
    """Stop a run that did not end well, on a SuperLink that goes on without us."""
    try:
        yield run_id
    except BaseException:
        if link.online is not None and not link.ended():
            with suppress(RunError):  # it may have ended by itself
                link.flwr("stop", run_id, CONNECTION)
        raise


def write_config(path: Path, values: Mapping[str, Any]) -> None:
    """Write a configuration for Flower; what JSON escapes for its own sake, TOML does not know."""
    lines = [f"{json.dumps(key)} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in values.items()]
    try:
        path.write_text("".join(lines).replace("\x7f", "\\u007f"), encoding="utf-8")
    except UnicodeEncodeError as error:
        raise UsageError(f"a name among {list(values.values())} is not UTF-8; give the folder another name") from error


def _submit(link: SuperLink, config: Path, *, slots: int) -> str:
    """Hand the app to the SuperLink and return Flower's run id."""
    asked = ["run", str(_without_neighbours(link.scratch / "app")), CONNECTION, "--run-config", str(config)]
    if link.online is None:
        simulated = f"num-supernodes={slots} client-resources-num-cpus=1 init-args-num-cpus={cores()}"
        asked += ["--federation-config", simulated]
    answer = link.flwr(*asked)
    return str(answer["run-id"])


def _without_neighbours(folder: Path) -> Path:
    """Copy the app alone into a folder: `flwr` resolves every file it finds, an environment's 55,000 too."""
    project = APP / "pyproject.toml"
    patterns = tomllib.loads(project.read_text(encoding="utf-8"))["tool"]["flwr"]["app"]["fab-include"]
    for path in (project, *(path for pattern in patterns for path in APP.glob(pattern))):
        to = folder / path.relative_to(APP)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, to)
    return folder


def _follow(link: SuperLink, run_id: str, path: Path, on_state: Callable[[State], None]) -> None:
    """Watch the run until it has ended, and raise what it raised."""
    began = looked = asked = time.monotonic()
    state: State = {}
    seen, ended = False, ""
    while state.get("phase") != "end":
        time.sleep(POLL_S)
        now = time.monotonic()
        if how := link.ended():
            ended = f"Flower's SuperLink {how} in mid-run; see {link.log}"
        elif now - looked > LOOK_S:
            looked, lives = now, _works(link)
            if seen and not lives:
                ended = "Flower's app was ended from outside, perhaps for lack of memory; run again"
            elif not lives and now - asked > ASK_S:
                asked, ended = now, _ended(link, run_id)
            seen = seen or lives
        before, state = state, _read(path)  # after looking: what the run wrote last is then seen
        if state != before:
            on_state(state)
        if ended and state.get("phase") != "end":
            raise _unexplained(ended, link.output_of(run_id))
        if not state and now - began > START_S:
            raise RunError(f"the run did not start within {START_S:.0f} s; see {link.log}")
    if state["error"]:
        error = _ERRORS.get(state["exit_code"], RunError)(state["error"])
        error.add_note(state.get("traceback", ""))
        raise error


def _works(link: SuperLink) -> bool:
    """Tell whether the process lives that runs the ServerApp, and in a simulation drives Ray."""
    name = "flwr-simulation" if link.online is None else "flwr-serverapp"
    try:
        family = psutil.Process(link.process.pid).children(recursive=True)
        return any(name in " ".join(process.cmdline()) for process in family)
    except psutil.Error:
        return False


def _ended(link: SuperLink, run_id: str) -> str:
    """Return "" while Flower has yet to end a run, and else how it ended it."""
    run = link.flwr("list", CONNECTION, "--run-id", run_id)["runs"][0]
    status = str(run["status"])
    return f"Flower ended the run before it began ({status})" if status.startswith("finished") else ""


def _read(path: Path) -> State:
    """Return what the run has last told; nothing before it has."""
    try:
        state: State = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return state


def _unexplained(ended: str, output: str) -> RunError:
    """Return the error of a run that has not told its end itself: with the last exception that its output names."""
    named = re.findall(r"^[\w.]*(?:Error|Exception): .+$", output, flags=re.MULTILINE)
    error = RunError(f"{ended}: {named[-1]}" if named else ended)
    error.add_note(output)
    return error


@contextmanager
def _only_one(workspace: Workspace) -> Iterator[None]:
    """Refuse a second launcher in the same workspace, then sweep away what a killed one has left.

    What else holds the workspace is found here and not ten seconds later by the ServerApp.
    """
    with workspace.launching():
        stop(HOME_MARK, str(workspace.home))
        clear_left(workspace.flower / SCRATCH_NOTE)
        for kind in ("json", "tmp", "toml"):
            for path in workspace.flower.glob(f"*.{kind}"):
                path.unlink()
        with workspace.lock("starting a run", patience_s=LET_GO_S):
            pass
        yield
