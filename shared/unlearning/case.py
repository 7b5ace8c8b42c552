"""What every unlearning method is given."""

from dataclasses import dataclass

from shared.model import ResNet34
from shared.package import Public
from shared.personalisation import Frozen
from shared.settings import Personalisation, Unlearning
from shared.training import Examples


@dataclass(frozen=True)
class Case:
    """One personal model that must forget; no method changes what is in here.

    Attributes:
        general: the model that never saw the patient.
        personal: the model that must forget; `D` in the paper is what it was trained on.
        retain: the patient's training segments that stay, L = D - S; may be empty.
        forget: the segments to be forgotten, S. Methods that look at it raise a `UsageError` where it is empty; `exact`
            and `finetune`, which do not, make of the retain set what they always make.
        public: anchor and gate; the anchor stands for the corpus's share of the retain set.
        personalisation: how `personal` was made.
        unlearning: how many epochs an approximate method takes.
        frozen: the layers in front that `general` and `personal` have in common.
    """

    general: ResNet34
    personal: ResNet34
    retain: Examples
    forget: Examples
    public: Public
    personalisation: Personalisation
    unlearning: Unlearning
    frozen: Frozen
