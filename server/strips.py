"""The one picture of a withdrawal's evidence: a dot a copy, a strip an arm, fluid in width and never in its letters.

It is SVG with places in percent and letters in CSS pixels, so that a phone shows it as readably as a desk. Its colours
are names of the page's stylesheet. What it means is said by `server/withdrawn.py`.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

from server.panels import Panel

ROW, NAME, BAND, RADIUS = 66, 24, 15.0, 4.2  # CSS pixels: a strip, its name in it, half of what dots may take, a dot
BIN = 1.3  # per cent of the width; copies nearer than this are stacked
EDGE = 3.0  # per cent of the width kept free on either side


@dataclass(frozen=True)
class Strip:
    """One arm: its name on the page, its CSS class, and one mean margin a copy."""

    name: str
    kind: str
    values: Sequence[float]


def arms(verdict: Mapping[str, Any]) -> list[Strip]:
    """Return the arms of a verdict in the order in which they are told; none when no copies were compared."""
    before, after = verdict["before"], verdict["after"]
    never = (after or before or {}).get("never", [])
    found = [
        Strip("Made with the records", "with", before["unlearned"] if before else []),
        Strip("Then unlearned", "then", after["unlearned"] if after else []),
        Strip("Never had them", "never", never),
    ]
    return [strip for strip in found if len(strip.values)] if never else []


def picture(name: str, strips: Sequence[Strip]) -> Panel:
    """Draw strips above one axis; the shaded band spans what copies that never had the records answer.

    Args:
        name: the element's id.
        strips: at least one; the last is the reference.
    """
    everything = np.concatenate([np.asarray(strip.values, dtype=float) for strip in strips])
    low, high = float(everything.min()), float(everything.max())
    room = max(high - low, 0.2) * 0.04
    low, high = low - room, high + room
    height = ROW * len(strips)
    reference = strips[-1].values
    left, right = _place(min(reference), low, high), _place(max(reference), low, high)
    parts = []
    for number, strip in enumerate(strips):
        parts.append(  # below the name, which is read on clear ground
            Markup('<rect class="band" x="{}%" y="{}" width="{}%" height="{}"/>').format(
                _short(left - 0.8), number * ROW + NAME, _short(right - left + 1.6), ROW - NAME
            )
        )
        parts += _drawn(strip, number * ROW, low, high)
    parts += _axis(height, low, high)
    alt = "; ".join(
        f"{strip.name}: {len(strip.values)} copies, median {np.median(strip.values):.2f}, "
        f"from {min(strip.values):.2f} to {max(strip.values):.2f}"
        for strip in strips
    )
    alt = f"Mean margin of each copy on the withdrawn segments. {alt}."
    whole = Markup('<svg class="strips" id="{}" role="img" aria-label="{}" width="100%" height="{}">{}</svg>')
    return Panel(alt, whole.format(name, alt, height + 44, Markup("").join(parts)))


def _drawn(strip: Strip, top: int, low: float, high: float) -> list[Markup]:
    """Return one strip: its name, its dots stacked around a middle line, a tick at the median."""
    middle = top + 42
    places = np.array([_place(value, low, high) for value in sorted(strip.values)])
    bins = np.round(places / BIN)
    full = Counter(bins.tolist())
    step = min(2 * RADIUS, 2 * BAND / max(1, max(full.values()) - 1))
    seen: Counter[float] = Counter()
    dots = []
    for place, at in zip(places, bins.tolist(), strict=True):
        y = middle + (seen[at] - (full[at] - 1) / 2) * step
        seen[at] += 1
        dots.append(
            Markup('<circle cx="{}%" cy="{}" r="{}"/>').format(
                _short(at * BIN if full[at] > 1 else float(place)), _short(y), RADIUS
            )
        )
    median = _short(_place(float(np.median(strip.values)), low, high))
    return [
        Markup('<text class="name" x="0" y="{}">{}<tspan class="quiet"> · {} copies</tspan></text>').format(
            top + 16, strip.name, len(strip.values)
        ),
        Markup('<g class="{}">{}</g>').format(strip.kind, Markup("").join(dots)),
        Markup('<line class="median" x1="{0}%" x2="{0}%" y1="{1}" y2="{2}"/>').format(
            median, _short(middle - BAND - 3), _short(middle + BAND + 3)
        ),
    ]


def _axis(top: int, low: float, high: float) -> list[Markup]:
    ticks = [tick for tick in MaxNLocator(nbins=5, steps=[1, 2, 5, 10]).tick_values(low, high) if low <= tick <= high]
    drawn = [Markup('<line class="axis" x1="0" x2="100%" y1="{0}" y2="{0}"/>').format(top + 4)]
    for tick in ticks:
        place = _place(float(tick), low, high)
        anchor = "start" if place < 6 else "end" if place > 94 else "middle"
        drawn.append(
            Markup('<text class="tick" x="{}%" y="{}" text-anchor="{}">{}</text>').format(
                _short(place), top + 20, anchor, f"{tick:.3g}".replace("-", "−")
            )
        )
    ends = Markup('<text class="tick" x="{}" y="{}" text-anchor="{}">{}</text>')
    drawn.append(ends.format("0", top + 40, "start", "← less sure"))
    drawn.append(ends.format("100%", top + 40, "end", "surer →"))
    return drawn


def _place(value: float, low: float, high: float) -> float:
    """Return where a value lies, in per cent of the width."""
    return EDGE + (100 - 2 * EDGE) * (value - low) / (high - low)


def _short(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
