"""`newton`: one Newton removal step on a model whose head alone was the patient's, with a certified bound.

Source: Guo et al. 2020, "Certified data removal from machine learning models", section 3. The bound needs a convex
loss, which a personal last block has not. So the layers in front of the head become the general model's, which never
saw the patient, and the personal head is the minimum of `_head.Problem` over retain set, forget set and anchor. Removal
is one Newton step from there towards the minimum without the forget set.
Needs: the general model, the retain set or the anchor alone, the forget set; not the personal model. Guarantee:
`remove` bounds how far the head is from the one retrained without the forget set, by the gradient that is left. The
retained segments are at hand, so it is measured; Guo et al.'s bound, for where they are not, stands beside it and is
far larger. It is no (epsilon, delta) of certified removal: that takes a head trained with a perturbed objective. Cost:
the fit of a head and one step, in five times as many unknowns as there are segments; less than a personalisation.
Nothing is iterated, so nothing stops it.
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from shared.model import ResNet34
from shared.unlearning._data import forgotten
from shared.unlearning._head import CURVATURE, RIDGE, Problem, general_head, problem
from shared.unlearning.case import Case


@dataclass(frozen=True)
class Removal:
    """A head after the step.

    Attributes:
        head: (5, d) weights and bias.
        residual: norm of the gradient of the loss without the forget set, there.
        foreseen: what the norm of that gradient is at most, whatever the fit before the step was: Guo et al.'s bound.
        distance: largest that the L2 distance to the retrained head can be: residual / RIDGE, the certified bound. The
            loss bends by `RIDGE` at least in every direction, and the retrained head is where its gradient is none.
    """

    head: Tensor
    foreseen: float
    residual: float
    distance: float


def unlearn(case: Case) -> ResNet34:
    """Fit a head on everything, remove the forget set by one step, and put the head on the general model."""
    model, head = copy.deepcopy(case.general), remove(case).head
    with torch.no_grad():
        model.head.weight.copy_(head[:, :-1])
        model.head.bias.copy_(head[:, -1])
    return model


def certified(case: Case) -> float:
    """Return how far the head is from the retrained one at most, by the L2 distance, before rounding to float32."""
    return remove(case).distance


def remove(case: Case) -> Removal:
    """Return the head without the forget set and the bound.

    Raises:
        UsageError: there is nothing to forget.
        LetheError: the fit does not converge.
    """
    forgotten(case)
    whole, basis = problem(case, [case.forget, case.retain])
    rest, change = whole.without(len(case.forget)), whole.minimum()
    step = rest.step(change)
    residual = rest.gradient(change + step).norm().item()
    head = general_head(case) + (change + step) @ basis
    return Removal(head, bound(rest, step), residual, residual / RIDGE)


def bound(loss: Problem, step: Tensor) -> float:
    """Return what the gradient's norm is at most after a Newton step, whatever the point it was made from.

    The gradient after the step is the integral over t of (H(t) - H(0)) step along it; by the Hessian's Lipschitz
    constant gamma, that of segment i is at most gamma / 2 |step x_i|^2 |x_i|. Of the sum over segments the norm is at
    most |X| (largest singular value) times the norm of these: Guo et al.'s data-dependent bound, for five classes.
    """
    moved = (loss.inputs @ step.T).square().sum(dim=1)  # |step x_i|^2
    largest = torch.linalg.matrix_norm(loss.inputs, 2)
    return float(CURVATURE[loss.task] / 2 * largest * torch.linalg.vector_norm(moved))
