"""What a wearable says of a stream: one dataclass a kind of event; times are seconds since the stream began."""

from dataclasses import asdict, dataclass
from typing import Any

from client.bundle import Kind
from shared.settings import SUPERCLASSES


@dataclass(frozen=True)
class Using:
    """This file runs from here on: its digest, whose model it is, and the general model that it comes from.

    `why` says why it is not the device's own, else "".
    """

    kind: Kind
    bundle: str
    general: str
    why: str
    eight_bits: bool = False


@dataclass(frozen=True)
class Judged:
    """A window; `doubts` say why it is inconclusive, and then there are no probabilities.

    `probabilities` are the window's, `mean` those of the last conclusive windows; both in the order of the labels.
    """

    since_s: float
    until_s: float
    doubts: tuple[str, ...]
    probabilities: tuple[float, ...] = ()
    mean: tuple[float, ...] = ()


@dataclass(frozen=True)
class Missing:
    """Samples that never came; nothing is said of them. Both ends equal: nothing came, and how much is not known."""

    since_s: float
    until_s: float


@dataclass(frozen=True)
class Alarm:
    """An episode begins."""

    label: str
    since_s: float
    mean: float


@dataclass(frozen=True)
class Over:
    """An episode is over, or nothing more can be said of it."""

    label: str
    since_s: float
    until_s: float
    peak: float
    windows: int


@dataclass(frozen=True)
class End:
    """The stream has ended; so many windows were conclusive, and so many not."""

    seconds: float
    judged: int
    inconclusive: int


Event = Using | Judged | Missing | Alarm | Over | End
NAMES = {Using: "bundle", Judged: "window", Missing: "gap", Alarm: "alarm", Over: "episode", End: "end"}


def as_json(event: Event) -> dict[str, Any]:
    """Return an event as a JSON object, its probabilities by label."""
    told = {"event": NAMES[type(event)], **asdict(event)}
    if isinstance(event, Judged):
        told["inconclusive"] = bool(event.doubts)
        for name in ("probabilities", "mean"):
            told[name] = dict(zip(SUPERCLASSES, getattr(event, name), strict=False))
    return told
