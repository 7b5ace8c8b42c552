"""`deepclean`: set the weights to zero that matter to the forget set alone, and train those again on the retain set.

Source: Shi et al. 2023, "DeepClean": weights with I_forget / I_retain above a threshold, by the Fisher diagonal; the
others are frozen. Needs: the personal model, the retain set or the anchor alone, the forget set. Guarantee: none.
Cost: one gradient a segment and the steps of `finetune`; dearer than retraining, twice a personalisation at width 16
with 72 segments (measured).
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from shared.model import ResNet34
from shared.personalisation import Layers, trained_part
from shared.training import task_loss
from shared.unlearning._data import forgotten, retained
from shared.unlearning._descent import descend, orders
from shared.unlearning._fisher import information
from shared.unlearning.case import Case

SHARE = 0.05  # of the weights that are set to zero at most, those with the largest ratio
GAMMA = 1.0  # the ratio above which a weight matters more to the forget set


def unlearn(case: Case) -> ResNet34:
    """Reset what is sensitive and fine-tune it, frozen weights around it, until validation likes it best."""
    retain, forget = retained(case), forgotten(case)
    masks = sensitive(*(information(case.personal, case, seen) for seen in (forget, retain)))
    model = copy.deepcopy(case.personal).eval()
    with torch.no_grad():
        for weight, mask in zip(trained_part(model, case.personalisation).parameters, masks, strict=True):
            weight.mul_(1 - mask)
    generator = torch.Generator().manual_seed(case.personalisation.seed)
    epochs = [orders(case, len(retain.labels), generator) for _ in range(case.unlearning.epochs)]

    def loss(trained: Layers, rows: Tensor) -> Tensor:
        return task_loss(trained(retain.features[rows]), retain.labels[rows], case.general.task)

    return descend(case, epochs, loss, start=model, masks=masks)


def sensitive(to_forgotten: Sequence[Tensor], to_retained: Sequence[Tensor]) -> list[Tensor]:
    """Return for each parameter 1 where I_forget / I_retain is above the threshold, else 0."""
    tiny = torch.finfo(torch.float32).tiny
    ratios = [gone / kept.clamp(min=tiny) for gone, kept in zip(to_forgotten, to_retained, strict=True)]
    together = torch.cat([ratio.flatten() for ratio in ratios]).sort().values
    threshold = max(together[int((1 - SHARE) * (len(together) - 1))].item(), GAMMA)
    return [(ratio > threshold).float() for ratio in ratios]
