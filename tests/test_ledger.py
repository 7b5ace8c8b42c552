"""The ledger's chain: any entry that is changed, missing, moved, doubled or older than the one before is found."""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from server.ledger import GENESIS, KINDS, Entry, canonical, entry_hash, following, head_of, parse_head, verify
from shared.errors import LetheError, UsageError


def chain(length: int) -> list[Entry]:
    """A ledger of all kinds, one entry a second."""
    entries: list[Entry] = []
    for n in range(length):
        at = f"2026-11-24T{n // 3600 % 24:02}:{n // 60 % 60:02}:{n % 60:02}.000+00:00"
        body = {"n": n, "text": "é \ud800 \U0001f9e1", "share": 0.1 * n, "none": None}
        entries.append(
            following(
                entries[-1] if entries else None, at=at, kind=KINDS[n % len(KINDS)], subject="ab" * (n % 2), body=body
            )
        )
    return entries


WHOLE = chain(9)


def problems(entries: Sequence[Entry], **head) -> set[str]:
    return {finding.problem for finding in verify(entries, **head)}


def resealed(entry: Entry, **changed) -> Entry:
    """An entry rewritten by somebody who knows how its hash is made."""
    rewritten = replace(entry, **changed)
    return replace(rewritten, hash=entry_hash(rewritten))


# One form, one hash


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"b": 1, "a": [1.5, None, True]}, '{"a":[1.5,null,true],"b":1}'),
        ({"é": "\n"}, '{"\\u00e9":"\\n"}'),
        ([], "[]"),
    ],
)
def test_a_value_has_one_text(value, text):
    assert canonical(value) == text


@pytest.mark.parametrize("value", [float("nan"), [float("inf")], {"x": b"bytes"}, {"x": {1, 2}}])
def test_what_json_cannot_say_is_refused(value):
    with pytest.raises(LetheError, match="cannot be entered in the ledger"):
        canonical(value)


def test_a_hash_is_made_as_the_documents_say():
    entry = following(None, at="2026-11-24T10:00:00.000+00:00", kind="key", subject="", body={"public_key": "aa"})
    text = '[1,"2026-11-24T10:00:00.000+00:00","key","","{\\"public_key\\":\\"aa\\"}","' + "0" * 64 + '"]'
    assert entry.hash == hashlib.sha256(text.encode()).hexdigest()
    assert (entry.seq, entry.previous) == (1, GENESIS)


def test_a_whole_ledger_holds_and_so_does_every_beginning_of_it():
    for length in range(len(WHOLE) + 1):
        assert verify(WHOLE[:length]) == []
        assert verify(WHOLE, head=head_of(WHOLE[:length])) == []
    assert head_of([]) == (0, GENESIS)


# What is found


def test_every_single_byte_matters():
    seen = 0
    for place, entry in enumerate(WHOLE):
        for column, value in asdict(entry).items():
            stored = str(value).encode()
            for at in range(len(stored)):
                spoilt = stored[:at] + bytes([stored[at] ^ 1]) + stored[at + 1 :]
                new = spoilt.decode("utf-8", "surrogateescape")
                other = replace(entry, **{column: int(new) if column == "seq" else new})
                assert verify([*WHOLE[:place], other, *WHOLE[place + 1 :]]), (place, column, at)
                seen += 1
    assert seen > 2000


@given(st.data())
def test_any_byte_put_anywhere_is_found(data):
    place = data.draw(st.integers(0, len(WHOLE) - 1))
    column = data.draw(st.sampled_from(["at", "kind", "subject", "body", "previous", "hash"]))
    old = getattr(WHOLE[place], column)
    begin, end = sorted(data.draw(st.tuples(st.integers(0, len(old)), st.integers(0, len(old)))))
    new = old[:begin] + data.draw(st.text(max_size=3)) + old[end:]
    assume(new != old)
    assert verify([*WHOLE[:place], replace(WHOLE[place], **{column: new}), *WHOLE[place + 1 :]])


@given(st.permutations(range(len(WHOLE))))
def test_any_other_order_is_found(order):
    assume(order != sorted(order))
    assert "reordered" in problems([WHOLE[n] for n in order])


