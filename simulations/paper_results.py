"""What follows from the readings of the paper's experiment: arrays in, numbers with intervals out.

Pure. The unit of inference is the patient: a patient's figure is the mean over seeds, and intervals resample patients
(on the test data the never-used ones too); least and most are the means of single seeds. What is said of the numbers is
`simulations/paper_words.py`'s.
"""

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import numpy.typing as npt

from shared.inference import Interval, clopper_pearson, clustered_interval, crossed_interval, ratio_interval
from simulations.paper_models import EPSILON, EPSILONS, UNLEARNED, Measured, Reading
from simulations.paper_people import TEST_SEGMENTS, Wearer

Floats = npt.NDArray[np.float64]
MODELS = ("general", "personal", *UNLEARNED)
GROUPS = ("member", "held_out", "control", "test")
CANDIDATES = ("member", "held_out", "control")  # whom equation 8 is asked about
ANY = "any"  # some epsilon of the sweep
FIGURES = ("accuracy", "loss", "difference")


class Estimate(TypedDict):
    """A mean over patients.

    Attributes:
        value: None where nothing was measured.
        low, high: 95 % interval, patients resampled; None with fewer than two.
        least, most: means of single seeds.
        patients, seeds: how many.
    """

    value: float | None
    low: float | None
    high: float | None
    least: float | None
    most: float | None
    patients: int
    seeds: int


Table = dict[str, dict[str, dict[str, Estimate]]]  # model -> group -> figure -> estimate


class Share(TypedDict):
    """A ratio of counts with its 95 % interval, patients resampled; None where it is not defined."""

    value: float | None
    low: float | None
    high: float | None


class Extraction(TypedDict):
    """Equation 8 against the truth, for one model at one strength of attack, all seeds together.

    Attributes:
        extracted: group -> segments that the model gets right and the general model wrong.
        asked: group -> segments that were asked about.
        precision: share of the extracted that are members.
        recall: share of the members that are extracted.
        base: share of members among all asked about: the precision of a guess.
    """

    model: str
    epsilon: float | str
    extracted: dict[str, int]
    asked: dict[str, int]
    precision: Share
    recall: Share
    base: float


class Point(TypedDict):
    """One extracted point: a segment, what it really was, and the strengths at which it was extracted."""

    model: str
    seed: int
    wearer: int
    record: str
    segment: int
    group: str
    member: bool
    epsilons: list[float]


def estimate(values: Floats) -> Estimate:
    """Return the mean over patients, with an interval.

    Args:
        values: (K, P) figures of K seeds and P patients, NaN where there is none; (K, P, T) where each patient's models
            were asked about the same T people, who are resampled too.
    """
    each_seed = values.mean(axis=2) if values.ndim == 3 else values
    there = ~np.isnan(each_seed)
    patients, seeds = there.any(axis=0), there.any(axis=1)
    if not patients.any():
        return {"value": None, "low": None, "high": None, "least": None, "most": None, "patients": 0, "seeds": 0}
    each = np.nanmean(values[:, patients], axis=0)
    means = np.nanmean(each_seed[seeds], axis=1)
    interval = _interval(each)
    return {
        "value": float(each.mean()),
        "low": interval.low if interval else None,
        "high": interval.high if interval else None,
        "least": float(means.min()),
        "most": float(means.max()),
        "patients": len(each),
        "seeds": int(seeds.sum()),
    }


def _interval(each: Floats) -> Interval | None:
    """Return the interval of a mean over patients (P,), or over patients and whom they were asked about (P, T)."""
    rng = np.random.default_rng(0)
    if len(each) < 2:
        return None
    return clustered_interval(each, confidence=0.95, rng=rng) if each.ndim == 1 else crossed_interval(each, rng=rng)


def figures_of(found: Sequence[Measured], model: str, group: str, figure: str) -> Floats:
    """Return one figure by seed and patient, (K, P); on the test data by never-used patient too, (K, P, T).

    Args:
        found: all patients under all seeds.
        model: whose.
        group: on which segments.
        figure: "accuracy" and "loss" of the unperturbed segments; "difference" is equation 7 at `EPSILON`, the
            accuracy of the model minus the general one's, which "test" has none of.
    """
    seeds, wearers = (1 + max(getattr(one, name) for one in found) for name in ("seed", "wearer"))
    asked = len(found[0].readings["general"][group].losses) // len(TEST_SEGMENTS) if group == "test" else 1
    values = np.full((seeds, wearers, asked), np.nan)
    for one in found:
        reading = one.readings.get(model, {}).get(group)
        if reading is not None and len(reading.losses) and not (figure == "difference" and group == "test"):
            by_segment = _by_segment(reading, one.readings["general"][group], figure)
            values[one.seed, one.wearer] = by_segment.reshape(asked, -1).mean(axis=1)
    return values if group == "test" else values[..., 0]


def _by_segment(reading: Reading, general: Reading, figure: str) -> Floats:
    if figure == "loss":
        return reading.losses
    at = 0 if figure == "accuracy" else EPSILONS.index(EPSILON)
    hits: Floats = reading.hits[at].astype(np.float64)
    return hits if figure == "accuracy" else hits - general.hits[at]


def table(found: Sequence[Measured]) -> Table:
    """Return model -> group -> figure -> estimate."""
    return {
        model: {
            group: {figure: estimate(figures_of(found, model, group, figure)) for figure in FIGURES} for group in GROUPS
        }
        for model in MODELS
    }


