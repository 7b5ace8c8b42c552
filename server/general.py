"""Trains the general model on the corpus, evaluates it and publishes it with its lineage.

Which records may be used is the registry's word; what is published is a `shared.package.Package` in
`models/<sha256>/`, with `lineage.json` and `curves.json` beside it. A model whose lineage is there already is
not trained again.
"""

import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from server.crops import Crops, Rows
from server.enrolment import refuse_other
from server.registry import Registry
from server.templates import template
from server.versions import is_whole, keep_only, lineage_of, publish, told_of
from server.workspace import Workspace
from shared.errors import DataError, WorkspaceError
from shared.metrics import Scores, per_record, scores
from shared.model import ResNet34, build, probabilities, to_bytes
from shared.package import Package, Public
from shared.ptbxl import LeftOut, Record, Signals, for_task, index, load
from shared.ptbxl_tables import unlisted
from shared.settings import SEGMENT_SAMPLES, SEGMENTS_PER_RECORD, General, Settings, Task
from shared.signals import lead_sd
from shared.training import Examples, apply, device_for_training, fit, hits, task_loss

Tell = Callable[[int, int], None]


@dataclass(frozen=True)
class Corpus:
    """The public side's signals, sorted into who learns and who does not; rows of `signals`."""

    signals: Signals
    training: Rows
    validation: Rows
    control: Rows


@dataclass(frozen=True)
class Trained:
    """A published general model.

    Attributes:
        digest: sha256 of its weights' file, and the name of its folder.
        reused: whether it was there already.
        record: what is told of it: curves, metrics, data, seconds.
        left_out: the enrolled records it was made without, and why.
    """

    digest: str
    reused: bool
    record: dict[str, Any]
    left_out: tuple[LeftOut, ...] = ()


def open_corpus(workspace: Workspace, registry: Registry, settings: Settings) -> Corpus:
    """Open the signals of consented corpus and control patients, and of nobody else.

    A record is its enrolled files: one whose files are others now is left out and counted, as is one that the tables
    no longer list.

    Raises:
        DataError: too few records to train on.
        UsageError: the patients were enrolled under other settings.
    """
    refuse_other(settings, registry)
    of_role = {role: registry.records(role=role) for role in ("corpus", "control")}
    roles = {row.id: role for role, rows in of_role.items() for row in rows}
    enrolled = {row.id: row.sha256 for rows in of_role.values() for row in rows}
    tables = index(workspace.data)
    usable, _ = for_task(tables.records, settings.general.task)
    wanted = [record for record in usable if record.id in roles]
    signals = load(wanted, folder=workspace.data, cache=workspace.cache, enrolled=enrolled)
    signals = replace(signals, left_out=(*signals.left_out, *unlisted(tables, roles)))
    role = np.array([roles[record.id] for record in signals.records])
    corpus = np.flatnonzero(role == "corpus")
    held = _validation_patients([signals.records[row] for row in corpus], settings.general)
    is_held = np.array([signals.records[row].patient in held for row in corpus], dtype=bool)
    if len(corpus) < 2 or not (~is_held).any():
        raise DataError(f"the corpus has {len(corpus)} usable records, expected at least 2; enrol more data")
    return Corpus(signals, corpus[~is_held], corpus[is_held], np.flatnonzero(role == "control"))