@given(st.sets(st.integers(0, len(WHOLE) - 2), min_size=1))
def test_any_entry_missing_before_the_last_is_found_and_named(gone):
    findings = verify([entry for n, entry in enumerate(WHOLE) if n not in gone])
    assert {finding.problem for finding in findings} == {"missing"}
    named = set()
    for finding in findings:
        for part in finding.words.split(": ")[1].split(", "):
            first, _, last = part.partition("-")
            named |= set(range(int(first), int(last or first) + 1))
    assert named == {n + 1 for n in gone}


@given(st.integers(0, len(WHOLE) - 1), st.integers(0, len(WHOLE)))
def test_any_entry_that_is_there_twice_is_found(which, where):
    doubled = [*WHOLE[:where], WHOLE[which], *WHOLE[where:]]
    assert "duplicated" in problems(doubled)


@given(st.integers(0, len(WHOLE) - 1))
def test_a_tail_cut_off_is_found_by_whoever_saw_the_head(left):
    assert verify(WHOLE[:left]) == []
    assert problems(WHOLE[:left], head=head_of(WHOLE)) == {"truncated"}


def test_an_entry_rewritten_with_a_hash_of_its_own_breaks_the_link_after_it():
    forged = resealed(WHOLE[3], body=canonical({"event": "given"}))
    (finding,) = verify([*WHOLE[:3], forged, *WHOLE[4:]])
    assert (finding.seq, finding.problem) == (5, "broken link")


def test_a_first_entry_that_follows_something_is_the_rest_of_another_ledger():
    (finding,) = verify([resealed(WHOLE[0], previous="f" * 64)])
    assert (finding.seq, finding.problem) == (1, "broken link")


def test_a_ledger_written_anew_from_the_beginning_is_found_by_its_head():
    anew: list[Entry] = []
    for entry in chain(9):
        subject = "" if entry.seq == 4 else entry.subject
        anew.append(
            following(
                anew[-1] if anew else None, at=entry.at, kind=entry.kind, subject=subject, body=json.loads(entry.body)
            )
        )
    assert verify(anew) == []
    assert problems(anew, head=head_of(WHOLE)) == {"changed"}
    assert problems(anew, head=head_of(WHOLE[:3])) == set()


def test_a_clock_that_went_backwards_is_found():
    back = resealed(WHOLE[-1], at="2026-11-23T00:00:00.000+00:00")
    (finding,) = verify([*WHOLE[:-1], back])
    assert finding.problem == "clock"
    assert "2026-11-23" in finding.words


@pytest.mark.parametrize("body", ['{"a": 1}', '{"b":1,"a":2}', '{"a":NaN}', "{", "", "1e999"])
def test_a_body_in_another_form_is_found_even_under_a_right_hash(body):
    assert problems([resealed(WHOLE[0], body=body)]) == {"changed"}


def test_an_unknown_kind_is_found_even_under_a_right_hash():
    assert problems([resealed(WHOLE[0], kind="rumour")]) == {"changed"}


def test_a_number_far_away_is_found_at_once():
    assert "missing before entry 1000000000000: 10-999999999999" in {
        finding.words for finding in verify([*WHOLE, resealed(WHOLE[0], seq=10**12)])
    }


# Writing and reading


def test_an_entry_is_never_older_than_the_one_before_and_the_clock_is_noted():
    after = following(WHOLE[-1], at="2020-01-01T00:00:00.000+00:00", kind="run", subject="", body={"run": "r"})
    assert after.at == WHOLE[-1].at
    assert json.loads(after.body) == {"run": "r", "clock": "2020-01-01T00:00:00.000+00:00"}
    assert verify([*WHOLE, after]) == []


@pytest.mark.parametrize("text", ["", "7", "7:abc", f"-1:{GENESIS}", f"7:{GENESIS}0", f"7:{'G' * 64}", f"x:{GENESIS}"])
def test_a_head_of_another_form_is_refused(text):
    with pytest.raises(UsageError, match="expected SEQ:HASH"):
        parse_head(text)
    assert parse_head(f"7:{GENESIS}") == (7, GENESIS)


def test_ten_thousand_entries_are_verified_in_two_seconds():
    entries = chain(10_000)
    begin = time.perf_counter()
    assert verify(entries, head=head_of(entries)) == []
    assert time.perf_counter() - begin < 2
