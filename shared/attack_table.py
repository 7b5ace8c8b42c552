"""The attacks by name, and how strengths are given; what each does is `shared/attacks.py`'s. Names cost no PyTorch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from shared.errors import UsageError
from shared.settings import LEADS

Unit = Literal["sd", "uV"]
UNITS: tuple[Unit, ...] = get_args(Unit)
SD_UV = 200  # a lead's standard deviation is about that in PTB-XL: 116 to 345, median 197, in 329 of its records
TRIED = (0.02, 0.05, 0.1, 0.2)  # strengths where none are named, in standard deviations
MOST: dict[Unit, float] = {"sd": 100.0, "uV": 100.0 * SD_UV}  # beyond, nothing of an ECG is left, and float32 overflows


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


def parse_strengths(text: str | None, *, unit: str, option: str) -> list[float]:
    """Return the strengths that `option` lists, or of None those that are tried in `unit`.

    Raises:
        UsageError: something in it is no number or no strength, or the unit is unknown.
    """
    try:
        if text is None:
            found = [round(strength * SD_UV, 6) if unit == "uV" else strength for strength in TRIED]
        else:
            found = [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"{option} is {text!r}, expected numbers with commas between, such as 0.05,0.1") from None
    for strength in found:
        check_strength(strength, unit=unit, what=option)
    return found


def check_strength(strength: float | Sequence[float], *, unit: str, what: str) -> None:
    """See that a strength is one number or one a lead, from 0 to `MOST`, in a known unit.

    Raises:
        UsageError: it is not; names it as `what`.
    """
    numbers = [strength] if isinstance(strength, int | float) else list(strength)
    known = next((one for one in UNITS if one == unit), None)
    if known is None:
        raise UsageError(f"unit {unit!r} of {what}, expected one of {', '.join(UNITS)}")
    if len(numbers) not in (1, len(LEADS)):
        raise UsageError(f"{what} has {len(numbers)} numbers, expected one, or {len(LEADS)}: one a lead")
    wrong = [number for number in numbers if not 0 <= number <= MOST[known]]  # not a number is neither
    if wrong:
        raise UsageError(
            f"{what} is {wrong[0]}, expected a finite number, not below 0 nor above {MOST[known]:g}, in {unit}"
        )
