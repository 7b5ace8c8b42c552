"""The operator's command on the registry as a whole; `simulations/cli.py` mounts it."""

from pathlib import Path
from typing import Annotated

import typer

from server import registry_url
from server.workspace import Workspace
from shared.terminal import show

registry = typer.Typer(help="The database of consent, jobs and the ledger.", no_args_is_help=True)

Home = Annotated[Path, typer.Option("--home", envvar="LETHE_HOME", help="The workspace.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
HOME = Path("lethe-home")


@registry.callback()
def _group() -> None:
    """Keep `upgrade` a command of its own although it is the only one."""


@registry.command("upgrade")
def upgrade_registry(home: Home = HOME, as_json: AsJson = False) -> None:
    """Bring an older registry up to this version; of an SQLite file a copy is kept beside it."""
    from server.sqlite_file import copy_of
    from server.upgrade import upgrade

    workspace = Workspace.open(home)
    path = workspace.registry_path
    with workspace.launching(), workspace.lock("registry upgrade"):
        before, now = upgrade(path)
    copy = None if before == now or path.name == registry_url.FILE else copy_of(path, before)
    text = (
        f"The registry has schema version {now} already." if before == now else f"Schema version {before} is {now} now."
    )
    if copy is not None:
        text += (
            f"\nAs it was: {copy}. Remove it when all is well: it keeps what will be erased from now on, such as the "
            "names of patients who are forgotten."
        )
    result = {"before": before, "now": now, "copy": None if copy is None else str(copy)}
    show(result, as_json=as_json, render=lambda: text)
