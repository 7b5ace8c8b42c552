"""The small workspace that faults are tried in: made once, copied for every try, and who withdraws what in it."""

import random
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from server.registry import Registry
from server.rows import Patient
from server.workspace import Workspace
from shared.settings import Settings
from simulations import main_job
from simulations.cohort import write_cohort
from simulations.fault_grid import run_once

Scope = Literal["patient", "record", "corpus"]

PATIENTS = 30
# As small as it gets with every part in it. A budget of 1 accepts every copy of a model that has learnt little.
TINY = Settings().with_values(
    {
        "cohort.wearables": 3,
        "cohort.controls": 3,
        "general.width": 4,
        "general.epochs": 1,
        "general.max_segments": 200,
        "personalisation.steps": 4,
        "personalisation.anchor_segments": 12,
        "personalisation.gate_segments": 12,
        "personalisation.budget": 1.0,
        "personalisation.int8": True,
        "unlearning.epochs": 2,
        "probe.epsilons_sd": "0,0.05",
        "probe.control_segments": 12,
        "audit.copies": 2,
    }
)


@dataclass(frozen=True)
class Asked:
    """A withdrawal: by whom, of what, and as the command line is told it."""

    patient: str
    role: str
    records: tuple[str, ...]
    words: tuple[str, ...]


@dataclass(frozen=True)
class World:
    """A workspace in which one run has gone well, beside the data that its patients come from."""

    folder: Path

    @property
    def home(self) -> Path:
        """Return the workspace that is copied."""
        return self.folder / "home"

    @property
    def data(self) -> Path:
        """Return the synthetic patients' folder."""
        return self.folder / "data"

    @classmethod
    def make(cls, folder: Path) -> "World":
        """Write a cohort, enrol it, and let one run give every wearable its model."""
        world = cls(folder)
        write_cohort(world.data, patients=PATIENTS, seed=1)
        main_job.prepare(world.home, data=world.data, settings=TINY)
        ended = run_once(world.home)
        assert ended.whole, ended.error
        return world

    def copy(self, name: str) -> Path:
        """Return a copy of the workspace to be spoilt; what lay there before goes."""
        home = self.folder / "tries" / name / "home"
        shutil.rmtree(home.parent, ignore_errors=True)
        shutil.copytree(self.home, home)
        text = (home / "settings.toml").read_text(encoding="utf-8")
        (home / "settings.toml").write_text(text.replace(str(self.home), str(home)), encoding="utf-8")
        return home

    def forget(self, home: Path) -> None:
        """Remove a copy."""
        shutil.rmtree(home.parent, ignore_errors=True)


def asked(home: Path, scope: Scope, rng: random.Random) -> Asked:
    """Choose who withdraws: a wearer everything or one record, or a patient of the corpus everything."""
    with Registry.open(Workspace.open(home).registry_path) as registry:
        role: Literal["wearable", "corpus"] = "corpus" if scope == "corpus" else "wearable"
        ready: list[Patient] = [one for one in registry.patients(role) if one.status == "active"]
        if scope == "record":
            ready = [one for one in ready if one.records > 1]
        who = rng.choice(ready)
        held = [row.id for row in registry.records(who.id)]
    if scope == "record":
        held = [rng.choice(held)]
        return Asked(who.id, role, tuple(held), ("--record", held[0]))
    return Asked(who.id, role, tuple(held), ())


def withdraw(home: Path, one: Asked) -> None:
    """Take consent back, as the command does; from here on it may never be lost."""
    with Registry.open(Workspace.open(home).registry_path) as registry:
        registry.withdraw(one.patient, records=list(one.records) if one.words else None)


def certified(home: Path) -> bool:
    """Return whether no job is due any more."""
    with Registry.open(Workspace.open(home).registry_path) as registry:
        return all(job.state == "CERTIFIED" for job in registry.jobs())
