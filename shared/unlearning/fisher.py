"""`fisher`: noise on every weight, the more the less the retain set depends on it (Fisher forgetting).

Source: Golatkar et al. 2020, "Eternal sunshine of the spotless net", equation 8, with the diagonal Fisher information F
of the retain set for the Hessian: w + scale F^(-1/4) n, n standard normal; scale stands for (lambda sigma^2)^(1/4).
Needs: the personal model, the retain set or the anchor alone; the forget set only to choose the scale. Guarantee: none
for a network; the paper's bound holds for a quadratic loss. Cost: one gradient a retained segment, thirteen looks at
validation data; dearer than retraining, twice a personalisation at width 16 with 68 retained segments (measured).
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from shared.model import ResNet34
from shared.personalisation import trained_part
from shared.unlearning._choice import Best, Validation
from shared.unlearning._data import retained
from shared.unlearning._fisher import information
from shared.unlearning.case import Case

SCALES = tuple(10 ** (exponent / 4) for exponent in range(-16, -3))  # tried from little noise to much
DAMPING = 1e-8  # added to F, so that no weight that nothing depends on gets noise without a limit; published code's


def unlearn(case: Case) -> ResNet34:
    """Add noise of the scale that validation likes best; it is the same noise, only ever louder."""
    validation, model = Validation(case), copy.deepcopy(case.personal).eval()
    fisher = information(case.personal, case, retained(case))
    weights = trained_part(model, case.personalisation).parameters
    before = trained_part(case.personal, case.personalisation).parameters
    best = Best(case.personal.state_dict(), validation.gap(case.personal))
    for scale in SCALES:
        scrub(weights, before, fisher, scale=scale, seed=case.personalisation.seed)
        best.offer(model, validation.gap(model))
    return best.settle(model)


@torch.no_grad()
def scrub(
    weights: Sequence[nn.Parameter], before: Sequence[Tensor], fisher: Sequence[Tensor], *, scale: float, seed: int
) -> None:
    """Set `weights` to `before` and noise of standard deviation scale (F + damping)^(-1/4)."""
    generator = torch.Generator().manual_seed(seed)
    for weight, start, information_of in zip(weights, before, fisher, strict=True):
        noise = torch.randn(start.shape, generator=generator)
        weight.copy_(start + scale * (information_of + DAMPING) ** -0.25 * noise)
