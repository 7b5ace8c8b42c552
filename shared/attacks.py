"""Adversarial perturbations of segments.

Strength is measured in standard deviations of each lead, so that a quiet lead is not drowned; the attack
works in millivolts on the model's own input and clips nothing, because an ECG has no natural range.
"""

import torch
from torch import Tensor

from shared.model import ResNet34
from shared.training import Examples, task_loss


def fgsm_direction(model: ResNet34, examples: Examples, *, batch_size: int = 128) -> Tensor:
    """Return sign of the loss's gradient, (N, 12, 500): the paper's equation 1 without its epsilon.

    One gradient serves every epsilon. The model must be in evaluation mode.
    """
    signs = []
    for segments, labels in zip(
        torch.split(examples.segments, batch_size), torch.split(examples.labels, batch_size), strict=True
    ):
        x = segments.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(task_loss(model(x), labels, model.task), x)
        signs.append(gradient.sign())
    return torch.cat(signs) if signs else torch.empty_like(examples.segments)


def perturb(segments: Tensor, direction: Tensor, *, epsilon_sd: float, lead_sd: Tensor) -> Tensor:
    """Return `segments + epsilon * direction`; equation 1.

    Args:
        segments: (N, 12, 500) millivolts.
        direction: (N, 12, 500), -1, 0 or 1.
        epsilon_sd: strength in standard deviations of each lead.
        lead_sd: (12,) millivolts.
    """
    return segments + epsilon_sd * lead_sd[:, None] * direction
