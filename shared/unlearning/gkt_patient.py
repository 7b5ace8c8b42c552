"""`gkt-patient`: gated knowledge transfer made to forget a patient's segments. An adaptation of Lethe's own.

Source: after Chundawat et al. 2023 (`gkt`), with two changes. The student starts from the general model, which never
saw the patient, and never from the personal one. The gate keeps generated inputs on which personal and general model
agree about as much as on segments of patients whom no model ever saw: a divergence below the 95th percentile there.
Needs: the personal model, as the teacher; the general model; public control segments; the forget set only to stop
before the student knows it. Guarantee: none. Cost: that of `gkt`, far dearer than retraining.
"""

import copy

from torch import Tensor

from shared.errors import UsageError
from shared.model import ResNet34
from shared.personalisation import distillation
from shared.unlearning._choice import Validation
from shared.unlearning._data import said
from shared.unlearning._generator import answer, divergences, transfer
from shared.unlearning.case import Case

PERCENTILE = 0.95


def unlearn(case: Case) -> ResNet34:
    """Teach the general model what the personal one says where both agree."""
    validation, task = Validation(case), case.general.task
    limit, gate = threshold(case), case.frozen.see(case.public.gate)
    teacher = said(case.personal, case, gate.features)

    def excess(inputs: Tensor, said_by_teacher: Tensor) -> Tensor:
        return divergences(said_by_teacher, answer(case.general, inputs).logits, task) - limit

    def score(student: ResNet34) -> float:
        """Return how far the student is from its teacher on the gate, or infinity if it knows the forget set."""
        loss = validation.loss(student)
        if abs(loss - validation.seen) < abs(loss - validation.unseen):
            return float("inf")
        return distillation(said(student, case, gate.features), teacher, task).item()

    student = copy.deepcopy(case.general).eval()
    return transfer(case, case.personal, student, excess, score, first=score(student))


def threshold(case: Case) -> float:
    """Return the 95th percentile of the divergence of personal and general model on the control segments, nats.

    Raises:
        UsageError: there are none.
    """
    if len(case.public.control) == 0:
        raise UsageError("gkt-patient needs public control segments to tell what agreement is; there are none")
    control = case.frozen.see(case.public.control)
    personal, general = (said(model, case, control.features) for model in (case.personal, case.general))
    return divergences(personal, general, case.general.task).quantile(PERCENTILE).item()
