"""SISA: a general model of several networks; removing a patient retrains one of them, from its last clean slice.

L. Bourtoule et al., "Machine Unlearning", IEEE S&P 2021: sharded, isolated, sliced and aggregated training. Every
patient of the corpus belongs to one shard, and in it to one slice. A shard's network learns its first slice, then goes
on with its first two, and so on; it is kept as it was after each. The model's answer is the mean of its networks'.
A personal copy descends from one network, so that runs train one shard (`general.unlearning`); more are for comparison.

Needs: the corpus without the patient. Guarantee: exact; what is kept afterwards is, bit for bit on one CPU, what
training without the patient makes. Cost beside retraining everything: with S shards and R slices, on average
(2R + 1) / (3R) of an S-th for one patient, S R files, and what S networks lose that learn from an S-th each.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from server.corpus import Corpus
from server.crops import Rows
from server.learning import fit_general
from shared.errors import DataError, UsageError
from shared.files import flush_folder, write_atomically
from shared.model import ResNet34, load, probabilities, to_bytes
from shared.ptbxl import Signals
from shared.settings import General
from shared.training import apply
from shared.version import code_version

Tell = Callable[[int, int], None]
Curves = list[dict[str, float]]


@dataclass(frozen=True)
class Sharding:
    """Into how many parts the corpus's patients fall, and by which seed.

    Attributes:
        shards: S, networks.
        slices: R, of each shard.
        seed: of who belongs where. It depends on the patient and on nobody else, so that who goes moves no one.
    """

    shards: int = 4
    slices: int = General.slices
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what is no division.

        Raises:
            UsageError: fewer than one shard or slice.
        """
        if self.shards < 1 or self.slices < 1:
            raise UsageError(f"{self.shards} shards of {self.slices} slices were asked for, expected 1 or more of each")

    def place(self, patient: str) -> tuple[int, int]:
        """Return a patient's shard and slice, both counted from 0."""
        number = int.from_bytes(hashlib.sha256(f"{self.seed} {patient}".encode()).digest()[:8])
        return number % self.shards, number // self.shards % self.slices


@dataclass(frozen=True)
class Sharded:
    """The general model that SISA makes.

    Attributes:
        models: one network a shard.
        curves: of each network, as `fit_general` returns them, over all its slices.
        trained: which slices had to be trained for it, as (shard, slice); none when all was there.
    """

    models: tuple[ResNet34, ...]
    curves: tuple[Curves, ...]
    trained: tuple[tuple[int, int], ...]

    def probabilities(self, segments: Tensor) -> Tensor:
        """Return the mean of the networks' class probabilities: (B, 12, 500) mV -> (B, 5)."""
        said = [probabilities(apply(model, segments), model.task) for model in self.models]
        return torch.stack(said).mean(dim=0)


@dataclass(frozen=True)
class _Slice:
    """One stretch of training: what is learnt in it, and where the network is kept that it ends with."""

    shard: int
    number: int
    rows: Rows
    path: Path

    @property
    def about(self) -> Path:
        """Return where its curves are kept and what it learnt from; written first."""
        return self.path.with_suffix(".json")


def train_sharded(corpus: Corpus, settings: General, sharding: Sharding, *, folder: Path, tell: Tell) -> Sharded:
    """Train what is not there yet; called with the corpus without a patient, it is the removal of that patient.

    What was made of other records goes first, before anything is trained, and a training that is broken off is taken
    up where it was.

    Args:
        corpus: who learns and who validates.
        settings: of every network; `epochs` is how often a shard's records are seen in all.
        sharding: who belongs where.
        folder: where the networks are kept; of its own, made when missing.
        tell: told epochs done and to do.

    Raises:
        DataError: a shard without a patient, or a damaged file.
    """
    plan = _plan(corpus, settings, sharding, folder)
    _keep_only(plan, folder)
    if empty := sorted(set(range(sharding.shards)) - {one.shard for one in plan}):
        raise DataError(
            f"shard {empty[0]} of {sharding.shards} has no patient; take fewer shards, or enrol more patients"
        )
    missing = [one for one in plan if not one.path.exists()]
    for done, one in enumerate(missing):
        before = [other for other in plan if other.shard == one.shard and other.number < one.number]
        start = load(before[-1].path) if before else None
        part = replace(corpus, training=one.rows)
        told = partial(_told, tell, done, len(missing))
        model, curves = fit_general(part, _of_slice(settings, sharding, one), start=start, tell=told)
        learnt = [corpus.signals.records[row].id for row in one.rows]
        write_atomically(one.about, json.dumps({"records": learnt, "curves": curves}).encode())
        write_atomically(one.path, to_bytes(model))
    last = {one.shard: one.path for one in plan}
    return Sharded(
        models=tuple(load(last[shard]) for shard in range(sharding.shards)),
        curves=tuple(_curves(plan, shard) for shard in range(sharding.shards)),
        trained=tuple((one.shard, one.number) for one in missing),
    )


def _keep_only(plan: Sequence[_Slice], folder: Path) -> None:
    """Remove what was made of other records or in another way."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {path for one in plan for path in (one.path, one.about)}
    for path in set(folder.iterdir()) - wanted:
        path.unlink()
    flush_folder(folder)


def _told(tell: Tell, done: int, slices: int, epoch: int, epochs: int) -> None:
    """Count the epochs of several slices, which have as many each."""
    tell(done * epochs + epoch, slices * epochs)


def _curves(plan: Sequence[_Slice], shard: int) -> Curves:
    """Return a shard's curves, its epochs counted through all slices.

    Raises:
        DataError: a file is damaged.
    """
    rows: Curves = []
    for one in plan:
        if one.shard == shard:
            try:
                rows += json.loads(one.about.read_text())["curves"]
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise DataError(
                    f"{one.about} cannot be read ({error}); remove its folder, and all is trained again"
                ) from None
    return [{**row, "epoch": number} for number, row in enumerate(rows, start=1)]


def _plan(corpus: Corpus, settings: General, sharding: Sharding, folder: Path) -> Sequence[_Slice]:
    """Return all slices in the order of their training; one that adds nobody is left out, and so is an empty shard."""
    places = np.array([sharding.place(corpus.signals.records[row].patient) for row in corpus.training])
    plan = []
    for shard in range(sharding.shards):
        ours = places[:, 0] == shard
        for number in sorted(set(places[ours, 1].tolist())):
            rows = corpus.training[ours & (places[:, 1] <= number)]
            key = _key(corpus.signals, rows, settings, sharding)
            plan.append(_Slice(shard, number, rows, folder / f"{shard}-{number}-{key}.safetensors"))
    return plan


def _key(signals: Signals, rows: Rows, settings: General, sharding: Sharding) -> str:
    """Return the name of what is made of these very samples and labels under these settings, by this code."""
    told = [asdict(settings), asdict(sharding), code_version()]
    total = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    for row in rows:
        total.update(f"{signals.records[row].id} {signals.records[row].labels}".encode())
        total.update(signals.samples[row].tobytes() + signals.mv_per_count[row].tobytes())
    return total.hexdigest()[:32]


def _of_slice(settings: General, sharding: Sharding, one: _Slice) -> General:
    """Return the settings of one slice: of all slices together, a record is seen `epochs` times on average."""
    epochs = max(1, round(2 * settings.epochs / (sharding.slices + 1)))
    most = -(-settings.max_segments // sharding.slices)
    return replace(
        settings, epochs=epochs, max_segments=most, seed=settings.seed + sharding.slices * one.shard + one.number
    )
