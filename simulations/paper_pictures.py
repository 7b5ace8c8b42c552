"""The paper's figures 2 to 7 as SVG files that need nothing else, and one figure that the paper lacks.

Waveforms, spectra and predictions are drawn as in the report (`server/figures.py`); curves, losses and differences
here, with the lines' names beside the lines. Colours are the report's light ones.
"""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
from matplotlib.axes import Axes

from server.figures import confusion, ecg
from server.panels import COLOURS, Panel, line, panel, percent_tick, points_tick, shares, values_of
from simulations.paper_models import EPSILON, UNLEARNED
from simulations.paper_results import CANDIDATES, losses
from simulations.paper_words import counted
from simulations.table1 import Outcome

FONT = "system-ui, 'Segoe UI', Roboto, 'Helvetica Neue', 'Liberation Sans', Arial, sans-serif"
MARGIN, GAP, TITLE, NOTE = 20, 24, 40, 20  # SVG units around panels, between them, and the heights of two lines
LEAST, MOST = 1e-5, 30.0  # nats, the ends of the axis of losses; what lies beyond is drawn at the end
LOSS_GROUPS = {
    "member": "patients’ data (S)",
    "held_out": "own held-out",
    "test": "test data, never used",
}
DRAWN = 0.64  # of a panel's height is for the losses, what is above for words
GROUP_NAMES = {"member": "members (S)", "held_out": "own held-out", "control": "never used"}


def pictures(outcome: Outcome) -> dict[str, tuple[str, str]]:
    """Return file name -> SVG text and caption; figure 2 holds a second of a never-used patient's ECG."""
    result, drawn = outcome.result, {}
    shown, unit = outcome.shown, result["unit"]
    drawn["figure-2.svg"] = (
        ecg({name: shown[name] for name in ("clean", "adversarial")}, unit=unit),
        f"Figure 2: an ECG before and after FGSM at ε = {EPSILON:g} SD, and its spectra",
        f"One second of a never-used patient, label {outcome.shown_label}.",
        2,
    )
    drawn["figure-3.svg"] = (
        [confusion(shown["labels"], shown[when], epsilon=at) for when, at in (("before", 0.0), ("after", EPSILON))],
        "Figure 3: the general model’s predictions against labels",
        f"Test data: {len(shown['labels'])} segments of never-used patients; on the right under FGSM.",
        2,
    )
    patients, seeds = counted(result["patients"], "patient"), counted(result["seeds"], "seed")
    curves = [one["curves"] for one in result["general"]]
    about = f"{seeds}; training crops are disturbed and blended, which makes them harder."
    for number, quantity in ((4, "loss"), (5, "accuracy")):
        title = f"Figure {number}: the general model’s {quantity} by epoch"
        drawn[f"figure-{number}.svg"] = ([_curves(curves, quantity)], title, about, 1)
    for number, reference in ((6, "personal"), (7, "general")):
        title = f"Figure {number}: losses of the {reference} and the unlearned model"
        about = (
            f"{patients}, {seeds}; a loss for each segment and model asked: test data once a patient and seed; "
            "dashed: medians; beyond the axis: at its end."
        )
        drawn[f"figure-{number}.svg"] = ([_losses(outcome, reference)], title, about, 1)
    drawn["controls.svg"] = (
        [_differences(result)],
        "Equation 7 with controls: accuracy under FGSM minus the general model’s",
        f"ε = {EPSILON:g} SD; means over {patients}, {seeds}; 95 % intervals over patients.",
        1,
    )
    return {
        name: (svg_file(panels, title=title, note=note, columns=columns), f"{title}. {note}")
        for name, (panels, title, note, columns) in drawn.items()
    }