def train_general(workspace: Workspace, registry: Registry, settings: Settings, *, tell: Tell) -> Trained:
    """Train and publish the general model, or find the one of the same lineage.

    Args:
        workspace: where it is kept.
        registry: which records may be used; the model is entered there.
        settings: what to train and which public segments go with it.
        tell: told epochs done and in all.
    """
    corpus = open_corpus(workspace, registry, settings)
    lineage = lineage_of(corpus.signals, settings)
    known = keep_only(workspace.models, lineage)
    if known is not None:
        told = json.loads((known / "curves.json").read_text())
        return Trained(known.name, True, told, corpus.signals.left_out)
    began = time.perf_counter()
    model, curves = fit_general(corpus, settings.general, tell=tell)
    seconds = time.perf_counter() - began
    package = Package(to_bytes(model), template(model), public_segments(model, corpus, settings).to_bytes())
    record = {
        "digest": package.digest,
        "device": device_for_training().type,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "seconds": seconds,
        "curves": curves,
        "metrics": evaluate(model, corpus.signals, corpus.validation),
        "majority": majority(corpus.signals.labels[corpus.validation]),
    }
    lineage |= {"package": package.fingerprint}
    publish(workspace.models / package.digest, package, lineage, record)
    registry.add_model(package.digest, kind="general", parent=None, slot=None, lineage=lineage)
    return Trained(package.digest, False, record, corpus.signals.left_out)


def is_stale(workspace: Workspace, registry: Registry, settings: Settings) -> bool:
    """Return whether every model that is there was made of other records than consent now allows."""
    return any(workspace.models.iterdir()) and not _sound(workspace, registry, settings)


def sound_packages(workspace: Workspace, registry: Registry, settings: Settings) -> set[str]:
    """Return the fingerprints of the packages that were made of the records that consent now allows.

    A device with another one, or when nobody can tell because the data cannot be read, erases without training.
    """
    found = set()
    for folder in _sound(workspace, registry, settings):
        with suppress(DataError):  # the hospital's copy is damaged: it vouches for no device's
            found.add(Package.open(folder).fingerprint)
    return found


def _sound(workspace: Workspace, registry: Registry, settings: Settings) -> list[Path]:
    """Return the folders of the models that are made of what consent now allows; none where the data are unsound."""
    about = {folder: told_of(folder) for folder in workspace.models.iterdir()}
    if not about:
        return []
    try:
        allowed = open_corpus(workspace, registry, settings).signals.digest
    except (DataError, WorkspaceError):
        return []
    return [folder for folder, told in about.items() if told.get("data") == allowed and is_whole(folder)]


def fit_general(corpus: Corpus, settings: General, *, tell: Tell) -> tuple[ResNet34, list[dict[str, float]]]:
    """Train on random one-second crops; return the model on the CPU and its curves, one row an epoch."""
    signals, device = corpus.signals, device_for_training()
    sample = [signals.millivolts(int(row)) for row in corpus.training[:500]]
    model = build(settings, lead_sd=torch.from_numpy(lead_sd(np.stack(sample)))).to(device).train()
    epochs, steps = schedule(len(corpus.training), settings)
    average = AveragedModel(model, avg_fn=_averaging(settings.averaging), use_buffers=True).eval()
    crops = Crops(signals, corpus.training, settings, model.lead_sd)
    validation = segments_of(signals, corpus.validation)
    seen: list[tuple[float, float]] = []
    curves: list[dict[str, float]] = []

    def loss_of_step(_: int) -> Tensor:
        segments, labels, first = crops.draw()
        logits = model(segments)
        seen.append((0.0, hits(logits.detach(), first, settings.task).float().mean().item()))
        return task_loss(logits, labels, settings.task)

    def after_step(step: int, loss: float) -> None:
        seen[-1] = (loss, seen[-1][1])
        average.update_parameters(model)
        done = (step + 1) * epochs // steps
        if done > len(curves):
            curves.append(_curve_row(done, seen, cast(ResNet34, average.module), validation, settings.task))
            seen.clear()
            tell(done, epochs)

    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(settings.seed)  # dropout draws from PyTorch's own generator
        fit(
            model.parameters(),
            loss_of_step,
            steps=steps,
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            after_step=after_step,
        )
    return cast(ResNet34, average.module).cpu().eval(), curves


def _averaging(decay: float) -> Callable[[Tensor, Tensor, Tensor | int], Tensor]:
    """Return the rule of an exponential moving average over the steps, shorter at the start."""

    def update(average: Tensor, current: Tensor, steps: Tensor | int) -> Tensor:
        share = max(1.0 - decay, 9.0 / (int(steps) + 10.0))
        return average + (current - average) * share

    return update


