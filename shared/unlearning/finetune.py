"""`finetune`: the paper's unlearning by fine-tuning on the retain set; others' validation segments say when it stops.

Source: the paper's section 3.3.3, U = A(D) fine-tuned on L. Needs: the personal model and the retain set, what the
patient keeps and the corpus's share, for which the anchor stands; others' validation segments. Guarantee: none.
Cost: so many steps as the epochs over the retain set have, and a look at others after each; .6 of retraining, and 1.2
of it where the whole network is trained (measured).
"""

import math

from shared.errors import LetheError
from shared.model import ResNet34
from shared.personalisation import copied, trained_part, tune
from shared.training import task_loss
from shared.unlearning._choice import Best
from shared.unlearning._data import retained, said
from shared.unlearning.case import Case


def unlearn(case: Case) -> ResNet34:
    """Fine-tune a copy of the personal model on the retain set, in the layers of its profile.

    Of the models after each epoch the one is kept whose loss on the gate is least, on others' segments from which no
    model learns. It is never the personal model as it was; the forget set has no say. Without a gate it is the last.

    Raises:
        UsageError: there is nothing to retain.
        LetheError: that loss is a finite number after no epoch.
    """
    retained(case)
    retain, gate = [case.retain, case.public.anchor], case.frozen.see(case.public.gate)
    model = copied(case.personal, case.personalisation)
    own = {id(parameter) for parameter in trained_part(model, case.personalisation).parameters}
    best = Best({name: each for name, each in model.named_parameters() if id(each) in own}, math.inf)

    def look(model: ResNet34) -> None:
        best.offer(model, task_loss(said(model, case, gate.features), gate.labels, model.task).item())

    epochs = case.unlearning.epochs
    tune(model, retain, case.personalisation, epochs=epochs, frozen=case.frozen, after_epoch=look)
    if len(gate.labels) == 0:
        return model
    if best.score == math.inf:
        raise LetheError(
            "finetune diverged, or a validation segment is no number: others' loss is finite after no epoch; the model "
            "before is left as it was; lower personalisation.learning_rate"
        )
    return best.settle(model)
