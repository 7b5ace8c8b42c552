"""When a method stops: what validation data say of a model on its way, and the checkpoint that is kept.

No method: the file's name begins with an underscore.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from shared.errors import LetheError
from shared.model import ResNet34
from shared.training import task_loss
from shared.unlearning._data import accuracy_on, forgotten, said
from shared.unlearning._head import general_head, pooled, problem
from shared.unlearning.case import Case


class Validation:
    """Judges models that are to forget by what they say of the forget set, and by what others lose.

    A good one has the loss on the forget set of a model that never saw it: not less, which is a trace, and not more,
    which is another. SCRUB+R (Kurmanji et al. 2023) takes that loss from other data of the same kind; here it is the
    general model's with a head that was fitted to what is retained, for which nothing need be trained.

    Attributes:
        unseen: that loss.
        seen: the personal model's.
    """

    def __init__(self, case: Case) -> None:
        """Evaluate the references.

        Raises:
            UsageError: there is nothing to forget.
            LetheError: a reference is not a finite number.
        """
        self._case, self._forget, self._gate = case, forgotten(case), case.frozen.see(case.public.gate)
        self.seen, self.unseen = self.loss(case.personal), unseen_loss(case)
        self._others = accuracy_on(self._gate, case.personal, case)
        if not math.isfinite(self.seen - self.unseen):
            raise LetheError(
                f"the loss on the forget set is {self.seen}, and {self.unseen} unseen; nothing can be chosen"
            )

    def gap(self, model: ResNet34) -> float:
        """Return how far the loss on the forget set is from where it should be; infinity if others lose too much."""
        lost = self._others - accuracy_on(self._gate, model, self._case)  # not a number without a gate, and then fine
        gap = abs(self.loss(model) - self.unseen)
        return math.inf if lost > self._case.personalisation.budget or not math.isfinite(gap) else gap

    def loss(self, model: ResNet34) -> float:
        """Return the loss on the forget set."""
        return task_loss(said(model, self._case, self._forget.features), self._forget.labels, model.task).item()


def unseen_loss(case: Case) -> float:
    """Return the loss on the forget set of the general model with a head fitted to retain set and anchor.

    With nothing retained that is the general model's own, and so the retrained model's.
    """
    loss, basis = problem(case, [case.retain])
    head = general_head(case) + loss.minimum() @ basis
    logits = pooled(case, case.forget) @ head.T
    return task_loss(logits, case.forget.labels.double(), case.general.task).item()


class Best:
    """The state with the lowest score so far.

    Attributes:
        score: its score.
    """

    def __init__(self, state: Mapping[str, Tensor], score: float) -> None:
        """Begin with what is to be had without doing anything; of models to come, these tensors alone are kept."""
        self._state, self.score = _cloned(state), score

    def offer(self, model: ResNet34, score: float) -> None:
        """Keep what `model` is now if it scores lower."""
        if score < self.score:
            now = model.state_dict()
            self._state, self.score = _cloned({name: now[name] for name in self._state}), score

    def settle(self, model: ResNet34) -> ResNet34:
        """Make `model` what scored lowest, in evaluation mode, and return it."""
        model.load_state_dict(dict(self._state), strict=False)
        return model.eval()


def _cloned(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    with torch.no_grad():
        return {name: tensor.clone() for name, tensor in state.items()}
