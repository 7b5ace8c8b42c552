"""What a field may hold that comes from elsewhere: a message, a certificate; one home for patterns and limits.

A name becomes a file's, and any of them may reach a terminal: no path, no control character. Text for people is not
refused for what it holds, it is made harmless and short.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, TypeVar, dataclass_transform

from pydantic import AfterValidator, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from shared.terminal import plain

Kind = TypeVar("Kind")
_ADAPTERS: dict[type[Any], TypeAdapter[Any]] = {}

MOST = 10**12  # of bytes erased, say; beyond, arithmetic is no longer exact everywhere
MOST_TEXT = 1000  # characters of a text for people; the rest is cut off
MOST_BYTES_OF_WORDS = 1 << 20  # of a payload; most have under a thousand, one with ten thousand record ids 200,000
MOST_BYTES_OF_NUMBERS = 64 << 20  # of one about segments; 143 copies, 14 methods and 240 segments have 40 million
MOST_BYTES_BESIDE = 512 << 20  # models and public segments: the package of a network of width 64 has 60 million
FIRST_YEAR, LAST_YEAR = 2000, 2999  # dates are added to

# What a terminal would take for a command, or what turns the direction of writing, is no text.
PLAIN = r"^[^\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]*$"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_PLACE = re.compile(rf"{_NAME.pattern}(/{_NAME.pattern}){{0,4}}")


def words(text: str) -> str:
    """Return a text for people in one line, plain and not too long."""
    told = plain(" ".join(text.split()), keep="")
    return told if len(told) <= MOST_TEXT else f"{told[: MOST_TEXT - 1]}…"


def safe_name(name: str) -> str:
    """Return `name` if it can only name a file in its own folder.

    Raises:
        ValueError: it could leave it, or reach a terminal as a command.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"{shown(name)} cannot name a file, expected letters, digits, '.', '_' and '-'")
    return name


def shown(value: object) -> str:
    """Return a value from outside as a message quotes it: escaped, and no more than its beginning."""
    text = ascii(value if not isinstance(value, str | bytes) else value[:60])
    return text if len(text) <= 80 else f"{text[:79]}…"


def first_problem(error: KeyError | ValueError) -> str:
    """Return what is wrong first with something from outside, and nothing of what was sent: that may be anything."""
    if isinstance(error, KeyError):
        return f"it has no {error}"
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"])[:100]
    return words(f"{where}: {first['msg']}" if where else first["msg"])


def refuse_larger(values: Iterable[object], most: int) -> None:
    """See that texts and bytes from outside have no more than `most` bytes in all.

    Raises:
        ValueError: they have more.
    """
    if (size := sum(len(value) for value in values if isinstance(value, bytes | str | list))) > most:
        raise ValueError(f"it has {size:,} bytes, expected at most {most:,}")


def _safe_place(name: str) -> str:
    if not _PLACE.fullmatch(name):
        raise ValueError(f"{shown(name)} is no file of a device's folder")
    return name


def utc(text: str) -> str:
    """Accept a time with its zone, and only UTC.

    Raises:
        ValueError: it is none.
    """
    moment = datetime.fromisoformat(text)
    if moment.utcoffset() != timedelta(0):
        raise ValueError("expected a time in UTC")
    if not FIRST_YEAR <= moment.year <= LAST_YEAR:
        raise ValueError(f"expected a year from {FIRST_YEAR} to {LAST_YEAR}")
    return text


Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
MaybeDigest = Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{64})?$")]  # "" where there is no such model
Name = Annotated[str, AfterValidator(safe_name)]  # of a record, a job, a method
MaybeName = Annotated[str, AfterValidator(lambda name: name and safe_name(name))]
Place = Annotated[str, AfterValidator(_safe_place)]  # of a file inside a device's folder
Words = Annotated[str, AfterValidator(words)]
Moment = Annotated[str, StringConstraints(max_length=40), AfterValidator(utc)]
MaybeMoment = Annotated[str, StringConstraints(max_length=40), AfterValidator(lambda text: text and utc(text))]
Count = Annotated[int, Field(ge=0, le=MOST)]
Share = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(ge=0, le=MOST)]  # of seconds, or of a difference
Hit = Annotated[int, Field(ge=0, le=1)]


@dataclass_transform(frozen_default=True)
def payload(kind: type[Kind]) -> type[Kind]:
    """Make a frozen dataclass of which, read from JSON, no field may be missing, added, or a number that is none."""
    setattr(kind, "__pydantic_config__", ConfigDict(extra="forbid", allow_inf_nan=False))  # noqa: B010 - for mypy
    return dataclass(frozen=True)(kind)


def adapter(kind: type[Any]) -> TypeAdapter[Any]:
    """Return what checks payloads of a kind; making it takes longer than using it."""
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]
