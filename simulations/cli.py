"""The root of `lethe`: mounts the operator's commands and adds init, demo, train, run, report, data and paper.

Everything heavy is imported inside the commands, so that `lethe --help` is quick.
"""

import os
import sys
import traceback
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import click
import typer
import typer.core

from client.cli import COMMANDS
from server.certificate_cli import certificate, keys
from server.cli import devices, run_command
from server.consent_cli import patients
from server.jobs_cli import jobs
from server.ledger_cli import ledger
from server.registry_cli import registry
from shared.errors import AuditError, LetheError, UsageError, WorkspaceError, code_of, plainly
from shared.interrupts import signals_interrupt
from shared.terminal import console, show
from simulations.attack_cli import attack
from simulations.audit_cli import app as audit
from simulations.compare_cli import compare
from simulations.data_cli import app as data
from simulations.deploy_cli import app as deploy
from simulations.entry import open_streams
from simulations.paper_cli import paper
from simulations.trace_cli import trace

typer.core.HAS_RICH = False  # without Rich's help pages Typer still escapes for them, and prints "\\[required]"
app = typer.Typer(
    name="lethe",
    help="Federated ECG wearables whose personal models unlearn on request, with evidence.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)
for name, command in COMMANDS.items():
    devices.command(name)(command)
patients.command("trace")(trace)
GROUPS = {"audit": audit, "data": data, "deploy": deploy, "patients": patients, "jobs": jobs, "devices": devices}
GROUPS |= {"ledger": ledger, "registry": registry, "certificate": certificate, "keys": keys}
for name, group in GROUPS.items():
    app.add_typer(group, name=name)

Home = Annotated[Path, typer.Option("--home", envvar="LETHE_HOME", help="The workspace.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Assignments = Annotated[
    list[str] | None, typer.Option("--set", help="A setting, for example general.width=64; may be repeated.")
]
DEFAULT_HOME = Path("lethe-home")
QUICK_SEGMENTS = 40_000  # training crops at most under --quick: about a minute at width 16 on two cores


def _tell_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        from shared.version import code_version

        print(f"lethe {version('lethe')}, code {code_version()}")
        raise typer.Exit


@app.callback()
def root(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    _version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Print the version and end.")
    ] = False,
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
    database: Annotated[str | None, typer.Option("--registry", metavar="URL", help="PostgreSQL; else SQLite.")] = None,
    as_json: Json = False,
) -> None:
    """Make a workspace: split a data set's patients, enrol them."""
    from server.registry import Registry
    from server.results import describe_split
    from simulations import main_job, scenarios

    settings = scenarios.with_assignments(scenarios.scenario(scenario), assignments or [])
    workspace, found = main_job.prepare(home, data=data, settings=settings, registry=database)
    with Registry.open(workspace.registry_path) as registry:
        split = describe_split(registry)
    lines = [f"{part:<10}{n['patients']:>7} patients{n['records']:>8} records" for part, n in split.items()]
    left_out = ", ".join(f"{count} {reason}" for reason, count in found["left_out"].items()) or "none"
    lines += [f"records left out: {left_out}", f"workspace: {workspace.home}", f"next: {run_command(home)}"]
    result = {"home": str(workspace.home), **split, "left_out": found["left_out"]}
    show(result, as_json=as_json, render=lambda: "\n".join(lines))


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

    from simulations import main_job, scenarios

    settings = scenarios.scenario("quickstart" if data is None else "real")
    settings = settings.with_values({f"{part}.seed": seed for part in ("cohort", "general", "personalisation")})
    if quick:
        settings = settings.with_values({"general.max_segments": QUICK_SEGMENTS})
    settings = scenarios.with_assignments(settings, assignments or [])
    home = home or Path("lethe-demo") / f"{datetime.now():%Y%m%d-%H%M%S}"
    if home.exists():
        raise WorkspaceError(f"{home} is there already; go on with `lethe run --home {home}`, or name another folder")
    if data is None:
        data = main_job.synthesise(home, seed=seed)
    workspace, _ = main_job.prepare(home, data=data, settings=settings)
    rehearsing = settings.with_values({"unlearning.rehearsals": main_job.DEMO_WITHDRAWALS})
    _conclude(main_job.run(workspace, rehearsing), as_json=as_json)


@app.command()
def run(
    home: Home = DEFAULT_HOME,
    assignments: Assignments = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Also rehearse withdrawals, if a setting says so.")] = False,
    as_json: Json = False,
) -> None:
    """Do what is due: forget, train, personalise, probe, report.

    One Flower run; what was withdrawn is forgotten before anything else.
    """
    from server.workspace import Workspace
    from server.workspace_settings import of_workspace
    from simulations import main_job, scenarios

    workspace = Workspace.open(home)
    settings = scenarios.with_assignments(of_workspace(workspace.home), assignments or [])
    rehearsals = settings.unlearning.rehearsals
    if rehearsals and not yes:
        raise UsageError(
            f"unlearning.rehearsals is {rehearsals}: so many of the patients here would withdraw, for good, to show "
            "how it goes; confirm with --yes, or set it to 0"
        )
    _conclude(main_job.run(workspace, settings), as_json=as_json)


def _conclude(result: dict[str, Any], *, as_json: bool) -> None:
    """Print a run's summary: the tables, then lines that can be copied.

    Raises:
        AuditError: the auditor's verdict on a withdrawal is FAIL.
    """
    from simulations import summary

    show(result, as_json=as_json, render=lambda: summary.render(result))
    if not as_json:
        show(result, as_json=False, render=lambda: summary.closing(result))
    refused = summary.refused(result)
    if refused:
        raise AuditError(
            f"the auditor's verdict is FAIL on {', '.join(refused)}: no certificate is issued, the report says why, "
            "and the next run tries again"
        )


@app.command()
def train(home: Home = DEFAULT_HOME, assignments: Assignments = None, as_json: Json = False) -> None:
    """Train the general model alone; a run does it by itself."""
    from server.general import PUBLIC_ROLES, train_while_consented
    from server.registry import Registry
    from server.workspace import Workspace
    from server.workspace_settings import of_workspace
    from shared.terminal import progress
    from simulations import scenarios

    workspace = Workspace.open(home)
    settings = scenarios.with_assignments(of_workspace(workspace.home), assignments or [])
    with (
        workspace.launching(),
        workspace.lock("train"),
        Registry.open(workspace.registry_path) as registry,
        progress("training the general model", epochs := settings.general.epochs) as tell,
    ):
        trained = None
        while trained is None:  # somebody withdrew meanwhile
            so_often = registry.withdrawals(PUBLIC_ROLES)
            trained = train_while_consented(
                workspace, registry, settings, tell=lambda n, of: tell(n * epochs // of), withdrawals=so_often
            )
    left_out = dict(Counter(one.reason for one in trained.left_out))
    result = {**trained.record, "reused": trained.reused, "left_out": left_out}
    record = result["metrics"]["record"]
    text = f"general model {trained.digest}\nrecord accuracy {record['accuracy']} on {record['n']} validation records"
    text += "".join(f"\nleft out: {one.detail}" for one in trained.left_out)
    show(result, as_json=as_json, render=lambda: text)


@app.command()
def report(
    name: Annotated[str | None, typer.Argument(metavar="[RUN]", help="A run, default the last.")] = None,
    home: Home = DEFAULT_HOME,
    as_json: Json = False,
) -> None:
    """Build the page of a run again and print its path."""
    from server.report import build
    from server.workspace import Workspace
    from simulations import main_job

    workspace = Workspace.open(home)
    folder = main_job.latest(workspace, name)
    main_job.tidy(workspace)
    page = build(folder)
    show({"run": folder.name, "report": str(page)}, as_json=as_json, render=lambda: str(page))


app.command()(attack)
app.command()(compare)
app.command()(paper)


def main() -> None:
    """Run the command line; every failure is one line on stderr and an exit code (`shared/errors.py`)."""
    open_streams()
    try:
        with signals_interrupt():
            code = _invoke(sys.argv[1:])
        sys.stdout.flush()
    except (Exception, KeyboardInterrupt) as error:
        code = _failed(error)
    sys.exit(code)


def _invoke(arguments: list[str]) -> int:
    """Run a command and return its exit code; not by `app()`, which would give errors codes of its own."""
    command = typer.main.get_command(app)
    try:
        with command.make_context("lethe", arguments) as context:
            command.invoke(context)
    except typer.Exit as end:
        return end.exit_code
    except click.ClickException as error:  # wrong usage: 2
        error.show()
        return error.exit_code
    return 0


def _failed(error: BaseException) -> int:
    """Say in one line what went wrong, and return the exit code."""
    with suppress(OSError):  # there may be nobody on stderr either
        if _Debug.on:
            traceback.print_exception(error)
        if not isinstance(error, BrokenPipeError):  # as in `lethe ... | head`
            _say(_told(error))
    try:
        sys.stdout.flush()
    except OSError:  # what cannot be written is dropped, or Python would complain about it at its very end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code_of(error)


def _told(error: BaseException) -> str:
    """Return what a person is told about an error."""
    if isinstance(error, LetheError):
        return str(error)
    if isinstance(error, KeyboardInterrupt | EOFError | click.Abort):
        return "interrupted; nothing is half done, run the command again"
    if isinstance(error, MemoryError):
        return "not enough memory; stop other programs, or lower general.width or general.batch_size"
    bug = f"a bug in Lethe: {type(error).__name__}: {error}; `lethe --debug` before the command shows where"
    return plainly(error) or bug


def _say(text: str) -> None:
    from rich.markup import escape

    line = f"[bold red]error:[/] {escape(' '.join(text.split()))}"
    console(stderr=True).print(line, soft_wrap=True)