def svg_file(panels: Sequence[Panel], *, title: str, note: str, columns: int) -> str:
    """Return panels in `columns` columns under a title as one SVG file with its own colours and letters."""
    sizes = [_size(each) for each in panels]
    width = max(size[0] for size in sizes)
    rows = [sizes[start : start + columns] for start in range(0, len(sizes), columns)]
    placed: list[str] = []
    top: float = MARGIN + TITLE + NOTE
    for number, row in enumerate(rows):
        for column, each in enumerate(panels[number * columns : number * columns + len(row)]):
            x = MARGIN + column * (width + GAP)
            place = f'<svg x="{x:g}" y="{top:g}" width="{row[column][0]:g}" height="{row[column][1]:g}" '
            placed.append(str(each.svg).replace("<svg ", place, 1))
        top += max(size[1] for size in row) + GAP
    whole, high = 2 * MARGIN + columns * width + (columns - 1) * GAP, top - GAP + MARGIN
    text = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {whole:g} {high:g}" width="{whole:g}" height="{high:g}" '
        f'font-family="{FONT}">\n<title>{escape(title)}</title>\n'
        f'<rect width="100%" height="100%" style="fill: var(--paper)"/>\n'
        f'<text x="{MARGIN}" y="{MARGIN + 18}" style="font-size: 17px; fill: var(--ink)">{escape(title)}</text>\n'
        f'<text x="{MARGIN}" y="{MARGIN + 40}" style="font-size: 12px; fill: var(--muted)">{escape(note)}</text>\n'
        + "\n".join(placed)
        + "\n</svg>\n"
    )
    return re.sub(r"var\(--([a-z-]+)\)", lambda found: light()[found[1]], text)


@lru_cache(maxsize=1)
def light() -> dict[str, str]:
    """Return the light colours of the report's stylesheet by name: a file has no stylesheet to ask."""
    sheet = (files("server") / "report_style.html").read_text(encoding="utf-8")
    named = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", sheet.split("@media", 1)[0]))
    return named | {"paper": named["card"]}


def _size(each: Panel) -> tuple[float, float]:
    found = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', str(each.svg))
    assert found is not None
    return float(found[1]), float(found[2])


def _curves(seeds: Sequence[Sequence[Mapping[str, float]]], quantity: str) -> Panel:
    """Draw one quantity by epoch, all seeds, training and validation."""
    last = {
        part: float(np.mean([curve[-1][f"{part}_{quantity}"] for curve in seeds])) for part in ("train", "validation")
    }

    def draw(all_axes: list[Axes]) -> None:
        (axes,) = all_axes
        for curve in seeds:
            epochs = [row["epoch"] for row in curve]
            for part in last:
                line(axes, epochs, [row[f"{part}_{quantity}"] for row in curve], part, markers=len(epochs) <= 30)
        _beside(axes, {"train": "training", "validation": "validation"}, last, x=seeds[0][-1]["epoch"])
        axes.locator_params(axis="x", integer=True)
        axes.set(xlabel="epoch", ylabel="cross-entropy, nats" if quantity == "loss" else "accuracy of segments")
        if quantity == "accuracy":
            shares(axes.yaxis, percent_tick)

    alt = f"{quantity.capitalize()} by epoch, {counted(len(seeds), 'seed')}; at the end training {last['train']:.3f}, "
    return panel(f"curve-{quantity}", f"{alt}validation {last['validation']:.3f} (means).", draw, height=300, width=560)


def _beside(axes: Axes, names: Mapping[str, str], ends: Mapping[str, float], *, x: float) -> None:
    """Write the lines' names beside their ends, and keep two names apart."""
    low, high = axes.get_ylim()
    apart = 0.08 * (high - low)
    first, second = sorted(names, key=lambda part: ends[part])
    middle, half = (ends[first] + ends[second]) / 2, max(ends[second] - ends[first], apart) / 2
    for part, y in ((first, middle - half), (second, middle + half)):
        axes.annotate(names[part], (x, y), (10, 0), textcoords="offset points", va="center", color=COLOURS[part])


def _losses(outcome: Outcome, reference: str) -> Panel:
    """Draw the losses of a reference and of each unlearned model, a row a method and a column a group."""
    made = [name for name in UNLEARNED if name != "exact" and any(name in one.readings for one in outcome.found)]
    cells = [(method, group) for method in made for group in LOSS_GROUPS]

    def draw(all_axes: list[Axes]) -> None:
        for number, (axes, (method, group)) in enumerate(zip(all_axes, cells, strict=True)):
            each = {
                reference: losses(outcome.found, reference, group, only=method),
                "finetune": losses(outcome.found, method, group),
            }
            for style, values in each.items():
                _distribution(axes, values, style)
            counts = f"{len(each['finetune']):,} losses"
            axes.set_title(LOSS_GROUPS[group] if number < len(LOSS_GROUPS) else "")
            _corner(axes, 0.98, counts, "muted")
            if group == "member":
                axes.set_ylabel("share of losses")
                for y, text, style in (
                    (0.86, reference, reference),
                    (0.74, f"unlearned: {UNLEARNED[method]}", "finetune"),
                ):
                    _corner(axes, y, text, style)
            if number >= len(cells) - len(LOSS_GROUPS):
                axes.set_xlabel("loss, nats")
        for first in range(0, len(all_axes), len(LOSS_GROUPS)):  # a method's own scale: gkt's losses all lie in one bar
            row = all_axes[first : first + len(LOSS_GROUPS)]
            highest = max(axes.dataLim.ymax for axes in row)
            for axes in row:
                axes.set_ylim(0, highest / DRAWN)

    medians = "; ".join(
        f"{UNLEARNED[method]}, {LOSS_GROUPS[group]}: "
        + " against ".join(
            f"{np.median(losses(outcome.found, model, group, only=method)):.3g}" for model in (reference, method)
        )
        for method, group in cells
    )
    alt = f"Distribution of losses, {reference} against unlearned; medians in nats: {medians}."
    shape = (len(made), len(LOSS_GROUPS))
    return panel(f"losses-{reference}", alt, draw, height=50 + 220 * len(made), width=900, shape=shape, same_y="row")


