"""`ssd`: dampen the weights that matter more to the forget set than to all data (selective synaptic dampening).

Source: Foster et al. 2024, "Fast machine unlearning without retraining through selective synaptic dampening", equations
6 and 7. Needs: the personal model, all data it was made of, the forget set. Guarantee: none. Cost: one gradient a
segment, and seven looks at validation data; dearer than retraining, twice a personalisation at width 16 with 72
segments (measured).
"""

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from shared.model import ResNet34
from shared.personalisation import Seen, trained_part
from shared.unlearning._choice import Best, Validation
from shared.unlearning._data import forgotten, retained
from shared.unlearning._fisher import information
from shared.unlearning.case import Case

ALPHAS = (10.0, 7.0, 5.0, 3.0, 2.0, 1.5, 1.0)  # how much more it must matter: the published one, then ever less
LAMBDA = 1.0  # published


def unlearn(case: Case) -> ResNet34:
    """Dampen with the threshold that validation likes best, from the one that touches fewest weights on."""
    validation, model = Validation(case), copy.deepcopy(case.personal).eval()
    forget, retain = forgotten(case), retained(case)
    whole = Seen(torch.cat([retain.features, forget.features]), torch.cat([retain.labels, forget.labels]))
    to_all, to_forgotten = (information(case.personal, case, seen) for seen in (whole, forget))
    weights = trained_part(model, case.personalisation).parameters
    before = trained_part(case.personal, case.personalisation).parameters
    best = Best(case.personal.state_dict(), validation.gap(case.personal))
    for alpha in ALPHAS:
        factors = dampening(to_all, to_forgotten, alpha=alpha)
        with torch.no_grad():
            for weight, start, factor in zip(weights, before, factors, strict=True):
                weight.copy_(start * factor)
        best.offer(model, validation.gap(model))
    return best.settle(model)


def dampening(to_all: Sequence[Tensor], to_forgotten: Sequence[Tensor], *, alpha: float) -> list[Tensor]:
    """Return what each weight is multiplied with: min(lambda I_D / I_f, 1) where I_f > alpha I_D, else 1."""
    if math.isinf(alpha):
        return [torch.ones_like(each) for each in to_all]
    return [
        torch.where(gone > alpha * whole, (LAMBDA * whole / gone).clamp(max=1.0), 1.0)
        for whole, gone in zip(to_all, to_forgotten, strict=True)
    ]
