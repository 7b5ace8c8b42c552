"""The report's figures: arrays and numbers in, SVG panels out.

Panels are narrow, so that a page can set two side by side and a phone one below the other. What a panel
means, its caption and its legend are `server/report.html`'s; its colours are `server/panels.py`'s.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from server.panels import COLOURS, Panel, panel
from shared.settings import LEADS, SAMPLING_HZ, SEGMENT_SAMPLES, SUPERCLASSES
from shared.signals import spectrum

Row = Mapping[str, Any]
Series = Sequence[float | None]
Array = npt.NDArray[Any]

# Dash and marker say the same as the colour: for the colour-blind, and for print in grey.
STYLES: dict[str, tuple[str, str]] = {
    "general": ("--", "s"),
    "personal": ("-", "o"),
    "finetune": ("--", "^"),
    "exact": ("-", "D"),
    "member": ("-", "o"),
    "held_out": ("--", "s"),
    "control": (":", "^"),
    "train": ("--", "s"),
    "validation": ("-", "o"),
}
OTHER_METHODS = ("control", "held_out", "member")  # styles for methods that have none of their own
GROUPS = {
    "forgotten": "withdrawn segments",
    "member": "member segments",
    "held_out": "held-out segments",
    "control": "control patients",
}
ROWS_AT_MOST = 40  # devices that get a row of their own
SHOWN_LEADS = ("II", "V2")


def style_of(method: str, methods: Sequence[str]) -> str:
    """Return the name of the colour, dash and marker that an unlearning method is drawn in."""
    if method in STYLES:
        return method
    rest = [other for other in methods if other not in STYLES]
    return OTHER_METHODS[rest.index(method) % len(OTHER_METHODS)]


def _line(axes: Axes, x: Sequence[float] | Array, y: Series, style: str, *, markers: bool = True) -> None:
    dash, marker = STYLES[style]
    axes.plot(
        x,
        _values(y),
        linestyle=dash,
        marker=marker if markers else "",
        color=COLOURS[style],
        markeredgecolor=COLOURS["paper"],
        markeredgewidth=0.8,
    )


def _values(series: Series) -> Array:
    return np.array([np.nan if value is None else value for value in series], dtype=np.float64)


def _percent(value: float, _position: float | None = None) -> str:
    return f"{100 * value:.0f} %"


def _points(value: float, _position: float | None = None) -> str:
    return f"{100 * value:+.0f}" if round(100 * value) else "0"


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"


def _mean(values: Array) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def learning_curves(curves: Sequence[Row]) -> list[Panel]:
    """Draw loss and accuracy by epoch, training and validation (the paper's figures 4 and 5)."""
    if not curves:
        return []
    epochs = [row["epoch"] for row in curves]

    def draw(quantity: str, axes: list[Axes]) -> None:
        few = len(epochs) <= 30
        for part in ("train", "validation"):
            _line(axes[0], epochs, [row[f"{part}_{quantity}"] for row in curves], part, markers=few)
        axes[0].locator_params(axis="x", integer=True)
        axes[0].set(xlabel="epoch", title=quantity.capitalize())
        if quantity == "accuracy":
            axes[0].yaxis.set_major_formatter(_percent)

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
    """Draw each device's accuracy before and after it became personal, on own and on others' segments."""
    panels = []
    for part, title in (("own", "On own held-out segments"), ("others", "On other people’s segments")):
        rows = [
            (str(d["pseudonym"]), float(d[f"{part}_general"]), float(d[f"{part}_personal"]))
            for d in devices
            if d[f"{part}_general"] is not None and d[f"{part}_personal"] is not None
        ]
        if not rows:
            continue
        before, after = (float(np.mean([row[i] for row in rows])) for i in (1, 2))
        alt = f"{title}, {len(rows)} devices: mean accuracy {before:.1%} general, {after:.1%} personal."
        few = len(rows) <= ROWS_AT_MOST
        draw = partial(_dumbbells if few else _bubbles, rows, title)
        panels.append(panel(f"each-{part}", alt, draw, height=96 + 17 * len(rows) if few else 440))
    return panels


def _dumbbells(rows: Sequence[tuple[str, float, float]], title: str, all_axes: list[Axes]) -> None:
    axes = all_axes[0]
    rows = sorted(rows, key=lambda row: (row[2] - row[1], row[2], row[0]))
    y = np.arange(len(rows))
    before, after = np.array([row[1] for row in rows]), np.array([row[2] for row in rows])
    for values, style in ((before, "general"), (after, "personal")):
        axes.axvline(float(values.mean()), color=COLOURS[style], linestyle=STYLES[style][0], linewidth=1.2)
    axes.hlines(y, before, after, color=COLOURS["muted"], linewidth=1.4, alpha=0.6)
    axes.plot(
        before, y, "s", color=COLOURS["paper"], markeredgecolor=COLOURS["general"], markeredgewidth=1.6
    )
    axes.plot(after, y, "o", color=COLOURS["personal"], markersize=6)
    axes.set_yticks(y, [row[0][:18] for row in rows], fontsize=10.5)
    axes.set(xlim=(-0.03, 1.04), ylim=(-0.8, len(rows) - 0.2), title=title)
    axes.grid(True, axis="x")
    axes.grid(False, axis="y")
    axes.xaxis.set_major_formatter(_percent)


def _bubbles(rows: Sequence[tuple[str, float, float]], title: str, all_axes: list[Axes]) -> None:
    """Draw one circle for all devices at a place, so that a thousand devices stay readable and small."""
    axes = all_axes[0]
    counted = sorted(Counter((round(row[1] * 40) / 40, round(row[2] * 40) / 40) for row in rows).items())
    places = np.array([place for place, _ in counted])
    sizes = [14 + 900 * count / len(rows) for _, count in counted]
    axes.plot([0, 1], [0, 1], color=COLOURS["muted"], linewidth=1, linestyle=":")
    axes.scatter(
        places[:, 0], places[:, 1], s=sizes, color=COLOURS["personal"], alpha=0.45, linewidths=0, clip_on=False
    )
    axes.set(aspect="equal", xlabel="general model", ylabel="personal model", title=title)
    axes.grid(True, axis="both")
    axes.xaxis.set_major_formatter(_percent)
    axes.yaxis.set_major_formatter(_percent)


def _difference_axes(axes: Axes, epsilons: Sequence[float], title: str) -> None:
    """Label the places 0, 1, 2, ... with the strengths, which are not evenly spaced."""
    axes.set_xticks(range(len(epsilons)), [f"{epsilon:g}" for epsilon in epsilons])
    axes.set(xlim=(-0.3, len(epsilons) - 0.7), xlabel="attack strength ε (sd)", title=title)


def probe(epsilons: Sequence[float], groups: Mapping[str, Row]) -> list[Panel]:
    """Draw the paper's difference (equation 7) by attack strength with intervals, and what it is made of."""
    present = [name for name in ("member", "held_out", "control") if name in groups]

    def difference(all_axes: list[Axes]) -> None:
        axes = all_axes[0]
        axes.axhline(0, color=COLOURS["muted"], linewidth=1)
        for shift, name in zip((-0.1, 0.0, 0.1), present, strict=False):
            x = np.arange(len(epsilons)) + shift
            low, high = _values(groups[name]["low"]), _values(groups[name]["high"])
            axes.vlines(x, low, high, color=COLOURS[name], linewidth=1.4, alpha=0.7)
            _line(axes, x, groups[name]["difference"], name)
        _difference_axes(axes, epsilons, "Personal minus general, points")
        axes.yaxis.set_major_formatter(_points)

    def accuracy(all_axes: list[Axes]) -> None:
        axes = all_axes[0]
        for name in present:
            for model, dash in (("general", (0, (2, 2))), ("personal", "-")):
                axes.plot(_values(groups[name][model]), linestyle=dash, color=COLOURS[name])
        _difference_axes(axes, epsilons, "Accuracy: general dotted, personal solid")
        axes.yaxis.set_major_formatter(_percent)
        axes.set_ylim(bottom=0)

    ends = "; ".join(
        f"{GROUPS[name]} {_points(_mean(_values(groups[name]['difference'])))} points on average"
        for name in present
    )
    return [
        panel("probe-difference", f"Difference in accuracy by attack strength: {ends}.", difference),
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
    everything = np.concatenate([_values(values) for values in drawn] + [np.zeros(1)])
    low, high = float(np.nanmin(everything)), float(np.nanmax(everything))
    room = max(0.08 * (high - low), 0.01)

    def draw(group: str, all_axes: list[Axes]) -> None:
        axes = all_axes[0]
        axes.axhline(0, color=COLOURS["muted"], linewidth=1)
        for style, values in ((("personal"), before[group]), *_styled(after, group)):
            if len(values) == len(epsilons):
                _line(axes, np.arange(len(epsilons)), values, style)
        _difference_axes(axes, epsilons, GROUPS[group].capitalize())
        axes.set_ylim(low - room, high + room)
        axes.yaxis.set_major_formatter(_points)

    return [
        panel(
            f"{name}-{group}",
            f"{GROUPS[group].capitalize()}: mean difference {_points(_mean(_values(values)))} points before"
            + "".join(
                f", {_points(_mean(_values(lines[group])))} after {method}" for method, lines in after.items()
            ),
            partial(draw, group),
            width=340,
            height=250,
        )
        for group, values in before.items()
        if len(values) == len(epsilons)
    ]


def _styled(after: Mapping[str, Mapping[str, Series]], group: str) -> list[tuple[str, Series]]:
    return [(style_of(method, list(after)), lines[group]) for method, lines in after.items()]


def ecg(arrays: Mapping[str, Array], *, unit: str) -> list[Panel]:
    """Draw leads II and V2 of a segment before and after FGSM with their spectra (the paper's figure 2)."""
    seconds = np.arange(SEGMENT_SAMPLES) / SAMPLING_HZ
    versions = {name: arrays[name] for name in ("clean", "adversarial")}
    spectra = {name: spectrum(np.asarray(values, dtype=np.float32)) for name, values in versions.items()}

    def wave(lead: int, all_axes: list[Axes]) -> None:
        for axes, (name, segment) in zip(all_axes, versions.items(), strict=True):
            axes.plot(seconds, segment[lead], color=COLOURS[name], linewidth=1.2)
            axes.set_xticks(np.arange(0, 1.01, 0.2))
            axes.grid(True, axis="both")
            axes.set(xlim=(0, 1), ylabel=unit)
            axes.set_title(f"Lead {LEADS[lead]}, {'original' if name == 'clean' else 'after FGSM'}")
        all_axes[-1].set_xlabel("seconds")

    def frequencies(lead: int, all_axes: list[Axes]) -> None:
        for axes, (name, (hertz, magnitude)) in zip(all_axes, spectra.items(), strict=True):
            axes.fill_between(hertz, magnitude[lead], color=COLOURS[name], alpha=0.18, linewidth=0)
            axes.plot(hertz, magnitude[lead], color=COLOURS[name], linewidth=1.2)
            axes.set(xlim=(0, 125), ylim=(0, None), ylabel="magnitude")
            axes.set_title(f"Spectrum, {'original' if name == 'clean' else 'after FGSM'}")
        all_axes[-1].set_xlabel("hertz")

    panels = []
    for name in SHOWN_LEADS:
        lead = LEADS.index(name)
        change = float(np.abs(versions["adversarial"][lead] - versions["clean"][lead]).max())
        alt = f"Lead {name} of one segment before and after FGSM; no sample moves by more than {change:.3f} {unit}."
        panels.append(panel(f"wave-{name}", alt, partial(wave, lead), height=400, shape=(2, 1)))
        alt = f"Magnitude spectra of lead {name} before and after FGSM, 0 to 125 hertz."
        panels.append(panel(f"spectrum-{name}", alt, partial(frequencies, lead), height=400, shape=(2, 1)))
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
        axes.set(xlabel="prediction", ylabel="label", title=f"ε = {epsilon:g}: {right:.0%} right")
        axes.set(xlim=(-0.5, 4.5), ylim=(4.5, -0.5))
        axes.spines[:].set_visible(False)
        axes.grid(False)

    wrong = len(labels) - int(counts.trace())
    alt = f"Predictions against labels at ε = {epsilon:g}: {counts.trace()} of {len(labels)} right, {wrong} wrong."
    return panel(f"confusion-{epsilon:g}".replace(".", "-"), alt, draw, height=380)
