"""`lethe patients trace`: what still holds a patient's data, and what makes it go."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shared.terminal import show

if TYPE_CHECKING:
    from rich.console import RenderableType

    from simulations.traced import Holding

BEYOND = "Backups, certificates that were handed out and printed pages cannot be seen from here."
ELSEWHERE = (
    "Of a device on a machine of its own nobody sees from here more than what it last told; its files can be seen only "
    "there, as docs/DEPLOY.md says."
)


def trace(
    patient: Annotated[str, typer.Argument(help="The patient's id in the data.", show_default=False)],
    home: Annotated[Path, typer.Option("--home", envvar="LETHE_HOME", help="The workspace.")] = Path("lethe-home"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """List what still holds a patient's data: device, models, caches, reports, jobs; and what makes it go."""
    from server.registry import Registry
    from server.workspace import Workspace
    from simulations.trace import trace as look

    workspace = Workspace.open(home)
    with Registry.open(workspace.registry_path) as registry:
        found = look(workspace, registry, patient)
    beyond = f"{BEYOND} {ELSEWHERE}" if workspace.deployed else BEYOND
    result = {"patient": patient, "holdings": [asdict(one) for one in found], "not_seen": beyond}
    show(result, as_json=as_json, render=lambda: _table(patient, found, beyond))


def _table(patient: str, found: "list[Holding]", beyond: str) -> "RenderableType":
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for name in ("where", "what", "records", "goes"):
        table.add_column(name, overflow="fold")
    for one in found:  # as it is written: an id with brackets is no markup
        table.add_row(*map(Text, (one.where, one.what, ", ".join(one.records) or "-", one.until)))
    return Group(Text(f"What holds data of patient {patient}\n", style="bold"), table, Text(f"\n{beyond}", style="dim"))
