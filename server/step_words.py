"""What a step of a job says on a terminal, in a line or two; `--json` has all that was entered with it."""

from collections.abc import Callable, Mapping
from typing import Any

from server.rows import counted


def step_words(detail: Mapping[str, Any]) -> str:
    """Return what was entered with a step, a line each; what is empty is left out."""
    told = [_WORDS.get(name, _plain(name))(value) for name, value in detail.items() if value not in ("", None, [])]
    return "\n".join(line for line in told if line) or "–"


def _plain(name: str) -> Callable[[Any], str]:
    """Return how a value is told that has no words of its own; a nested one is for `--json`."""
    return lambda value: "" if isinstance(value, dict | list) else f"{name.replace('_', ' ')}: {value}"


def _audit(kept: Mapping[str, Any]) -> str:
    looks = [f"{look['after']['n']} copies an arm: {look['after']['verdict']}" for look in kept["found"]]
    reasons = [reason for reason in (kept["unusable"], kept["unmeasured"]) if reason]
    return "; ".join([*looks, *reasons]) or "no copies were compared"


def _digest(name: str) -> Callable[[str], str]:
    return lambda digest: f"{name}: {digest[:7]}"


_WORDS: dict[str, Callable[[Any], str]] = {
    "audit": _audit,
    "before": _digest("model before"),
    "after": _digest("model now"),
    "erased": lambda files: f"erased: {counted(len(files), 'file')}",
    "acknowledged_at": lambda _: "",  # the step has a time of its own
    "verdict": lambda verdict: f"verdict: {verdict['verdict']}",
    "certificate": lambda about: f"certificate: {about['file']}",
}
