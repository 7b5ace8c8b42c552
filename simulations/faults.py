"""Kills the command line, the ServerApp, devices and the SuperLink in mid withdrawal, and counts what it cost.

    python -m simulations.faults [--times N] [--flower N] [--seed S] [--what cli,server,device,superlink] [--out FILE]

A try: copy a small workspace, let somebody withdraw, `kill -9` one process, do what an operator does (the command
again, the run again), and look at everything (`fault_checks`). Half of the kills come at a moment drawn evenly from the
time that an undisturbed one takes, half before a step on the disk drawn evenly from all its steps (`fault_points`). The
server's part and the devices run on a grid between two processes (`fault_grid`), or on Flower and Ray (`fault_flower`).
"""

import json
import random
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer

from simulations import fault_checks
from simulations.fault_cli import Command, lethe
from simulations.fault_flower import FlowerRun, nothing_is_alive, run_flower
from simulations.fault_grid import PROCESSES, Ended, Plan, Who, run_once
from simulations.fault_world import Asked, Scope, World, asked, certified, withdraw

app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
KINDS = ("consent", "stuck", "used", "half")  # what a finding begins with, as far as it has a column of its own
SCOPES: tuple[Scope, ...] = ("patient", "record", "patient", "record", "corpus")
RUNS = 3  # to be certified in; more is a job that is stuck
WARM = ("simulations.fault_grid", "onnxruntime", "sklearn.metrics", "scipy.stats", "matplotlib.figure", "server.report")


@dataclass
class Try:
    """What one kill came to.

    Attributes:
        fault: cli, server, device or superlink.
        where: "grid" or "Flower".
        scope: what was withdrawn.
        moment: when the kill was to come.
        hit: whether it came before the process had ended by itself.
        wrong: what the checks found.
        runs: runs until nothing was due any more.
        seconds: from the kill to the end of the run that certified it; None where none did.
    """

    fault: str
    where: str
    scope: Scope
    moment: str = ""
    hit: bool = False
    wrong: list[str] = field(default_factory=list)
    runs: int = 0
    seconds: float | None = None


@dataclass
class Undisturbed:
    """What a withdrawal takes that nobody disturbs: seconds, and steps on the disk, of each process."""

    command: tuple[float, int]
    server: tuple[float, int]
    device: tuple[float, int]


