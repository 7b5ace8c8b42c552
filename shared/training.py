"""The one training loop and the one evaluation; everything that learns in Lethe goes through here.

What to learn from (corpus crops, a patient's segments, cached features, an anchor) is the caller's: it hands
over a function from the step to a loss.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.adamw import adamw

from shared.errors import LetheError
from shared.settings import LEADS, SEGMENT_SAMPLES, SUPERCLASSES, Task
from shared.stopping import stop_if_asked


@dataclass(frozen=True)
class Examples:
    """Labelled segments.

    Attributes:
        segments: (N, 12, 500) millivolts.
        labels: (N, 5), one column a superclass, 0 or 1.
    """

    segments: Tensor
    labels: Tensor

    def __len__(self) -> int:
        """Return N."""
        return len(self.segments)

    @classmethod
    def empty(cls) -> Self:
        """Return no examples at all."""
        return cls(torch.empty(0, len(LEADS), SEGMENT_SAMPLES), torch.empty(0, len(SUPERCLASSES)))

    def __getitem__(self, rows: slice | Tensor) -> Self:
        """Return some of them."""
        return type(self)(self.segments[rows], self.labels[rows])


def join(parts: Sequence[Examples]) -> Examples:
    """Return all examples, one part after the other."""
    whole = [Examples.empty(), *parts]
    return Examples(torch.cat([part.segments for part in whole]), torch.cat([part.labels for part in whole]))


def device_for_training() -> torch.device:
    """Return the GPU when there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread: what a wearable has, and sums come out the same on any number of cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def task_loss(logits: Tensor, labels: Tensor, task: Task) -> Tensor:
    """Return the mean loss over a batch; `labels` (B, 5) are class probabilities, mostly 0 or 1."""
    if task == "single":
        return F.cross_entropy(logits, labels)
    return F.binary_cross_entropy_with_logits(logits, labels)


def hits(logits: Tensor, labels: Tensor, task: Task) -> Tensor:
    """Return which of the B predictions are right, as booleans; for `multi`, all five labels must be."""
    if task == "single":
        return logits.argmax(dim=1) == labels.argmax(dim=1)
    return ((logits > 0) == (labels > 0.5)).all(dim=1)


def fit(
    parameters: Iterable[nn.Parameter],
    loss_of_step: Callable[[int], Tensor],
    *,
    steps: int,
    learning_rate: float,
    weight_decay: float,
    after_step: Callable[[int, float], None] | None = None,
) -> None:
    """Minimise with AdamW under a one-cycle schedule; bf16 autocast when the parameters are on a GPU.

    Args:
        parameters: what is trained, all on one device.
        loss_of_step: from the step (0, 1, ...) to a scalar loss.
        steps: how many.
        learning_rate: the peak of the cycle.
        weight_decay: AdamW's.
        after_step: told the step and its loss.

    What `shared.stopping` has it look at may end it after any step.

    Raises:
        LetheError: the loss is not a finite number.
    """
    trained = list(parameters)
    on_gpu = trained[0].is_cuda
    optimiser = AdamW(trained, weight_decay=weight_decay)
    for step in range(steps):
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=on_gpu):
            loss = loss_of_step(step)
        value = loss.item()
        if not math.isfinite(value):
            raise LetheError(f"training diverged: the loss is {value} at step {step}; lower the learning rate")
        for parameter in trained:
            parameter.grad = None
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step(one_cycle(step, steps, peak=learning_rate))
        if after_step is not None:
            after_step(step, value)
        stop_if_asked()


def one_cycle(step: int, steps: int, *, peak: float) -> float:
    """Return the learning rate of a step: up to the peak over 30 % of the steps, then down to nothing, by cosines.

    Source: Smith and Topin 2018, with the shape and the defaults of `torch.optim.lr_scheduler.OneCycleLR`;
    AdamW's momentum stays as it is.
    """
    start, end = peak / 25, peak / 25e4
    top = 0.3 * steps - 1
    low, high, share = (start, peak, step / top) if step < top else (end, peak, (steps - 1 - step) / (steps - 1 - top))
    return low + (high - low) * (1 - math.cos(math.pi * share)) / 2


class AdamW:
    """AdamW by torch's functional interface.

    The classes of `torch.optim` import torch's compiler at their first step, only to keep out of it: a second and
    100 MB that a wearable has no use for.
    """

    def __init__(self, parameters: list[nn.Parameter], *, weight_decay: float) -> None:
        self._parameters, self._weight_decay = parameters, weight_decay
        self._first = [torch.zeros_like(parameter) for parameter in parameters]
        self._second = [torch.zeros_like(parameter) for parameter in parameters]
        self._steps = [torch.zeros((), device=parameter.device) for parameter in parameters]

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Move the parameters against their gradients."""
        trained = [row for row, parameter in enumerate(self._parameters) if parameter.grad is not None]
        adamw(
            [self._parameters[row] for row in trained],
            [gradient for parameter in self._parameters if (gradient := parameter.grad) is not None],
            [self._first[row] for row in trained],
            [self._second[row] for row in trained],
            [],
            [self._steps[row] for row in trained],
            fused=True,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=learning_rate,
            weight_decay=self._weight_decay,
            eps=1e-8,
            maximize=False,
        )


@torch.inference_mode()
def apply(module: Callable[[Tensor], Tensor], inputs: Tensor, *, batch_size: int = 128) -> Tensor:
    """Return `module` of all inputs, a batch at a time, in their precision and on the CPU.

    The module must be in evaluation mode. Batches keep the memory flat; 128 is where two cores are fastest.
    """
    return torch.cat([module(part).to(inputs.dtype).cpu() for part in torch.split(inputs, batch_size)])
