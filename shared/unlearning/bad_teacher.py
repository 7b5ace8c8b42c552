"""`bad-teacher`: a student that learns the retain set from the personal model and the forget set from a random one.

Source: Chundawat et al. 2023, "Can bad teaching induce forgetting?", equation 3. Needs: the personal model, as the
competent teacher too, an untrained model of the same architecture, the retain set or the anchor alone, the forget set.
Guarantee: none. Cost: the steps of `finetune`, each with the forget set beside the retain set, and one pass of a whole
untrained model; 1.4 personalisations at width 16, up to two (measured).
"""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from shared.model import ResNet34, build
from shared.personalisation import Layers, distillation
from shared.settings import General
from shared.training import apply
from shared.unlearning._data import forgotten, retained, said
from shared.unlearning._descent import Pair, descend, pairs
from shared.unlearning.case import Case


def unlearn(case: Case) -> ResNet34:
    """Minimise the divergence from the teacher whose segments they are."""
    retain, forget = retained(case), forgotten(case)
    competent = said(case.personal, case, retain.features)
    incompetent = apply(untrained(case, use="teacher"), case.forget.segments).clone()

    def loss(trained: Layers, batch: Pair) -> Tensor:
        student = trained(torch.cat([retain.features[batch.retain], forget.features[batch.forget]]))
        teacher = torch.cat([competent[batch.retain], incompetent[batch.forget]])
        return distillation(student, teacher, case.general.task)

    return descend(case, pairs(case), loss)


def untrained(case: Case, *, use: Literal["teacher", "student", "reference"]) -> ResNet34:
    """Return a model of the general model's architecture with random weights, in evaluation mode.

    Each use has weights of its own, and none those that the general model began with, whose seed may be the same.
    """
    like = case.general
    (seed,) = np.random.SeedSequence([case.personalisation.seed, *use.encode()]).generate_state(1)
    settings = General(width=like.width, task=like.task, smoothing_ms=like.smoothing_ms, dropout=0.0, seed=int(seed))
    return build(settings, lead_sd=like.lead_sd).eval()
