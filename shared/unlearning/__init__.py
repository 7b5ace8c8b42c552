"""Unlearning methods, one file each, one signature; `METHODS` finds them by name.

To add one: write `shared/unlearning/<name>.py` with `unlearn(case) -> ResNet34`, list it here, and say in its
docstring which paper it follows, what it needs, what it guarantees and what it costs beside retraining.
"""

from collections.abc import Callable

from shared.errors import UsageError
from shared.model import ResNet34
from shared.unlearning import exact, finetune
from shared.unlearning.case import Case

Method = Callable[[Case], ResNet34]

METHODS: dict[str, Method] = {"exact": exact.unlearn, "finetune": finetune.unlearn}
EXACT = frozenset({"exact"})


def parse_methods(names: str) -> tuple[str, ...]:
    """Return the ladder that `unlearning.methods` names: approximate methods in their order, "exact" always last.

    Raises:
        UsageError: none, or one that does not exist.
    """
    methods = [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in methods if name not in METHODS]
    if unknown or not methods:
        raise UsageError(f"unlearning.methods is {names!r}, expected names of {', '.join(METHODS)}")
    return (*dict.fromkeys(name for name in methods if name not in EXACT), "exact")