class Harness:
    """The tries, on copies of one world."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self.world, self.rng = world, rng
        self._usual: dict[Scope, Undisturbed] = {}
        self._window: tuple[float, float] | None = None

    def usual(self, scope: Scope) -> Undisturbed:
        """Measure a withdrawal of this scope once."""
        if scope not in self._usual:
            home = self.world.copy("undisturbed")
            one = asked(home, scope, self.rng)
            command = _withdraw(home, one, step=0)
            steps = int((home.parent / "steps").read_text())
            ran = run_once(home)
            assert command.code == 0, command.said
            assert ran.whole, ran.error
            assert not (wrong := fault_checks.everything(home, one)), wrong
            self._usual[scope] = Undisturbed(
                (command.seconds, steps), (ran.seconds, ran.steps[0]), (ran.seconds, ran.steps[1])
            )
        return self._usual[scope]

    def one(self, fault: str, where: str, number: int) -> Try:
        """Make one try."""
        if fault == "cli":
            return self.command(number, flower=where == "Flower")
        if where == "Flower":
            return self.on_flower(fault, number)
        return self.on_grid("server" if fault == "server" else "device", number)

    def command(self, number: int, *, flower: bool, step: int | None = None) -> Try:
        """Kill `lethe patients withdraw`, give it again, and run."""
        done = Try("cli", "Flower" if flower else "grid", SCOPES[number % (2 if flower else len(SCOPES))])
        home = self.world.copy(f"cli-{done.where}-{number}")
        one = asked(home, done.scope, self.rng)
        seconds, steps = self.usual(done.scope).command
        after = None
        if step is None and number % 2:
            step = self.rng.randint(1, steps)
        elif step is None:
            after = self.rng.uniform(0.0, seconds)
        killed = _withdraw(home, one, after=after, step=step)
        done.hit = killed.code == -9
        done.moment = _moment(home.parent / "steps", after=after, step=step)
        done.wrong = fault_checks.consent_is_whole(home, one, promised=killed.code == 0)
        again = _withdraw(home, one)
        if again.code:
            done.wrong.append(f"stuck: the command given again ended with {again.code}: {again.said[-200:]}")
        done.wrong += fault_checks.consent_is_whole(home, one, promised=True)
        return self._recovered(home, one, done, killed.at)

    def on_grid(self, who: Who, number: int, *, step: int | None = None) -> Try:
        """Kill the server's process or the devices', on the grid between two processes."""
        done = Try(who, "grid", SCOPES[number % len(SCOPES)])
        home = self.world.copy(f"{who}-grid-{number}")
        one = asked(home, done.scope, self.rng)
        usual = self.usual(done.scope)
        seconds, steps = usual.server if who == "server" else usual.device
        note, after = home.parent / "steps", None
        if step is None and number % 2:
            step = self.rng.randint(1, max(steps, 1))
        elif step is None:
            after = self.rng.uniform(0.0, seconds)
        withdraw(home, one)
        ended = run_once(home, Plan(who, step=step or 0, seconds=after, note=note))
        done.hit, done.moment = ended.killed is not None, _moment(note, after=after, step=step)
        done.wrong = _raised(ended)
        killed = ended.killed or time.monotonic()
        if ended.whole and certified(home):
            done.runs, done.seconds = 1, time.monotonic() - killed
            done.wrong += fault_checks.everything(home, one)
            return self._kept(home, done)
        return self._recovered(home, one, done, killed)

    def on_flower(self, fault: str, number: int) -> Try:
        """Kill a process of a `lethe run`: the launcher's and the ServerApp's in turn, a device's, or the SuperLink."""
        done = Try(fault, "Flower", SCOPES[number % 2])
        home = self.world.copy(f"{fault}-Flower-{number}")
        one = asked(home, done.scope, self.rng)
        withdraw(home, one)
        after = self.rng.uniform(0.0, self.window()[1])
        victim = ("launcher", "serverapp")[number % 2] if fault == "server" else fault
        ran = run_flower(home, victim, after=after, rng=self.rng)
        done.hit = ran.killed is not None
        done.moment = f"{victim}, {after:.2f} s after the ServerApp's first word"
        done.wrong = nothing_is_alive(home)
        killed = ran.killed or ran.ended
        if ran.code == 0 and certified(home):  # else a device was silent, and the next run asks it
            done.runs, done.seconds = 1, ran.ended - killed
            done.wrong += fault_checks.everything(home, one)
            return self._kept(home, done)
        return self._recovered(home, one, done, killed)

    def window(self) -> tuple[float, float]:
        """Measure a run on Flower once: until the ServerApp's first word, and from there to the certificate."""
        if self._window is None:
            home = self.world.copy("undisturbed-Flower")
            one = asked(home, "patient", self.rng)
            withdraw(home, one)
            ran = run_flower(home)
            assert ran.code == 0, ran.said
            assert not (wrong := fault_checks.everything(home, one)), wrong
            self._window = ran.window
        return self._window

    def _recovered(self, home: Path, one: Asked, done: Try, killed: float) -> Try:
        """Run until nothing is due, then look at everything."""
        while done.seconds is None and done.runs < RUNS:
            done.runs += 1
            ran: Ended | FlowerRun = run_flower(home) if done.where == "Flower" else run_once(home)
            done.wrong += _raised(ran)
            if not _raised(ran) and certified(home):
                done.seconds = time.monotonic() - killed
        if done.seconds is None:
            done.wrong.append(f"stuck: not certified after {RUNS} runs")
        done.wrong += fault_checks.everything(home, one)
        done.wrong += nothing_is_alive(home) if done.where == "Flower" else []
        return self._kept(home, done)

    def _kept(self, home: Path, done: Try) -> Try:
        """Keep the workspace of a try in which something is wrong."""
        if not done.wrong:
            self.world.forget(home)
        return done


