"""The paper's experiment as tables: for the terminal, as Markdown, and the list of extracted points.

The numbers are `simulations/paper_results.py`'s, the paragraph between them `simulations/paper_words.py`'s.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shared.settings import Unlearning
from simulations.paper_models import UNLEARNED
from simulations.paper_results import ANY, Estimate, Share
from simulations.paper_words import counted, paragraph
from simulations.shortened import PUBLISHED

if TYPE_CHECKING:
    from rich.console import RenderableType

PAPER = {  # Table 1 of the paper; it does not say on which data, on how many patients or with how many seeds
    "finetune": {"general": "54", "personal": "58", "unlearned": "58"},
    "gkt": {"general": "62", "personal": "67.23", "unlearned": "65.76"},
}
COLUMNS = {
    "member": "patients' data (S)",
    "held_out": "own held-out",
    "control": "never used, matched",
    "test": "test data",
}
ROWS = {
    "general": "general",
    "personal": "personal",
    **{method: f"unlearned, {name}" for method, name in UNLEARNED.items()},
    "exact": "retrained (exact)",
}
FIGURES = {
    "accuracy": "Accuracy, per cent",
    "loss": "Mean loss, nats",
    "difference": "Equation 7: accuracy under FGSM minus the general model's, points",
}


@dataclass(frozen=True)
class Grid:
    """One table: a title, a header, rows of cells, and what a row says where it has no numbers."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    reasons: Mapping[str, str]


def grids(result: Mapping[str, Any]) -> list[Grid]:
    """Return Table 1, the three tables with what it lacks, and equation 8 against the truth."""
    return [_table1(result), *(_lacking(result, figure) for figure in FIGURES), _extraction(result)]


def _table1(result: Mapping[str, Any]) -> Grid:
    whole, part = result["table"], result["table_gkt"]
    rows = []
    for row in ("general", "personal", "unlearned"):
        cells = [row]
        for method, found in (("finetune", whole), ("gkt", part)):
            model = method if row == "unlearned" else row
            cells.append(PAPER[method][row])
            cells += [
                _cell(found[model][group]["accuracy"], "accuracy", digits=0) if found else "–"
                for group in ("test", "member")
            ]
        rows.append(tuple(cells))
    header = ["model"]
    for method in ("fine tuning", "gkt"):
        header += [f"paper, {method}", "ours, test data", "ours, patients' data"]
    reasons = {ROWS[name]: _shortly(told) for name, told in result["failed"].items()}
    return Grid("Table 1: accuracy in per cent, the paper's and ours", tuple(header), tuple(rows), reasons)


def _lacking(result: Mapping[str, Any], figure: str) -> Grid:
    groups = [group for group in COLUMNS if (figure, group) != ("difference", "test")]
    rows, reasons = [], {name: _reason(told) for name, told in result["failed"].items()}
    for model, name in ROWS.items():
        if figure == "difference" and model == "general":
            continue
        found = result["table"][model]
        patients = found["member"]["accuracy"]["patients"]
        rows.append((name, str(patients), *(_cell(found[group][figure], figure) for group in groups)))
    header = ("model", "N", *(COLUMNS[group] for group in groups))
    title = FIGURES[figure] + (f", ε = {result['epsilon']:g} SD" if figure == "difference" else "")
    return Grid(title, header, tuple(rows), {ROWS[name]: why for name, why in reasons.items()})


def _extraction(result: Mapping[str, Any]) -> Grid:
    rows = []
    for row in result["extractions"]:
        at = "any" if row["epsilon"] == ANY else f"{row['epsilon']:g}"
        counts = (f"{row['extracted'][group]}/{row['asked'][group]}" for group in row["extracted"])
        shares = (_percent(row["precision"]), _percent(row["recall"]), f"{row['base']:.0%}")
        rows.append((row["model"], at, *counts, *shares))
    header = ("model", "ε, SD", "members", "held out", "never used", "precision", "recall", "a guess")
    return Grid("Equation 8: extracted points against the truth", header, tuple(rows), {})


def _reason(told: Mapping[str, Any]) -> str:
    return f"no model for {told['failed']} of {told['tried']} patients: {told['reason']}"


def _shortly(told: Mapping[str, Any]) -> str:
    """Return how often a method made no model, and the beginning of the reason, which another table has in full."""
    return f"no model for {told['failed']} of {told['tried']} patients: {told['reason'].split(':')[0]}; see below"


def _cell(found: Estimate, figure: str, *, digits: int = 1) -> str:
    """Return value, interval and, with several seeds, the spread of the seeds' means."""
    if found["value"] is None:
        return "–"
    digits, scale = (2, 1) if figure == "loss" else (digits, 100)
    sign, between = ("+", " to ") if figure == "difference" else ("", "–")

    def number(value: float | None) -> str:
        return f"{scale * value:{sign}.{digits}f}" if value is not None else "–"

    text = number(found["value"])
    if found["low"] is not None:
        text += f" ({number(found['low'])}{between}{number(found['high'])})"
    if found["seeds"] > 1:
        text += f" [{number(found['least'])}, {number(found['most'])}]"
    return text


def _percent(found: Share) -> str:
    value, low, high = found["value"], found["low"], found["high"]
    if value is None:
        return "–"
    return f"{value:.0%}" + ("" if low is None or high is None else f" ({100 * low:.0f} to {100 * high:.0f})")


