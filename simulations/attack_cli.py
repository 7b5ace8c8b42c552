"""`lethe attack`: how easily a workspace's general model is fooled, one attack beside the other."""

from pathlib import Path
from typing import Annotated

import typer

from shared.attack_table import ATTACKS, check_strength, parse_attacks
from shared.errors import UsageError
from shared.terminal import progress, show


def attack(
    home: Annotated[Path, typer.Option("--home", envvar="LETHE_HOME", help="The workspace.")] = Path("lethe-home"),
    attacks: Annotated[str, typer.Option("--attacks", help="Names with commas between.")] = ",".join(ATTACKS),
    epsilons: Annotated[str, typer.Option("--epsilons", help="Strengths, with commas between.")] = "0.02,0.05,0.1,0.2",
    unit: Annotated[str, typer.Option("--unit", help="sd, standard deviations of a lead, or uV, microvolts.")] = "sd",
    alpha: Annotated[
        float | None, typer.Option("--alpha", help="Clip radius of equation 3, in the same unit.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of random starts and signs.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Attack the general model on never-used patients.

    Of the segments that it gets right, the share that each attack turns; noise of the same size beside them.
    """
    chosen = parse_attacks(attacks, option="--attacks")
    try:
        strengths = [float(text) for text in epsilons.split(",")]
    except ValueError:
        raise UsageError(
            f"--epsilons is {epsilons!r}, expected numbers with commas between, such as 0.05,0.1"
        ) from None
    for strength in strengths:
        check_strength(strength, unit=unit, what="--epsilons")
    if alpha is not None:
        check_strength(alpha, unit=unit, what="--alpha")

    from server.general import newest_sound
    from server.registry import Registry
    from server.workspace import Workspace
    from server.workspace_settings import of_workspace
    from shared.package import load_general
    from simulations.attack_comparison import beside_each_other, render

    workspace = Workspace.open(home)
    settings = of_workspace(workspace.home)
    with Registry.open(workspace.registry_path) as registry:
        folder = newest_sound(workspace, registry, settings)
        model, public = load_general(folder)
    with progress("attacking", len(chosen)) as tell:
        found = beside_each_other(
            model, public.control, chosen, strengths, unit=unit, alpha=alpha, seed=seed, tell=tell
        )
    result = {"general": folder.name, **found}
    show(result, as_json=as_json, render=lambda: render(result))
