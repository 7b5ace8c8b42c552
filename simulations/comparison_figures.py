"""What many wearers' readings add up to, a row a method: figures a seed, then over seeds with their intervals.

A seed is a world: its wearers share a general model, so that the seeds, and not the wearers, are independent, and
every interval is over seeds. Numbers in, numbers out; `simulations/comparison_table.py` draws them.
"""

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal, TypedDict

from shared.inference import t_interval
from shared.unlearning_metrics import privleak
from simulations.comparison_case import GROUPS, Reading

Kind = Literal["mean", "median"]
CONFIDENCE = 0.95

# Ratios of steps may be infinite, which no mean survives: their wearers' and their seeds' medians are taken.
FIGURES: dict[str, Kind] = {
    **dict.fromkeys(GROUPS, "mean"),
    **{f"gap {group}": "mean" for group in GROUPS},
    "tow": "mean",
    "ain": "median",
    "zrf": "mean",
    "privleak": "mean",
    "relearn": "median",
    "seconds": "mean",
    "cost": "mean",
}


RANGES = {  # of the figures that have both ends
    **dict.fromkeys((*GROUPS, "tow", "zrf"), (0.0, 1.0)),
    **{f"gap {group}": (-1.0, 1.0) for group in GROUPS},
}


class Figure(TypedDict):
    """One figure over seeds; None where it is not defined, or there is one seed alone.

    Attributes:
        value: the mean over seeds; of a ratio of steps, their median.
        low, high: Student's 95 % interval over seeds; of a ratio of steps, the least and the most of the seeds, between
            which the true median lies with a probability of 1 - 2^(1 - seeds), 94 % with five.
    """

    value: float | None
    low: float | None
    high: float | None


class Row(TypedDict):
    """One method.

    Attributes:
        method: its name, or what is no method: nothing done, and the floor.
        wearers: how many it has figures of.
        seeds: how many seeds these are of.
        figures: by name; none where it has none of any wearer.
        reasons: why it has none, and of how many wearers.
        unchanged: of how many wearers it returned the personal model as it was.
        certified: how far any wearer's head is at most from the retrained one, where the method certifies that.
        dearer: whether it takes more processor time than retraining: its interval lies above 1. One seed has none.
    """

    method: str
    wearers: int
    seeds: int
    figures: dict[str, Figure]
    reasons: dict[str, int]
    unchanged: int
    certified: float | None
    dearer: bool


def rows(readings: Sequence[tuple[int, Sequence[Reading]]]) -> list[Row]:
    """Add up the readings of wearers, each with its seed: a row a method, in the order of the readings."""
    methods = dict.fromkeys(reading.method for _, of_wearer in readings for reading in of_wearer)
    pairs = [(seed, reading) for seed, of_wearer in readings for reading in of_wearer]
    return [_row(method, [(seed, one) for seed, one in pairs if one.method == method]) for method in methods]


def _row(method: str, readings: Sequence[tuple[int, Reading]]) -> Row:
    measured = [(seed, reading.figures) for seed, reading in readings if not reading.reason]
    seeds = sorted({seed for seed, _ in measured})
    each = [of_seed([figures for at, figures in measured if at == seed]) for seed in seeds]
    figures = {name: over_seeds([one[name] for one in each], kind) for name, kind in FIGURES.items()} if each else {}
    bounds = [one["certified"] for _, one in measured if not math.isnan(one["certified"])]
    return {
        "method": method,
        "wearers": len(measured),
        "seeds": len(seeds),
        "figures": figures,
        "reasons": dict(Counter(reading.reason for _, reading in readings if reading.reason)),
        "unchanged": sum(one["unchanged"] == 1.0 for _, one in measured),
        "certified": max(bounds, default=None),
        "dearer": bool(figures) and _above(figures["cost"], 1.0),
    }


def of_seed(wearers: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the figures of one seed's wearers; what is not a number is left out, or stays so if nothing else is there.

    PrivLeak is that of their mean AUCs, and the cost is the quotient of their summed seconds: quotients of few
    segments, and of milliseconds, would be as often infinite.
    """

    def values(name: str) -> list[float]:
        return [one[name] for one in wearers if not math.isnan(one[name])]

    def mean(name: str) -> float:
        return statistics.fmean(values(name)) if values(name) else math.nan

    leak, retrained = mean("auc retrained"), sum(values("seconds retrained"))
    found = {
        "privleak": privleak(mean("auc"), leak) if leak else math.nan,
        "cost": sum(values("seconds")) / retrained if retrained else math.nan,
    }
    for name, kind in FIGURES.items():
        if name not in found:
            found[name] = mean(name) if kind == "mean" or not values(name) else statistics.median(values(name))
    return found


def over_seeds(each: Sequence[float], kind: Kind) -> Figure:
    """Return one figure a seed as one of all seeds; seeds in which it is not a number are left out."""
    there = [value for value in each if not math.isnan(value)]
    if not there:
        return {"value": None, "low": None, "high": None}
    value = statistics.fmean(there) if kind == "mean" else statistics.median(there)
    if len(there) == 1:
        return {"value": value, "low": None, "high": None}
    low, high = t_interval(there, confidence=CONFIDENCE) if kind == "mean" else (min(there), max(there))
    return {"value": value, "low": low, "high": high}


def says_nothing(name: str, figure: Figure) -> bool:
    """Return whether an interval holds every value that the figure can have, as it does where two seeds differ."""
    low, high = figure["low"], figure["high"]
    if low is None or high is None or name not in RANGES:
        return False
    return low <= RANGES[name][0] and high >= RANGES[name][1]


def _above(figure: Figure, limit: float) -> bool:
    return figure["low"] is not None and figure["low"] > limit
