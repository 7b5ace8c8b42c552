"""Trains the general model on the corpus, evaluates it and publishes it with its lineage.

Which records may be used is the registry's word; what is published is a `shared.package.Package` in
`models/<sha256>/`, with `lineage.json`, `curves.json` and `records.json` beside it. A model whose lineage is there
already is not trained again.
"""

import json
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from server.corpus import Corpus, NothingToLearnError, open_corpus, segments_of
from server.crops import Rows
from server.history_check import refuse_contradicted
from server.learning import Tell, fit_general
from server.registry import GENERAL, Registry
from server.rows import Role
from server.sisa import Sharding, train_sharded
from server.templates import template
from server.versions import is_whole, keep_only, lineage_of, publish, told_of
from server.workspace import Workspace
from shared.errors import DataError, WorkspaceError
from shared.metrics import Scores, per_record, scores
from shared.model import ResNet34, probabilities, to_bytes
from shared.package import Package, Public
from shared.ptbxl import LeftOut, Signals
from shared.settings import SEGMENT_SAMPLES, SEGMENTS_PER_RECORD, General, Settings
from shared.stopping import stop_if_asked, stopped_by
from shared.training import Examples, apply, device_for_training

PUBLIC_ROLES: tuple[Role, ...] = ("corpus", "control")
LOOK_S = 0.5  # between looks at the registry while it trains


@dataclass(frozen=True)
class Trained:
    """A published general model.

    Attributes:
        digest: sha256 of its weights' file, and the name of its folder.
        reused: whether it was there already.
        record: what is told of it: curves, metrics, seconds.
        data: digest of the records that it was made of.
        withdrawn: public records that it was made without because they were withdrawn, by role.
        left_out: the enrolled records it was made without, and why.
    """

    digest: str
    reused: bool
    record: dict[str, Any]
    data: str
    withdrawn: dict[Role, int]
    left_out: tuple[LeftOut, ...] = ()


class _Withdrawn(Exception):
    """A patient of the corpus, or a control, has withdrawn while the general model was being trained."""


def train_while_consented(
    workspace: Workspace, registry: Registry, settings: Settings, *, tell: Tell, withdrawals: int
) -> Trained | None:
    """Train and publish the general model as `train_general` does, or return None once it learns from what it may not.

    Args:
        workspace: where it is kept.
        registry: which records may be used; asked again every half second.
        settings: what to train and which public segments go with it.
        tell: told epochs done and in all.
        withdrawals: how often public records had been withdrawn before the choice of records.

    Raises:
        DamagedError: what the registry says of consent is not what its history says.
    """
    refuse_contradicted(registry)
    looked = time.monotonic()

    def watch() -> None:
        nonlocal looked
        if time.monotonic() - looked < LOOK_S:
            return
        looked = time.monotonic()
        if registry.withdrawals(PUBLIC_ROLES) > withdrawals:
            raise _Withdrawn

    try:
        with stopped_by(watch):
            trained = train_general(workspace, registry, settings, tell=tell)
    except _Withdrawn:
        return None
    return None if is_stale(workspace, registry, settings) else trained


def train_general(
    workspace: Workspace,
    registry: Registry,
    settings: Settings,
    *,
    tell: Tell,
) -> Trained:
    """Train and publish the general model, or find the one of the same lineage.

    Args:
        workspace: where it is kept.
        registry: which records may be used; the model is entered there.
        settings: what to train and which public segments go with it.
        tell: told epochs done and in all.

    Raises:
        NothingToLearnError: too few records may be used; no model that was made of more is kept.
        DataError: the data cannot be read.
    """
    withdrawn = {role: registry.withdrawn([role]) for role in PUBLIC_ROLES}
    try:
        corpus = open_corpus(workspace, registry, settings)
    except NothingToLearnError:  # what was made of the others' records goes all the same
        keep_only(workspace.models, {"data": "", "key": ""})
        shutil.rmtree(workspace.slices, ignore_errors=True)
        raise
    lineage = lineage_of(corpus.signals, settings)
    known = keep_only(workspace.models, lineage)
    if known is not None:
        registry.remember(GENERAL, {"digest": known.name})
        told = json.loads((known / "curves.json").read_text())
        return Trained(known.name, True, told, lineage["data"], withdrawn, corpus.signals.left_out)
    began = time.perf_counter()
    model, curves = _fitted(corpus, settings.general, workspace.slices, tell=tell)
    seconds = time.perf_counter() - began
    stop_if_asked()
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
    stop_if_asked()
    made_of = [one.id for one in corpus.signals.records]
    publish(workspace.models / package.digest, package, lineage, record, records=made_of)
    registry.add_model(package.digest, kind="general", parent=None, slot=None, lineage=lineage)
    registry.remember(GENERAL, {"digest": package.digest})
    return Trained(package.digest, False, record, lineage["data"], withdrawn, corpus.signals.left_out)


def _fitted(corpus: Corpus, settings: General, slices: Path, *, tell: Tell) -> tuple[ResNet34, list[dict[str, float]]]:
    """Train one network at once, or slice by slice, keeping it after each in the folder `slices`."""
    if settings.unlearning == "exact":
        shutil.rmtree(slices, ignore_errors=True)
        return fit_general(corpus, settings, tell=tell)
    made = train_sharded(corpus, settings, Sharding(1, settings.slices, settings.seed), folder=slices, tell=tell)
    return made.models[0], made.curves[0]


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


def newest_sound(workspace: Workspace, registry: Registry, settings: Settings) -> Path:
    """Return the folder of the general model that was made last of what consent now allows.

    Raises:
        WorkspaceError: there is none.
    """
    sound = {folder.name: folder for folder in _sound(workspace, registry, settings)}
    made = [model.digest for model in registry.models() if model.kind == "general" and model.digest in sound]
    if not made:
        raise WorkspaceError(
            f"no general model in {workspace.home} is made of what consent now allows; `lethe train` makes one"
        )
    return sound[made[-1]]


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


def majority(labels: npt.NDArray[np.float32]) -> float | None:
    """Return the accuracy of always naming the most frequent label combination."""
    if len(labels) == 0:
        return None
    _, counts = np.unique(labels, axis=0, return_counts=True)
    return float(counts.max() / counts.sum())
