"""The head alone, on the general model's features: a convex problem of a few hundred numbers, for Newton's method.

Whatever stands in front of the head never saw the patient, so a head that was fitted without some segments belongs to a
model that never saw them. No method: the file's name begins with an underscore.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from shared.errors import LetheError
from shared.model import probabilities
from shared.settings import Task
from shared.training import Examples, apply
from shared.unlearning.case import Case

RIDGE = 1.0  # strength of the pull towards the general head; the loss is a sum over segments
TOLERANCE, STEPS = 1e-9, 50  # of a fit: norm of the gradient at its end beside that of the inputs; Newton steps at most
CURVATURE = {"single": 1 / math.sqrt(2), "multi": 1 / (6 * math.sqrt(3))}  # Lipschitz constant of the loss's Hessian


@dataclass(frozen=True)
class Problem:
    """The loss of a head W, by its change V from the general head: the sum over own segments of l(W x, y), over anchor
    segments of KL(general || W x), and RIDGE / 2 |V|^2; x are pooled features and a one. All float64.

    Attributes:
        inputs: (N, r) segments.
        offset: (N, 5) what the general head says of them.
        targets: (N, 5) class probabilities.
        task: softmax or sigmoid.
    """

    inputs: Tensor
    offset: Tensor
    targets: Tensor
    task: Task

    def logits(self, change: Tensor) -> Tensor:
        """Return what the head says of the segments, (N, 5)."""
        return self.offset + self.inputs @ change.T

    def gradient(self, change: Tensor) -> Tensor:
        """Return the loss's gradient at V, (5, r)."""
        wrong = probabilities(self.logits(change), self.task) - self.targets
        gradient: Tensor = wrong.T @ self.inputs + RIDGE * change
        return gradient

    def hessian(self, change: Tensor) -> Tensor:
        """Return the loss's second derivative at V, (5 r, 5 r)."""
        p = probabilities(self.logits(change), self.task)
        curvature = torch.diag_embed(p - p.square() if self.task == "multi" else p)  # (N, 5, 5)
        if self.task == "single":
            curvature = curvature - p[:, :, None] * p[:, None, :]
        size = change.numel()
        whole = torch.einsum("nij,na,nb->iajb", curvature, self.inputs, self.inputs).reshape(size, size)
        hessian: Tensor = whole + RIDGE * torch.eye(size, dtype=change.dtype)
        return hessian

    def step(self, change: Tensor) -> Tensor:
        """Return the Newton step from V, (5, r)."""
        step: Tensor = -torch.linalg.solve(self.hessian(change), self.gradient(change).flatten()).view_as(change)
        return step

    def minimum(self) -> Tensor:
        """Return the V with the least loss, by Newton steps that are halved while the gradient grows.

        Raises:
            LetheError: it is not found.
        """
        change = torch.zeros(self.targets.shape[1], self.inputs.shape[1], dtype=self.inputs.dtype)
        for _ in range(STEPS):
            norm = self.gradient(change).norm()
            if norm <= TOLERANCE * (1 + self.inputs.norm()):
                return change
            step = self.step(change)
            while step.norm() > TOLERANCE and not self.gradient(change + step).norm() < norm:
                step = step / 2
            change = change + step
        raise LetheError(f"a head's fit did not converge: its gradient is {self.gradient(change).norm().item():.2g}")

    def without(self, count: int) -> Self:
        """Return the loss without the first segments."""
        return type(self)(self.inputs[count:], self.offset[count:], self.targets[count:], self.task)


def problem(case: Case, own: Sequence[Examples]) -> tuple[Problem, Tensor]:
    """Return the loss of a head on own segments, in their order, and on the anchor; and the basis of its changes.

    The minimum's change is a combination of the segments, so that r directions that span them are enough: (r, d),
    orthonormal. A change V of r numbers a class is V @ basis of the head's weights and bias.

    Raises:
        LetheError: what the general model makes of a segment is no finite number.
    """
    features = torch.cat([pooled(case, part) for part in (*own, case.public.anchor)])
    if not features.isfinite().all():
        raise LetheError("what the general model makes of a segment is not finite; no head can be fitted to it")
    basis = torch.linalg.svd(features, full_matrices=False).Vh
    offset = features @ general_head(case).T
    held = probabilities(offset[len(offset) - len(case.public.anchor) :], case.general.task)
    targets = torch.cat([*(part.labels.double() for part in own), held])
    return Problem(features @ basis.T, offset, targets, case.general.task), basis


def general_head(case: Case) -> Tensor:
    """Return the general model's head, weights and bias, (5, d)."""
    head = case.general.head
    return torch.cat([head.weight, head.bias[:, None]], dim=1).detach().double()


def pooled(case: Case, part: Examples) -> Tensor:
    """Return what the general model's head takes of N segments, and a one: (N, d), d = 8 * width + 1."""
    general, seen = case.general, case.frozen.see(part).features
    features = seen if case.personalisation.profile == "default" else apply(general.trunk, seen)

    def pool(x: Tensor) -> Tensor:
        mean: Tensor = general.blocks[-1](x.unsqueeze(2)).mean(dim=(2, 3))
        return mean

    found = apply(pool, features).double()
    return torch.cat([found, torch.ones(len(found), 1, dtype=found.dtype)], dim=1)
