"""The root of `lethe`: mounts the operator's commands and adds init, demo, train, run, report and data.

Everything heavy is imported inside the commands, so that `lethe --help` is quick.
"""

import errno
import sys
from pathlib import Path
from typing import Annotated

import typer

from server.cli import devices, jobs, patients
from shared.errors import LetheError
from shared.terminal import note, show
from simulations.data_cli import app as data

app = typer.Typer(
    name="lethe",
    help="Federated ECG wearables whose personal models unlearn on request, with evidence.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)
app.add_typer(data, name="data")
app.add_typer(patients, name="patients")
app.add_typer(jobs, name="jobs")
app.add_typer(devices, name="devices")

Home = Annotated[Path, typer.Option("--home", envvar="LETHE_HOME", help="The workspace.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Assignments = Annotated[
    list[str] | None, typer.Option("--set", help="A setting, for example general.width=64; may be repeated.")
]
DEFAULT_HOME = Path("lethe-home")
QUICK_SEGMENTS = 40_000  # training crops at most under --quick: about a minute at width 16 on two cores


@app.callback()
def root(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Federated ECG wearables whose personal models unlearn on request, with evidence."""
    _Debug.on = debug


class _Debug:
    """Whether an error shows its traceback; set once by the root command."""

    on = False


@app.command()
def init(
    data: Annotated[Path, typer.Option("--data", help="A folder in PTB-XL's layout.")],
    home: Home = DEFAULT_HOME,
    scenario: Annotated[str, typer.Option("--scenario", help="quickstart, real, or a TOML file.")] = "real",
    assignments: Assignments = None,
    as_json: Json = False,
) -> None:
    """Make a workspace: split the patients of a data set and enrol them."""
    from server.registry import Registry
    from server.results import describe_split
    from simulations import main_job, scenarios

    settings = scenarios.with_assignments(scenarios.scenario(scenario), assignments or [])
    workspace = main_job.prepare(home, data=data, settings=settings)
    with Registry.open(workspace.registry_path) as registry:
        split = describe_split(registry)
    lines = [f"{part:<10}{n['patients']:>7} patients{n['records']:>8} records" for part, n in split.items()]
    lines += [f"workspace  {workspace.home}", "next: lethe run"]
    show({"home": str(workspace.home), **split}, as_json=as_json, render=lambda: "\n".join(lines))


@app.command()
def demo(
    data: Annotated[Path | None, typer.Option("--data", help="A PTB-XL folder; else a synthetic cohort.")] = None,
    home: Annotated[Path | None, typer.Option("--home", help="A new workspace, default lethe-demo/<time>.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Cap the training time.")] = False,
    seed: Annotated[int, typer.Option("--seed", help="Of cohort, split, models and personalisation.")] = 0,
    assignments: Assignments = None,
    as_json: Json = False,
) -> None:
    """Run the main job from end to end and print a summary."""
    from datetime import datetime

    from simulations import main_job, scenarios, summary

    settings = scenarios.scenario("quickstart" if data is None else "real")
    settings = settings.with_values({f"{part}.seed": seed for part in ("cohort", "general", "personalisation")})
    if quick:
        settings = settings.with_values({"general.max_segments": QUICK_SEGMENTS})
    settings = scenarios.with_assignments(settings, assignments or [])
    home = home or Path("lethe-demo") / f"{datetime.now():%Y%m%d-%H%M%S}"
    if data is None:
        data = home.with_name(f"{home.name}-data")
        main_job.synthesise(data, patients=main_job.DEMO_PATIENTS, seed=seed)
    result = main_job.run(main_job.prepare(home, data=data, settings=settings), settings)
    show(result, as_json=as_json, render=lambda: summary.render(result))


@app.command()
def run(home: Home = DEFAULT_HOME, assignments: Assignments = None, as_json: Json = False) -> None:
    """Do what is due: forget what was withdrawn, train, personalise, probe, report; one Flower run."""
    from server.workspace import Workspace
    from simulations import main_job, scenarios, summary

    workspace = Workspace.open(home)
    settings = scenarios.with_assignments(scenarios.of_workspace(workspace.home), assignments or [])
    result = main_job.run(workspace, settings)
    show(result, as_json=as_json, render=lambda: summary.render(result))


@app.command()
def train(home: Home = DEFAULT_HOME, assignments: Assignments = None, as_json: Json = False) -> None:
    """Train the general model on the corpus, without any device; a run does this by itself."""
    from server.general import train_general
    from server.registry import Registry
    from server.workspace import Workspace
    from shared.terminal import progress
    from simulations import scenarios

    workspace = Workspace.open(home)
    settings = scenarios.with_assignments(scenarios.of_workspace(workspace.home), assignments or [])
    with (
        workspace.lock("train"),
        Registry.open(workspace.registry_path) as registry,
        progress("training the general model", settings.general.epochs) as tell,
    ):
        trained = train_general(workspace, registry, settings, tell=lambda done, _: tell(done))
    result = {**trained.record, "reused": trained.reused}
    record = result["metrics"]["record"]
    text = f"general model {trained.digest}\nrecord accuracy {record['accuracy']} on {record['n']} validation records"
    show(result, as_json=as_json, render=lambda: text)


@app.command()
def report(
    name: Annotated[str | None, typer.Argument(metavar="[RUN]", help="A run, default the last.")] = None,
    home: Home = DEFAULT_HOME,
    as_json: Json = False,
) -> None:
    """Build the HTML report of a run again and print its path."""
    from server.report import build
    from server.workspace import Workspace
    from simulations import main_job

    folder = main_job.latest(Workspace.open(home), name)
    page = build(folder)
    show({"run": folder.name, "report": str(page)}, as_json=as_json, render=lambda: str(page))


def main() -> None:
    """Run the command line; every expected failure is one line on stderr and an exit code."""
    try:
        app()
    except LetheError as error:
        _fail(str(error), error.exit_code, error)
    except KeyboardInterrupt as error:
        _fail("interrupted; nothing is half done, run the command again", 1, error)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        told = "the disk is full" if full else (error.strerror or str(error))
        where = f" ({error.filename})" if error.filename else ""
        _fail(
            f"{told}{where}; {'free some space' if full else 'check the path and its rights'} and try again", 1, error
        )


def _fail(text: str, exit_code: int, error: BaseException) -> None:
    if _Debug.on:
        raise error
    note(f"[bold red]error:[/] {_escaped(text)}")
    sys.exit(exit_code)


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
