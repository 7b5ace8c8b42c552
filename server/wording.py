"""How the report says numbers and times: one form for each kind, and `n/a` for what is missing."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from shared.errors import DataError

WORDS = ("No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine", "Ten")


def time_of(text: str) -> datetime:
    """Return an ISO 8601 time, in UTC when it names no zone.

    Raises:
        DataError: it is no such time.
    """
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise DataError(f"result.json: {text[:40]!r} is no ISO 8601 time; was it written by this version?") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def moment(text: str | None) -> str:
    """Return `23 November 2026, 15:45:00 UTC`."""
    if not text:
        return "n/a"
    time = time_of(text)
    return f"{time.day} {time:%B %Y, %H:%M:%S %Z}"


def day(text: str) -> str:
    """Return `23 Nov 2026`."""
    time = time_of(text)
    return f"{time.day} {time:%b %Y}"


def clock(text: str) -> str:
    """Return `15:45:00 UTC`."""
    return f"{time_of(text):%H:%M:%S %Z}"


def duration(seconds: float | None) -> str:
    """Return `0.8 s`, `12 min 4 s`, `3 h 2 min` or `5 days`."""
    if seconds is None:
        return "n/a"
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 120:
        return f"{minutes} min {rest} s"
    hours = minutes // 60
    return f"{hours} h {minutes % 60} min" if hours < 48 else f"{hours // 24} days"


def size(count: int) -> str:
    """Return `512 bytes`, `123 kB` or `1.5 MB`."""
    if count < 1000:
        return f"{count} bytes"
    return f"{count / 1000:.0f} kB" if count < 1_000_000 else f"{count / 1_000_000:.1f} MB"


def percent(share: float | None) -> str:
    """Return `82.0 %`."""
    return "n/a" if share is None else f"{100 * share:.1f} %"


def points(before: float | None, after: float | None) -> str:
    """Return the change from `before` to `after` in percentage points: `+3.2`, `−1.0` or `0.0`."""
    if before is None or after is None:
        return "n/a"
    change = round(100 * (after - before), 1)
    return f"{change:+.1f}".replace("-", "−") if change else "0.0"


def number(value: float | None) -> str:
    """Return three decimals; very small numbers in powers of ten."""
    if value is None:
        return "n/a"
    return f"{value:.3f}" if value == 0 or abs(value) >= 0.001 else f"{value:.1e}"


def probability(value: float | None) -> str:
    """Return a p-value: `0.042`, or `< 0.001`."""
    if value is None:
        return "n/a"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def counted(count: int, noun: str) -> str:
    """Return `1 patient`, `2 patients`, `1,200 patients`."""
    return f"{count:,} {noun if count == 1 else noun + 's'}"


def worded(count: int, noun: str) -> str:
    """Return the same to begin a sentence with: `Two patients`, `12 patients`."""
    return f"{word(count)} {noun if count == 1 else noun + 's'}"


def word(count: int) -> str:
    """Return small counts as words, larger ones as digits."""
    return WORDS[count] if count < len(WORDS) else f"{count:,}"


def made_without(general: Mapping[str, Any]) -> list[str]:
    """Return what withdrawals took from the general model, and what they will."""
    before, since = (_public_records(general[name]) for name in ("withdrawn", "withdrawn_since"))
    told = [f"made without {before}, withdrawn"] if before else []
    return [*told, f"made with {since}, withdrawn since; the next run makes it again"] if since else told


def public_endings(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what became of the withdrawals of corpus and control patients, a sentence each."""
    told = []
    for row in rows:
        what = f"withdrawal of {row['pseudonym']}, {counted(row['records'], 'record')}, from the general model"
        end = f"certified, {row['certificate']}" if row["certificate"] else f"still due, {row['reason']}"
        told.append(f"{what}: {end}")
    return told


def _public_records(gone: Mapping[str, int]) -> str:
    parts = {"corpus": "the corpus", "control": "the controls"}
    return " and ".join(f"{counted(n, 'record')} of {parts[role]}" for role, n in gone.items() if n)
