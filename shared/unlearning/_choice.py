"""When a method stops: what validation data say of a model on its way, and the checkpoint that is kept.

No method: the file's name begins with an underscore.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from shared.errors import LetheError
from shared.model import ResNet34
from shared.personalisation import Seen
from shared.training import task_loss
from shared.unlearning._data import accuracy_on, forgotten, said
from shared.unlearning.case import Case


class Validation:
    """Judges models that are to forget by what they say of the forget set, and by what others lose.

    A good one has the loss on the forget set of a model that never saw it: not less, which is a trace, and not more,
    which is another (the rewinding of SCRUB+R, Kurmanji et al. 2023). That loss is the general model's when nothing of
    the patient is retained; else the personal model's on the patient's held-out segments, where the case has some, and
    without them still the general model's, which is then too large, since what is retained teaches it too.
    """

    def __init__(self, case: Case) -> None:
        """Evaluate the references.

        Raises:
            UsageError: there is nothing to forget.
        """
        self._case, self._forget, self._gate = case, forgotten(case), case.frozen.see(case.public.gate)
        self.unseen, self.seen = self._unseen(), self.loss(case.personal)
        self._others = accuracy_on(self._gate, case.personal, case)

    def gap(self, model: ResNet34) -> float:
        """Return how far the loss on the forget set is from where it should be; infinity if others lose too much."""
        lost = self._others - accuracy_on(self._gate, model, self._case)  # not a number without a gate, and then fine
        if lost > self._case.personalisation.budget:
            return math.inf
        return abs(self.loss(model) - self.unseen)

    def loss(self, model: ResNet34) -> float:
        """Return the loss on the forget set.

        Raises:
            LetheError: it is not a finite number.
        """
        return self._loss(model, self._forget)

    def _unseen(self) -> float:
        case = self._case
        if len(case.retain) and len(case.held_out):
            return self._loss(case.personal, case.frozen.see(case.held_out))
        return self._loss(case.general, self._forget)

    def _loss(self, model: ResNet34, seen: Seen) -> float:
        loss = task_loss(said(model, self._case, seen.features), seen.labels, model.task).item()
        if not math.isfinite(loss):
            raise LetheError(f"unlearning diverged: the loss on the forget set is {loss}; lower the learning rate")
        return loss


class Best:
    """The state with the lowest score so far.

    Attributes:
        score: its score.
        stale: how many offers ago it was made.
    """

    def __init__(self, state: Mapping[str, Tensor], score: float) -> None:
        """Begin with what is to be had without doing anything."""
        self._state, self.score, self.stale = _cloned(state), score, 0

    def offer(self, model: ResNet34, score: float) -> None:
        """Keep what `model` is now if it scores lower."""
        self.stale += 1
        if score < self.score:
            self._state, self.score, self.stale = _cloned(model.state_dict()), score, 0

    def settle(self, model: ResNet34) -> ResNet34:
        """Make `model` what scored lowest, in evaluation mode, and return it."""
        model.load_state_dict(dict(self._state))
        return model.eval()


def _cloned(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    with torch.no_grad():
        return {name: tensor.clone() for name, tensor in state.items()}
