"""The operator's commands on the ledger: is it whole, and what is in it; `simulations/cli.py` mounts them."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from server.ledger import Entry, Finding, head_of, parse_head
from server.workspace import Workspace
from shared.errors import AuditError
from shared.terminal import show

ledger = typer.Typer(help="The history of consent, jobs, models, keys and runs.", no_args_is_help=True)

Home = Annotated[Path, typer.Option("--home", envvar="LETHE_HOME", help="The workspace.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
HOME = Path("lethe-home")


@ledger.command("verify")
def verify_ledger(
    head: Annotated[
        str | None,
        typer.Option(
            "--head", metavar="SEQ:HASH", help="An entry seen earlier, which must be there.", show_default=False
        ),
    ] = None,
    home: Home = HOME,
    as_json: AsJson = False,
) -> None:
    """Check that no entry is changed, missing, moved, doubled or contradicted; exit code 4 if one is."""
    from server.history_check import check
    from server.registry import Registry

    wanted, workspace = None if head is None else parse_head(head), Workspace.open(home)
    with Registry.open(workspace.registry_path) as registry:
        entries, findings = check(workspace, registry, head=wanted)
    seq, digest = head_of(entries)
    result = {"holds": not findings, "entries": len(entries), "head": {"seq": seq, "hash": digest}}
    result["findings"] = [asdict(one) for one in findings]
    show(result, as_json=as_json, render=lambda: _told(entries, findings))
    if findings:
        raise AuditError(
            f"the ledger does not hold, {len(findings)} found, the first at entry {findings[0].seq}; "
            "keep the file as it is, and compare it with a backup"
        )


def _told(entries: Sequence[Entry], findings: Sequence[Finding]) -> str:
    seq, digest = head_of(entries)
    lines = [f"{one.problem}: {one.words}" for one in findings] or [f"{len(entries):,} entries, each follows the last"]
    return "\n".join([*lines, f"head {seq}:{digest}"])


@ledger.command("list")
def list_entries(home: Home = HOME, as_json: AsJson = False) -> None:
    """List the entries; they name nobody."""
    from server import cli_views
    from server.registry import Registry

    with Registry.open(Workspace.open(home).registry_path) as registry:
        entries = registry.ledger()
    result = {"entries": [asdict(one) for one in entries]}
    show(result, as_json=as_json, render=lambda: cli_views.ledger_table(entries))
