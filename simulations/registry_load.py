"""Many patients enrolled and withdrawn by several processes at once: is anything lost, and how long does each wait?

A command of `python -m simulations.benchmark`. Every process does its share of real `lethe patients add` and `lethe
patients withdraw` commands one after another, by the functions of the command line and without starting Python for
each: a thousand starts would measure the interpreter. Database time is what a command spends in the registry, from
opening it on: waiting for others, transactions, and what is written before one is committed; beside it stands the
processor's share, which no other program on the machine stretches. This file is also the program of such a process.
"""

import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from server.enrolment import FACT
from server.inventory import Inventory
from server.registry import Registry
from server.workspace import Workspace
from shared.errors import LetheError
from simulations.cohort import write_cohort

GROUP = 25  # patients a folder: the commands read a folder's tables and headers, which is not what is measured


def registry(
    patients: Annotated[int, typer.Option(min=1)] = 1000,
    withdrawals: Annotated[int, typer.Option(min=1)] = 200,
    processes: Annotated[int, typer.Option(min=1)] = 8,
    url: Annotated[str | None, typer.Option("--registry", help="An empty PostgreSQL database; else SQLite.")] = None,
) -> None:
    """Enrol and withdraw from several processes at once, check that nothing is lost, and time the database."""
    from simulations.timing import printed

    with tempfile.TemporaryDirectory() as folder:
        printed(**measure(Path(folder), patients=patients, withdrawals=withdrawals, processes=processes, url=url))


def measure(folder: Path, *, patients: int, withdrawals: int, processes: int, url: str | None) -> dict[str, Any]:
    """Return what was lost and how long the commands took, in a new folder; the database is emptied again.

    Raises:
        WorkspaceError: the database cannot be used.
        CalledProcessError: a command failed.
    """
    from server import keys
    from server.postgresql import emptied_on_failure

    groups = _groups(folder, patients)
    with Workspace.building(folder / "home", data=folder / "cohort", registry=url) as building:
        keys.make(building.keys)
    workspace = Workspace.open(folder / "home")
    with ExitStack() as emptied:
        if url is not None:
            emptied.callback(emptied.enter_context(emptied_on_failure(workspace.registry_path)).discard)
        with Registry.create(workspace.registry_path) as made:
            made.remember(FACT, {"task": "multi"})  # several superclasses do, so that nobody is left out
        return _loaded(workspace, groups, withdrawals=withdrawals, processes=processes)


def _groups(folder: Path, patients: int) -> list[tuple[Path, list[str]]]:
    """Write a cohort, and folders that show a few of its patients each."""
    write_cohort(folder / "cohort", patients=patients, seed=0)
    with (folder / "cohort" / "ptbxl_database.csv").open(newline="") as file:
        table = csv.DictReader(file)
        rows, names = list(table), table.fieldnames or []
    everybody = sorted({row["patient_id"] for row in rows}, key=float)
    groups = []
    for number, first in enumerate(range(0, patients, GROUP)):
        part, few = folder / f"part-{number}", everybody[first : first + GROUP]
        part.mkdir()
        for beside in ("scp_statements.csv", "records500"):
            (part / beside).symlink_to(folder / "cohort" / beside)
        with (part / "ptbxl_database.csv").open("w", newline="") as file:
            written = csv.DictWriter(file, names)
            written.writeheader()
            written.writerows(row for row in rows if row["patient_id"] in few)
        groups.append((part, [str(int(float(patient))) for patient in few]))
    return groups