def contrasts(found: Sequence[Measured]) -> dict[str, Estimate]:
    """Return the differences, patient by patient, on which the verdict on the figures rests.

    - `members - controls`, `members - held out`: of equation 7, the personal model's.
    - `learnt - generalised loss`: by how much personalisation lowered the loss on the members, less by how much on the
      patient's held-out segments; the general model's losses tell how hard either is. (As a change: below 0, members
      gained more.)
    - METHOD ` - retrained loss`: on the members, the unlearned model's less the retrained one's.
    - MODEL ` - general accuracy`: on the test data; what others lose.
    """

    def of(model: str, group: str, figure: str) -> Floats:
        return figures_of(found, model, group, figure)

    difference = {group: of("personal", group, "difference") for group in CANDIDATES}
    change = {group: of("personal", group, "loss") - of("general", group, "loss") for group in ("member", "held_out")}
    made = {
        "members - controls": difference["member"] - difference["control"],
        "members - held out": difference["member"] - difference["held_out"],
        "learnt - generalised loss": change["member"] - change["held_out"],
    }
    for method in UNLEARNED:
        made[f"{method} - retrained loss"] = of(method, "member", "loss") - of("exact", "member", "loss")
    for model in MODELS[1:]:
        made[f"{model} - general accuracy"] = of(model, "test", "accuracy") - of("general", "test", "accuracy")
    return {name: estimate(values) for name, values in made.items()}


def extractions(found: Sequence[Measured]) -> list[Extraction]:
    """Return equation 8 against the truth: the personal model at every strength, the others at any of them."""
    rows = [extraction(found, "personal", epsilon) for epsilon in (*EPSILONS, ANY)]
    rows += [extraction(found, model, ANY) for model in UNLEARNED]
    return [row for row in rows if sum(row["asked"].values())]


def extraction(found: Sequence[Measured], model: str, epsilon: float | str) -> Extraction:
    """Count one model's extracted points at one strength, or at any."""
    wearers = 1 + max(one.wearer for one in found)
    asked, extracted = (dict.fromkeys(CANDIDATES, np.zeros(wearers)) for _ in range(2))
    for one in found:
        for group in CANDIDATES if model in one.readings else ():
            points = _points(one, model, group, epsilon)
            row = np.arange(wearers) == one.wearer
            asked[group] = asked[group] + row * len(points)
            extracted[group] = extracted[group] + row * points.sum()
    all_asked, all_extracted = (np.sum(list(counts.values()), axis=0) for counts in (asked, extracted))
    total = float(all_asked.sum())
    return {
        "model": model,
        "epsilon": epsilon,
        "extracted": {group: int(counts.sum()) for group, counts in extracted.items()},
        "asked": {group: int(counts.sum()) for group, counts in asked.items()},
        "precision": _share(extracted["member"], all_extracted),
        "recall": _share(extracted["member"], asked["member"]),
        "base": float(asked["member"].sum()) / total if total else 0.0,
    }


def points(found: Sequence[Measured], wearers: Sequence[Wearer]) -> list[Point]:
    """List every extracted point of every model: where it was cut, and what it really was."""
    listed: list[Point] = []
    for one in found:
        for model in [name for name in MODELS[1:] if name in one.readings]:
            for group in CANDIDATES:
                by_epsilon = np.array([_points(one, model, group, epsilon) for epsilon in EPSILONS])
                for number in np.flatnonzero(by_epsilon.any(axis=0)):
                    record, segment = wearers[one.wearer].groups[group].sources[number]
                    listed.append(
                        {
                            "model": model,
                            "seed": one.seed,
                            "wearer": one.wearer,
                            "record": record,
                            "segment": segment,
                            "group": group,
                            "member": group == "member",
                            "epsilons": [e for e, hit in zip(EPSILONS, by_epsilon[:, number], strict=True) if hit],
                        }
                    )
    return listed


def losses(found: Sequence[Measured], model: str, group: str, *, only: str | None = None) -> Floats:
    """Return the losses of all segments of a group, all patients and seeds; `only` those for whom a method ran."""
    parts = [
        one.readings[model][group].losses
        for one in found
        if model in one.readings and (only is None or only in one.readings)
    ]
    return np.concatenate(parts) if parts else np.empty(0)


def _points(one: Measured, model: str, group: str, epsilon: float | str) -> npt.NDArray[np.bool_]:
    """Return which segments equation 8 extracts: the difference of the two models' hits is positive."""
    won = one.readings[model][group].hits & ~one.readings["general"][group].hits
    rows = won if epsilon == ANY else won[EPSILONS.index(float(epsilon)) :][:1]
    return np.asarray(rows.any(axis=0))


def _share(counted: Floats, asked: Floats) -> Share:
    there = asked > 0
    if not there.any():
        return {"value": None, "low": None, "high": None}
    value = float(counted.sum() / asked.sum())
    patients = int(there.sum())
    if value in (0.0, 1.0):  # resampling knows no other value: none of so many patients, or all of them
        low, high = clopper_pearson(value * patients, patients)
    elif patients < 2:
        return {"value": value, "low": None, "high": None}
    else:
        low, high = ratio_interval(counted[there], asked[there], rng=np.random.default_rng(0))
    return {"value": value, "low": low, "high": high}
