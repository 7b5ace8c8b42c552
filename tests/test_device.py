"""Where training runs."""

import torch

from shared.training import device_for_training


def test_a_gpu_is_used_exactly_when_there_is_one():
    assert device_for_training().type == ("cuda" if torch.cuda.is_available() else "cpu")
