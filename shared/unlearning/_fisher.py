"""The diagonal of the empirical Fisher information, by which three methods tell which weights matter to which segments.

No method: the file's name begins with an underscore.
"""

import torch
from torch import Tensor

from shared.model import ResNet34
from shared.personalisation import Seen, trained_part
from shared.training import task_loss
from shared.unlearning.case import Case


def information(model: ResNet34, case: Case, seen: Seen) -> list[Tensor]:
    """Return the mean over segments of the squared gradient of each one's loss, for each trained parameter.

    Gradients are squared a segment at a time: the square of a batch's mean gradient is another quantity, and where
    a published version takes that, a larger batch makes every weight look less important.
    """
    part = trained_part(model, case.personalisation)
    found = [torch.zeros_like(parameter) for parameter in part.parameters]
    for features, labels in zip(seen.features, seen.labels, strict=True):
        loss = task_loss(part.trained(features[None]), labels[None], model.task)
        gradients = torch.autograd.grad(loss, part.parameters)
        for total, gradient in zip(found, gradients, strict=True):
            total += gradient.square() / len(seen.labels)
    return found
