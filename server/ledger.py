"""The ledger's chain, as pure functions: how an entry is hashed, how the next one follows, and what breaks it.

An entry's hash is the sha256 of the canonical JSON of [seq, at, kind, subject, body, previous]. Canonical JSON has
sorted keys, no spaces, ASCII only, numbers as Python writes them and no NaN; an entry's body is such a text itself and
goes into the hash as a string. `previous` is the hash of the entry before, or `GENESIS`. What is entered, and under
which names, is `server/history.py`'s business.
"""

import hashlib
import json
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, get_args

from shared.errors import LetheError, UsageError

EntryKind = Literal["consent", "job", "model", "verdict", "certificate", "key", "run"]
Problem = Literal[
    "changed", "missing", "duplicated", "reordered", "broken link", "clock", "truncated", "unguarded", "contradicted"
]
Head = tuple[int, str]

KINDS: tuple[EntryKind, ...] = get_args(EntryKind)
GENESIS = "0" * 64


@dataclass(frozen=True)
class Entry:
    """One entry as it is stored.

    Attributes:
        seq: 1, 2, 3 ...
        at: UTC in ISO 8601, never before the entry before.
        kind: one of `KINDS`.
        subject: whom it is about, as an HMAC in hex; "" where it is about nobody.
        body: canonical JSON.
        previous: hash of the entry before.
        hash: sha256 over all of these.
    """

    seq: int
    at: str
    kind: str
    subject: str
    body: str
    previous: str
    hash: str


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a ledger; `seq` is the entry it shows at."""

    seq: int
    problem: Problem
    words: str


def canonical(value: Any) -> str:
    """Return the one JSON text of a value.

    Raises:
        LetheError: it has a NaN, an infinity, or something that JSON does not know.
    """
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise LetheError(f"this cannot be entered in the ledger: {error}; expected JSON without NaN") from error


def entry_hash(entry: Entry) -> str:
    """Return the sha256, in hex, that an entry must carry."""
    sealed = [entry.seq, entry.at, entry.kind, entry.subject, entry.body, entry.previous]
    return hashlib.sha256(canonical(sealed).encode("ascii")).hexdigest()


def following(last: Entry | None, *, at: str, kind: EntryKind, subject: str, body: dict[str, Any]) -> Entry:
    """Return the entry that comes after `last`, the first one after None.

    A clock behind the last entry is noted in the body as "clock", and the entry takes the last one's time: consent is
    never refused because of a clock.
    """
    if last is not None and at < last.at:
        body, at = body | {"clock": at}, last.at
    seq, previous = (1, GENESIS) if last is None else (last.seq + 1, last.hash)
    unsealed = Entry(seq, at, kind, subject, canonical(body), previous, "")
    return Entry(seq, at, kind, subject, unsealed.body, previous, entry_hash(unsealed))


def head_of(entries: Sequence[Entry]) -> Head:
    """Return seq and hash of the last entry; (0, `GENESIS`) of none."""
    return (entries[-1].seq, entries[-1].hash) if entries else (0, GENESIS)


def parse_head(text: str) -> Head:
    """Read "SEQ:HASH".

    Raises:
        UsageError: it is not of this form.
    """
    if not re.fullmatch("[0-9]{1,18}:[0-9a-f]{64}", text):
        raise UsageError(f"head {text!r}, expected SEQ:HASH, such as 17:{GENESIS[:8]}… with 64 hex digits")
    seq, digest = text.split(":")
    return int(seq), digest


def verify(entries: Iterable[Entry], *, head: Head | None = None) -> list[Finding]:
    """Return everything that is wrong with a ledger, in the order given; nothing when it is whole.

    Args:
        entries: in the order of the ledger.
        head: seq and hash of an entry that must be there, as a certificate or an earlier look noted it. Without one,
            nobody can see that entries were cut off at the end, or that the whole chain was written anew.
    """
    entries = list(entries)
    present = sorted({entry.seq for entry in entries})
    findings: list[Finding] = []
    last, seen = None, set[int]()
    for entry in entries:
        findings += _altered(entry)
        findings += _misplaced(entry, last, seen, present)
        seen.add(entry.seq)
        last = entry
    return findings + ([] if head is None else _beheaded(entries, head))


def _altered(entry: Entry) -> list[Finding]:
    """Look at one entry alone."""
    if entry_hash(entry) != entry.hash:
        return [Finding(entry.seq, "changed", f"entry {entry.seq} is not what its hash was made of")]
    if entry.kind not in KINDS:
        words = f"entry {entry.seq} is of kind {entry.kind!r}, expected one of {', '.join(KINDS)}"
        return [Finding(entry.seq, "changed", words)]
    try:
        same = canonical(json.loads(entry.body)) == entry.body
    except (ValueError, LetheError, RecursionError):
        same = False
    return [] if same else [Finding(entry.seq, "changed", f"the body of entry {entry.seq} is no canonical JSON")]


def _misplaced(entry: Entry, last: Entry | None, seen: set[int], present: Sequence[int]) -> list[Finding]:
    """Look at where an entry stands; `present` are the numbers of all entries, sorted."""
    seq, before = entry.seq, 0 if last is None else last.seq
    if seq in seen:
        return [Finding(seq, "duplicated", f"entry {seq} is there more than once")]
    found = []
    if absent := _absent(before, seq, present):
        found.append(Finding(seq, "missing", f"missing before entry {seq}: {', '.join(absent)}"))
    elif seq != before + 1:
        found.append(Finding(seq, "reordered", f"entry {seq} stands after entry {before}"))
    elif entry.previous != (GENESIS if last is None else last.hash):
        follows = "begin the ledger" if last is None else f"follow entry {last.seq} as it is"
        found.append(Finding(seq, "broken link", f"entry {seq} was not made to {follows}"))
    if last is not None and entry.at < last.at:
        found.append(Finding(seq, "clock", f"entry {seq} is of {entry.at}, before entry {last.seq} of {last.at}"))
    return found


def _absent(before: int, seq: int, present: Sequence[int]) -> list[str]:
    """Return the numbers between two entries that no entry has, as "3" or "5-7"."""
    inside = present[bisect_right(present, before) : bisect_left(present, seq)]
    ends = [before, *inside, seq]
    gaps = [(low + 1, high - 1) for low, high in pairwise(ends) if high - low > 1]
    return [str(first) if first == last else f"{first}-{last}" for first, last in gaps]


def _beheaded(entries: Sequence[Entry], head: Head) -> list[Finding]:
    """Compare the ledger with what was seen of it elsewhere."""
    seq, digest = head
    if seq == 0:
        return []
    there = [entry.hash for entry in entries if entry.seq == seq]
    if not there:
        last = head_of(entries)[0]
        return [Finding(seq, "truncated", f"entry {seq} was seen and is gone; the ledger ends at entry {last}")]
    if there[0] != digest:
        return [Finding(seq, "changed", f"entry {seq} had another hash when it was seen: the ledger was written anew")]
    return []
