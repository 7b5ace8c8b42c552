"""`lipschitz`: make the model indifferent to noise on the forget set, and so to what it holds (JiT).

Source: Foster et al. 2024, "Zero-shot machine unlearning at scale via Lipschitz regularization", equation 6: minimise
the mean of |f(x) - f(x + xi)| / |xi| over forgotten x and Gaussian xi. Needs: the personal model and the forget set,
no retained data; others' validation segments say when to stop. Guarantee: none. Cost: as many steps as the epochs and
25 noisy copies of the forget set through the frozen layers; about a personalisation for four segments at width 16, 1.8
for seven (measured).
"""

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from shared.model import ResNet34
from shared.personalisation import Layers, trained_part
from shared.training import apply
from shared.unlearning._data import forgotten
from shared.unlearning._descent import descend, orders
from shared.unlearning.case import Case

COPIES = 25  # noisy copies of a segment, as published
NOISE_SD = 0.5  # of a lead's standard deviation
AT_ONCE = 200  # copies whose activations are kept where the whole network learns; of more they are computed twice


def unlearn(case: Case) -> ResNet34:
    """Descend on the local Lipschitz constant at the forget set."""
    clean, segments = forgotten(case).features, case.forget.segments
    generator = torch.Generator().manual_seed(case.personalisation.seed)
    xi = NOISE_SD * torch.randn(COPIES, *segments.shape, generator=generator)  # in standard deviations of a lead
    noisy = (segments + xi * case.general.lead_sd[:, None]).transpose(0, 1).flatten(0, 1)  # (N * 25, 12, 500)
    disturbed = apply(trained_part(case.general, case.personalisation).frozen, noisy).clone()  # (N * 25, ...)
    distances = xi.flatten(2).norm(dim=2).T  # (N, 25)

    said = _in_parts if case.personalisation.profile == "paper" else _at_once

    def loss(trained: Layers, rows: Tensor) -> Tensor:
        around = said(disturbed.view(len(segments), COPIES, *clean.shape[1:])[rows].flatten(0, 1), trained)
        changes = torch.linalg.vector_norm(trained(clean[rows]).repeat_interleave(COPIES, dim=0) - around, dim=1)
        constants: Tensor = changes / distances[rows].flatten()
        return constants.mean()

    epochs = [orders(case, len(segments), generator) for _ in range(case.unlearning.epochs)]
    return descend(case, epochs, loss)


def _at_once(features: Tensor, trained: Layers) -> Tensor:
    return trained(features)


def _in_parts(features: Tensor, trained: Layers) -> Tensor:
    """Return what the trained layers say, a part at a time, and again for the gradient: the room of one part."""
    return torch.cat([checkpoint(trained, part, use_reentrant=False) for part in torch.split(features, AT_ONCE)])
