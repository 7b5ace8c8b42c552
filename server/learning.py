"""Fits the network of the general model to the corpus; what becomes of it is `server/general.py`'s.

What it learns from is drawn by `server/crops.py`.
"""

import warnings
from collections.abc import Callable
from copy import deepcopy

import numpy as np
import torch
from torch import Tensor, nn

from server.corpus import Corpus, segments_of
from server.crops import Crops
from shared.model import ResNet34, build
from shared.settings import LEADS, SEGMENT_SAMPLES, SEGMENTS_PER_RECORD, General, Task
from shared.signals import lead_sd
from shared.training import Examples, apply, device_for_training, fit, hits, task_loss

Tell = Callable[[int, int], None]


def fit_general(
    corpus: Corpus,
    settings: General,
    *,
    tell: Tell,
    start: ResNet34 | None = None,
) -> tuple[ResNet34, list[dict[str, float]]]:
    """Train on random one-second crops; return the model on the CPU and its curves, one row an epoch.

    Args:
        corpus: who learns and who validates.
        settings: how.
        tell: told epochs done and in all.
        start: the model to go on from, which stays as it is; None begins with an untrained one.
    """
    signals, device = corpus.signals, device_for_training()
    model = (_untrained(corpus, settings) if start is None else deepcopy(start)).to(device).train()
    model.dropout = settings.dropout  # a model that was read from a file has none
    epochs, steps = schedule(len(corpus.training), settings)
    average = _MovingAverage(model, settings.averaging)
    crops = Crops(signals, corpus.training, settings, model.lead_sd)
    validation = segments_of(signals, corpus.validation)
    seen: list[tuple[float, float]] = []
    curves: list[dict[str, float]] = []

    def loss_of_step(_: int) -> Tensor:
        segments, labels, first = crops.draw()
        logits = model(segments)
        seen.append((0.0, hits(logits.detach(), first, settings.task).float().mean().item()))
        return task_loss(logits, labels, settings.task)

    def after_step(step: int, loss: float) -> None:
        seen[-1] = (loss, seen[-1][1])
        average.update()
        done = (step + 1) * epochs // steps
        if done > len(curves):
            curves.append(_curve_row(done, seen, average.model, validation, settings.task))
            seen.clear()
            tell(done, epochs)

    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(settings.seed)  # dropout draws from PyTorch's own generator
        if device.type == "cuda":
            capture(model, settings.batch_size)
        fit(
            model.parameters(),
            loss_of_step,
            steps=steps,
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            after_step=after_step,
        )
    return average.model.cpu(), curves


def _untrained(corpus: Corpus, settings: General) -> ResNet34:
    """Return an untrained model that scales leads by what the corpus has of them."""
    sample = [corpus.signals.millivolts(int(row)) for row in corpus.training[:500]]
    return build(settings, lead_sd=torch.from_numpy(lead_sd(np.stack(sample))))


class _MovingAverage:
    """The exponential moving average of a model over its steps, shorter at the start, in evaluation mode.

    `torch.optim.swa_utils.AveragedModel` computes the same, tensor by tensor, and took a GPU longer than the rest of
    a step.
    """

    def __init__(self, model: ResNet34, decay: float) -> None:
        self.model = deepcopy(model).eval()
        self._decay, self._steps = decay, 0
        self._current, self._average = _tensors(model), _tensors(self.model)

    @torch.no_grad()
    def update(self) -> None:
        """Take the model as it is after another step into the average."""
        if self._steps == 0:
            torch._foreach_copy_(self._average, self._current)
        else:
            share = max(1.0 - self._decay, 9.0 / (self._steps + 10.0))
            moved = torch._foreach_mul(torch._foreach_sub(self._current, self._average), share)
            torch._foreach_copy_(self._average, torch._foreach_add(self._average, moved))
        self._steps += 1


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


def capture(model: ResNet34, batch_size: int) -> None:
    """Have a GPU run the forward and the backward pass as one CUDA graph each, for batches of this size.

    At this size it computes for less time than Python takes to hand it the network's layers one by one.
    """
    torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)  # meant: a graph is captured on its own
    kept = {name: buffer.clone() for name, buffer in model.named_buffers()}
    sample = torch.zeros(batch_size, len(LEADS), SEGMENT_SAMPLES, device=model.lead_sd.device)
    with warnings.catch_warnings(), torch.autocast("cuda", dtype=torch.bfloat16, cache_enabled=False):
        warnings.filterwarnings("ignore", "Attempting to run cuBLAS")  # the backward pass's thread sets itself up
        torch.cuda.make_graphed_callables(model, (sample,))
    for name, buffer in model.named_buffers():  # it ran a few times, which the norms' statistics must not keep
        buffer.copy_(kept[name])


def schedule(records: int, settings: General) -> tuple[int, int]:
    """Return epochs and steps: ten crops of each record an epoch, fewer epochs under `max_segments`."""
    segments = records * SEGMENTS_PER_RECORD * settings.epochs
    if settings.max_segments:
        segments = min(segments, settings.max_segments)
    steps = max(1, segments // settings.batch_size)
    return min(settings.epochs, steps, max(1, segments // (records * SEGMENTS_PER_RECORD))), steps


def _curve_row(
    epoch: int, seen: list[tuple[float, float]], average: ResNet34, validation: Examples, task: Task
) -> dict[str, float]:
    """Return loss and accuracy in training (on blended crops), and the averaged model's on validation segments."""
    loss, accuracy = np.mean(seen, axis=0)
    logits = apply(lambda x: average(x.to(average.lead_sd.device)), validation.segments)
    return {
        "epoch": epoch,
        "train_loss": float(loss),
        "train_accuracy": float(accuracy),
        "validation_loss": task_loss(logits, validation.labels, task).item(),
        "validation_accuracy": hits(logits, validation.labels, task).float().mean().item(),
    }