def _corner(axes: Axes, y: float, text: str, colour: str) -> None:
    """Write into the upper right corner, above the losses."""
    axes.text(0.93, y, text, transform=axes.transAxes, ha="right", va="top", color=COLOURS[colour])


def _distribution(axes: Axes, values: Any, style: str) -> None:
    """Draw a histogram of losses over a logarithmic axis, and its median."""
    edges = np.geomspace(LEAST, MOST, 28)
    counts, _ = np.histogram(np.clip(values, LEAST, MOST), edges)
    share, colour = counts / len(values), COLOURS[style]
    axes.set_xscale("log")
    axes.minorticks_off()
    axes.stairs(share, edges, fill=True, color=colour, alpha=0.22, linewidth=0)
    axes.stairs(share, edges, color=colour, linewidth=1.5)
    median = float(np.median(np.clip(values, LEAST, MOST)))
    axes.axvline(median, ymax=DRAWN, color=colour, linewidth=1.3, linestyle=(0, (4, 2)))
    axes.set_xticks([1e-4, 1e-3, 1e-2, 1e-1, 1, 10], [".0001", ".001", ".01", ".1", "1", "10"])
    axes.set_xlim(LEAST, MOST)
    shares(axes.yaxis, percent_tick)


def _differences(result: Mapping[str, Any]) -> Panel:
    """Draw equation 7 of each model for members, held-out segments and controls, with intervals."""
    models = [name for name in ("personal", *UNLEARNED) if result["table"][name]["member"]["difference"]["patients"]]

    def draw(all_axes: list[Axes]) -> None:
        (axes,) = all_axes
        axes.axvline(0, color=COLOURS["muted"], linewidth=1)
        for row, model in enumerate(models):
            for shift, group in zip((-0.22, 0.0, 0.22), CANDIDATES, strict=True):
                found = result["table"][model][group]["difference"]
                low, value, high = values_of([found[name] for name in ("low", "value", "high")])
                axes.hlines(row + shift, low, high, color=COLOURS[group], linewidth=2, alpha=0.6)
                axes.plot(
                    [value],
                    [row + shift],
                    {"member": "o", "held_out": "s", "control": "^"}[group],
                    color=COLOURS[group],
                )
                if row == 0:
                    right = value if np.isnan(high) else high
                    name = GROUP_NAMES[group]
                    axes.annotate(
                        name,
                        (right, row + shift),
                        (8, 0),
                        textcoords="offset points",
                        va="center",
                        color=COLOURS[group],
                    )
        names = [f"{UNLEARNED.get(model, model)}, N = {_patients(result, model)}" for model in models]
        axes.set_yticks(range(len(models)), names)
        axes.set(ylim=(len(models) - 0.5, -0.5), xlabel="percentage points")
        axes.margins(x=0.12)
        axes.grid(True, axis="x")
        axes.grid(False, axis="y")
        shares(axes.xaxis, points_tick)

    said = "; ".join(
        f"{model}: " + ", ".join(_spoken(result["table"][model][group]["difference"], group) for group in CANDIDATES)
        for model in models
    )
    return panel("differences", f"Equation 7 in points. {said}.", draw, height=70 + 70 * len(models), width=720)


def _patients(result: Mapping[str, Any], model: str) -> int:
    return int(result["table"][model]["member"]["difference"]["patients"])


def _spoken(found: Mapping[str, Any], group: str) -> str:
    value = found["value"]
    return f"{GROUP_NAMES[group]} {'not measured' if value is None else points_tick(value)}"
