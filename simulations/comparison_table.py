"""The comparison as a table: for a terminal in parts that fit it, and whole as Markdown; one row a method."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from server.rows import counted
from shared.unlearning import METHODS, generates
from simulations.comparison_case import NOTHING
from simulations.comparison_figures import FIGURES, Figure, Row, says_nothing
from simulations.shortened import BATCH, GROUPS, PUBLISHED

if TYPE_CHECKING:
    from rich.console import RenderableType


class Column(NamedTuple):
    """A column of the table: which figure, its heading, and how a number is written."""

    figure: str
    title: str
    form: str


PARTS: dict[str, tuple[Column, ...]] = {
    "Accuracy": (
        Column("forget", "forget", ".2f"),
        Column("retain", "retain", ".2f"),
        Column("own", "own held-out", ".2f"),
        Column("others", "others", ".2f"),
    ),
    "Gap to the retrained model": (
        Column("gap forget", "gap forget", "+.2f"),
        Column("gap retain", "gap retain", "+.2f"),
        Column("gap own", "gap own", "+.2f"),
        Column("gap others", "gap others", "+.2f"),
    ),
    "Nearness to the retrained model": (
        Column("tow", "ToW", ".2f"),
        Column("zrf", "ZRF", ".3f"),
        Column("privleak", "PrivLeak %", "+.1f"),
    ),
    "Relearning": (
        Column("ain", "AIN", ".2f"),
        Column("relearn", "relearn", ".2f"),
    ),
    "Cost": (
        Column("seconds", "seconds", ".2f"),
        Column("cost", "x retraining", ".2f"),
    ),
}
COLUMNS = [column for part in PARTS.values() for column in part]
NOTE = "note"


def cell(figure: Figure | None, column: Column) -> str:
    """Return a figure with its interval: half its width, or of a ratio of steps both ends; "-" where there is none.

    Where the interval holds every value that the figure can have, its width is a question mark.
    """
    if figure is None or figure["value"] is None:
        return "-"
    value, low, high = figure["value"], figure["low"], figure["high"]
    if low is None or high is None:
        return _number(value, column.form)
    if FIGURES[column.figure] == "median":
        return f"{_number(value, column.form)} ({_number(low, column.form)}-{_number(high, column.form)})"
    if says_nothing(column.figure, figure):
        return f"{_number(value, column.form)} ±?"
    return f"{_number(value, column.form)} ±{_number((high - low) / 2, column.form.lstrip('+'))}"


def note(found: Row) -> str:
    """Return what the figures of a row do not tell, and why it has none, or not of all wearers."""
    notes = ["dearer than retraining"] if found["dearer"] else []
    if found["unchanged"] and found["method"] != NOTHING:
        notes.append(f"left {found['unchanged']} of {found['wearers']} models as they were")
    if found["certified"] is not None:
        notes.append(f"certified: no head farther than {found['certified']:.2g} from the retrained one")
    reasons, total = found["reasons"], found["wearers"] + sum(found["reasons"].values())
    if reasons:
        most = max(reasons, key=lambda reason: reasons[reason])
        further = f"; other reasons: {len(reasons) - 1}" if len(reasons) > 1 else ""
        notes.append(f"no figures of {sum(reasons.values())} of {total} wearers: {most}{further}")
    return "; ".join(notes)


def markdown(rows: Sequence[Row]) -> str:
    """Return the whole table for a document."""
    heads = ["method", *(column.title for column in COLUMNS), NOTE]
    notes = [" ".join(note(found).split()).replace("|", "\\|") for found in rows]
    body = [[found["method"], *_cells(found, COLUMNS), told] for found, told in zip(rows, notes, strict=True)]
    lines = [heads, ["---"] * len(heads), *body]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def render(result: Mapping[str, Any]) -> "RenderableType":
    """Return the table for a terminal, what was compared, and what it took."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    tables = []
    for title, columns in PARTS.items():
        table = Table(title=title, title_style="bold", title_justify="left", box=box.SIMPLE_HEAD)
        table.pad_edge, table.collapse_padding = False, True  # eighty columns hold every part
        table.add_column("method", no_wrap=True)
        for column in columns:
            table.add_column(column.title, justify="right", no_wrap=True)
        last = title == "Cost"
        if last:
            table.add_column(NOTE, overflow="fold")
        for found in result["rows"]:
            table.add_row(*map(Text, [found["method"], *_cells(found, columns), *([note(found)] if last else [])]))
        tables.append(table)
    return Group(*tables, *(Text(line) for line in about(result)))


def about(result: Mapping[str, Any]) -> list[str]:
    """Return lines that say what was compared, and how its intervals were made."""
    accuracy = ", ".join(f"{model['accuracy']:.2f}" for model in result["models"])
    made = [found["method"] for found in result["rows"] if found["method"] in METHODS and found["wearers"]]
    cut = [] if result["published_schedule"] else [name for name in made if generates(name)]
    return [
        f"{result['data']}: withdrawal of {result['withdrawal']!r}, {counted(result['wearers'], 'wearer')} in "
        f"{counted(result['seeds'], 'seed')}, width {result['width']}",
        *(f"left out: {count} {reason}" for reason, count in result["left_out"].items()),
        *_about_intervals(result["rows"]),
        "gaps: less the copy that never saw the forget set; seconds of processor time a wearer, on one thread",
        *([f"{' and '.join(cut)}: cut to {GROUPS} groups of {BATCH} generated inputs ({PUBLISHED})"] if cut else []),
        f"accuracy of the general models, a segment: {accuracy} (majority {result['models'][0]['majority']:.2f})",
        f"{result['seconds']:.0f} s, {result['seconds_models']:.0f} of them for the models, "
        f"on {result['workers']} processes ({result['machine']})",
    ]


def _about_intervals(rows: Sequence[Row]) -> list[str]:
    """Return what the intervals in the table are, or that there are none."""
    figures = [(name, figure) for found in rows for name, figure in found["figures"].items()]
    if all(figure["low"] is None for _, figure in figures):
        return ["one seed gives no interval"]
    return [
        "±: Student's 95 % interval over seeds, each with wearers and a general model of its own; of AIN and relearn",
        "the median of seeds, and the least and the most of them",
        *(["±?: the interval holds every value there is; take more seeds"] if any(map(_open, figures)) else []),
    ]


def _open(named: tuple[str, Figure]) -> bool:
    return says_nothing(*named)


def _cells(found: Row, columns: Sequence[Column]) -> list[str]:
    return [cell(found["figures"].get(column.figure), column) for column in columns]


def _number(value: float, form: str) -> str:
    return "inf" if math.isinf(value) else format(value, form)
