"""`newton`: one Newton removal step on a model whose head alone was the patient's, with a certified bound.

Source: Guo et al. 2020, "Certified data removal from machine learning models", section 3. The bound needs a convex
loss, which a personal last block has not. So the layers in front of the head become the general model's, which never
saw the patient, and the personal head is the minimum over W of

    sum over own segments of l(W x, y) + sum over anchor segments of KL(general || W x) + RIDGE / 2 |W - W_general|^2,

x the pooled features and a one. Removal is one Newton step from there towards the minimum without the forget set.
Needs: the general model, the retain set or the anchor alone, the forget set; not the personal model. Guarantee:
`remove` bounds how far the head is from the one retrained without the forget set. It is no (epsilon, delta) of
certified removal: that takes a head trained with a perturbed objective. Cost: the fit of a head and one step, each of
about (5 * (8 * width + 1))^3 operations.
"""

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from shared.errors import LetheError
from shared.model import ResNet34, probabilities
from shared.settings import Task
from shared.training import Examples, apply
from shared.unlearning._data import forgotten
from shared.unlearning.case import Case

RIDGE = 1.0  # strength of the pull towards the general head; the loss is a sum over segments
TOLERANCE, STEPS = 1e-9, 50  # of the fit: largest gradient norm at its end, Newton steps at most
CURVATURE = {"single": 1 / math.sqrt(2), "multi": 1 / (6 * math.sqrt(3))}  # Lipschitz constant of the loss's Hessian


@dataclass(frozen=True)
class Problem:
    """A head's loss; float64.

    Attributes:
        inputs: (N, d) pooled features and a one.
        targets: (N, 5) class probabilities.
        start: (5, d) the general head, which the ridge pulls towards.
        task: softmax or sigmoid.
    """

    inputs: Tensor
    targets: Tensor
    start: Tensor
    task: Task

    def gradient(self, head: Tensor) -> Tensor:
        """Return the loss's gradient at `head`, (5, d)."""
        wrong = probabilities(self.inputs @ head.T, self.task) - self.targets
        gradient: Tensor = wrong.T @ self.inputs + RIDGE * (head - self.start)
        return gradient

    def hessian(self, head: Tensor) -> Tensor:
        """Return the loss's second derivative at `head`, (5 d, 5 d)."""
        p = probabilities(self.inputs @ head.T, self.task)
        curvature = torch.diag_embed(p - p.square() if self.task == "multi" else p)  # (N, 5, 5)
        if self.task == "single":
            curvature = curvature - p[:, :, None] * p[:, None, :]
        size = head.numel()
        whole = torch.einsum("nij,na,nb->iajb", curvature, self.inputs, self.inputs).reshape(size, size)
        hessian: Tensor = whole + RIDGE * torch.eye(size, dtype=head.dtype)
        return hessian

    def step(self, head: Tensor) -> Tensor:
        """Return the Newton step from `head`, (5, d)."""
        step: Tensor = -torch.linalg.solve(self.hessian(head), self.gradient(head).flatten()).view_as(head)
        return step


@dataclass(frozen=True)
class Removal:
    """A head after the step.

    Attributes:
        head: (5, d).
        residual: largest that the gradient of the loss without the forget set can be there: the certified bound.
        distance: largest that the L2 distance to the retrained head can be, residual / RIDGE.
    """

    head: Tensor
    residual: float
    distance: float


def unlearn(case: Case) -> ResNet34:
    """Fit a head on everything, remove the forget set by one step, and put the head on the general model."""
    model = copy.deepcopy(case.general)
    head = remove(case).head.to(model.head.weight.dtype)
    with torch.no_grad():
        model.head.weight.copy_(head[:, :-1])
        model.head.bias.copy_(head[:, -1])
    return model


def remove(case: Case) -> Removal:
    """Return the head without the forget set and the bound.

    Raises:
        LetheError: the fit does not converge.
    """
    forgotten(case)  # refuses where there is nothing
    whole, rest = problem(case, case.retain, case.forget), problem(case, case.retain)
    head = minimum(whole)
    step = rest.step(head)
    residual = bound(rest, step)
    return Removal(head + step, residual, residual / RIDGE)


def problem(case: Case, *own: Examples) -> Problem:
    """Return the loss of a head on the patient's own segments and on the anchor."""
    head = case.general.head
    start = torch.cat([head.weight, head.bias[:, None]], dim=1).detach().double()
    features = [pooled(case, part) for part in (*own, case.public.anchor)]
    held = probabilities(features[-1] @ start.T, case.general.task)
    targets = torch.cat([*(part.labels.double() for part in own), held])
    return Problem(torch.cat(features), targets, start, case.general.task)


def pooled(case: Case, part: Examples) -> Tensor:
    """Return what the general model's head takes of N segments, and a one: (N, 8 * width + 1)."""
    whole = case.general
    trunk = case.frozen.see(part).features
    features = trunk if case.personalisation.profile == "default" else apply(whole.trunk, trunk)

    def pool(x: Tensor) -> Tensor:
        return whole.blocks[-1](x.unsqueeze(2)).mean(dim=(2, 3))  # type: ignore[no-any-return]

    found = apply(pool, features).double()
    return torch.cat([found, torch.ones(len(found), 1, dtype=found.dtype)], dim=1)


def minimum(loss: Problem) -> Tensor:
    """Return the head with the least loss, by Newton's method with steps halved while the gradient grows.

    Raises:
        LetheError: it is not found.
    """
    head = loss.start
    for _ in range(STEPS):
        norm = loss.gradient(head).norm()
        if norm < TOLERANCE * (1 + loss.inputs.norm()):
            return head
        step = loss.step(head)
        while step.norm() > 0 and not loss.gradient(head + step).norm() < norm:
            step = step / 2
        head = head + step
    raise LetheError(f"the head's fit did not converge: its gradient is {loss.gradient(head).norm():.2g}")


def bound(loss: Problem, step: Tensor) -> float:
    """Return what the gradient's norm is at most after a Newton step, whatever the point it was made from.

    The gradient after the step is the integral over t of (H(t) - H(0)) step along it; by the Hessian's Lipschitz
    constant gamma, that of segment i is at most gamma / 2 |step x_i|^2 |x_i|. Of the sum over segments the norm is at
    most |X| (largest singular value) times the norm of these: Guo et al.'s data-dependent bound, for five classes.
    """
    moved = (loss.inputs @ step.T).square().sum(dim=1)  # |step x_i|^2
    largest = torch.linalg.matrix_norm(loss.inputs, 2)
    return float(CURVATURE[loss.task] / 2 * largest * torch.linalg.vector_norm(moved))
