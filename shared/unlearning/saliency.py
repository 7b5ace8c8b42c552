"""`saliency`: random labels again, but only for the weights that the forget set pulls at most (SalUn).

Source: Fan et al. 2024, "SalUn", equations 3 to 5. Needs: the personal model, the retain set or the anchor alone, the
forget set. Guarantee: none. Cost: that of `random-label` and one gradient on the forget set; 1.2
personalisations at width 16 (measured).
"""

import torch
from torch import Tensor

from shared.model import ResNet34
from shared.personalisation import trained_part
from shared.training import task_loss
from shared.unlearning._data import forgotten
from shared.unlearning.case import Case
from shared.unlearning.random_label import relabel

SHARE = 0.5  # of the weights that move; the published threshold is the median


def unlearn(case: Case) -> ResNet34:
    """Relabel the forget set at random, and hold every weight that is not salient."""
    return relabel(case, masks=salient(case))


def salient(case: Case) -> list[Tensor]:
    """Return for each trained parameter 1 where the gradient of the forget set's loss is among the larger half."""
    part, forget = trained_part(case.personal, case.personalisation), forgotten(case)
    loss = task_loss(part.trained(forget.features), forget.labels, case.general.task)
    sizes = [gradient.abs() for gradient in torch.autograd.grad(loss, part.parameters)]
    together = torch.cat([size.flatten() for size in sizes])
    threshold = together.sort().values[int((1 - SHARE) * len(together))]
    return [(size >= threshold).float() for size in sizes]
