"""From a Matplotlib drawing to an SVG element of an HTML page.

Colours are names: the page's stylesheet gives each its value, for light, dark and paper. Ids carry the panel's
name, so that many panels share a page, and the same drawing gives the same bytes. Lines, dashes and ticks look
alike everywhere because they come from here; what is drawn is `server/figures.py`'s.
"""

import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib
import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

Series = Sequence[float | None]
Array = npt.NDArray[Any]

# Matplotlib needs colours while it draws; each stands for the CSS variable of its name.
_NAMES: tuple[str, ...] = (
    "ink",
    "muted",
    "line",
    "paper",
    "general",
    "personal",
    "finetune",
    "exact",
    "member",
    "held_out",
)
_NAMES += ("control", "train", "validation", "clean", "adversarial", "cell")
COLOURS = {name: f"#0101{number:02x}" for number, name in enumerate(_NAMES, start=1)}

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

_RC: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "lethe",
    "text.parse_math": False,
    "font.size": 12,
    "text.color": COLOURS["ink"],
    "axes.edgecolor": COLOURS["muted"],
    "axes.labelcolor": COLOURS["muted"],
    "axes.titlecolor": COLOURS["ink"],
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": COLOURS["line"],
    "grid.linewidth": 0.8,
    "xtick.color": COLOURS["muted"],
    "ytick.color": COLOURS["muted"],
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
    "xtick.minor.size": 0,
    "lines.linewidth": 1.4,
    "lines.markersize": 5,
    "lines.solid_capstyle": "round",
    "path.simplify_threshold": 0.2,
    "figure.constrained_layout.hspace": 0.12,
}
_QUIET = {"Date": None, "Creator": None, "Format": None, "Type": None}


@dataclass(frozen=True)
class Panel:
    """One drawing, ready for the page, with what it shows in words in its `aria-label`."""

    alt: str
    svg: Markup


def panel(
    name: str,
    alt: str,
    draw: Callable[[list[Axes]], None],
    *,
    height: int = 220,
    width: int = 290,
    shape: tuple[int, int] = (1, 1),
    same_y: Literal["all", "row"] = "all",
) -> Panel:
    """Draw one panel of `width` x `height` CSS pixels; `name` keeps its ids apart from other panels'.

    Its axes, of which there are `shape`, have one scale, or upwards one a row.
    """
    with matplotlib.rc_context(_RC):
        figure = Figure(figsize=(width / 72, height / 72), layout="constrained")
        axes = list(np.atleast_1d(figure.subplots(*shape, sharex=True, sharey=same_y)).ravel())
        draw(axes)
        for background in (figure.patch, *(each.patch for each in axes)):
            background.set(facecolor="none", edgecolor="none")
        file = io.BytesIO()
        canvas: Any = FigureCanvasSVG(figure)
        canvas.print_svg(file, metadata=_QUIET)  # `Figure.savefig` draws everything twice
    return Panel(alt, Markup(_for_page(file.getvalue(), name, alt)))


def _for_page(svg: bytes, name: str, alt: str) -> str:
    """Return Matplotlib's SVG as an element of an HTML page: no namespaces, named colours, own ids."""
    root = ET.fromstring(svg)
    used = set(re.findall(rb"#([mpCD][0-9a-f_]{6,})", svg))
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        element.text = element.text if element.tag == "text" else None
        element.tail = None
        for key, value in list(element.attrib.items()):
            del element.attrib[key]
            if key == "id" and value.encode() not in used:
                continue
            element.set(key.rpartition("}")[2], _attribute(key, value, name))
    for parent in list(root.iter()):
        for child in [c for c in parent if c.tag in ("metadata", "style")]:
            parent.remove(child)
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": alt}
    return ET.tostring(root, encoding="unicode")


def _attribute(key: str, value: str, name: str) -> str:
    """Return one attribute's value: short numbers, named colours, ids with the panel's name."""
    if key == "style":
        value = re.sub(r"font(-size)?: ([\d.]+px)[^;]*", r"font-size: \2", value)
        value = re.sub(r"; font-family:[^;]*", "", value)
        for colour, hexadecimal in COLOURS.items():
            value = value.replace(hexadecimal, f"var(--{colour.replace('_', '-')})")
        return value
    if key == "id":
        return f"{name}-{value}"
    value = re.sub(r"^(url\()?#", rf"\g<1>#{name}-", value)
    if key in ("d", "x", "y", "width", "height", "transform"):
        value = re.sub(r"-?\d+\.\d+", lambda found: f"{float(found[0]):.2f}".rstrip("0").rstrip("."), value)
        value = " ".join(value.split())
    return value


def style_of(method: str, methods: Sequence[str]) -> str:
    """Return the name of the colour, dash and marker that an unlearning method is drawn in."""
    if method in STYLES:
        return method
    rest = [other for other in methods if other not in STYLES]
    return OTHER_METHODS[rest.index(method) % len(OTHER_METHODS)]


def line(axes: Axes, x: Sequence[float] | Array, y: Series, style: str, *, markers: bool = True) -> None:
    """Draw `y` over `x` in the colour, dash and marker of `style`; missing values leave a gap."""
    dash, marker = STYLES[style]
    axes.plot(
        x,
        values_of(y),
        linestyle=dash,
        marker=marker if markers else "",
        color=COLOURS[style],
        markeredgecolor=COLOURS["paper"],
        markeredgewidth=1,
    )


def values_of(series: Series) -> Array:
    """Return a series as float64, with NaN for what is missing."""
    return np.array([np.nan if value is None else value for value in series], dtype=np.float64)


def percent_tick(value: float, _position: float | None = None) -> str:
    """Return a share as a tick label: `20 %`."""
    return f"{100 * value:.3g} %"


def points_tick(value: float, _position: float | None = None) -> str:
    """Return a difference of shares as a tick label in percentage points: `+5`."""
    return f"{100 * value:+.3g}".replace("-", "−") if round(100 * value, 1) else "0"


def shares(axis: Axis, label: Callable[[float, float | None], str]) -> None:
    """Put the ticks of an axis of shares at round percentages."""
    axis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(label)
