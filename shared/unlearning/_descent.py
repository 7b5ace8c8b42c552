"""What methods share that minimise a loss: their batches, and the descent that validation data end.

No method: the file's name begins with an underscore.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TypeVar

import torch
from torch import Tensor

from shared.model import ResNet34
from shared.personalisation import Layers, trained_part
from shared.training import fit
from shared.unlearning._choice import Best, Validation
from shared.unlearning.case import Case

Batch = TypeVar("Batch")
Loss = Callable[[Layers, Batch], Tensor]  # told the trained layers and a batch


@dataclass(frozen=True)
class Pair:
    """Rows of the retain set and of the forget set that one step sees."""

    retain: Tensor
    forget: Tensor


def orders(case: Case, count: int, generator: torch.Generator) -> list[Tensor]:
    """Return one epoch's batches of `count` segments, in random order."""
    return list(torch.split(torch.randperm(count, generator=generator), case.personalisation.batch_size))


def pairs(case: Case) -> list[list[Pair]]:
    """Return every epoch's steps: each retained segment once, and beside each batch forgotten ones, in turn."""
    generator = torch.Generator().manual_seed(case.personalisation.seed)
    retain, forget = len(case.retain) + len(case.public.anchor), len(case.forget)
    epochs = []
    for _ in range(case.unlearning.epochs):
        kept, gone = orders(case, retain, generator), orders(case, forget, generator)
        epochs.append([Pair(rows, gone[step % len(gone)]) for step, rows in enumerate(kept)])
    return epochs


def descend(
    case: Case,
    epochs: Sequence[Sequence[Batch]],
    loss: Loss[Batch],
    *,
    start: ResNet34 | None = None,
    masks: Sequence[Tensor] | None = None,
) -> ResNet34:
    """Minimise a loss over batches from a copy of the personal model, in the layers and at the rate of its profile.

    Of the models after each epoch, and the personal one that was there before, validation keeps one.

    Args:
        case: what is to be unlearned; it is left as it is.
        epochs: batches by epoch.
        loss: of the trained layers on a batch.
        start: another model to begin with; it is trained in place.
        masks: for each trained parameter, 1 where it may move and 0 where it stays.

    Raises:
        LetheError: the loss is not a finite number.
    """
    validation = Validation(case)
    best = Best(case.personal.state_dict(), validation.gap(case.personal))
    model = copy.deepcopy(case.personal).eval() if start is None else start
    if start is not None:
        best.offer(model, validation.gap(model))
    part = trained_part(model, case.personalisation)
    batches = [batch for epoch in epochs for batch in epoch]
    ends = {end - 1 for end in accumulate(len(epoch) for epoch in epochs)}
    held = [_held(*pair) for pair in zip(part.parameters, masks, strict=True)] if masks is not None else []

    def look(step: int, _: float) -> None:
        if step in ends:
            best.offer(model, validation.gap(model))

    fit(
        part.parameters,
        lambda step: loss(part.trained, batches[step]),
        steps=len(batches),
        learning_rate=part.learning_rate,
        weight_decay=0.0,
        after_step=look,
    )
    for handle in held:
        handle.remove()
    return best.settle(model)


def _held(parameter: torch.nn.Parameter, mask: Tensor) -> torch.utils.hooks.RemovableHandle:
    """Let no gradient through where the mask is 0; AdamW without decay leaves such weights where they are."""
    return parameter.register_hook(lambda gradient: gradient * mask)  # type: ignore[no-any-return, no-untyped-call]
