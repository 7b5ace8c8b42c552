"""The paper's probe: general and fine-tuned models on the same FGSM examples (equations 1 and 5 to 8).

Equation 5 hands one perturbed sample to both models. Its gradient comes from the general model, which the
attacker has; the difference is then what the fine-tuned copy withstands and the general model does not.
This file measures; `server/paper_probe.py` adds up.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from shared.attacks import fgsm_direction, perturb
from shared.model import ResNet34
from shared.settings import Task
from shared.training import Examples, apply, hits

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Measured:
    """One model on N segments under E strengths of attack.

    Attributes:
        hits: (E, N) whether the prediction is right.
        margins: (E, N) log-odds of the true label, the smallest over the labels for task `multi`.
    """

    hits: Bools
    margins: Floats


def margin(logits: Tensor, labels: Tensor, task: Task) -> Tensor:
    """Return phi = z_y - logsumexp of the other logits, shape (B,); for `multi` the least certain label's."""
    if task == "multi":
        return torch.where(labels > 0.5, logits, -logits).amin(dim=1)
    true = labels.argmax(dim=1, keepdim=True)
    others = logits.scatter(1, true, float("-inf"))
    return logits.gather(1, true)[:, 0] - others.logsumexp(dim=1)


def probe(
    general: ResNet34, models: Sequence[ResNet34], examples: Examples, *, epsilons_sd: Sequence[float]
) -> list[Measured]:
    """Measure each of `models` on the same perturbed segments, crafted on `general`.

    Args:
        general: gives the gradient; usually also the first of `models`.
        models: what is measured, all in evaluation mode.
        examples: N segments in millivolts.
        epsilons_sd: E strengths in standard deviations of each lead.

    Returns:
        One `Measured` a model.
    """
    direction = fgsm_direction(general, examples)
    trunks = _trunks(models)
    found: list[list[tuple[Tensor, Tensor]]] = [[] for _ in models]
    for epsilon in epsilons_sd:
        attacked = perturb(examples.segments, direction, epsilon_sd=epsilon, lead_sd=general.lead_sd)
        features = {number: apply(models[number].trunk, attacked) for number in sorted(set(trunks))}
        for model, number, rows in zip(models, trunks, found, strict=True):
            logits = apply(model.tail, features[number])
            rows.append((hits(logits, examples.labels, model.task), margin(logits, examples.labels, model.task)))
    return [
        Measured(torch.stack([h for h, _ in rows]).numpy(), torch.stack([m for _, m in rows]).numpy()) for rows in found
    ]


def _trunks(models: Sequence[ResNet34]) -> list[int]:
    """Return for each model the first one that has the same trunk.

    A copy under the default profile has the general model's, and most of the work is done once.
    """
    return [next(place for place, other in enumerate(models) if model.has_trunk_of(other)) for model in models]
