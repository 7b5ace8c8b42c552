"""`finetune`: the paper's unlearning by fine-tuning on the retain set for a set number of epochs.

Source: the paper's section 3.3.3, U = A(D) fine-tuned on L. Needs: the personal model and the retain set,
what the patient keeps and the corpus's share, for which the anchor stands. Guarantee: none.
Cost: so many steps as the epochs over the retain set have; .4 of a personalisation at width 16 (measured).
"""

from shared.model import ResNet34
from shared.personalisation import copied, tune
from shared.unlearning._data import retained
from shared.unlearning.case import Case


def unlearn(case: Case) -> ResNet34:
    """Fine-tune a copy of the personal model on the retain set, in the layers of its profile.

    Raises:
        UsageError: there is nothing to retain.
    """
    retained(case)
    retain, epochs = [case.retain, case.public.anchor], case.unlearning.epochs
    model = copied(case.personal, case.personalisation)
    return tune(model, retain, case.personalisation, epochs=epochs, frozen=case.frozen)
