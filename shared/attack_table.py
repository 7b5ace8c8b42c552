"""The attacks by name, and how strengths are given; what each does is `shared/attacks.py`'s. Names cost no PyTorch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from shared.errors import UsageError
from shared.settings import LEADS

Unit = Literal["sd", "uV"]
UNITS: tuple[Unit, ...] = get_args(Unit)


@dataclass(frozen=True)
class Signs:
    """An attack that steps along signs of the loss's gradient.

    Attributes:
        steps: M.
        step: length of one, in epsilons.
        radius: how far from the segment it may get, in epsilons; a caller's alpha takes its place.
        random_start: whether it begins at a point evenly drawn within epsilon of the segment, and not at the segment.
        blind: whether each sign is drawn at random, where the gradient has one.
    """

    steps: int
    step: float = 1.0
    radius: float = math.inf
    random_start: bool = False
    blind: bool = False


CLIPPED = "clipped-i-fgsm"  # the one whose radius is the caller's
SIGNS = {
    "noise": Signs(1, blind=True),  # the null: FGSM's change of every sample in size, and its norms, but no direction
    "fgsm": Signs(1),  # equation 1; Goodfellow et al. 2015
    "i-fgsm": Signs(10),  # equation 2: nothing but M holds it back
    CLIPPED: Signs(10, radius=2.0),  # equation 3; the radius is alpha, for which the paper names no value
    "bim": Signs(10, step=0.1, radius=1.0),  # Kurakin et al. 2017
    "pgd": Signs(20, step=0.1, radius=1.0, random_start=True),  # Madry et al. 2018
}
CW = "carlini-wagner"  # looks for the smallest change itself
ATTACKS = (*SIGNS, CW)


def parse_attacks(names: str, *, option: str) -> tuple[str, ...]:
    """Return the attacks that `option` names, each once, in the order of the table.

    Raises:
        UsageError: none, or one that does not exist.
    """
    asked = {name.strip() for name in names.split(",") if name.strip()}
    if not asked or asked - set(ATTACKS):
        raise UsageError(f"{option} is {names!r}, expected names of {', '.join(ATTACKS)}")
    return tuple(name for name in ATTACKS if name in asked)


def check_strength(strength: float | Sequence[float], *, unit: str, what: str) -> None:
    """See that a strength is one number or one a lead, finite and not below 0, in a known unit.

    Raises:
        UsageError: it is not; names it as `what`.
    """
    numbers = [strength] if isinstance(strength, int | float) else list(strength)
    if unit not in UNITS:
        raise UsageError(f"unit {unit!r} of {what}, expected one of {', '.join(UNITS)}")
    if len(numbers) not in (1, len(LEADS)):
        raise UsageError(f"{what} has {len(numbers)} numbers, expected one, or {len(LEADS)}: one a lead")
    wrong = [number for number in numbers if not (math.isfinite(number) and number >= 0)]
    if wrong:
        raise UsageError(f"{what} is {wrong[0]}, expected a finite number, not below 0, in {unit}")
