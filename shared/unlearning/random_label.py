"""`random-label`: teach the forget set with wrong labels, beside the retain set with its own.

Source: Golatkar et al. 2020, section 5, and Graves et al. 2021, "Amnesiac machine learning". Needs: the personal
model, the retain set or the anchor alone, the forget set. Guarantee: none. Cost: the steps of `finetune`, each with the
forget set beside the retain set; 1.2 personalisations at width 16 (measured).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from shared.model import ResNet34
from shared.personalisation import Layers
from shared.settings import Task
from shared.training import task_loss
from shared.unlearning._data import forgotten, retained
from shared.unlearning._descent import Pair, descend, pairs
from shared.unlearning.case import Case


def unlearn(case: Case) -> ResNet34:
    """Fine-tune on the retain set and on forgotten segments whose labels were drawn anew."""
    return relabel(case, masks=None)


def relabel(case: Case, *, masks: Sequence[Tensor] | None) -> ResNet34:
    """Do so, and move those weights alone that the masks let move."""
    retain, forget, task = retained(case), forgotten(case), case.general.task
    wrong = wrong_labels(forget.labels, task, seed=case.personalisation.seed)

    def loss(trained: Layers, batch: Pair) -> Tensor:
        logits = trained(torch.cat([retain.features[batch.retain], forget.features[batch.forget]]))
        return task_loss(logits, torch.cat([retain.labels[batch.retain], wrong[batch.forget]]), task)

    return descend(case, pairs(case), loss, masks=masks)


def wrong_labels(labels: Tensor, task: Task, *, seed: int) -> Tensor:
    """Return other labels (N, 5): for `single` one of the four other classes, for `multi` one of the 31 other sets."""
    generator = torch.Generator().manual_seed(seed)
    count, classes = labels.shape
    if task == "single":
        further = torch.randint(1, classes, (count,), generator=generator)
        return torch.eye(classes)[(labels.argmax(dim=1) + further) % classes]
    flips = torch.randint(1, 2**classes, (count, 1), generator=generator)
    flipped = (flips >> torch.arange(classes)) & 1
    return (labels - flipped).abs()
