"""The last block and the head as matrix products: what a device trains, a few segments at a time.

`ResNet34.tail` gives the same numbers to rounding, and is what is exported and what the corpus trains. A step of
personalising sees 23 segments of 16 positions, so few that a convolution spends its time on reordering weights: at
width 64 the products take two thirds of its time, near the machine's matrix-product rate (measured).
"""

from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from shared.model import Block, Conv, Norm, ResNet34


def tail_as_products(model: ResNet34) -> Callable[[Tensor], Tensor]:
    """Return `model.tail` in evaluation mode, features (B, 8 * width, 16) -> logits (B, 5), on the same parameters."""
    block = cast(Block, model.blocks[-1])

    def tail(features: Tensor) -> Tensor:
        x = features.transpose(1, 2)  # (B, T, C)
        y = F.relu(_normalised(_convolved(x, block.conv1), block.bn1)).view_as(x)
        y = _normalised(_convolved(y, block.conv2), block.bn2).view_as(x)
        return model.head(F.relu(y + x).mean(dim=1))  # type: ignore[no-any-return]

    return tail


def _convolved(x: Tensor, conv: Conv) -> Tensor:
    """Return a 3-tap convolution of stride 1: (B, T, C) -> (B * T, C)."""
    padded = F.pad(x, (0, 0, 1, 1))
    taps = torch.stack([padded[:, :-2], padded[:, 1:-1], padded[:, 2:]], dim=-1)  # (B, T, C, 3), as the weights lie
    return taps.flatten(0, 1).flatten(1) @ conv.weight.flatten(1).T


def _normalised(x: Tensor, norm: Norm) -> Tensor:
    """Return (N, C) under the statistics that are kept."""
    return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
