"""What the fuzz tests share: how many examples, how valid bytes are broken, and that no example takes much memory.

scripts/test tests/test_fuzz_messages.py tests/test_fuzz_files.py               500 each, the same ones every time
FUZZ_EXAMPLES=10000 scripts/test --timeout=0 tests/test_fuzz_messages.py ...    as many, other ones every time
"""

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

ASKED = os.environ.get("FUZZ_EXAMPLES", "")
ROOM = 1 << 30  # bytes that an example may take beyond what the process has

fuzz: Callable[[Any], Any] = settings(
    max_examples=int(ASKED or 500),
    derandomize=not ASKED,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

# What parsers trip over.
TOKENS = [b"", b"\0", b"\n", b"\r", b"\t", b" ", b"\x1b[2J"]
TOKENS += [b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\\u0000", b"\\ud800"]
TOKENS += [b"9" * 30, b"9" * 5000, b"[" * 2000, b'{"a":' * 500]
TOKENS += b"'|\"|,|/|../|{|[|]|}|-|1e999|NaN|Infinity|-1|0|true|null|1_0|0x1|%s|:|#|=|.".split(b"|")

ODD = [-1, 0, 2, 10**30, 1e308, float("nan"), float("inf"), True, "", "../x", "\x1b[2J", "9" * 2000, {}]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@st.composite
def broken(draw: st.DrawFn, valid: bytes, *, most: int = 4) -> bytes:
    """Valid bytes with a few of them replaced, left out, doubled or cut off."""
    data = bytearray(valid)
    for _ in range(draw(st.integers(1, most))):
        at = draw(st.integers(0, len(data)))
        until = min(len(data), at + draw(st.sampled_from([0, 1, 1, 2, 5, 20, 10**9])))
        how = draw(st.sampled_from(["token", "bytes", "cut", "double"]))
        if how == "token":
            data[at:until] = draw(st.sampled_from(TOKENS))
        elif how == "bytes":
            data[at:until] = draw(st.binary(max_size=6))
        elif how == "cut":
            del data[at:until]
        else:
            data[at:at] = data[at : min(until, at + 200)]
    return bytes(data)


@st.composite
def altered(draw: st.DrawFn, value: Any) -> Any:
    """A JSON value in which something, somewhere, is another."""
    if isinstance(value, dict) and value and draw(st.integers(0, 9)):
        key = draw(st.sampled_from(sorted(value)))
        what = draw(st.integers(0, 11))
        if what == 0:
            return {name: one for name, one in value.items() if name != key}
        if what == 1:
            return {**value, draw(st.text(max_size=6)): draw(json_values)}
        return {**value, key: draw(altered(value[key]))}
    if isinstance(value, list) and value and draw(st.integers(0, 9)):
        at = draw(st.integers(0, len(value) - 1))
        what = draw(st.integers(0, 7))
        if what == 0:
            return value[:at] + value[at + 1 :]
        if what == 1:
            return [*value, value[at]]
        return [*value[:at], draw(altered(value[at])), *value[at + 1 :]]
    odd = st.sampled_from(
        [-1, 0, 2, 10**30, 1e308, float("nan"), float("inf"), True, "", "../x", "\x1b[2J", "9" * 2000, {}]
    )
    return draw(odd | json_values)


@contextmanager
def little_memory() -> Iterator[None]:
    """Let the block take no more than `ROOM`: what wants more is a MemoryError, and a bug."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + ROOM, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
