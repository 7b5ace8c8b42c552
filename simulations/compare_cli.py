"""`lethe compare`: every unlearning method beside retraining."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from shared.terminal import progress, show
from shared.unlearning import METHODS, parse_methods
from simulations.audit_cli import Withdrawal


def compare(
    data: Annotated[Path | None, typer.Option("--data", help="A PTB-XL folder; else a synthetic cohort.")] = None,
    methods: Annotated[
        str, typer.Option("--methods", help="Names with commas between; exact is always among them.")
    ] = ",".join(METHODS),
    withdrawal: Annotated[
        Withdrawal,
        typer.Option("--withdrawal", help="Everything, a record, a record of another class, or wrongly labelled ones."),
    ] = "record",
    patients: Annotated[int, typer.Option("--patients", min=1, help="Wearers a seed.")] = 8,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Each has patients and a general model of its own.")] = 5,
    width: Annotated[int, typer.Option("--width", min=1, help="Of the general models.")] = 16,
    i_mean_the_class: Annotated[
        bool, typer.Option("--i-mean-the-class", help="Let gkt forget the whole class of a patient.")
    ] = False,
    published_schedule: Annotated[
        bool, typer.Option("--published-schedule", help="Do not cut zero-shot transfer short: 320 times the inputs.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    out: Annotated[Path | None, typer.Option("--out", help="Also write JSON here, or Markdown to FILE.md.")] = None,
) -> None:
    """Compare unlearning methods on personal models.

    What each leaves and what it costs, with retraining beside them.
    """
    import json

    chosen = parse_methods(methods, option="--methods")

    from shared.files import write_atomically
    from simulations.comparison import Plan, plain, run
    from simulations.comparison_table import markdown, render
    from simulations.outlet import try_file
    from simulations.worlds import data_or_synthetic

    try_file(out)
    with TemporaryDirectory(prefix="lethe-comparison-") as folder:
        data = data_or_synthetic(data, Path(folder) / "synthetic", wearers=patients * seeds, progress=progress)
        plan = Plan(
            data,
            methods=chosen,
            withdrawal=withdrawal,
            patients=patients,
            seeds=seeds,
            width=width,
            i_mean_the_class=i_mean_the_class,
            published_schedule=published_schedule,
        )
        result = run(plan, scratch=Path(folder) / "scratch", progress=progress)
    try:
        if out is not None:
            text = markdown(result["rows"]) if out.suffix == ".md" else json.dumps(plain(result), indent=2) + "\n"
            write_atomically(out, text.encode())
    finally:  # what was found is shown even where it could not be written
        show(plain(result) if as_json else result, as_json=as_json, render=lambda: render(result))
