"""`lethe attack`: how easily a workspace's general model is fooled, one attack beside the other."""

from pathlib import Path
from typing import Annotated

import typer

from shared.attack_table import ATTACKS, UNITS, check_strength, parse_attacks, parse_strengths
from shared.errors import UsageError
from shared.settings import MOST_SEED
from shared.terminal import progress, show

DEFAULTS = " or ".join(
    f"{','.join(f'{each:g}' for each in parse_strengths(None, unit=unit, option=''))} {unit}" for unit in UNITS
)
NO_MICROVOLTS = (
    "--unit is 'uV', but the ECGs of this workspace are standardised already (unit NU): nobody knows how many "
    "microvolts they are; use --unit sd"
)


def attack(
    home: Annotated[Path, typer.Option("--home", envvar="LETHE_HOME", help="The workspace.")] = Path("lethe-home"),
    attacks: Annotated[str, typer.Option("--attacks", help="Names with commas between.")] = ",".join(ATTACKS),
    epsilons: Annotated[
        str | None,
        typer.Option("--epsilons", help=f"Strengths, with commas between; default {DEFAULTS}.", show_default=False),
    ] = None,
    unit: Annotated[str, typer.Option("--unit", help="sd, standard deviations of a lead, or uV, microvolts.")] = "sd",
    alpha: Annotated[
        float | None, typer.Option("--alpha", help="Clip radius of equation 3, in the same unit.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, max=MOST_SEED, help="Of random starts and signs.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Attack the general model on never-used patients.

    Of the segments that it gets right, the share that each attack turns; noise of the same size beside them.
    """
    chosen = parse_attacks(attacks, option="--attacks")
    strengths = parse_strengths(epsilons, unit=unit, option="--epsilons")
    if alpha is not None:
        check_strength(alpha, unit=unit, what="--alpha")

    from server.enrolment import FACT
    from server.general import newest_sound
    from server.registry import Registry
    from server.workspace import Workspace
    from server.workspace_settings import of_workspace
    from shared.package import load_general
    from simulations.attack_comparison import beside_each_other, render

    workspace = Workspace.open(home)
    settings = of_workspace(workspace.home)
    with Registry.open(workspace.registry_path) as registry:
        if unit == "uV" and (registry.recall(FACT) or {}).get("unit") == "NU":
            raise UsageError(NO_MICROVOLTS)
        folder = newest_sound(workspace, registry, settings)
        model, public = load_general(folder)
    with progress("attacking", len(chosen)) as tell:
        found = beside_each_other(
            model, public.control, chosen, strengths, unit=unit, alpha=alpha, seed=seed, tell=tell
        )
    result = {"general": folder.name, **found}
    show(result, as_json=as_json, render=lambda: render(result))
