"""`lethe audit`: what is asked of the auditor itself."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Literal

import typer

from shared.terminal import progress, show

app = typer.Typer(no_args_is_help=True, help="Try the auditor on withdrawals of whom the truth is known.")

Withdrawal = Literal["all", "record", "class", "canary"]


@app.callback()
def root() -> None:
    """Try the auditor on withdrawals of whom the truth is known."""


@app.command()
def calibrate(
    data: Annotated[Path | None, typer.Option("--data", help="A PTB-XL folder; else a synthetic cohort.")] = None,
    patients: Annotated[int, typer.Option("--patients", min=2, help="Wearers a seed; 8 or more judge a method.")] = 8,
    copies: Annotated[int, typer.Option("--copies", min=8, help="Models an arm; fewer than 8 decide nothing.")] = 16,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Each has patients and a general model of its own.")] = 5,
    width: Annotated[int, typer.Option("--width", min=1, help="Of the general models.")] = 16,
    only: Annotated[
        Withdrawal | None, typer.Option("--only", help="Make this withdrawal of each wearer; default all four.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    out: Annotated[Path | None, typer.Option("--out", help="Also write JSON here, or Markdown to FILE.md.")] = None,
) -> None:
    """Count how often the auditor is right: doing nothing, over-forgetting, fine-tuning, retraining, strangers."""
    import json

    from shared.files import write_atomically
    from simulations.calibration import Plan, calibrate
    from simulations.calibration_table import markdown, render
    from simulations.outlet import try_file
    from simulations.worlds import data_or_synthetic

    try_file(out)
    with TemporaryDirectory(prefix="lethe-calibration-") as folder:
        data = data_or_synthetic(data, Path(folder) / "synthetic", wearers=patients * seeds, progress=progress)
        plan = Plan(data, patients=patients, copies=copies, seeds=seeds, width=width, only=(only,) if only else ())
        result = calibrate(plan, scratch=Path(folder) / "scratch", progress=progress)
    try:
        if out is not None:
            text = markdown(result["rows"]) if out.suffix == ".md" else json.dumps(result, indent=2) + "\n"
            write_atomically(out, text.encode())
    finally:  # what was found is shown even where it could not be written
        show(result, as_json=as_json, render=lambda: render(result))
