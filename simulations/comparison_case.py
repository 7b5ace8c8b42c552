"""One wearer's comparison: every method from one checkpoint, measured beside the copy that never saw the forget set.

Plain functions of models and segments; the formulas are `shared/unlearning_metrics.py`'s, whose wearers and how many
`simulations/comparison.py`'s, and what many wearers add up to `simulations/comparison_figures.py`'s.
"""

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from shared.errors import LetheError, UsageError
from shared.inference import auc
from shared.model import ResNet34, model_digest, probabilities
from shared.package import Public
from shared.personalisation import Frozen, accuracy, personalise, trained_part
from shared.probing import margin
from shared.settings import Personalisation, Unlearning
from shared.training import Examples, apply, fit, hits, task_loss
from shared.unlearning import METHODS, Method, certified
from shared.unlearning.bad_teacher import untrained
from shared.unlearning.case import Case
from shared.unlearning_metrics import ain, gaps, relearn_ratio, tow, zrf

NOTHING = "personal (nothing done)"
FLOOR = "retrained, another seed"
ANOTHER = 2**31  # further than any seed of a world, so that the floor's seed is nobody's
GROUPS = ("forget", "retain", "own", "others")
TESTED = ("forget", "retain", "own")  # what the tug-of-war is over: forget, retain and test set


@dataclass(frozen=True)
class Subject:
    """One personal model to be made, and what of it must be forgotten.

    Attributes:
        general: the model that never saw the patient.
        public: anchor, gate, and control segments: the others.
        trained: what the personal model is made of, D.
        forget: S, some of it.
        own: held-out segments of what is kept.
        neighbours: held-out segments like the forget set, from which an attack is to tell it.
        personalisation, unlearning: how copies are made and methods run.
    """

    general: ResNet34
    public: Public
    trained: Examples
    forget: Examples
    own: Examples
    neighbours: Examples
    personalisation: Personalisation
    unlearning: Unlearning


@dataclass(frozen=True)
class Measured:
    """What one model says.

    Attributes:
        accuracy: by group.
        zrf: nearness to an untrained model on the forget set.
        auc: with which margins tell the forget set from its neighbours.
        accuracies, losses: on the forget set before relearning it, after one step, after two ...
        seconds: of processor time in which it was made.
        unchanged: whether it is, bit for bit, the personal model.
        certified: how far its head is at most from the retrained one, by the L2 distance, where its method certifies
            that; else not a number.
    """

    accuracy: dict[str, float]
    zrf: float
    auc: float
    accuracies: list[float]
    losses: list[float]
    seconds: float
    unchanged: bool
    certified: float = math.nan


@dataclass(frozen=True)
class Reading:
    """One method on one wearer: its figures by name, or the reason why there are none."""

    method: str
    figures: dict[str, float]
    reason: str = ""


def kept(trained: Examples, forget: Examples) -> Examples:
    """Return the retain set, L = D - S.

    Raises:
        UsageError: the forget set is empty, or not a subset of what was trained on.
    """
    if len(forget) == 0:
        raise UsageError("the forget set is empty, expected one segment or more that the personal model learnt from")
    known, gone = _keys(trained), set(_keys(forget))
    if strange := len(gone - set(known)):
        raise UsageError(
            f"{strange} of {len(forget)} segments of the forget set are not among the {len(trained)} that the personal "
            "model learnt from, expected a subset"
        )
    return trained[torch.tensor([key not in gone for key in known])]


def compare(subject: Subject, methods: Sequence[str], *, known: Mapping[str, Method] = METHODS) -> list[Reading]:
    """Return the readings of the personal model, of the floor and of every method; none if the gate refused the model.

    Every method is given copies of its own of the same two models, and evaluates frozen layers by itself: what one
    breaks or caches is nothing to the next. A method's LetheError is its reason.

    Args:
        subject: whose model, and what must be forgotten.
        methods: names.
        known: methods by name.

    Raises:
        UsageError: the forget set is empty or no subset.
    """
    retain, recipe = kept(subject.trained, subject.forget), subject.personalisation
    made = personalise(subject.general, subject.trained, subject.public, recipe)
    if not made.accepted:
        return []
    start = Case(
        subject.general,
        made.model,
        retain,
        subject.forget,
        subject.public,
        recipe,
        subject.unlearning,
        Frozen(subject.general, subject.public, recipe),
    )
    random = apply(untrained(start, use="reference"), start.forget.segments)
    gauge = _Gauge(subject, start, probabilities(random, start.general.task))
    personal = gauge.measure(made.model, seconds=0.0)
    reference = gauge.run(METHODS["exact"])

    def reading(name: str, measure: Callable[[], Measured]) -> Reading:
        try:
            return Reading(name, _figures(measure(), personal, reference))
        except LetheError as error:
            return Reading(name, {}, str(error))

    other = replace(recipe, seed=recipe.seed + ANOTHER)
    rows: dict[str, Callable[[], Measured]] = {
        NOTHING: lambda: personal,
        FLOOR: lambda: gauge.run(METHODS["exact"], recipe=other),
    }
    rows |= {name: partial(gauge.certify, name, known[name]) for name in methods}
    return [reading(name, measure) for name, measure in rows.items()]


