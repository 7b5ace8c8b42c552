"""One self-contained HTML page about a run: what happened, to whom, and what was measured.

`build` reads a report folder and writes `report.html` into it. The page says no more than the run's files
do. Reading is `server/report_input.py`'s, a withdrawal's timeline and words `server/withdrawn.py`'s, drawing
`server/figures.py`'s and `server/strips.py`'s, wording and style `server/report.html`'s and its parts'.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from server import figures, withdrawn
from server.panels import STYLES, Panel, style_of
from server.paper_probe import LARGEST_SMALL_EPSILON
from server.report_input import Arrays, Result, load_arrays, load_result
from server.roc import curves
from server.verdicts import TITLES
from server.wording import (
    clock,
    counted,
    day,
    duration,
    made_without,
    moment,
    number,
    percent,
    points,
    probability,
    public_endings,
    size,
    word,
    worded,
)
from shared.errors import READ_ONLY, UnwritableError, WorkspaceError
from shared.files import write_atomically
from shared.settings import SUPERCLASSES

DETAILED = 12  # withdrawals that get charts and tables; the rest are rows of one table
SMALL = 30  # a mean over fewer is marked as small
PHASES = {
    "general": "Train the general model",
    "directory": "Find the devices",
    "personalise": "Personalise every device",
    "probe": "Probe general and personal models",
    "audit": "Audit with copies",
    "audit again": "Audit again, with more copies",
    "unlearn": "Unlearn and erase",
    "verify": "Verify after the erasure",
    "result": "Write the results",
}


def build(folder: Path) -> Path:
    """Write `folder/report.html` from `result.json` and `figures.npz`, and return its path.

    Raises:
        DataError: a file is missing or is not what a run writes.
        WorkspaceError: the page cannot be written.
    """
    result = load_result(folder / "result.json")
    arrays = load_arrays(folder / "figures.npz", strengths=len(result["probe"]["epsilons_sd"]))
    page = folder / "report.html"
    try:
        write_atomically(page, render(result, arrays).encode())
    except OSError as error:
        kind = UnwritableError if error.errno in READ_ONLY else WorkspaceError
        raise kind(
            f"{page} could not be written: {error.strerror}; make room or give write access, then run it again"
        ) from error
    return page


def render(result: Result, arrays: Arrays) -> str:
    """Return the page of a checked result; the same input gives the same text."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (percent, probability, duration, size, moment, day, clock, number, counted)
    environment.filters.update({function.__name__: function for function in filters})
    environment.globals.update(points=points, worded=worded)
    return environment.get_template("report.html").render(result=result, **_view(result, arrays))


def _view(result: Result, arrays: Arrays) -> dict[str, Any]:
    """Return what the template shows beside the result itself."""
    epsilons = result["probe"]["epsilons_sd"]
    at = strongest(epsilons)
    withdrawals = [_withdrawal(number, row, result) for number, row in enumerate(result["withdrawals"], 1)]
    fleet = len({row["pseudonym"] for row in (*result["personal"], *withdrawals)})
    spent = [phase["seconds"] for phase in result["phases"] if phase["seconds"] is not None]
    rest = max(0.0, result["seconds"] - sum(spent))
    if result["overhead_seconds"] is not None:  # what Flower took is known, beside what the run could see itself
        rest = max(0.0, result["overhead_seconds"])
    return {
        "headline": headline(len({w["pseudonym"] for w in withdrawals}), fleet),
        "fleet": fleet,
        "withdrawals": withdrawals,
        "detailed": DETAILED,
        "erased": {key: sum(w["erased"][key] for w in withdrawals) for key in ("segments", "bytes")},
        "claims": {name: sum(w["claim"] == name for w in withdrawals) for name in get_args(withdrawn.Claim)},
        "outcomes": outcomes(withdrawals),
        "score_titles": TITLES,
        "devices": _devices(result["personal"]),
        "at": at,
        "pooled": _pooled(withdrawals, epsilons),
        "attacked": _attacked(arrays) if arrays else None,
        "panels": _panels(result, arrays, at),
        "longest": max([*spent, rest, 1e-9]),
        "rest": rest,
        "total_seconds": sum(spent) + rest,
        "phase_names": PHASES,
        "small": SMALL,
        "rows_at_most": figures.ROWS_AT_MOST,
        "styles": STYLES,
        "style_of": style_of,
        "made_without": [*made_without(result["general"]), *public_endings(result.get("public_withdrawals", []))],
        "reasons": [(row["pseudonym"], row["reason"]) for row in result["personal"] if row["reason"]],
    }


def headline(withdrawn: int, devices: int) -> str:
    """Return the page's first sentence: `Two of 24 patients withdrew.`"""
    if devices == 1:
        return "The one patient withdrew." if withdrawn else "The one patient did not withdraw."
    return f"{word(withdrawn) if withdrawn else 'None'} of {devices:,} patients withdrew."


