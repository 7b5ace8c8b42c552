"""The main job from end to end: make or open data, enrol, run on Flower, report.

The commands of `simulations/cli.py` call this; it prints progress on stderr and returns what to print.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from server.workspace import Workspace
from server.workspace_settings import keep
from shared.errors import DataError, UsageError
from shared.files import write_atomically
from shared.settings import Settings
from shared.terminal import progress

DEMO_PATIENTS = 320
DEMO_WITHDRAWALS = 2
PHASES = {
    "directory": "finding the devices",
    "general": "training the general model",
    "personalise": "personalising on the devices",
    "probe": "probing with FGSM",
    "audit": "comparing copies on the devices",
    "audit again": "once more, with four times as many",
    "unlearn": "unlearning on the devices",
    "verify": "verifying the erasure",
    "result": "adding up",
}
AGAIN = {"general": "the general model once more", "personalise": "personalising again"}


def prepare(
    home: Path, *, data: Path, settings: Settings, registry: str | None = None
) -> tuple[Workspace, dict[str, Any]]:
    """Make a workspace at `home` with the patients of `data`; a failure leaves nothing behind.

    Args:
        home: where.
        data: a folder in PTB-XL's layout.
        settings: what is kept as the workspace's own.
        registry: URL of an empty PostgreSQL database; None keeps the registry in an SQLite file.

    Returns:
        The workspace, and what enrolment found, with the records left out by reason.
    """
    from server import keys
    from server.postgresql import emptied_on_failure
    from server.registry import Registry
    from simulations.enrol import enrol_cohort

    with ExitStack() as undo, Workspace.building(home, data=data, registry=registry) as workspace:
        if registry is not None:
            undo.enter_context(emptied_on_failure(workspace.registry_path))
        key = keys.make(workspace.keys)
        found = enrol_cohort(workspace, settings, progress=progress)
        with Registry.open(workspace.registry_path) as opened:
            opened.note_key(key)
        keep(settings, home=home.resolve(), folder=workspace.home)
    return Workspace.open(home), found


def synthesise(home: Path, *, seed: int) -> Path:
    """Write the synthetic cohort of the demonstration beside `home`, or use the one that is there, and return it.

    A cohort is moved to its name when it is whole, and patients and seed alone make it.
    """
    from simulations.cohort import record_count, write_cohort

    folder = home.with_name(f"{home.name}-cohort-{DEMO_PATIENTS}-seed-{seed}")
    if not folder.exists():
        with progress("writing a synthetic cohort", record_count(DEMO_PATIENTS)) as tell:
            write_cohort(folder, patients=DEMO_PATIENTS, seed=seed, progress=tell)
    return folder


def run(workspace: Workspace, settings: Settings) -> dict[str, Any]:
    """Do what is due in one Flower run; return the result with the path of its report.

    The time that starting, talking to and stopping Flower took beside the phases is entered as overhead.
    """
    from server.enrolment import refuse_other
    from server.registry import Registry
    from simulations.deployment import admit
    from simulations.launcher import launch

    with Registry.open(workspace.registry_path) as registry:
        refuse_other(settings, registry)
        slots = [patient.slot for patient in registry.patients("wearable") if patient.slot is not None]
    if not slots:
        raise UsageError("no patient with a wearable is enrolled; add one with `lethe patients add`")
    began = time.monotonic()
    with drawn() as on_state:
        name = launch(workspace, settings, slots=max(slots) + 1, on_state=on_state)
    wall = time.monotonic() - began
    folder = workspace.reports / name
    result = read_result(folder)
    result["overhead_seconds"] = wall - sum(phase["seconds"] for phase in result["phases"])
    result["seconds"] = wall
    write_atomically(folder / "result.json", json.dumps(result, indent=2).encode())
    tidy(workspace)  # after this, what is returned is the last that says whose certificate it is
    if workspace.deployed:
        admit(workspace)  # who was forgotten in this run is let in no more
    return {**result, "report": str(folder / "report.html")}


def tidy(workspace: Workspace) -> None:
    """Take from the results of all runs what may no longer be shown, and build the pages that are missing then."""
    from server import report
    from server.forgotten import unname
    from server.pictures import withhold
    from server.registry import Registry

    with Registry.open(workspace.registry_path) as registry:
        withhold(workspace.reports, registry)
        unname(workspace.reports, registry)
    for path in sorted(workspace.reports.glob("*/result.json")):
        if not (path.parent / "report.html").exists():
            with suppress(DataError):  # of another version; `lethe report` says so to whom it concerns
                report.build(path.parent)


def latest(workspace: Workspace, name: str | None) -> Path:
    """Return the folder of a run's result, of the last run when no name is given.

    Raises:
        UsageError: there is none.
    """
    found = sorted(path.parent.name for path in workspace.reports.glob("*/result.json"))
    if name is None and found:
        name = found[-1]
    if name is None or name not in found:
        seen = f"no run {name!r}" if name else "no finished run"
        known = f"; there are {', '.join(found)}" if found else "; start one with `lethe run`"
        raise UsageError(f"{seen} in {workspace.reports}{known}")
    return workspace.reports / name


def read_result(folder: Path) -> dict[str, Any]:
    """Return a run's result."""
    try:
        result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"no readable result in {folder} ({error}); run again") from error
    return result


@contextmanager
def drawn() -> Iterator[Any]:
    """Draw the phases of a run as progress bars on stderr; gives the function that is told its state."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True, highlight=False)
    columns = (SpinnerColumn(), TextColumn("{task.description:<34}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console) as bar:
        tasks = {"start": bar.add_task("starting Flower", total=1)}

        def on_state(state: Mapping[str, Any]) -> None:
            bar.update(tasks["start"], completed=1)
            for index, phase in enumerate(state["finished"]):
                key = f"{index}{phase['name']}"
                if key not in tasks:
                    tasks[key] = bar.add_task(_called(phase["name"], state["finished"][:index]), total=1)
                total = bar.tasks[tasks[key]].total
                bar.update(tasks[key], completed=total or 1, total=total or 1)
            name = state["phase"]
            key = f"{len(state['finished'])}{name}"
            if name in PHASES and not (state["finished"] and state["finished"][-1]["name"] == name and state["done"]):
                if key not in tasks:
                    tasks[key] = bar.add_task(_called(name, state["finished"]), total=None)
                if state["total"]:
                    bar.update(tasks[key], completed=state["done"], total=state["total"])

        yield on_state


def _called(name: str, before: Sequence[Mapping[str, Any]]) -> str:
    """Return what a phase is called that comes after others of the run."""
    return AGAIN.get(name, PHASES[name]) if any(phase["name"] == name for phase in before) else PHASES[name]
