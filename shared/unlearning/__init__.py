"""Unlearning methods, one file each, one signature; `METHODS` finds them by name.

To add one: write `shared/unlearning/<name>.py` with `unlearn(case) -> ResNet34`, and say in its docstring which
paper it follows, what it needs, what it guarantees and what it costs beside retraining. The folder is the list:
`negative-gradient-plus` is `negative_gradient_plus.py`, imported when it is first called; names cost no PyTorch.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING

from shared.errors import LetheError, UsageError

if TYPE_CHECKING:
    from types import ModuleType

    from shared.model import ResNet34
    from shared.unlearning.case import Case

    Method = Callable[[Case], ResNet34]
else:
    Method = Callable


def _methods() -> dict[str, Method]:
    """Return every method of this folder by name; what begins with an underscore is shared, and `case` is the case."""
    files = sorted(found.name for found in pkgutil.iter_modules(__path__))
    return {file.replace("_", "-"): _late(file) for file in files if file != "case" and not file.startswith("_")}


def _late(file: str) -> Method:
    """Return a method that is imported when it is called, and whose model is one of finite numbers."""

    def unlearn(case: Case) -> ResNet34:
        made: ResNet34 = import_module(f"{__name__}.{file}").unlearn(case)
        wild = sum(not tensor.isfinite().all() for tensor in made.state_dict().values())
        if wild:  # a loss is looked at before a step; what the last step made of the weights is not
            raise LetheError(
                f"{file.replace('_', '-')} diverged: {wild} tensors of its model hold numbers that are not finite; the "
                "model before is left as it was; lower personalisation.learning_rate"
            )
        return made

    return unlearn


def certified(name: str, case: Case) -> float | None:
    """Return the bound that a method certifies of this case, where its file has a function `certified` that says so."""
    bound = getattr(_file(name), "certified", None)
    return float(bound(case)) if bound else None


def generates(name: str) -> bool:
    """Return whether a method learns on generated inputs, of which `unlearning.generator_groups` says how many."""
    return hasattr(_file(name), "transfer")


def _file(name: str) -> ModuleType:
    return import_module(f"{__name__}.{name.replace('-', '_')}")


METHODS: dict[str, Method] = _methods()
EXACT = frozenset({"exact"})


def parse_methods(names: str, *, option: str = "unlearning.methods") -> tuple[str, ...]:
    """Return the ladder that `option` names: approximate methods in their order, "exact" always last.

    Raises:
        UsageError: none, or one that does not exist.
    """
    methods = [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in methods if name not in METHODS]
    if unknown or not methods:
        hint = "; sisa is for the general model: general.unlearning=sisa" if "sisa" in unknown else ""
        raise UsageError(f"{option} is {names!r}, expected names of {', '.join(METHODS)}{hint}")
    return (*dict.fromkeys(name for name in methods if name not in EXACT), "exact")
