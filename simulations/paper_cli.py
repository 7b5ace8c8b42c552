"""`lethe paper`: the paper's table and figures on a PTB-XL folder, with what they lack."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from shared.settings import General
from shared.terminal import progress, show


def paper(
    data: Annotated[Path, typer.Option("--data", help="A folder in PTB-XL's layout.")],
    out: Annotated[Path, typer.Option("--out", help="Where tables and pictures go.")] = Path("lethe-paper"),
    patients: Annotated[int, typer.Option("--patients", help="Wearers, N.")] = 20,
    width: Annotated[int, typer.Option("--width", help="Of the general model; 64 is the paper's.")] = General.width,
    seeds: Annotated[int, typer.Option("--seeds", help="General models, each with personal ones of its own.")] = 3,
    epochs: Annotated[int, typer.Option("--epochs", help="Of the general model.")] = General.epochs,
    class_meant: Annotated[
        bool, typer.Option("--i-mean-the-class", help="Let gkt forget the patient's superclass for everybody.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Reproduce the paper's table and figures, with controls.

    Table 1 and Figures 2 to 7; never-used patients, held-out data and retraining stand beside them.
    """
    from simulations.paper_tables import render
    from simulations.paper_writing import ready, write
    from simulations.table1 import Plan, reproduce

    plan = Plan(data, patients=patients, width=width, seeds=seeds, epochs=epochs, i_mean_the_class=class_meant)
    written: list[Path] = []
    with ready(out):
        with TemporaryDirectory(prefix="lethe-paper-") as scratch:
            outcome = reproduce(plan, scratch=Path(scratch), progress=progress)
        try:
            written = write(outcome, out)
        finally:  # what was found is shown even where it could not be written
            result = {**outcome.result, "files": [str(path) for path in written]}
            show(result, as_json=as_json, render=lambda: render(outcome.result))
    if not as_json:
        show(result, as_json=False, render=lambda: "\n".join(str(path) for path in written))
