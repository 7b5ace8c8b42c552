"""From the general model and a patient's segments to a personal model that stays good for others.

Plain functions of models and tensors: a device brings its segments, an auditor its copies. Fine-tuning on one
patient wrecks the model for everybody else, so the default profile trains the last block and the head only,
holds the copy to the general model on public anchor segments, and rolls back when others lose too much.
"""

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared.model import ResNet34
from shared.package import Public
from shared.settings import Personalisation, Task
from shared.tail import tail_as_products
from shared.training import Examples, apply, fit, hits, task_loss

SplitKind = Literal["record", "time", "none"]
Layers = Callable[[Tensor], Tensor]

STRENGTHS = (1.0, 0.75, 0.5, 0.25)  # of the tuned copy: how far the gate tries before it rolls back
PAPER_LEARNING_RATE_SCALE = 0.1  # the paper: "decreasing the learning rate to avoid overwriting"


@dataclass(frozen=True)
class Personal:
    """A personal model and whether it may be used.

    Attributes:
        model: the copy, or the general model's weights when it was not accepted.
        accepted: whether others lose no more than the budget.
        reason: why not, else "".
    """

    model: ResNet34
    accepted: bool
    reason: str


@dataclass(frozen=True)
class Seen:
    """N segments as frozen layers see them: features, and labels (N, 5)."""

    features: Tensor
    labels: Tensor


class Frozen:
    """The layers of a general model that its copies do not train; segments that come again are evaluated once.

    Many copies of one model learn from the same segments: they share this. The public segments have been evaluated
    by the server, once for all devices.
    """

    def __init__(self, general: ResNet34, public: Public, settings: Personalisation) -> None:
        """Take the layers that are frozen under the profile of `settings`; the model must not change."""
        self._part = trained_part(general, settings)
        self._features: dict[int, tuple[Tensor, Tensor]] = {}  # with the segments, so that no others get their id
        self._logits: dict[int, tuple[Tensor, Tensor]] = {}
        if settings.profile == "default":
            for part, features in ((public.anchor, public.anchor_features), (public.gate, public.gate_features)):
                self._features[id(part.segments)] = part.segments, features

    def see(self, *parts: Examples) -> Seen:
        """Return features and labels of all parts, one after the other."""
        features = [self._look(part.segments) for part in parts]
        return Seen(torch.cat(features), torch.cat([part.labels for part in parts]))

    def logits(self, part: Examples) -> Tensor:
        """Return what the whole model says of a part, (N, 5)."""
        key = id(part.segments)
        if key not in self._logits:
            self._logits[key] = part.segments, apply(self._part.trained, self._look(part.segments))
        return self._logits[key][1]

    def _look(self, segments: Tensor) -> Tensor:
        key = id(segments)
        if key not in self._features:
            self._features[key] = segments, apply(self._part.frozen, segments)
        return self._features[key][1]


def personalise(
    general: ResNet34, own: Examples, public: Public, settings: Personalisation, *, frozen: Frozen | None = None
) -> Personal:
    """Fine-tune a copy of `general` on a patient's own segments.

    The result depends on the arguments alone: the same segments give the same bytes on the same kind of CPU.

    Args:
        general: in evaluation mode; it is not changed.
        own: the patient's training segments, millivolts.
        public: anchor and gate of the general model's version.
        settings: profile, steps, rates, budget, seed.
        frozen: the general model's frozen layers, where copies share them.

    Returns:
        The personal model, or the general one with the reason.
    """
    if len(own) == 0:
        return Personal(copied(general, settings), False, "no segment of the patient's own to learn from")
    frozen = frozen or Frozen(general, public, settings)
    seen, gate, held = frozen.see(own), frozen.see(public.gate), None
    if settings.profile == "default":
        held = Held(frozen.see(public.anchor).features, frozen.logits(public.anchor))
    tuned = _learn(copied(general, settings), seen.features, seen.labels, settings, held=held)

    def right(logits: Tensor) -> float:
        return hits(logits, gate.labels, general.task).float().mean().item() if len(gate.labels) else float("nan")

    before = after = right(frozen.logits(public.gate))
    for strength in STRENGTHS:
        model = between(general, tuned, strength, settings)
        after = right(apply(trained_part(model, settings).trained, gate.features))
        if not before - after > settings.budget:
            return Personal(model, True, "")
    reason = f"others' accuracy would fall from {before:.3f} to {after:.3f}, by more than {settings.budget:.3f}"
    return Personal(copied(general, settings), False, reason)


def between(general: ResNet34, tuned: ResNet34, strength: float, settings: Personalisation) -> ResNet34:
    """Return the model whose weights lie between two, at `strength` of the way (Wortsman et al. 2022)."""
    if strength == 1.0:
        return tuned
    model = copied(tuned, settings)
    weights, starts = (trained_part(each, settings).parameters for each in (model, general))
    with torch.no_grad():
        for weight, start in zip(weights, starts, strict=True):
            weight.lerp_(start, 1.0 - strength)
    return model


def copied(model: ResNet34, settings: Personalisation) -> ResNet34:
    """Return a copy whose trained layers are its own; the frozen ones, nearly all of them, are those of `model`."""
    own = {id(parameter) for parameter in trained_part(model, settings).parameters}
    trained = [name for name, parameter in model.named_parameters() if id(parameter) in own]
    frozen = [part for name, part in model.named_modules() if name and not _any_inside(name, trained)]
    return copy.deepcopy(model, {id(part): part for part in frozen})


def _any_inside(layer: str, parameters: Iterable[str]) -> bool:
    return any(name.startswith(f"{layer}.") for name in parameters)


