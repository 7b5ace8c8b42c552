"""What methods are given, behind the frozen layers, and what models say of it.

No method: the file's name begins with an underscore.
"""

from torch import Tensor

from shared.errors import UsageError
from shared.model import ResNet34
from shared.personalisation import Seen, trained_part
from shared.training import apply, hits
from shared.unlearning.case import Case


def retained(case: Case) -> Seen:
    """Return the retain set: what the patient keeps, and the anchor for the corpus's share.

    Raises:
        UsageError: there is neither.
    """
    if len(case.retain) + len(case.public.anchor) == 0:
        raise UsageError("there is nothing to retain: neither segments of the patient's nor public anchor segments")
    return case.frozen.see(case.retain, case.public.anchor)


def forgotten(case: Case) -> Seen:
    """Return the forget set.

    Raises:
        UsageError: it is empty.
    """
    if len(case.forget) == 0:
        raise UsageError("there is nothing to forget: the forget set is empty, expected one segment or more")
    return case.frozen.see(case.forget)


def said(model: ResNet34, case: Case, features: Tensor) -> Tensor:
    """Return the logits of `model` behind the frozen layers, (N, 5); a teacher's answers, without gradients."""
    return apply(trained_part(model, case.personalisation).trained, features).clone()


def accuracy_on(seen: Seen, model: ResNet34, case: Case) -> float:
    """Return the share that `model` gets right; 0 of 0 is not a number."""
    if len(seen.labels) == 0:
        return float("nan")
    return hits(said(model, case, seen.features), seen.labels, model.task).float().mean().item()
