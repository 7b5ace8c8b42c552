"""`scrub`: a student that disobeys its teacher on the forget set and obeys it on the retain set, in turns (SCRUB+R).

Source: Kurmanji et al. 2023, "Towards unbounded machine unlearning", algorithm 1 and its rewinding. Needs: the personal
model, as the teacher too; the retain set or the anchor alone, the forget set. Guarantee: none. Cost: the steps of
`finetune` and a pass over the forget set before each of its first epochs; 1.2 personalisations at width 16 (measured).
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from shared.model import ResNet34
from shared.personalisation import Layers, distillation
from shared.training import task_loss
from shared.unlearning._data import forgotten, retained, said
from shared.unlearning._descent import descend, orders
from shared.unlearning.case import Case

ALPHA, GAMMA = 0.5, 1.0  # of the divergence from the teacher and of the loss, on the retain set; as published


@dataclass(frozen=True)
class Turn:
    """A step: rows of the forget set to drive student and teacher apart on, or of the retain set to learn."""

    kind: Literal["max", "min"]
    rows: Tensor


def unlearn(case: Case) -> ResNet34:
    """Alternate both kinds of epochs, and rewind to the one whose loss on the forget set is as if it were unseen."""
    retain, forget, task = retained(case), forgotten(case), case.general.task
    obeyed, disobeyed = (said(case.personal, case, seen.features) for seen in (retain, forget))

    def loss(trained: Layers, turn: Turn) -> Tensor:
        if turn.kind == "max":
            return -distillation(trained(forget.features[turn.rows]), disobeyed[turn.rows], task)
        logits = trained(retain.features[turn.rows])
        apart = distillation(logits, obeyed[turn.rows], task)
        return ALPHA * apart + GAMMA * task_loss(logits, retain.labels[turn.rows], task)

    return descend(case, schedule(case), loss)


def schedule(case: Case) -> list[list[Turn]]:
    """Return the steps of every epoch: over the forget set in the first half of the epochs, then the retain set."""
    generator = torch.Generator().manual_seed(case.personalisation.seed)
    retain, forget = len(case.retain) + len(case.public.anchor), len(case.forget)
    epochs = []
    for epoch in range(case.unlearning.epochs):
        away = orders(case, forget, generator) if 2 * epoch < case.unlearning.epochs else []
        back = orders(case, retain, generator)
        epochs.append([*(Turn("max", rows) for rows in away), *(Turn("min", rows) for rows in back)])
    return epochs
