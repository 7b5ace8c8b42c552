"""What the general model learns from: random one-second crops of the corpus, disturbed and blended, by seed.

How long it learns, and what becomes of it, is `server/learning.py`'s.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from shared.ptbxl import Signals
from shared.settings import SEGMENT_SAMPLES, SEGMENTS_PER_RECORD, General

Rows = npt.NDArray[np.int64]


class Crops:
    """Batches of random one-second crops, disturbed and blended in pairs (mixup, Zhang et al. 2018); by seed."""

    def __init__(self, signals: Signals, rows: Rows, settings: General, lead_sd: Tensor) -> None:
        self._signals, self._rows, self._settings, self._lead_sd = signals, rows, settings, lead_sd
        self._device = lead_sd.device
        self._generator = torch.Generator(self._device).manual_seed(settings.seed)
        self._labels = signals.labels
        self._rng = np.random.default_rng(settings.seed)
        self._waiting = np.empty(0, dtype=np.int64)

    def draw(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return segments (B, 12, 500), their blended labels (B, 5), and the labels of the larger part."""
        rng, size = self._rng, self._settings.batch_size
        while len(self._waiting) < size:  # every record ten times, in random order, before any comes again
            self._waiting = np.concatenate([self._waiting, rng.permutation(np.repeat(self._rows, SEGMENTS_PER_RECORD))])
        rows, self._waiting = self._waiting[:size], self._waiting[size:]
        starts = rng.integers(0, self._signals.samples.shape[2] - SEGMENT_SAMPLES + 1, size)
        segments = torch.from_numpy(self._signals.crops(rows, starts)).to(self._device)
        labels = torch.from_numpy(self._labels[rows]).to(self._device)
        segments = self._disturb(segments)
        if not self._settings.mixup:
            return segments, labels, labels
        share = rng.beta(self._settings.mixup, self._settings.mixup)
        share = max(share, 1 - share)
        other = torch.from_numpy(rng.permutation(size)).to(self._device)
        return segments.lerp(segments[other], 1 - share), labels.lerp(labels[other], 1 - share), labels

    def _disturb(self, segments: Tensor) -> Tensor:
        """Change gain, add noise and blank leads at random, so that no crop comes twice."""
        settings, generator, device = self._settings, self._generator, self._device
        size, leads, _ = segments.shape
        gain = torch.randn(size, 1, 1, generator=generator, device=device).mul(settings.gain_sd).exp()
        noise = torch.randn(segments.shape, generator=generator, device=device) * settings.noise_sd
        kept = torch.rand(size, leads, 1, generator=generator, device=device) >= settings.lead_dropout
        return (segments * gain + noise * self._lead_sd[:, None]) * kept
