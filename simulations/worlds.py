"""Small worlds, one a seed: their data, their general models, their wearers.

What a world is made of is `simulations/calibration_data.py`'s; what is asked of it, the caller's.
"""

import platform
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from shared.model import ResNet34, load
from shared.package import Public
from shared.settings import Settings
from simulations.calibration_data import MODEL, PUBLIC, Cut, Wearer, build_world, cut, settings_of, wearers_of
from simulations.cohort import record_count, write_cohort
from simulations.pool import Progress, run_all

LEAST_COHORT = 320  # synthetic patients; more when more wearers are asked for


@dataclass(frozen=True)
class Worlds:
    """Worlds of one data folder that have no patient with a device in common.

    Attributes:
        data: a folder in PTB-XL's layout.
        scratch: a folder for signals and models.
        patients: wearers a world.
        seeds: how many worlds, each with patients and a general model of its own.
        width: of the general models.
    """

    data: Path
    scratch: Path
    patients: int
    seeds: int
    width: int

    def settings(self, seed: int) -> Settings:
        """Return the settings of one world."""
        return settings_of(self.width, seed=seed)


def data_or_synthetic(data: Path | None, folder: Path, *, wearers: int, progress: Progress) -> Path:
    """Return the data folder, or write a synthetic cohort to `folder` that is enough for so many wearers."""
    if data is not None:
        return data
    people = max(LEAST_COHORT, 8 * wearers)
    with progress("writing a synthetic cohort", record_count(people)) as tell:
        write_cohort(folder, patients=people, seed=0, progress=tell)
    return folder


def prepare(worlds: Worlds) -> None:
    """Read the signals of the data folder into `scratch`, where the processes will find them.

    Raises:
        DataError: the folder is not what it should be.
        UsageError: too few patients.
    """
    (worlds.scratch / "cache").mkdir(parents=True, exist_ok=True)
    _cut(worlds, 0)


def build_all(worlds: Worlds, pool: ProcessPoolExecutor, progress: Progress) -> list[dict[str, float | None]]:
    """Train the general models of all worlds, whose signals are there, and say how good each is.

    Raises:
        DataError: too few control segments.
    """
    return run_all(pool, progress, "training general models", [(_build, worlds, seed) for seed in range(worlds.seeds)])


@lru_cache(maxsize=2)
def wearers_in(worlds: Worlds, seed: int) -> list[Wearer]:
    """Return the wearers of one world with their segments."""
    return wearers_of(_cut(worlds, seed), seed=seed)


def world_of(worlds: Worlds, seed: int) -> tuple[ResNet34, Public]:
    """Return the general model of one world, which has been trained, and its public segments."""
    return _read(worlds.scratch / str(seed))


def machine() -> str:
    """Return what this is computed on."""
    return f"{platform.processor() or platform.machine()}, torch {torch.__version__}"


@lru_cache(maxsize=2)
def _read(folder: Path) -> tuple[ResNet34, Public]:
    return load(folder / MODEL), Public.from_bytes((folder / PUBLIC).read_bytes())


@lru_cache(maxsize=2)
def _cut(worlds: Worlds, seed: int) -> Cut:
    cache = worlds.scratch / "cache"
    return cut(worlds.data, cache=cache, patients=worlds.patients, seeds=worlds.seeds, seed=seed)


def _build(worlds: Worlds, seed: int) -> dict[str, float | None]:
    return build_world(_cut(worlds, seed), worlds.settings(seed), worlds.scratch / str(seed))
