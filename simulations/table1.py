"""The paper's Table 1 and Figures 2 to 7 on any PTB-XL folder, and what the paper lacks; `lethe paper`.

Patients, seeds and processes: `simulations/paper_people.py` says who is who, `paper_models.py` makes and asks the
models, `paper_results.py` counts, `paper_words.py` says it, `paper_pictures.py` draws it. Source: "Remembering
Everything Makes You Vulnerable", sections 3 and 4.
"""

import resource
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

from shared.errors import UsageError
from shared.machine import cores
from shared.model import ResNet34
from shared.package import Public
from shared.settings import SUPERCLASSES, General, Settings
from shared.training import Examples, one_thread
from simulations.paper_models import (
    DEAR,
    EPSILON,
    EPSILONS,
    UNLEARNED,
    Measured,
    attacked,
    measure,
    opened,
    settings_of,
    train,
)
from simulations.paper_people import People, Wearer, people_of, unseen_segments, wearers_of
from simulations.paper_results import Estimate, Extraction, Point, Table, contrasts, extractions, points, table
from simulations.pool import Progress, pool_of, run_all
from simulations.shortened import BATCH, GROUPS
from simulations.worlds import machine


@dataclass(frozen=True)
class Plan:
    """What is reproduced.

    Attributes:
        data: a folder in PTB-XL's layout.
        patients: wearers, N.
        width: of the general model's first stage; 64 is the paper's.
        seeds: K; each trains a general model of its own.
        epochs: of the general model.
        i_mean_the_class: lets `gkt` forget the patient's superclass for everybody, as the paper's setting does.
    """

    data: Path
    patients: int = 20
    width: int = General.width
    seeds: int = 3
    epochs: int = General.epochs
    i_mean_the_class: bool = False


class Result(TypedDict):
    """What was found; plain JSON."""

    data: str
    unit: str
    records: int
    patients: int
    matched: int
    superclasses: dict[str, int]
    corpus: int
    never_used: int
    width: int
    seeds: int
    epochs: int
    epsilon: float
    epsilons: list[float]
    i_mean_the_class: bool
    gkt: dict[str, int]
    general: list[dict[str, Any]]
    table: Table
    table_gkt: Table | None
    contrasts: dict[str, Estimate]
    extractions: list[Extraction]
    points: list[Point]
    failed: dict[str, dict[str, Any]]
    cpu_seconds: dict[str, float]
    cpu_seconds_all: float
    seconds: float
    seconds_models: float
    workers: int
    machine: str


@dataclass(frozen=True)
class Outcome:
    """The result, and what only the pictures need: single losses, and segments, which are in no table."""

    result: Result
    found: list[Measured]
    shown: dict[str, npt.NDArray[Any]]
    shown_label: str


def reproduce(plan: Plan, *, scratch: Path, progress: Progress, workers: int | None = None) -> Outcome:
    """Make the paper's models, ask them, and count.

    Args:
        plan: on what.
        scratch: an empty folder for signals and models.
        progress: draws a bar, such as `shared.terminal.progress`.
        workers: processes, each on one thread; default one a core.

    Raises:
        DataError: the folder is not what it should be.
        UsageError: a number under 1, or too few patients in the folder.
    """
    _refuse(plan)
    began, used, workers = time.perf_counter(), _cpu_seconds(), workers or cores()
    (scratch / "cache").mkdir(parents=True, exist_ok=True)
    people, wearers = _people(plan, scratch), _wearers(plan, scratch)  # fills the cache, which workers only read
    seeds = range(plan.seeds)
    with pool_of(workers) as pool:
        general = run_all(pool, progress, "training general models", [(_train, plan, scratch, seed) for seed in seeds])
        trained = time.perf_counter()
        jobs = [(_measure, plan, scratch, seed, number) for seed, number in _order(plan, wearers)]
        found: list[Measured] = run_all(pool, progress, "making and asking models", jobs)
    found.sort(key=lambda one: (one.seed, one.wearer))
    with one_thread():
        shown = attacked(opened(scratch / "0", people)[0], unseen_segments(people), epsilon=EPSILON)
    return outcome_of(
        {
            **about_people(plan, people, wearers),
            "general": general,
            "cpu_seconds_all": _cpu_seconds() - used,
            "seconds": time.perf_counter() - began,
            "seconds_models": trained - began,
            "workers": workers,
            "machine": machine(),
        },
        found,
        wearers,
        shown,
    )


