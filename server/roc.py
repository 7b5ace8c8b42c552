"""The ROC curves of one withdrawal's copies, by the primary score: how well anybody could tell the two kinds apart."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MultipleLocator

from server.panels import COLOURS, Panel, panel, percent_tick
from shared.inference import roc

TITLES = {"before": "Before: not unlearned", "after": "After: unlearned"}
STYLE = {"before": ("personal", "-"), "after": ("exact", "-")}


def curves(name: str, verdict: Mapping[str, Any] | None) -> list[Panel]:
    """Draw a panel for each comparison of a verdict, none where no copies were compared.

    The share of copies with the records that score above a cut, over the share of copies without that do, for every
    cut. The score is a copy's mean margin, the primary one.
    """
    drawn = []
    for part, title in TITLES.items():
        found = None if verdict is None else verdict[part]
        if found is not None:
            drawn.append(_curve(f"{name}-{part}", title, part, found))
    return drawn


def _curve(name: str, title: str, part: str, found: Mapping[str, Any]) -> Panel:
    false, true = roc(np.array(found["unlearned"]), np.array(found["never"]))
    score = next(score for score in found["scores"] if score["primary"])
    told = f"AUC {score['auc']:.2f} ({score['low95']:.2f} to {score['high95']:.2f})"
    colour, dash = STYLE[part]

    def draw(axes: list[Axes]) -> None:
        (axis,) = axes
        axis.plot([0, 1], [0, 1], linestyle=":", color=COLOURS["muted"])
        axis.plot(false, true, linestyle=dash, color=COLOURS[colour], linewidth=2, clip_on=False)
        axis.text(0.97, 0.05, told, ha="right", color=COLOURS["ink"])
        axis.set_title(title)
        axis.set_xlabel("of the copies that never had them")
        axis.set_ylabel("of the copies in question")
        axis.set_aspect("equal")
        for scale in (axis.xaxis, axis.yaxis):
            scale.set_major_locator(MultipleLocator(0.25))
            scale.set_major_formatter(percent_tick)
        axis.set(xlim=(0, 1), ylim=(0, 1))

    return panel(name, f"ROC curve. {title}: {told}, {found['n']} copies an arm.", draw, height=240, width=240)
