"""`exact`: the served model is what it would have been without the data.

Source: retraining, the reference of the paper's section 3.3.2, A(D minus S). Needs: the general model and the
retained segments. Guarantee: bitwise; nothing of the forget set enters. Cost: one personalisation, none at
all when nothing is retained.
"""

import copy

from shared.model import ResNet34
from shared.personalisation import personalise
from shared.unlearning.case import Case


def unlearn(case: Case) -> ResNet34:
    """Restore the general model, or personalise it again on what is kept, with the same seed."""
    if len(case.retain) == 0:
        return copy.deepcopy(case.general)
    return personalise(case.general, case.retain, case.public, case.personalisation, frozen=case.frozen).model
