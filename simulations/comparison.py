"""Every unlearning method beside retraining, on personal models of many wearers, from one checkpoint each.

Whose withdrawals these are is the calibration's (`calibration_data.py`, `calibration_jobs.py`); one wearer's comparison
is `simulations/comparison_case.py`, what they add up to `comparison_figures.py`, the table `comparison_table.py`.
"""

import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from shared.errors import DataError
from shared.machine import cores
from shared.model import ResNet34
from shared.package import Public
from shared.settings import Settings
from shared.training import Examples, join
from simulations.calibration_data import Wearer
from simulations.calibration_jobs import withdrawals
from simulations.comparison_case import Reading, Subject, compare
from simulations.comparison_figures import Row, rows
from simulations.pool import Progress, pool_of, run_all
from simulations.shortened import SHORTENED
from simulations.worlds import Worlds, build_all, machine, prepare, wearers_in, world_of

UNABLE = "who cannot make this withdrawal: they have one record"
REFUSED = "whose personal model the gate refused: there is nothing to forget"


@dataclass(frozen=True)
class Plan:
    """What is compared.

    Attributes:
        data: a folder in PTB-XL's layout.
        methods: names of `shared.unlearning.METHODS`.
        withdrawal: a key of `calibration_jobs.withdrawals`.
        patients: wearers a seed.
        seeds: worlds: patients, general model and copies of their own.
        width: of the general models.
        i_mean_the_class: lets `gkt` forget a patient's superclass.
        published_schedule: zero-shot transfer is not cut short.
    """

    data: Path
    methods: tuple[str, ...]
    withdrawal: str = "record"
    patients: int = 8
    seeds: int = 5
    width: int = 16
    i_mean_the_class: bool = False
    published_schedule: bool = False

    def worlds(self, scratch: Path) -> Worlds:
        """Return the worlds of the plan; what they are made of is kept in `scratch`."""
        return Worlds(self.data, scratch, patients=self.patients, seeds=self.seeds, width=self.width)


class Result(TypedDict):
    """What was found; plain JSON once `plain` has been over it."""

    data: str
    withdrawal: str
    patients: int
    seeds: int
    width: int
    i_mean_the_class: bool
    published_schedule: bool
    wearers: int
    left_out: dict[str, int]
    models: list[dict[str, float | None]]
    rows: list[Row]
    seconds: float
    seconds_models: float
    workers: int
    machine: str


def run(plan: Plan, *, scratch: Path, progress: Progress, workers: int | None = None) -> Result:
    """Make the personal models of a plan, unlearn from each by every method, and add up.

    Args:
        plan: of whom, what, and by which methods.
        scratch: an empty folder for signals and models.
        progress: draws a bar, such as `shared.terminal.progress`.
        workers: processes, each on one thread; default one a core.

    Raises:
        DataError: in one world nobody can make the withdrawal, the controls are too few, or the folder is not what it
            should be.
        UsageError: too few patients.
    """
    began, workers = time.perf_counter(), workers or cores()
    prepare(plan.worlds(scratch))
    able = _able(plan, scratch)
    with pool_of(workers) as pool:
        models = build_all(plan.worlds(scratch), pool, progress)
        trained = time.perf_counter()
        tasks = [(_readings, plan, scratch, *one) for one in able]
        found: list[list[Reading]] = run_all(pool, progress, "comparing methods", tasks)
    there = [(seed, readings) for (seed, _), readings in zip(able, found, strict=True) if readings]
    left_out = Counter({UNABLE: plan.seeds * plan.patients - len(able), REFUSED: len(able) - len(there)})
    return {
        "data": plan.data.name,
        "withdrawal": plan.withdrawal,
        "patients": plan.patients,
        "seeds": plan.seeds,
        "width": plan.width,
        "i_mean_the_class": plan.i_mean_the_class,
        "published_schedule": plan.published_schedule,
        "wearers": len(there),
        "left_out": dict(+left_out),
        "models": models,
        "rows": rows(there),
        "seconds": time.perf_counter() - began,
        "seconds_models": trained - began,
        "workers": workers,
        "machine": machine(),
    }


def subject_of(wearer: Wearer, withdrawal: str, general: ResNet34, public: Public, settings: Settings) -> Subject:
    """Return a wearer's personal model to be, and what is withdrawn of it.

    Held out are the last segments of records that stay, or of all if none does. The forget set's neighbours are the
    last segments of the records that go, under the same wrong label if theirs is wrong.
    """
    retain, forget = withdrawals(wearer)[withdrawal]
    first, whole = wearer.held_out[0], join(wearer.held_out)
    own, neighbours = {
        "all": (whole, whole),
        "record": (first, wearer.held_out[-1]),
        "class": (first, wearer.stranger_held_out),
        "canary": (first, Examples(first.segments, first.labels.roll(1, dims=1))),
    }[withdrawal]
    trained = join([retain, forget])
    return Subject(general, public, trained, forget, own, neighbours, settings.personalisation, settings.unlearning)


def plain(value: Any) -> Any:
    """Return a result as JSON can hold it: what is infinite as "inf", which `float` reads again."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [plain(each) for each in value]
    return "inf" if isinstance(value, float) and math.isinf(value) else value


def _able(plan: Plan, scratch: Path) -> Sequence[tuple[int, int]]:
    """Return seed and number of every wearer who can make the withdrawal.

    Raises:
        DataError: a seed has none.
    """
    able = [
        (seed, number)
        for seed in range(plan.seeds)
        for number, wearer in enumerate(wearers_in(plan.worlds(scratch), seed))
        if plan.withdrawal in withdrawals(wearer)
    ]
    empty = sorted(set(range(plan.seeds)) - {seed for seed, _ in able})
    if empty:
        raise DataError(
            f"of {plan.patients} wearers of seed {empty[0]} nobody has two records, so that none can withdraw one; "
            "take more patients, fewer seeds, or another --withdrawal"
        )
    return able


def _readings(plan: Plan, scratch: Path, seed: int, number: int) -> list[Reading]:
    worlds = plan.worlds(scratch)
    schedule = {} if plan.published_schedule else SHORTENED
    settings = worlds.settings(seed).with_values(schedule | {"unlearning.i_mean_the_class": plan.i_mean_the_class})
    wearer = wearers_in(worlds, seed)[number]
    return compare(subject_of(wearer, plan.withdrawal, *world_of(worlds, seed), settings), plan.methods)
