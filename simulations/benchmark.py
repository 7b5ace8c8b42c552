"""Benchmarks, run by hand: how good and how fast Lethe is on a PTB-XL folder and on this machine.

    python -m simulations.benchmark general  --data DIR --task multi --keep model.safetensors
    python -m simulations.benchmark final    --data DIR --model model.safetensors
    python -m simulations.benchmark personal --data DIR --model model.safetensors
    python -m simulations.benchmark sisa     --data DIR
    python -m simulations.benchmark device
    python -m simulations.benchmark methods
    python -m simulations.benchmark speed
    python -m simulations.benchmark start    --data DIR
    python -m simulations.benchmark registry [--registry URL]

Folds 1-8 train, fold 9 is for choosing settings, fold 10 is looked at once. Nothing here is asserted: figures go
to stdout as JSON, and into the README beside the command.
"""

import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from server.corpus import Corpus, segments_of
from server.general import evaluate, majority
from server.learning import fit_general
from server.sisa import Sharding
from shared.errors import UsageError
from shared.model import ResNet34, digest, load, to_bytes
from shared.package import Public
from shared.personalisation import accuracy, held_out_mask, personalise
from shared.ptbxl import Signals, for_task, index
from shared.ptbxl import load as load_signals
from shared.settings import SEGMENTS_PER_RECORD, General, Personalisation, Profile, Task
from shared.terminal import progress
from shared.training import Examples, one_thread
from simulations.registry_load import registry
from simulations.removal import measure
from simulations.timing import Data, device, methods, printed, speed, start

app = typer.Typer(help=__doc__, add_completion=False, pretty_exceptions_enable=False)

Model = Annotated[Path, typer.Option("--model", help="A model that `general --keep` wrote.")]
TEST_FOLD, CHOICE_FOLD = 10, 9


@app.command()
def general(
    data: Data,
    task: Annotated[Task, typer.Option()] = "multi",
    epochs: int = General.epochs,
    width: int = General.width,
    seed: int = 0,
    keep: Annotated[Path | None, typer.Option(help="Write the model here.")] = None,
) -> None:
    """Train the general model on folds 1-8 and evaluate it."""
    settings = replace(General(), task=task, epochs=epochs, width=width, seed=seed)
    signals = _signals(data, settings.task)
    folds = np.array([record.fold for record in signals.records])
    corpus = Corpus(signals, _rows(folds < CHOICE_FOLD), _rows(folds == CHOICE_FOLD), _rows(folds == TEST_FOLD))
    began = time.perf_counter()
    with progress("training", epochs) as tell:
        model, curves = fit_general(corpus, settings, tell=lambda done, _: tell(done))
    seconds = time.perf_counter() - began
    if keep is not None:
        keep.write_bytes(to_bytes(model))
    printed(settings=vars(settings), seconds=seconds, last_epoch=curves[-1], **_on_fold(model, signals, CHOICE_FOLD))


@app.command()
def final(data: Data, model: Model, fold: int = TEST_FOLD) -> None:
    """Evaluate a kept model on the test fold; once."""
    trained = load(model)
    printed(model=digest(model.read_bytes()), **_on_fold(trained, _signals(data, trained.task), fold))


@app.command()
def personal(
    data: Data,
    model: Model,
    patients: int = 40,
    fold: int = TEST_FOLD,
    profile: Annotated[Profile, typer.Option()] = "default",
    seeds: int = 3,
) -> None:
    """Personalise for patients of a fold that the general model was not trained on; own against others.

    Every patient has one record, the first; others are the patients of the fold who were not drawn.
    """
    trained = load(model)
    signals = _signals(data, trained.task)
    folds = np.array([record.fold for record in signals.records])
    first = _first_rows(signals, _rows(folds == fold), patients=patients)
    settings = replace(Personalisation(), profile=profile)
    found = []
    with progress("personalising", seeds * patients) as tell, one_thread():
        for seed in range(seeds):
            drawn = np.random.default_rng(seed).permutation(first)
            public = _public(trained, signals, folds, drawn[patients:], settings, seed=seed)
            for count, row in enumerate(drawn[:patients]):
                examples = segments_of(signals, np.array([row]))
                found.append({"seed": seed, **_one(trained, examples, public, replace(settings, seed=seed))})
                tell(seed * patients + count + 1)
    printed(settings=vars(settings), patients=patients, seeds=seeds, **_means(found))


