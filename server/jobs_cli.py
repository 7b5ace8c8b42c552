"""The operator's commands on unlearning jobs: what is due, how far it is, what is late."""

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from server.deadlines import Due, due
from server.workspace import Workspace
from shared.errors import UsageError
from shared.terminal import show

if TYPE_CHECKING:
    from server.rows import Job

jobs = typer.Typer(help="What devices have to forget, how far they are, and by when.", no_args_is_help=True)

Home = Annotated[Path, typer.Option("--home", envvar="LETHE_HOME", help="The workspace.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
HOME = Path("lethe-home")
OVERDUE = 3  # exit code: as when consent refuses
LONGEST_REASON = 500


@jobs.command("list")
def list_jobs(home: Home = HOME, as_json: AsJson = False) -> None:
    """List the unlearning jobs, forgotten patients' first, then the oldest, and what is left of the time for each."""
    from server import cli_views

    found, waiting, _ = _read(home)
    when = {one.job.id: one for one in waiting}
    rows = [asdict(job) | _told(when.get(job.id)) for job in found]
    show({"jobs": rows}, as_json=as_json, render=lambda: cli_views.job_list(found, when))


@jobs.command("check")
def check_jobs(home: Home = HOME, as_json: AsJson = False) -> None:
    """Tell whether every withdrawal can still be certified in time; exit code 3 if one is overdue."""
    from server import cli_views

    found, waiting, days = _read(home)
    closed = sum(job.state == "CLOSED" for job in found)
    result = {"deadline_days": days, "closed": closed, "jobs": [asdict(one.job) | _told(one) for one in waiting]}
    show(result, as_json=as_json, render=lambda: cli_views.check(waiting, days, closed=closed))
    if any(one.overdue for one in waiting):
        raise typer.Exit(OVERDUE)


@jobs.command("show")
def show_job(
    job: Annotated[str, typer.Argument(help="The job's id.", show_default=False)],
    home: Home = HOME,
    as_json: AsJson = False,
) -> None:
    """Show one job and every step it took."""
    from server import cli_views
    from server.registry import Registry

    with Registry.open(Workspace.open(home).registry_path) as registry:
        found, steps = registry.job(job), registry.job_events(job)
    result = {"job": asdict(found), "steps": [asdict(step) for step in steps]}
    show(result, as_json=as_json, render=lambda: cli_views.job_page(found, steps))


@jobs.command("close")
def close_job(
    job: Annotated[str, typer.Argument(help="The job's id.", show_default=False)],
    reason: Annotated[str, typer.Option(help="Why; kept in the registry.", show_default=False)],
    home: Home = HOME,
    as_json: AsJson = False,
) -> None:
    """End a job that no run can certify although the data are erased, for good; later consent is possible then."""
    from server.registry import Registry

    if not (said := reason.strip()) or len(said) > LONGEST_REASON:
        raise UsageError(
            f"--reason has {len(said)} characters, expected 1 to {LONGEST_REASON}: why nobody can certify it"
        )
    workspace = Workspace.open(home)
    with workspace.lock("jobs close"), Registry.open(workspace.registry_path) as registry:
        changed = registry.job(job).state != "CLOSED"
        closed = registry.close_job(job, said)
    words = f"Job {job} is closed: no run takes it up again, and there is no certificate about it."
    told = words if changed else f"Job {job} was closed already."
    show({"job": asdict(closed), "changed": changed}, as_json=as_json, render=lambda: told)


def _read(home: Path) -> tuple[list["Job"], list[Due], int]:
    """Return all jobs, those that are due, and in how many days a job is."""
    from server.registry import Registry
    from server.workspace_settings import of_workspace

    workspace = Workspace.open(home)
    days = of_workspace(workspace.home).audit.deadline_days
    with Registry.open(workspace.registry_path) as registry:
        found = registry.jobs()
    return found, due(found, days=days, now=datetime.now(UTC)), days


def _told(one: Due | None) -> dict[str, Any]:
    """Return a deadline as JSON; none of a job that has ended."""
    return {"deadline": one.deadline.isoformat() if one else None, "overdue": bool(one and one.overdue)}