def tune(
    model: ResNet34,
    parts: Sequence[Examples],
    settings: Personalisation,
    *,
    epochs: int,
    frozen: Frozen,
    after_epoch: Callable[[ResNet34], None],
) -> None:
    """Train `model` in place on all parts, in the layers and at the rate of the profile.

    An epoch sees every one of N segments once, in a new order: `epochs` x ceil(N / batch_size) steps. `frozen` are
    the general model's frozen layers, which `model` has in common with it. `after_epoch` is given the model as it is.
    """
    seen = frozen.see(*parts)
    generator = torch.Generator().manual_seed(settings.seed)
    orders = [torch.randperm(len(seen.labels), generator=generator) for _ in range(epochs)]
    batches = [rows for order in orders for rows in torch.split(order, settings.batch_size) if len(rows)]

    def loss(trained: Layers, step: int) -> Tensor:
        rows = batches[step]
        return task_loss(trained(seen.features[rows]), seen.labels[rows], model.task)

    def look(step: int, _: float) -> None:
        if (step + 1) % (len(batches) // epochs) == 0:
            after_epoch(model)

    _descend(model, settings, loss, steps=len(batches), after_step=look)


@dataclass(frozen=True)
class Held:
    """What holds a copy to the general model: anchor features, and the general model's logits of them."""

    features: Tensor
    logits: Tensor


@dataclass(frozen=True)
class Part:
    """A model under a profile: the frozen layers in front, what is trained behind them, and how fast."""

    frozen: Layers
    trained: Layers
    parameters: list[nn.Parameter]
    learning_rate: float


def trained_part(model: ResNet34, settings: Personalisation) -> Part:
    """Return the model's layers as the profile divides them."""
    if settings.profile == "paper":
        rate = settings.learning_rate * PAPER_LEARNING_RATE_SCALE
        return Part(_identity, model, list(model.parameters()), rate)
    return Part(model.trunk, tail_as_products(model), model.tail_parameters(), settings.learning_rate)


def _learn(
    model: ResNet34, features: Tensor, labels: Tensor, settings: Personalisation, *, held: Held | None
) -> ResNet34:
    """Train `model` in place on random batches of N segments, while `held` keeps it to the general model."""
    generator = torch.Generator().manual_seed(settings.seed)

    def loss(trained: Layers, _: int) -> Tensor:
        mine = _rows(len(features), settings.batch_size, generator)
        if held is None:
            return task_loss(trained(features[mine]), labels[mine], model.task)
        public = _rows(len(held.features), settings.anchor_batch_size, generator)
        logits = trained(torch.cat([features[mine], held.features[public]]))
        own, theirs = logits[: len(mine)], logits[len(mine) :]
        apart = distillation(theirs, held.logits[public], model.task)
        return task_loss(own, labels[mine], model.task) + settings.anchor_weight * apart

    return _descend(model, settings, loss, steps=settings.steps)


def _descend(
    model: ResNet34,
    settings: Personalisation,
    loss: Callable[[Layers, int], Tensor],
    *,
    steps: int,
    after_step: Callable[[int, float], None] | None = None,
) -> ResNet34:
    """Train the layers of the profile in place; `loss` is told them and the step.

    It works on what the frozen layers made of the segments, evaluated once a segment by the caller. BatchNorm
    keeps its statistics: seven segments of one patient are no population.
    """
    part = trained_part(model.eval(), settings)
    fit(
        part.parameters,
        lambda step: loss(part.trained, step),
        steps=steps,
        learning_rate=part.learning_rate,
        weight_decay=0.0,
        after_step=after_step,
    )
    return model


def held_out_mask(sizes: Sequence[int], share: float) -> tuple[Tensor, SplitKind]:
    """Choose which of a patient's segments are held out.

    With several records the newest ones are, because a segment's neighbours in time would give the answer
    away; with one record its last segments are.

    Args:
        sizes: segments a record, oldest record first.
        share: of records or segments to hold out; at least one is, and never all.

    Returns:
        Booleans (sum(sizes),), and "record", "time" or "none".
    """
    total = sum(sizes)
    if len(sizes) > 1:
        newest = sizes[len(sizes) - min(len(sizes) - 1, max(1, int(len(sizes) * share))) :]
        return torch.arange(total) >= total - sum(newest), "record"
    if total > 1:
        return torch.arange(total) >= total - min(total - 1, max(1, round(total * share))), "time"
    return torch.zeros(total, dtype=torch.bool), "none"


def accuracy(model: ResNet34, examples: Examples) -> float:
    """Return the share of segments that `model` gets right; 0 of 0 is not a number."""
    if len(examples) == 0:
        return float("nan")
    return hits(apply(model, examples.segments), examples.labels, model.task).float().mean().item()


def distillation(student: Tensor, teacher: Tensor, task: Task) -> Tensor:
    """Return how far the student's predictions are from the teacher's: mean KL divergence in nats."""
    if task == "single":
        return F.kl_div(student.log_softmax(1), teacher.log_softmax(1), log_target=True, reduction="batchmean")
    p = teacher.sigmoid()
    cross = F.binary_cross_entropy_with_logits(student, p, reduction="none")
    entropy = F.binary_cross_entropy_with_logits(teacher, p, reduction="none")
    return (cross - entropy).sum(dim=1).mean()


def _identity(segments: Tensor) -> Tensor:
    return segments


def _rows(count: int, batch_size: int, generator: torch.Generator) -> Tensor:
    """Return all rows when they fit in a batch, else a random batch of them."""
    if count <= batch_size:
        return torch.arange(count)
    return torch.randperm(count, generator=generator)[:batch_size]