def _loaded(
    workspace: Workspace, groups: list[tuple[Path, list[str]]], *, withdrawals: int, processes: int
) -> dict[str, Any]:
    everybody = [(str(part), patient) for part, few in groups for patient in few]
    every = len(everybody) // withdrawals
    leaving = {patient for _, patient in everybody[::every][:withdrawals]}
    began, running = time.monotonic(), []
    for number in range(processes):
        share = workspace.home.with_name(f"share-{number}.json")
        share.write_text(json.dumps([[part, one, one in leaving] for part, one in everybody[number::processes]]))
        command = [sys.executable, "-m", "simulations.registry_load", str(workspace.home), str(share)]
        running.append((share, subprocess.Popen(command, stdin=subprocess.DEVNULL)))
    for failed in [process for _, process in running if process.wait()]:
        raise subprocess.CalledProcessError(failed.returncode, failed.args)
    each: list[list[dict[str, Any]]] = [json.loads(share.read_text()) for share, _ in running]
    told = [one for done in each for one in done]
    first = [done[0] for done in each]  # of a process: every statement is new to it
    seconds = time.monotonic() - began
    times = {name: _percentiles([one["ms"] for one in told if one["command"] == name]) for name in ("add", "withdraw")}
    cpu = {name: _percentiles([one["cpu_ms"] for one in told if one["command"] == name]) for name in times}
    times |= {"all": _percentiles([one["ms"] for one in told]), "first": _percentiles([one["ms"] for one in first])}
    return {
        "database": "SQLite" if workspace.registry_path.suffix == ".db" else "PostgreSQL",
        **{"processes": processes, "commands": len(told), "seconds": seconds, "database_ms": times},
        "database_cpu_ms": cpu,
        **_lost(workspace, {patient for _, patient in everybody}, leaving),
    }


def _percentiles(times: list[float]) -> dict[str, float]:
    return {f"p{level}": float(np.percentile(times, level)) for level in (50, 95, 99)} | {"max": max(times)}


def _lost(workspace: Workspace, asked: set[str], leaving: set[str]) -> dict[str, Any]:
    """Count what is there, and name what is not as it was asked."""
    from server.history_check import check

    with Registry.open(workspace.registry_path) as opened:
        people, jobs = opened.patients(), opened.jobs()
        _, findings = check(workspace, opened, head=None)
    gone = {one.id for one in people if one.status == "withdrawn"}
    return {
        "enrolled": len(people),
        "withdrawn": len(gone),
        "jobs": len(jobs),
        "lost": sorted(
            (asked ^ {one.id for one in people}) | (leaving ^ gone) | (gone ^ {job.patient for job in jobs})
        ),
        "slots": len({one.slot for one in people}),
        "feeds": sum(1 for _ in workspace.feeds.iterdir()),
        "findings": [finding.words for finding in findings],
    }


class _Watch:
    """Adds up how long a command is in the registry; one transaction inside another counts once."""

    def __init__(self) -> None:
        self.ms, self.cpu_ms = 0.0, 0.0
        self._depth = 0
        self._began = (0.0, 0.0)

    @contextmanager
    def running(self) -> Iterator[None]:
        if not self._depth:
            self._began = (time.perf_counter(), time.process_time())
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if not self._depth:
                self.ms += 1000 * (time.perf_counter() - self._began[0])
                self.cpu_ms += 1000 * (time.process_time() - self._began[1])


def _watched(watch: _Watch) -> None:
    """Have the registry of this process timed."""
    opened: Any = Registry.open

    def opening(*arguments: Any, clock: Callable[[], str] | None = None) -> Registry:
        assert clock is None
        with watch.running():
            found: Registry = opened(*arguments)
            return found

    def timed(
        transaction: Callable[[Any], AbstractContextManager[Any]],
    ) -> Callable[[Any], AbstractContextManager[Any]]:
        @contextmanager
        def inside(self: Any) -> Iterator[Any]:
            with watch.running(), transaction(self) as connection:
                yield connection

        return inside

    for name in ("_reading", "_writing"):
        setattr(Inventory, name, timed(getattr(Inventory, name)))
    setattr(Registry, "open", opening)  # noqa: B010 - mypy lets nobody assign to a method


def main(home: str, share: str) -> None:
    """Do the commands of a file, and write there how long each was in the database, in ms."""
    from simulations.cli import _invoke

    watch, told = _Watch(), []
    _watched(watch)
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123
        for part, patient, leaves in json.loads(Path(share).read_text()):
            commands = [["add", patient, "--data", part], ["withdraw", patient, "--yes"]]
            for words in commands if leaves else commands[:1]:
                watch.ms = watch.cpu_ms = 0.0
                with redirect_stdout(nowhere):
                    code = _invoke(["patients", *words, "--home", home, "--json"])
                if code:
                    raise LetheError(f"`lethe patients {' '.join(words)}` ended with {code}")
                told.append({"command": words[0], "ms": watch.ms, "cpu_ms": watch.cpu_ms})
    Path(share).write_text(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
