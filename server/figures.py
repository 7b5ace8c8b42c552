"""The report's figures: arrays and numbers in, SVG panels out.

Panels are narrow, so that a page can set two side by side and a phone one below the other. What a panel
means, its caption and its legend are `server/report.html`'s; its colours are `server/panels.py`'s.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from server.panels import (
    COLOURS,
    STYLES,
    Array,
    Panel,
    Series,
    line,
    panel,
    percent_tick,
    points_tick,
    shares,
    style_of,
    values_of,
)
from shared.settings import LEADS, SAMPLING_HZ, SEGMENT_SAMPLES, SUPERCLASSES
from shared.signals import spectrum

Row = Mapping[str, Any]

GROUPS = {
    "forgotten": "withdrawn segments",
    "member": "member segments",
    "held_out": "held-out segments",
    "control": "control patients",
}
ROWS_AT_MOST = 40  # devices that get a row of their own
SHOWN_LEADS = ("II", "V2")


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"


def _mean(series: Series) -> str:
    """Return the mean of a series of differences in words, over what is there."""
    there = [value for value in series if value is not None]
    return f"{points_tick(float(np.mean(there)))} points" if there else "n/a"


def learning_curves(curves: Sequence[Row]) -> list[Panel]:
    """Draw loss and accuracy by epoch, training and validation (the paper's figures 4 and 5)."""
    if not curves:
        return []
    epochs = [row["epoch"] for row in curves]

    def draw(quantity: str, axes: list[Axes]) -> None:
        few = len(epochs) <= 30
        for part in ("train", "validation"):
            line(axes[0], epochs, [row[f"{part}_{quantity}"] for row in curves], part, markers=few)
        axes[0].locator_params(axis="x", integer=True)
        axes[0].set(xlabel="epoch", title=quantity.capitalize())
        if quantity == "accuracy":
            shares(axes[0].yaxis, percent_tick)

    last = curves[-1]
    return [
        panel(
            f"curve-{quantity}",
            f"{quantity.capitalize()} by epoch. After epoch {last['epoch']}: training "
            f"{_number(last[f'train_{quantity}'])}, validation {_number(last[f'validation_{quantity}'])}.",
            partial(draw, quantity),
        )
        for quantity in ("loss", "accuracy")
    ]


def own_against_others(devices: Sequence[Row]) -> list[Panel]:
    """Draw each device's accuracy before and after it became personal, on own and on others' segments.

    Both panels keep one order, by the gain on own segments, so that a row can be followed across.
    """
    panels = []
    ordered = sorted(devices, key=lambda d: (_gain(d, "own"), d["own_personal"] or 0.0, d["pseudonym"]))
    for part, title in (("own", "On own held-out segments"), ("others", "On other people’s segments")):
        rows = [
            (str(d["pseudonym"]), float(d[f"{part}_general"]), float(d[f"{part}_personal"]))
            for d in ordered
            if np.isfinite(_gain(d, part))
        ]
        if not rows:
            continue
        before, after = (float(np.mean([row[i] for row in rows])) for i in (1, 2))
        alt = f"{title}, {len(rows)} devices: mean accuracy {before:.1%} general, {after:.1%} personal."
        few = len(rows) <= ROWS_AT_MOST
        draw = partial(_dumbbells if few else _bubbles, rows, title)
        panels.append(panel(f"each-{part}", alt, draw, height=70 + 15 * len(rows) if few else 320))
    return panels


def _gain(device: Row, part: str) -> float:
    """Return by how much a device's accuracy rose; minus infinity when nothing was held out."""
    before, after = device[f"{part}_general"], device[f"{part}_personal"]
    return float("-inf") if before is None or after is None else float(after - before)


def _dumbbells(rows: Sequence[tuple[str, float, float]], title: str, all_axes: list[Axes]) -> None:
    axes = all_axes[0]
    y = np.arange(len(rows))
    before, after = np.array([row[1] for row in rows]), np.array([row[2] for row in rows])
    for values, style in ((before, "general"), (after, "personal")):
        axes.axvline(float(values.mean()), color=COLOURS[style], linestyle=STYLES[style][0], linewidth=1.2)
    axes.hlines(y, before, after, color=COLOURS["muted"], linewidth=1.4, alpha=0.6)
    (hollow,) = axes.plot(before, y, "s", clip_on=False, color=COLOURS["paper"], markeredgewidth=1.5)
    hollow.set_markeredgecolor(COLOURS["general"])
    axes.plot(after, y, "o", clip_on=False, color=COLOURS["personal"])
    low, high = min(before.min(), after.min()), max(before.max(), after.max())
    room = max(0.05 * (high - low), 0.05 - (high - low) / 2, 0.005)  # at least ten points wide
    axes.set(xlim=(low - room, min(high + room, 1.0)), ylim=(-0.8, len(rows) - 0.2), title=title)
    axes.set_yticks(y, [row[0][:14] for row in rows])
    axes.grid(True, axis="x")
    axes.grid(False, axis="y")
    shares(axes.xaxis, percent_tick)


def _bubbles(rows: Sequence[tuple[str, float, float]], title: str, all_axes: list[Axes]) -> None:
    """Draw one circle for all devices at a place, so that a thousand devices stay readable and small."""
    axes = all_axes[0]
    values = np.array([row[1:] for row in rows])
    middle, half = (values.max() + values.min()) / 2, max(0.54 * (values.max() - values.min()), 0.05)
    counted = sorted(Counter(tuple(place) for place in np.round(values * 25 / half)).items())
    places = np.array([place for place, _ in counted]) * half / 25
    axes.plot([0, 1], [0, 1], color=COLOURS["muted"], linewidth=1, linestyle=":")
    sizes = [14 + 900 * count / len(rows) for _, count in counted]
    axes.scatter(places[:, 0], places[:, 1], s=sizes, color=COLOURS["personal"], alpha=0.45, linewidths=0)
    axes.plot(*values.mean(axis=0), "+", color=COLOURS["ink"], markersize=14, markeredgewidth=1.6)
    limits = (middle - half, middle + half)
    axes.set(xlim=limits, ylim=limits, aspect="equal", title=title)
    axes.set(xlabel="general model", ylabel="personal model")
    axes.grid(True, axis="both")
    shares(axes.xaxis, percent_tick)
    shares(axes.yaxis, percent_tick)


def _difference_axes(axes: Axes, epsilons: Sequence[float], title: str) -> None:
    """Label the places 0, 1, 2, ... with the strengths, which are not evenly spaced."""
    axes.set_xticks(range(len(epsilons)), [f"{epsilon:g}" for epsilon in epsilons])
    axes.set(xlim=(-0.3, len(epsilons) - 0.7), xlabel="attack strength ε (sd)", title=title)


def probe(epsilons: Sequence[float], groups: Mapping[str, Row]) -> list[Panel]:
    """Draw the paper's difference (equation 7) by attack strength with intervals, and what it is made of."""
    names = ("member", "held_out", "control")

    def difference(all_axes: list[Axes]) -> None:
        axes = all_axes[0]
        axes.axhline(0, color=COLOURS["muted"], linewidth=1)
        for shift, name in zip((-0.1, 0.0, 0.1), names, strict=True):
            x = np.arange(len(epsilons)) + shift
            low, high = values_of(groups[name]["low"]), values_of(groups[name]["high"])
            axes.vlines(x, low, high, color=COLOURS[name], linewidth=1.4, alpha=0.7)
            line(axes, x, groups[name]["difference"], name)
        _difference_axes(axes, epsilons, "Personal minus general, points")
        shares(axes.yaxis, points_tick)

    def accuracy(all_axes: list[Axes]) -> None:
        axes = all_axes[0]
        for name in names:
            for model, dash in (("general", (0, (2, 2))), ("personal", "-")):
                axes.plot(values_of(groups[name][model]), linestyle=dash, color=COLOURS[name])
        _difference_axes(axes, epsilons, "Accuracy of both models")
        shares(axes.yaxis, percent_tick)
        axes.set_ylim(bottom=0)

    means = "; ".join(f"{GROUPS[name]} {_mean(groups[name]['difference'])} on average" for name in names)
    return [
        panel("probe-difference", f"Difference in accuracy by attack strength: {means}.", difference),
        panel("probe-accuracy", "Accuracy of both models by attack strength for each group.", accuracy),
    ]


def before_and_after(
    name: str, epsilons: Sequence[float], before: Mapping[str, Series], after: Mapping[str, Mapping[str, Series]]
) -> list[Panel]:
    """Draw the difference by attack strength before and after unlearning, one panel a group of segments.

    Args:
        name: keeps the ids apart.
        epsilons: E strengths of the attack.
        before: group -> E differences, personal minus general.
        after: method -> group -> E differences, unlearned minus general.
    """
    drawn = [values for lines in (before, *after.values()) for values in lines.values()]
    everything = np.concatenate([values_of(values) for values in drawn] + [np.zeros(1)])
    low, high = float(np.nanmin(everything)), float(np.nanmax(everything))
    room = max(0.08 * (high - low), 0.01)

    def draw(group: str, all_axes: list[Axes]) -> None:
        axes = all_axes[0]
        axes.axhline(0, color=COLOURS["muted"], linewidth=1)
        for style, values in (("personal", before[group]), *_styled(after, group)):
            if len(values) == len(epsilons):
                line(axes, np.arange(len(epsilons)), values, style)
        _difference_axes(axes, epsilons, GROUPS[group].capitalize())
        axes.set_ylim(low - room, high + room)
        shares(axes.yaxis, points_tick)

    panels = []
    for group, values in before.items():
        if any(value is not None for value in values):
            alt = f"{GROUPS[group].capitalize()}: mean difference {_mean(values)} before"
            alt += "".join(f", {_mean(lines[group])} after {method}" for method, lines in after.items())
            panels.append(panel(f"{name}-{group}", f"{alt}.", partial(draw, group), width=280, height=220))
    return panels


def _styled(after: Mapping[str, Mapping[str, Series]], group: str) -> list[tuple[str, Series]]:
    return [(style_of(method, list(after)), lines[group]) for method, lines in after.items()]


def ecg(arrays: Mapping[str, Array], *, unit: str) -> list[Panel]:
    """Draw leads II and V2 of a segment before and after FGSM with their spectra (the paper's figure 2)."""
    seconds = np.arange(SEGMENT_SAMPLES) / SAMPLING_HZ
    versions = {name: np.asarray(arrays[name], dtype=np.float32) for name in ("clean", "adversarial")}
    titles = {"clean": "original", "adversarial": "after FGSM"}

    def wave(lead: int, all_axes: list[Axes]) -> None:
        for axes, (name, segment) in zip(all_axes, versions.items(), strict=True):
            axes.plot(seconds, segment[lead], color=COLOURS[name], linewidth=1.2)
            axes.set_xticks(np.arange(0, 1.01, 0.2))
            axes.grid(True, axis="both")
            axes.set(xlim=(0, 1), ylabel=unit, title=f"Lead {LEADS[lead]}, {titles[name]}")
        all_axes[-1].set_xlabel("seconds")

    def frequencies(lead: int, all_axes: list[Axes]) -> None:
        for axes, (name, segment) in zip(all_axes, versions.items(), strict=True):
            hertz, magnitude = spectrum(segment)
            axes.set_yscale("log")
            axes.minorticks_off()
            axes.plot(hertz[1:], np.maximum(magnitude[lead][1:], 1e-6), color=COLOURS[name], linewidth=1.2)
            axes.yaxis.set_major_formatter("{x:g}")
            axes.set(xlim=(0, SAMPLING_HZ / 2), ylabel=f"magnitude, {unit}", title=f"Spectrum, {titles[name]}")
        all_axes[-1].set_xlabel("hertz")

    panels = []
    for name in SHOWN_LEADS:
        lead = LEADS.index(name)
        change = float(np.abs(versions["adversarial"][lead] - versions["clean"][lead]).max())
        alt = f"Lead {name} of one segment before and after FGSM; no sample moves by more than {change:.3f} {unit}."
        panels.append(panel(f"wave-{name}", alt, partial(wave, lead), height=320, shape=(2, 1)))
        alt = f"Magnitude spectra of lead {name} before and after FGSM, 1 to 250 hertz."
        panels.append(panel(f"spectrum-{name}", alt, partial(frequencies, lead), height=320, shape=(2, 1)))
    return panels


def confusion(labels: Array, predictions: Array, *, epsilon: float) -> Panel:
    """Draw predictions against labels at one attack strength (the paper's figure 3)."""
    counts = np.zeros((len(SUPERCLASSES), len(SUPERCLASSES)), dtype=int)
    np.add.at(counts, (labels, predictions), 1)
    right = float(np.mean(labels == predictions)) if len(labels) else 0.0

    def draw(all_axes: list[Axes]) -> None:
        axes = all_axes[0]
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        for (row, column), count in np.ndenumerate(counts):
            axes.barh(
                row,
                0.94,
                0.94,
                left=column - 0.47,
                color=COLOURS["cell"],
                alpha=0.06 + 0.5 * float(shares[row, column]),
                linewidth=0,
            )
            weight = "bold" if row == column else "normal"
            axes.text(column, row, f"{count}", ha="center", va="center", fontweight=weight)
        axes.set_xticks(range(len(SUPERCLASSES)), SUPERCLASSES)
        axes.set_yticks(range(len(SUPERCLASSES)), SUPERCLASSES)
        axes.set(xlabel="prediction", ylabel="label", title=f"ε = {epsilon:g}: {100 * right:.0f} % right")
        axes.set(xlim=(-0.5, 4.5), ylim=(4.5, -0.5))
        axes.spines[:].set_visible(False)
        axes.grid(False)

    wrong = len(labels) - int(counts.trace())
    alt = f"Predictions against labels at ε = {epsilon:g}: {counts.trace()} of {len(labels)} right, {wrong} wrong."
    return panel(f"confusion-{epsilon:g}".replace(".", "-"), alt, draw, height=290)