def outcome_of(
    about: dict[str, Any],
    found: Sequence[Measured],
    wearers: Sequence[Wearer],
    shown: dict[str, npt.NDArray[Any]],
) -> Outcome:
    """Count what was measured, and put it beside what is known about it."""
    transferred = [one for one in found if DEAR in one.readings]
    result: Result = {
        **about,  # type: ignore[typeddict-item]
        "table": table(found),
        "table_gkt": table(transferred) if transferred else None,
        "contrasts": contrasts(found),
        "extractions": extractions(found),
        "points": points(found, wearers),
        "failed": _failed(found),
        "cpu_seconds": _means(found),
    }
    return Outcome(result, list(found), shown, SUPERCLASSES[int(shown["labels"][int(shown["shown"])])])


def _cpu_seconds() -> float:
    """Return the time of cores that this process and its ended ones took: what a busy machine leaves unharmed."""
    spent = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in spent)


def _refuse(plan: Plan) -> None:
    asked = {"--patients": plan.patients, "--width": plan.width, "--seeds": plan.seeds, "--epochs": plan.epochs}
    for name, number in asked.items():
        if number < 1:
            raise UsageError(f"{name} is {number}, expected 1 or more")


@lru_cache(maxsize=1)
def _people(plan: Plan, scratch: Path) -> People:
    return people_of(plan.data, cache=scratch / "cache", patients=plan.patients)


@lru_cache(maxsize=1)
def _wearers(plan: Plan, scratch: Path) -> list[Wearer]:
    return wearers_of(_people(plan, scratch))


@lru_cache(maxsize=1)
def _opened(plan: Plan, scratch: Path, seed: int) -> tuple[ResNet34, Public, Examples]:
    return opened(scratch / str(seed), _people(plan, scratch))


def _settings(plan: Plan, seed: int) -> Settings:
    return settings_of(width=plan.width, epochs=plan.epochs, seed=seed, i_mean_the_class=plan.i_mean_the_class)


def _train(plan: Plan, scratch: Path, seed: int) -> dict[str, Any]:
    return train(_people(plan, scratch), _settings(plan, seed), scratch / str(seed))


def _measure(plan: Plan, scratch: Path, seed: int, number: int) -> Measured:
    wearers, dear = _wearers(plan, scratch), (seed, number) in transferred_of(plan, _wearers(plan, scratch))
    return measure(wearers[number], number, *_opened(plan, scratch, seed), settings=_settings(plan, seed), dear=dear)


def transferred_of(plan: Plan, wearers: Sequence[Wearer]) -> set[tuple[int, int]]:
    """Return seed and wearer of the models that `gkt` makes: it forgets a superclass, so one wearer of each, once.

    Where it refuses to, all are asked, which costs nothing.
    """
    first = {wearer.superclass: number for number, wearer in reversed(list(enumerate(wearers)))}
    chosen = first.values() if plan.i_mean_the_class else range(len(wearers))
    return {(0, number) for number in chosen}


def _order(plan: Plan, wearers: Sequence[Wearer]) -> list[tuple[int, int]]:
    """Return seed and wearer of every job, the long ones first, so that no core waits for them at the end."""
    dear = transferred_of(plan, wearers)
    jobs = [(seed, number) for seed in range(plan.seeds) for number in range(len(wearers))]
    return sorted(jobs, key=lambda job: job not in dear)


def about_people(plan: Plan, people: People, wearers: Sequence[Wearer]) -> dict[str, Any]:
    """Return who took part, and in what setting."""
    counted = Counter(SUPERCLASSES[wearer.superclass] for wearer in wearers)
    return {
        "data": plan.data.name,
        "unit": people.signals.unit,
        "records": len(people.signals.records),
        "patients": plan.patients,
        "matched": sum(wearer.matched for wearer in wearers),
        "superclasses": dict(counted.most_common()),
        "corpus": len(people.corpus),
        "never_used": len(people.controls),
        "width": plan.width,
        "seeds": plan.seeds,
        "epochs": plan.epochs,
        "epsilon": EPSILON,
        "epsilons": list(EPSILONS),
        "i_mean_the_class": plan.i_mean_the_class,
        "gkt": {"groups": GROUPS, "batch": BATCH},
    }


def _failed(found: Sequence[Measured]) -> dict[str, dict[str, Any]]:
    """Return of every method that failed how often, of how many tries, and the first reason."""
    told: dict[str, dict[str, Any]] = {}
    for method in UNLEARNED:
        reasons = [one.failed[method] for one in found if method in one.failed]
        made = sum(method in one.readings for one in found)
        if reasons:
            told[method] = {"failed": len(reasons), "tried": len(reasons) + made, "reason": reasons[0]}
    return told


def _means(found: Sequence[Measured]) -> dict[str, float]:
    """Return the mean seconds on a core that a patient's model took, by model."""
    names = [name for name in ("personal", *UNLEARNED) if any(name in one.seconds for one in found)]
    return {name: float(np.mean([one.seconds[name] for one in found if name in one.seconds])) for name in names}