def about(result: Mapping[str, Any]) -> list[str]:
    """Return lines that say what was done, and where it is not the paper's own."""
    accuracy = ", ".join(f"{one['accuracy']:.2f}" for one in result["general"])
    classes = ", ".join(f"{name} {count}" for name, count in result["superclasses"].items())
    lines = [
        f"{result['data']}: {result['records']} records with one superclass, in {result['unit']}; {result['patients']} "
        f"wearers ({classes}), {result['never_used']} never-used patients, {result['corpus']} in the corpus; "
        f"{counted(result['seeds'], 'seed')}, width {result['width']}, {result['epochs']} epochs",
        "unit: a patient, mean over seeds; (95 % interval, patients resampled, on test data the never-used too) [least "
        "and most of the seeds' means]",
        "personal: the whole network fine-tuned on the patient's segments, as in the paper; S is all of them, so "
        "that retraining without S gives the general model",
        f"unlearned, fine-tuning: on public segments of the corpus; of {Unlearning.epochs} epochs the one after which "
        "its validation segments' loss is least",
        "never used, matched: ten segments of a never-used patient, of the wearer's superclass for "
        f"{result['matched']} of {result['patients']} wearers and of another where none was left",
        "test data: three segments of every never-used patient; the paper does not say on which data it measured",
        f"accuracy of the general models on the corpus's validation segments: {accuracy} "
        f"(always the commonest class: {result['general'][0]['majority']:.2f})",
    ]
    if result["i_mean_the_class"]:
        lines.append(
            f"gkt is cut to {result['gkt']['groups']} groups of {result['gkt']['batch']} generated segments "
            f"({PUBLISHED}), for one wearer of each "
            "superclass, under seed 0 alone; in Table 1 the general and personal models beside it are those wearers'. "
            "It forgets the whole superclass"
        )
    return lines


def took(result: Mapping[str, Any]) -> str:
    """Return what it took, for people."""
    each = ", ".join(f"{name} {seconds:.1f}" for name, seconds in result["cpu_seconds"].items())
    return (
        f"{result['seconds']:.0f} s, {result['seconds_models']:.0f} of them for the general models, on "
        f"{result['workers']} processes ({result['machine']}); {result['cpu_seconds_all']:.0f} s of cores' time in "
        f"all; seconds on one core a model: {each}"
    )


def markdown(result: Mapping[str, Any], pictures: Mapping[str, str]) -> str:
    """Return the whole result as a page; `pictures` are file names and captions."""
    parts = [f"# The paper on {result['data']}", *(f"- {line}" for line in about(result))]
    tables = grids(result)
    parts.append(_page(tables[0]))
    parts += [f"{UNLEARNED[name]}: {_reason(told)}" for name, told in result["failed"].items()]
    parts.append("## With what the paper lacks")
    parts += [_page(grid) for grid in tables[1:-1]]
    parts += ["## What the figures show, and what they do not", paragraph(result), _page(tables[-1])]
    parts.append("Every extracted point is listed in extracted.md.")
    parts += [f"![{caption}]({file})\n\n{caption}" for file, caption in pictures.items()]
    text = "\n\n".join([*parts, took(result)]) + "\n"
    return text.replace("\n\n- ", "\n- ").replace("\n- ", "\n\n- ", 1)


def _page(grid: Grid) -> str:
    rows = [_explained(row, grid.reasons) for row in grid.rows]
    lines = [grid.header, ("---",) * len(grid.header), *rows]
    return f"**{grid.title}**\n\n" + "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _explained(row: tuple[str, ...], reasons: Mapping[str, str]) -> tuple[str, ...]:
    """Put the reason into the first cell of a row that has no numbers."""
    if row[0] in reasons and row[1] == "0":
        return (row[0], row[1], reasons[row[0]], *("" for _ in row[3:]))
    return row


def listing(points: Sequence[Mapping[str, Any]]) -> str:
    """Return every extracted point as a line of a Markdown table."""
    header = ("model", "seed", "wearer", "record", "segment", "really", "at ε, SD")
    lines: list[tuple[str, ...]] = [header, ("---",) * len(header)]
    for point in points:
        where = (str(point[name]) for name in ("seed", "wearer", "record", "segment"))
        at = ", ".join(f"{epsilon:g}" for epsilon in point["epsilons"])
        lines.append((point["model"], *where, point["group"].replace("_", " "), at))
    return "# Extracted points\n\n" + "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def render(result: Mapping[str, Any]) -> "RenderableType":
    """Return the tables for a terminal, the paragraph, and what it took."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    parts: list[RenderableType] = []
    shown = grids(result)
    for grid in shown:
        table = Table(title=grid.title, title_style="bold", title_justify="left", box=box.SIMPLE_HEAD)
        table.pad_edge, table.collapse_padding = False, True
        for number, name in enumerate(grid.header):
            table.add_column(name, justify="left" if number == 0 else "right")
        for row in grid.rows:
            table.add_row(*(cell.replace(" (", "\n(").replace(" [", "\n[") for cell in row))
        parts += [table, *(Text(f"{name}: {why}\n") for name, why in grid.reasons.items() if grid in shown[:2])]
    words = [Text(paragraph(result)), Text(""), *(Text(line) for line in about(result)), Text(took(result))]
    return Group(*parts, *words)