def schedule(records: int, settings: General) -> tuple[int, int]:
    """Return epochs and steps: ten crops of each record an epoch, fewer epochs under `max_segments`."""
    segments = records * SEGMENTS_PER_RECORD * settings.epochs
    if settings.max_segments:
        segments = min(segments, settings.max_segments)
    steps = max(1, segments // settings.batch_size)
    return min(settings.epochs, steps, max(1, segments // (records * SEGMENTS_PER_RECORD))), steps


def segments_of(signals: Signals, rows: Rows) -> Examples:
    """Return all ten segments of each record, record by record."""
    starts = np.tile(np.arange(SEGMENTS_PER_RECORD) * SEGMENT_SAMPLES, len(rows))
    repeated = np.repeat(rows, SEGMENTS_PER_RECORD)
    if len(repeated) == 0:
        return Examples.empty()
    return Examples(torch.from_numpy(signals.crops(repeated, starts)), torch.from_numpy(signals.labels[repeated]))


def evaluate(model: ResNet34, signals: Signals, rows: Rows) -> dict[str, Scores]:
    """Return the metrics a segment and a record."""
    examples = segments_of(signals, rows)
    labels = examples.labels.numpy()
    if len(examples) == 0:
        none = scores(labels, labels, task=model.task)
        return {"segment": none, "record": none}
    found = probabilities(apply(model, examples.segments), model.task).numpy()
    record = scores(per_record(found, SEGMENTS_PER_RECORD), labels[::SEGMENTS_PER_RECORD], task=model.task)
    return {"segment": scores(found, labels, task=model.task), "record": record}


def public_segments(model: ResNet34, corpus: Corpus, settings: Settings) -> Public:
    """Draw the segments that travel with the model, from as many records as there are."""
    rng = np.random.default_rng(settings.general.seed)

    def draw(rows: Rows, count: int) -> Examples:
        if len(rows) == 0:
            return Examples.empty()
        slots = np.arange(min(count, len(rows) * SEGMENTS_PER_RECORD))
        chosen = rng.permutation(rows)[slots % len(rows)]
        starts = (slots // len(rows) + rng.integers(0, SEGMENTS_PER_RECORD, len(rows))[slots % len(rows)]) % 10
        segments = corpus.signals.crops(chosen, starts * SEGMENT_SAMPLES)
        return Examples(torch.from_numpy(segments), torch.from_numpy(corpus.signals.labels[chosen]))

    return Public.of(
        model,
        anchor=draw(corpus.training, settings.personalisation.anchor_segments),
        gate=draw(corpus.validation, settings.personalisation.gate_segments),
        control=draw(corpus.control, settings.probe.control_segments),
    )


def _validation_patients(records: list[Record], settings: General) -> set[str]:
    """Draw the share of the corpus's patients that is held out."""
    patients = sorted({record.patient for record in records})
    count = max(1, round(len(patients) * settings.validation))
    return set(np.random.default_rng(settings.seed).permutation(np.array(patients))[:count].tolist())


def _curve_row(
    epoch: int, seen: list[tuple[float, float]], average: ResNet34, validation: Examples, task: Task
) -> dict[str, float]:
    """Return loss and accuracy in training (on blended crops), and the averaged model's on validation segments."""
    loss, accuracy = np.mean(seen, axis=0)
    logits = apply(lambda x: average(x.to(average.lead_sd.device)), validation.segments)
    return {
        "epoch": epoch,
        "train_loss": float(loss),
        "train_accuracy": float(accuracy),
        "validation_loss": task_loss(logits, validation.labels, task).item(),
        "validation_accuracy": hits(logits, validation.labels, task).float().mean().item(),
    }


def majority(labels: npt.NDArray[np.float32]) -> float | None:
    """Return the accuracy of always naming the most frequent label combination."""
    if len(labels) == 0:
        return None
    _, counts = np.unique(labels, axis=0, return_counts=True)
    return float(counts.max() / counts.sum())