def outcomes(withdrawals: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return how many withdrawals came to which end; each counts once."""
    found = dict.fromkeys(("certified", "PASS", "INCONCLUSIVE", "FAIL", "unaudited", "pending"), 0)
    for row in withdrawals:
        if not row["unlearned_at"]:
            end = "pending"
        elif row["verdict"] is None:
            end = "unaudited"
        else:
            end = "certified" if row["certificate"] else row["verdict"]["verdict"]
        found[end] += 1
    return found


def _attacked(arrays: Arrays) -> dict[str, Any]:
    """Return what is said beside the pictures of attacked public segments."""
    classes = ("label", "clean_prediction", "adversarial_prediction")
    return {
        **{name: SUPERCLASSES[int(arrays[name])] for name in classes},
        "epsilon": float(arrays["epsilon_sd"]),
        "segments": int(arrays["labels"].size),
        "hits": [float(np.mean(row == arrays["labels"])) for row in arrays["predictions"]],
    }


def _panels(result: Result, arrays: Arrays, at: int) -> dict[str, list[Panel]]:
    epsilons = result["probe"]["epsilons_sd"]
    attacked: dict[str, list[Panel]] = {"ecg": [], "confusion": []}
    if arrays:
        attacked["ecg"] = figures.ecg(arrays, unit=result["data"]["unit"])
        attacked["confusion"] = [
            figures.confusion(arrays["labels"], arrays["predictions"][place], epsilon=epsilons[place])
            for place in sorted({0, at})
        ]
    return {
        **attacked,
        "devices": figures.own_against_others(result["personal"]),
        "probe": figures.probe(epsilons, result["probe"]["groups"]),
        "curves": figures.learning_curves(result["general"]["curves"]),
    }


def strongest(epsilons: Sequence[float]) -> int:
    """Return the place of the strength that the auditor counts shares of patients at."""
    return max((place for place, e in enumerate(epsilons) if e < LARGEST_SMALL_EPSILON), default=0)


def _withdrawal(number: int, row: Mapping[str, Any], result: Result) -> dict[str, Any]:
    """Return a withdrawal with what its section shows: standing, timeline and, for the first, charts and tables."""
    drawn: list[Panel] = []
    shown = number <= DETAILED
    if row["methods"] and shown:
        drawn = figures.before_and_after(f"w{number}", result["probe"]["epsilons_sd"], *_lines(row["methods"]))
    return {
        **row,
        "number": number,
        "claim": withdrawn.claim(row),
        "standing": withdrawn.standing(row),
        "timeline": withdrawn.timeline(row, now=result["created"]) if shown else [],
        "evidence": withdrawn.evidence(f"w{number}-evidence", row["verdict"]) if shown else None,
        "plainly": withdrawn.plainly(row) if shown and row["verdict"] else "",
        "roc": curves(f"w{number}-roc", row["verdict"]) if shown else [],
        "compared": withdrawn.compared(row["verdict"]) if shown else [],
        "served_method": withdrawn.served_method(row),
        "delay": withdrawn.seconds_taken(row),
        "panels": drawn,
    }


Lines = tuple[dict[str, Sequence[float | None]], dict[str, dict[str, Sequence[float | None]]]]


def _lines(methods: Sequence[Mapping[str, Any]]) -> Lines:
    """Return the differences by strength: before, by group, and after, by method and group."""
    before = {group: found["before"] for group, found in methods[0]["difference"].items()}
    after = {row["method"]: {group: found["after"] for group, found in row["difference"].items()} for row in methods}
    return before, after


def _pooled(withdrawals: Sequence[Mapping[str, Any]], epsilons: Sequence[float]) -> dict[str, Any] | None:
    """Return the mean difference over all withdrawals, weighted by segments, for methods measured in each."""
    by_method = [{row["method"]: row for row in w["methods"]} for w in withdrawals if w["methods"]]
    if len(by_method) < 2:
        return None
    shared = [name for name in by_method[0] if all(name in found for found in by_method)]
    if not shared:
        return None
    rows = [
        {
            "method": name,
            "difference": {
                group: _mean_lines([found[name]["difference"][group] for found in by_method], len(epsilons))
                for group in ("forgotten", "held_out", "control")
            },
        }
        for name in shared
    ]
    segments = {group: found["segments"] for group, found in rows[0]["difference"].items()}
    return {
        "methods": shared,
        "withdrawals": len(by_method),
        "segments": segments,
        "panels": figures.before_and_after("pooled", epsilons, *_lines(rows)),
    }


def _mean_lines(parts: Iterable[Mapping[str, Any]], strengths: int) -> dict[str, Any]:
    """Return the mean of `before` and of `after` by strength, each part weighing as many segments as it has."""
    whole = [
        part
        for part in parts
        if part["segments"] > 0
        and all(len(part[key]) == strengths and None not in part[key] for key in ("before", "after"))
    ]
    weights = [part["segments"] for part in whole]
    means = {
        key: np.average([part[key] for part in whole], axis=0, weights=weights).tolist() if whole else []
        for key in ("before", "after")
    }
    return {"segments": sum(weights), **means}


def _devices(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the means over devices, each over the devices that have both numbers."""
    means: dict[str, Any] = {}
    for part in ("own", "others"):
        pairs = [(row[f"{part}_general"], row[f"{part}_personal"]) for row in rows]
        pairs = [pair for pair in pairs if None not in pair]
        means[part] = {
            "n": len(pairs),
            "general": float(np.mean([a for a, _ in pairs])) if pairs else None,
            "personal": float(np.mean([b for _, b in pairs])) if pairs else None,
            "better": sum(b > a for a, b in pairs),
            "worse": sum(b < a for a, b in pairs),
        }
    return {
        **means,
        "accepted": sum(row["accepted"] for row in rows),
        "held_out": sum(row["held_out_segments"] for row in rows),
        "general": sorted({row["general"] for row in rows}),
        "split": {name: sum(row["split"] == name for row in rows) for name in ("record", "time")},
    }
