"""A small hospital with its wearables: a workspace on synthetic patients and a grid that runs the real apps."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from local_grid import LocalGrid

from client.app import app as client_app
from client.sensor import Feed, Recording
from client.store import Store
from server import keys
from server.app import execute
from server.progress import Progress
from server.registry import Registry
from server.rows import Patient
from server.run import Run
from server.workspace import Workspace
from shared.ptbxl import Record, read_signal
from shared.settings import Settings
from simulations.enrol import enrol_cohort

# As small as it gets with every part in it; a budget of 1 accepts every copy of a model that has learnt little.
TINY = Settings().with_values(
    {
        "cohort.wearables": 4,
        "cohort.controls": 3,
        "general.width": 4,
        "general.epochs": 8,
        "general.batch_size": 64,
        "general.max_segments": 4000,
        "general.averaging": 0.0,
        "general.learning_rate": 1e-2,
        "general.mixup": 0.0,
        "general.noise_sd": 0.0,
        "general.gain_sd": 0.0,
        "general.lead_dropout": 0.0,
        "general.dropout": 0.1,
        "personalisation.steps": 8,
        "personalisation.anchor_segments": 12,
        "personalisation.gate_segments": 12,
        "personalisation.budget": 1.0,
        "unlearning.epochs": 3,
        "probe.control_segments": 12,
        "probe.epsilons_sd": "0,0.05",
        "audit.copies": 2,
    }
)


@contextmanager
def quietly(_label: str, _total: int | None) -> Iterator[Callable[[int], None]]:
    yield lambda _: None


def enrol(home: Path, data: Path, settings: Settings = TINY) -> Workspace:
    with Workspace.building(home, data=data) as workspace:
        keys.make(workspace.keys)
        enrol_cohort(workspace, settings, progress=quietly)
    return Workspace.open(home)


class Fleet:
    """A workspace, its registry and its devices; `run` is one run of the ServerApp."""

    def __init__(self, home: Path, settings: Settings = TINY, *, answer_s: float = 1800.0) -> None:
        self.workspace, self.settings, self.answer_s = Workspace.open(home), settings, answer_s
        self.registry = Registry.open(self.workspace.registry_path)
        self.grid = LocalGrid(client_app, nodes=len(self.wearers()), run_config={"home": str(self.workspace.home)})
        self._runs = len(self.registry.runs())

    def close(self) -> None:
        self.registry.close()

    def run(self, settings: Settings | None = None, *, nodes: int = 0) -> Run:
        """Do what is due, as the ServerApp does that was told how many nodes there are."""
        name = f"run-{self._runs}"
        self._runs += 1
        progress = Progress(self.workspace.flower / f"{name}.json")
        settings = settings or self.settings
        run = Run(
            name, self.grid, self.workspace, self.registry, settings, progress, answer_s=self.answer_s, nodes=nodes
        )
        execute(run)
        return run

    def wearers(self) -> list[Patient]:
        return self.registry.patients("wearable")

    def wearer(self, slot: int) -> Patient:
        return next(patient for patient in self.wearers() if patient.slot == slot)

    def with_several_records(self) -> Patient:
        """A wearer who keeps at least two records when one goes."""
        return max(self.wearers(), key=lambda patient: patient.records)

    def records(self, patient: Patient) -> list[str]:
        return [row.id for row in self.registry.records(patient.id)]

    def folder(self, patient: Patient) -> Path:
        return self.workspace.devices / str(patient.slot)

    def store(self, patient: Patient) -> Store:
        return Store(self.folder(patient))

    def recordings(self, patient: Patient) -> list[Recording]:
        """What the patient's sensor records, whatever consent says."""
        feed = Feed.open(self.workspace.feed(patient.slot))
        found, _ = feed.record([entry["id"] for entry in feed.entries])
        return found


def copied(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    return target


def traces(record: Record, folder: Path) -> list[bytes]:
    """Pieces of a record's waveform in the forms that a file or a message could hold it in.

    A piece is 50 samples of lead II, from five places of the record: float32 and float64 millivolts, int16 counts.
    """
    signal, _ = read_signal(folder, record)
    pieces = [signal[1, start : start + 50] for start in (0, 500, 1250, 2500, 4900)]
    counts = [np.round(piece * 1000).astype("<i2") for piece in pieces]
    return [array.tobytes() for piece in pieces for array in (piece, piece.astype(np.float64))] + [
        array.tobytes() for array in counts
    ]


def holding(folder: Path, needles: list[bytes]) -> list[str]:
    """The files under `folder` that hold one of the needles."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            if any(needle in data for needle in needles):
                found.append(path.relative_to(folder).as_posix())
    return found