def _withdraw(home: Path, one: Asked, *, after: float | None = None, step: int | None = None) -> Command:
    return lethe(home, "patients", "withdraw", one.patient, *one.words, "--yes", after=after, step=step)


def _raised(ran: Ended | FlowerRun) -> list[str]:
    """Return what a run raised that nobody had killed."""
    if isinstance(ran, FlowerRun):
        return [] if ran.code == 0 else [f"raised: lethe run ended with {ran.code}: {ran.said}"]
    return [f"raised: {ran.error}"] if ran.error else []


def _moment(note: Path, *, after: float | None, step: int | None) -> str:
    if after is not None:
        return f"after {after:.3f} s"
    return f"before step {step}: {note.read_text() if note.exists() else 'never came to it'}"


def table(tries: list[Try]) -> str:
    """Return the table of all tries, a row a fault and place."""
    head = ("fault", "where", "kills", "lost", "stuck", "used", "half", "other", "recovered", "s median", "s max")
    rows = [head, tuple("---" for _ in head)]
    for fault, where in dict.fromkeys((one.fault, one.where) for one in tries):
        mine = [one for one in tries if (one.fault, one.where) == (fault, where) and one.hit]
        seconds = [one.seconds for one in mine if one.seconds is not None]
        kinds = [sum(any(words.startswith(kind) for words in one.wrong) for one in mine) for kind in KINDS]
        other = sum(any(not words.startswith(KINDS) for words in one.wrong) for one in mine)
        well = sum(not one.wrong for one in mine)
        times = [f"{median(seconds):.1f}", f"{max(seconds):.1f}"] if seconds else ["-", "-"]
        rows.append((fault, where, str(len(mine)), *map(str, kinds), str(other), str(well), *times))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


@app.command()
def main(
    times: Annotated[int, typer.Option(help="Kills of each fault on the grid.")] = 50,
    flower: Annotated[int, typer.Option(help="Kills of each fault on Flower.")] = 10,
    seed: Annotated[int, typer.Option(help="Of moments, steps and who withdraws.")] = 0,
    what: Annotated[str, typer.Option(help="Faults, with commas.")] = "cli,server,device,superlink",
    out: Annotated[Path | None, typer.Option(help="A JSON file for all tries.")] = None,
) -> None:
    """Kill, recover, look; exit code 1 if anything is wrong."""
    PROCESSES.set_forkserver_preload(list(WARM))
    rng, began = random.Random(seed), time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="lethe-faults-"))
    harness, tries = Harness(World.make(folder), rng), list[Try]()
    for fault in what.split(","):
        for where, wanted in (("grid", 0 if fault == "superlink" else times), ("Flower", flower)):
            kills = number = 0
            while kills < wanted:  # a process that has ended before its moment came is none
                tries.append(harness.one(fault, where, number))
                kills, number = kills + tries[-1].hit, number + 1
                print(f"{time.monotonic() - began:7.0f} s {json.dumps(asdict(tries[-1]))}", file=sys.stderr, flush=True)
                _keep(out, tries, seed)
    print(table(tries))
    bad = [one for one in tries if one.wrong]
    print(f"{len(tries)} tries, {sum(one.hit for one in tries)} kills, {time.monotonic() - began:.0f} s, seed {seed}")
    if bad:
        print(f"{len(bad)} with something wrong; their workspaces are in {folder}", file=sys.stderr)
        raise typer.Exit(1)


def _keep(out: Path | None, tries: list[Try], seed: int) -> None:
    if out is not None:
        told: dict[str, Any] = {"seed": seed, "tries": [asdict(one) for one in tries]}
        out.write_text(json.dumps(told, indent=1), encoding="utf-8")


if __name__ == "__main__":
    app()
