"""`gkt`: gated knowledge transfer, the paper's zero-shot unlearning. It forgets classes, not patients.

Source: Chundawat et al. 2023, the paper's section 3.3.3, equations 9 to 11. A student that begins untrained learns from
the personal model on generated inputs; the band-pass filter lets those pass to which the teacher gives less than .01
for the forgotten class. Needs: the personal model, as the teacher; of the forget set only its classes; no retained
data; others' validation segments say which of its looks is kept. Guarantee: none. Cost: 4000 groups of a generator and
ten student steps of 256 inputs, which is many times a personalisation: dearer than retraining.
"""

import math

from torch import Tensor

from shared.errors import UsageError
from shared.model import ResNet34, log_odds
from shared.personalisation import Seen
from shared.settings import SUPERCLASSES, Task
from shared.unlearning._data import accuracy_on, forgotten
from shared.unlearning._generator import transfer
from shared.unlearning.bad_teacher import untrained
from shared.unlearning.case import Case

EPSILON = 0.01  # of equation 11: the teacher's largest probability of a forgotten class


def unlearn(case: Case) -> ResNet34:
    """Teach an untrained student all but the superclasses of the forget set.

    Raises:
        UsageError: nobody said that the class is meant.
    """
    classes = (forgotten(case).labels > 0.5).any(dim=0).nonzero()[:, 0]
    if not case.unlearning.i_mean_the_class:
        names = " and ".join(SUPERCLASSES[column] for column in classes.tolist())
        raise UsageError(
            f"gkt forgets whole classes: of this patient it would forget {names}, and the model would find {names} in "
            "nobody any more; use gkt-patient, or say that the class is meant: unlearning.i_mean_the_class=true "
            "(--i-mean-the-class)"
        )

    def excess(_: Tensor, teacher: Tensor) -> Tensor:
        return band_pass(teacher, classes, case.general.task)

    gate = case.frozen.see(case.public.gate)
    gone = (gate.labels[:, classes] > 0.5).any(dim=1)

    def score(student: ResNet34) -> float:
        """Return how much of the forgotten classes the student finds on the gate, less what it gets right of others."""
        lost, kept = (
            accuracy_on(Seen(gate.features[rows], gate.labels[rows]), student, case) for rows in (gone, ~gone)
        )
        return (0.0 if math.isnan(lost) else lost) - kept

    return transfer(case, case.personal, _student(case), excess, score, first=None)


def band_pass(teacher: Tensor, classes: Tensor, task: Task) -> Tensor:
    """Return by how much each of B inputs exceeds the filter of the paper's equation 11, (B,); below 0 it passes.

    It passes if the teacher gives every forgotten class less than epsilon; the excess is the largest log-odds'. Those
    of a probability, unlike its logarithm, have a gradient for the generator where the teacher is sure of the class.
    """
    return log_odds(teacher, task)[:, classes].amax(dim=1) - math.log(EPSILON / (1 - EPSILON))


def _student(case: Case) -> ResNet34:
    """Return an untrained model in training mode; layers that the profile freezes are the general model's."""
    student = untrained(case, use="student")
    if case.personalisation.profile == "default":
        weights = case.general.state_dict()
        frozen = {name: kept for name, kept in weights.items() if not name.startswith(student.tail_names)}
        student.load_state_dict(frozen, strict=False)
    return student.train()