def _keys(examples: Examples) -> list[bytes]:
    """Return what tells one segment with its label from another."""
    pairs = zip(examples.segments, examples.labels, strict=True)
    return [segment.numpy().tobytes() + label.numpy().tobytes() for segment, label in pairs]


@dataclass(frozen=True)
class _Gauge:
    """Makes and measures models of one wearer.

    Attributes:
        subject: whose.
        start: what every method begins with.
        untrained: probabilities of an untrained model on the forget set, (N, 5).
    """

    subject: Subject
    start: Case
    untrained: Tensor

    def run(self, method: Method, *, recipe: Personalisation | None = None) -> Measured:
        """Unlearn from copies of the models, under another recipe if one is named, and measure the outcome."""
        start, recipe = self.start, recipe or self.start.personalisation
        general, personal = copy.deepcopy(start.general), copy.deepcopy(start.personal)
        frozen = Frozen(general, start.public, recipe)
        case = replace(start, general=general, personal=personal, personalisation=recipe, frozen=frozen)
        began = time.process_time()
        model = method(case)
        return self.measure(model.eval(), seconds=time.process_time() - began)

    def certify(self, name: str, method: Method) -> Measured:
        """Do so by a method of that name, and add the bound that it certifies, if it does."""
        bound = certified(name, self.start) if name in METHODS else None
        return replace(self.run(method), certified=math.nan if bound is None else bound)

    def measure(self, model: ResNet34, *, seconds: float) -> Measured:
        """Measure a model on all groups.

        Raises:
            LetheError: its answers are not finite, or relearning diverges.
        """
        start, neighbours = self.start, self.subject.neighbours
        said = apply(model, start.forget.segments)
        if not said.isfinite().all():
            raise LetheError("the model diverged: what it says of the forget set is not finite")
        parts = dict(zip(GROUPS, (start.forget, start.retain, self.subject.own, start.public.control), strict=True))
        learnt, never = (
            margin(logits, part.labels, model.task).double().numpy()
            for logits, part in ((said, start.forget), (apply(model, neighbours.segments), neighbours))
        )
        accuracies, losses = _relearnt(model, start)
        return Measured(
            accuracy={name: accuracy(model, part) for name, part in parts.items()},
            zrf=zrf(probabilities(said, model.task).numpy(), self.untrained.numpy(), task=model.task),
            auc=auc(learnt, never),
            accuracies=accuracies,
            losses=losses,
            seconds=seconds,
            unchanged=model_digest(model) == model_digest(start.personal),
        )


def _relearnt(model: ResNet34, start: Case) -> tuple[list[float], list[float]]:
    """Learn the forget set again in a copy, alone and in whole, in the steps and at the rate of a personalisation.

    Returns:
        Accuracy and loss on it before any step, after one, after two ...
    """
    student, recipe, labels = copy.deepcopy(model).eval(), start.personalisation, start.forget.labels
    part = trained_part(student, recipe)
    features = apply(part.frozen, start.forget.segments).clone()
    accuracies, losses = [], []

    def look(_step: int = 0, _loss: float = 0.0) -> None:
        logits = apply(part.trained, features, batch_size=len(features))
        accuracies.append(hits(logits, labels, model.task).float().mean().item())
        losses.append(task_loss(logits, labels, model.task).item())

    look()
    fit(
        part.parameters,
        lambda _: task_loss(part.trained(features), labels, model.task),
        steps=recipe.steps,
        learning_rate=part.learning_rate,
        weight_decay=0.0,
        after_step=look,
    )
    return accuracies, losses


def _figures(found: Measured, personal: Measured, reference: Measured) -> dict[str, float]:
    """Return one method's figures on one wearer; what has no segments is not a number."""
    there = [group for group in TESTED if not math.isnan(found.accuracy[group])]
    pair = [[each.accuracy[group] for group in there] for each in (found, reference)]
    return {
        **found.accuracy,
        **{f"gap {group}": gap for group, gap in gaps(found.accuracy, reference.accuracy).items()},
        "tow": tow(*pair),
        "ain": ain(found.accuracies, reference.accuracies, original=personal.accuracies[0]),
        "zrf": found.zrf,
        "relearn": relearn_ratio(found.losses, reference.losses, original=personal.losses[0]),
        "unchanged": float(found.unchanged),
        "certified": found.certified,
        "auc": found.auc,
        "auc retrained": reference.auc,
        "seconds": found.seconds,
        "seconds retrained": reference.seconds,
    }
