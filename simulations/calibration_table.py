"""What the calibration found, as rows: one a question and method, drawn for the terminal or as Markdown.

Rates are over jobs (the unit of a job's verdict is a copy); the level of the method has one verdict a seed (its unit
is a patient) and one over all seeds.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from server.verdicts import MethodVerdict, Statistics, Verdict
from shared.inference import Rate, rate

if TYPE_CHECKING:
    from rich.console import RenderableType

Expected = Literal["FAIL", "not FAIL", "-"]
Holds = Literal["ok", "MISSED", "open", ""]
NOMINAL = 0.05  # of jobs without a trace may be called FAIL
COLUMNS = ("question", "method", "expected", "jobs", "FAIL %", "AUC", "by seed", "seeds", "all", "")


class Outcome(TypedDict):
    """The verdict of one job of the calibration."""

    seed: int
    wearer: str
    question: str
    method: str
    statistics: Statistics


class Row(TypedDict):
    """One method under one question.

    Attributes:
        fail: share of jobs with FAIL.
        verdicts: how many jobs have which verdict.
        auc, least, most: mean of the primary AUC over jobs, and the least and the most of its means a seed.
        by_seed: verdicts of the method, one a seed.
        pooled: verdict of the method over all seeds; None with fewer than two patients.
        holds: whether it is as expected; "open" where too many jobs fail, and so few jobs may by chance.
    """

    question: str
    method: str
    expected: Expected
    jobs: int
    fail: Rate
    verdicts: dict[Verdict, int]
    auc: float
    least: float
    most: float
    by_seed: list[Verdict]
    pooled: MethodVerdict | None
    holds: Holds


def row(
    question: str, expected: Expected, outcomes: Sequence[Outcome], levels: Mapping[int | None, MethodVerdict]
) -> Row:
    """Add up the jobs of one method under one question.

    Args:
        question: for people.
        expected: "FAIL": the method must fail on its own level, in every seed and over all; where patients are too
            few for that, every job must. "not FAIL": the method never may, and jobs in no more than 5 %. "-": it is
            measured.
        outcomes: one a job, at least one.
        levels: the method's verdict by seed; None for all seeds.
    """
    aucs = {seed: [_primary(one) for one in outcomes if one["seed"] == seed] for seed in sorted(_seeds(outcomes))}
    means = [sum(values) / len(values) for values in aucs.values()]
    counted = Counter(one["statistics"]["verdict"] for one in outcomes)
    fail = rate(counted["FAIL"], len(outcomes))
    by_seed = [verdict["verdict"] for seed, verdict in sorted(levels.items(), key=str) if seed is not None]
    return {
        "question": question,
        "method": outcomes[0]["method"],
        "expected": expected,
        "jobs": len(outcomes),
        "fail": fail,
        "verdicts": dict(counted),
        "auc": sum(map(_primary, outcomes)) / len(outcomes),
        "least": min(means),
        "most": max(means),
        "by_seed": by_seed,
        "pooled": levels.get(None),
        "holds": _holds(expected, fail, [verdict["verdict"] for verdict in levels.values()]),
    }


def _holds(expected: Expected, fail: Rate, levels: Collection[Verdict]) -> Holds:
    if expected == "FAIL":
        found = all(verdict == "FAIL" for verdict in levels) if levels else fail["value"] == 1.0
        return "ok" if found else "MISSED"
    if expected == "not FAIL":
        if "FAIL" in levels or fail["low"] > NOMINAL:
            return "MISSED"
        return "ok" if fail["value"] <= NOMINAL else "open"
    return ""


def _seeds(outcomes: Sequence[Outcome]) -> set[int]:
    return {one["seed"] for one in outcomes}


def _primary(outcome: Outcome) -> float:
    return outcome["statistics"]["scores"][0]["auc"]


def _cells(found: Row) -> tuple[str, ...]:
    fail, pooled = found["fail"], found["pooled"]
    failed = sum(verdict == "FAIL" for verdict in found["by_seed"])
    return (
        found["question"],
        found["method"],
        found["expected"],
        str(found["jobs"]),
        f"{100 * fail['value']:.0f} {100 * fail['low']:.0f}-{100 * fail['high']:.0f}",
        f"{found['auc']:.2f}",
        f"{found['least']:.2f}-{found['most']:.2f}",
        f"{failed}/{len(found['by_seed'])}" if found["by_seed"] else "-",
        pooled["verdict"] if pooled else "-",
        found["holds"],
    )


def markdown(rows: Sequence[Row]) -> str:
    """Return the table for a README."""
    lines = [COLUMNS, ("---",) * len(COLUMNS), *map(_cells, rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def render(result: Mapping[str, Any]) -> "RenderableType":
    """Return the table for a terminal, what was compared, and what it took."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(title="The auditor audited", title_style="bold", title_justify="left", box=box.SIMPLE_HEAD)
    table.pad_edge = False
    shown = [number for number, name in enumerate(COLUMNS) if name not in ("question", "expected", "by seed")]
    for number in shown:
        table.add_column(COLUMNS[number], justify="left" if number == 1 else "right", no_wrap=True)
    for title, rows in groupby(result["rows"], key=lambda found: str(found["question"])):
        table.add_row(f"[bold]{title}[/]")
        for found in rows:
            cells = _cells(found)
            table.add_row(f"  {cells[1]}", *(cells[number] for number in shown[1:]))
        table.add_section()
    return Group(table, *(Text(line) for line in about(result)))


def about(result: Mapping[str, Any]) -> list[str]:
    """Return lines that say what was compared."""
    data, models, looks = result["data"], result["models"], result["looks"]
    accuracy = ", ".join(f"{model['accuracy']:.2f}" for model in models)
    held = "; ".join(f"{name} {check['holds']} of {check['jobs']}" for name, check in result["bytes"].items())
    return [
        f"{data}: {result['seeds']} seeds x {result['patients']} wearers, {result['copies']} copies an arm, "
        f"width {result['width']}",
        "FAIL: share of jobs, Clopper-Pearson limits; seeds in which the method FAILs;",
        "all: the method's verdict over all seeds; AUC: mean of the primary over jobs",
        f"accuracy of the general models, a segment: {accuracy} (majority {models[0]['majority']:.2f})",
        f"verdicts on exact methods, a seed and over all: {looks['refuted_once']} of {looks['verdicts']} FAIL at the "
        f"first look, {looks['refuted_twice']} at a second with fresh and four times as many copies, which counts",
        f"digests that are what they would have been without the data: {held}",
        f"{result['seconds']:.0f} s, {result['seconds_models']:.0f} of them for the models, "
        f"on {result['workers']} processes ({result['machine']})",
    ]