@app.command()
def sisa(
    data: Data,
    task: Annotated[Task, typer.Option()] = "single",
    shards: Annotated[int, typer.Option(min=1)] = Sharding.shards,
    slices: Annotated[int, typer.Option(min=1)] = Sharding.slices,
    removals: Annotated[int, typer.Option(min=1, help="Patients who withdraw, one after another.")] = 8,
    seed: int = 0,
) -> None:
    """Train the general model in shards, remove patients, and compare with retraining one network; fold 9."""
    settings, sharding = replace(General(), task=task, seed=seed), Sharding(shards, slices, seed)
    signals = _signals(data, task)
    folds = np.array([record.fold for record in signals.records])
    corpus = Corpus(signals, _rows(folds < CHOICE_FOLD), _rows(folds == CHOICE_FOLD), _rows(folds == TEST_FOLD))
    with progress("training", removals + 2) as tell:
        found = measure(corpus, settings, sharding, removals=removals, tell=tell)
    printed(settings=vars(settings), sharding=vars(sharding), fold=CHOICE_FOLD, **found)


def _one(trained: ResNet34, examples: Examples, public: Public, settings: Personalisation) -> dict[str, Any]:
    """Personalise for one patient with one record, split by time."""
    held, _ = held_out_mask([len(examples)], settings.held_out)
    made = personalise(trained, examples[~held], public, settings)
    return {
        "accepted": made.accepted,
        "own_general": accuracy(trained, examples[held]),
        "own_personal": accuracy(made.model, examples[held]),
        "others_general": accuracy(trained, public.control),
        "others_personal": accuracy(made.model, public.control),
    }


def _public(
    model: ResNet34,
    signals: Signals,
    folds: np.ndarray[Any, Any],
    others: np.ndarray[Any, Any],
    settings: Personalisation,
    *,
    seed: int,
) -> Public:
    """Anchor from the training folds, gate from the choice fold, others from patients of neither kind."""
    rng = np.random.default_rng(seed)

    def draw(rows: np.ndarray[Any, Any], count: int) -> Examples:
        examples = segments_of(signals, rng.permutation(rows)[:count])
        first = torch.arange(len(examples)).reshape(-1, SEGMENTS_PER_RECORD)[:, 0]
        return examples[first + torch.from_numpy(rng.integers(0, SEGMENTS_PER_RECORD, len(first)))]

    return Public.of(
        model,
        anchor=draw(_rows(folds < CHOICE_FOLD), settings.anchor_segments),
        gate=draw(_rows(folds == CHOICE_FOLD), settings.gate_segments),
        control=segments_of(signals, others),
    )


def _means(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Return means over patients, and their spread over seeds."""
    names = [name for name in found[0] if name != "seed"]
    seeds = sorted({row["seed"] for row in found})
    by_seed = {
        name: [float(np.mean([r[name] for r in found if r["seed"] == seed])) for seed in seeds] for name in names
    }
    means = {name: float(np.mean(values)) for name, values in by_seed.items()}
    gains = {
        "own_gain_points": 100 * (means["own_personal"] - means["own_general"]),
        "others_change_points": 100 * (means["others_personal"] - means["others_general"]),
    }
    return {**gains, **means, "by_seed": by_seed}


def _on_fold(model: ResNet34, signals: Signals, fold: int) -> dict[str, Any]:
    rows = _rows(np.array([record.fold for record in signals.records]) == fold)
    return {
        "fold": fold,
        "majority": majority(signals.labels[rows]),
        "metrics": evaluate(model, signals, rows),
    }


def _signals(data: Path, task: Task) -> Signals:
    """Open all usable records of a folder, through a cache beside the other temporary files."""
    records, _ = for_task(index(data).records, task)
    cache = Path(tempfile.gettempdir()) / f"lethe-benchmark-{os.getuid()}-{data.name}-{task}"
    cache.mkdir(exist_ok=True)
    return load_signals(records, folder=data, cache=cache)


def _first_rows(signals: Signals, rows: np.ndarray[Any, Any], *, patients: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the row of every patient's first record among `rows`.

    Raises:
        UsageError: there is nobody left to be the others when so many patients are drawn.
    """
    first: dict[str, int] = {}
    for row in sorted(map(int, rows), key=lambda row: (signals.records[row].recorded_at, row)):
        first.setdefault(signals.records[row].patient, row)
    if not 0 < patients < len(first):
        raise UsageError(f"{patients} of {len(first)} patients were asked for, expected 1 to {len(first) - 1}")
    return np.array(sorted(first.values()), dtype=np.int64)


def _rows(mask: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.flatnonzero(mask).astype(np.int64)


for timed in (device, methods, registry, speed, start):
    app.command()(timed)

if __name__ == "__main__":
    app()
