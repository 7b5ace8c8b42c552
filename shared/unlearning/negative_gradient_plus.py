"""`negative-gradient-plus`: descend on the retain set and ascend on the forget set at once (NegGrad+).

Source: Kurmanji et al. 2023, "Towards unbounded machine unlearning", section 3: beta L_retain - (1 - beta) L_forget.
Needs: the personal model, the retain set or the anchor alone, the forget set. Guarantee: none. Cost: the steps of
`finetune`, each with the forget set beside the retain set; 1.2 personalisations at width 16 (measured).
"""

import torch
from torch import Tensor

from shared.model import ResNet34
from shared.personalisation import Layers
from shared.training import task_loss
from shared.unlearning._data import forgotten, retained
from shared.unlearning._descent import Pair, descend, pairs
from shared.unlearning.case import Case

BETA = 0.95  # of the retain set's loss; the published share in most experiments


def unlearn(case: Case) -> ResNet34:
    """Minimise the loss on the retain set, less a little of that on the forget set."""
    retain, forget, task = retained(case), forgotten(case), case.general.task

    def loss(trained: Layers, batch: Pair) -> Tensor:
        logits = trained(torch.cat([retain.features[batch.retain], forget.features[batch.forget]]))
        kept, gone = logits[: len(batch.retain)], logits[len(batch.retain) :]
        keeping = task_loss(kept, retain.labels[batch.retain], task)
        return BETA * keeping - (1 - BETA) * task_loss(gone, forget.labels[batch.forget], task)

    return descend(case, pairs(case), loss)
