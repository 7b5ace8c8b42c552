"""Samples as lines of text, comma-separated, that arrive on a file descriptor: what stdin, a file or a serial line is.

Whatever the lines are, no sample is moved in time: a jump of the clock is a gap, another sampling rate an error.
"""

import os
import select
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from client import intake
from client.stream import Chunk
from shared.errors import StreamError
from shared.settings import LEADS, SAMPLING_HZ

READ_BYTES = 1 << 16
LONGEST_LINE = 1 << 14  # bytes; twelve numbers and a time are some two hundred
TIMES = ("TIME", "T", "SECONDS")
JITTER_S = 0.010  # by which a sensor's clock may be ahead or behind, beside `intake.RATE_TOLERANCE`
MOST_GAP_S = 1e8  # three years
RECENT = 50  # lines of which half may not begin with a jump

Values = npt.NDArray[np.float64]


def table(descriptor: int, *, stall_s: float) -> Iterator[Chunk]:
    """Give what arrives on a file descriptor as comma-separated lines, twelve numbers each, as soon as it arrives.

    A first line may name the columns: leads in any order, and a column `time` in seconds, whose jumps are gaps. An
    empty field or `nan` is a missing sample; lines that begin with `#` are left out. Where no whole line comes for
    `stall_s` seconds an empty chunk is given.

    Raises:
        StreamError: other columns, another sampling rate, or something that is no number.
    """
    reader: _Table | None = None
    for lines in _lines(descriptor, stall_s=stall_s):
        if reader is None and lines:
            lines[0] = lines[0].removeprefix("\ufeff")
            reader = _Table(lines[0])
            if reader.named and not (lines := lines[1:]):
                continue  # a header that comes alone is no silence
        if reader is not None:
            yield from reader.chunks(lines)
        else:
            yield Chunk(0, np.empty((len(LEADS), 0), dtype=np.float32))


class _Table:
    """What the columns are, and how far the table is."""

    def __init__(self, first: str) -> None:
        if other := next((mark for mark in (";", "\t") if mark in first), None):
            raise StreamError(f"the columns of the table are separated by {other!r}, expected commas", "format")
        fields = [field.strip().strip('"').upper() for field in first.split(",")]
        self.named = not _is_number(fields[0])
        names: Sequence[str] = fields if self.named else LEADS
        if len(fields) != len(names):
            raise StreamError(f"the table has {len(fields)} columns and names none, expected {len(LEADS)}", "leads")
        if unknown := [name for name in names if name not in (*LEADS, *TIMES)]:
            raise StreamError(
                f"the table has a column {unknown[0]!r}, expected the leads and `time`, in seconds: leave it out, or "
                "name it so",
                "leads",
            )
        self._columns = intake.columns(names, of="the table")
        self._time = next((number for number, name in enumerate(names) if name in TIMES), None)
        self._width, self._line = len(names), 1 if self.named else 0
        self._at, self._clock = 0, _Clock()

    def chunks(self, lines: Sequence[str]) -> Iterator[Chunk]:
        """Return the samples of some lines, in stretches without a gap."""
        values = self._values(lines)
        samples = values[:, self._columns].T.astype(np.float32)
        for first, last in self._stretches(values):
            yield from intake.chunks(self._at, samples[:, first:last])
            self._at += last - first
        self._line += len(lines)
        if not lines:
            yield Chunk(self._at, samples)

    def _values(self, lines: Sequence[str]) -> Values:
        """Return the numbers of some lines, (lines, columns)."""
        if not lines:
            return np.empty((0, self._width))
        try:
            found = np.loadtxt(lines, delimiter=",", ndmin=2)
        except ValueError:
            found = np.empty((0, 0))
        if found.shape != (len(lines), self._width):
            found = np.array([self._row(line, self._line + number) for number, line in enumerate(lines, start=1)])
        return np.asarray(found, dtype=np.float64)

    def _row(self, line: str, number: int) -> list[float]:
        fields = line.split(",")
        if len(fields) != self._width:
            raise StreamError(f"line {number} has {len(fields)} columns, expected {self._width}", "leads")
        if not all(_is_number(field) for field in fields):
            raise StreamError(f"line {number} holds something that is no number", "format")
        return [float(field.strip() or "nan") for field in fields]

    def _stretches(self, values: Values) -> Iterator[tuple[int, int]]:
        """Return first and last line of each stretch without a gap; before it, move on by what is missing."""
        if self._time is None or not len(values):
            yield 0, len(values)
            return
        for first, last, step in self._clock.stretches(values[:, self._time], line=self._line + 1):
            self._at += step - 1
            yield first, last


class _Clock:
    """Where a column of times jumps, and whether it goes at 500 Hz; kept from one batch of lines to the next."""

    def __init__(self) -> None:
        self._last: float | None = None
        self._recent: deque[float] = deque(maxlen=RECENT)  # seconds from line to line
        self._since, self._count = 0.0, 0  # a time in this stretch, and how many lines came after it

    def stretches(self, times: Values, *, line: int) -> list[tuple[int, int, int]]:
        """Return first and last row of each stretch without a gap, and by how many samples the first one moves on.

        Args:
            times: seconds, one a row.
            line: the number of the first row, for errors.

        Raises:
            StreamError: a time is missing, stands still or goes back, or another sampling rate.
        """
        if (none := ~np.isfinite(times)).any():
            raise StreamError(f"a time is missing in line {line + int(np.argmax(none))}", "format")
        if self._last is None:
            self._last = self._since = float(times[0]) - 1 / SAMPLING_HZ
        passed = np.diff(times, prepend=self._last)
        if (wrong := (passed <= 0) | (passed > MOST_GAP_S)).any():
            place = line + int(np.argmax(wrong))
            raise StreamError(f"time stands still, goes back or leaps by years before line {place}", "format")
        self._last = float(times[-1])
        self._recent.extend(passed.tolist())
        if len(self._recent) == RECENT and np.mean(np.array(self._recent) > 1.5 / SAMPLING_HZ) > 0.5:
            intake.refuse_rate(1 / float(np.median(self._recent)), of="the table")
        steps = np.maximum(np.rint(passed * SAMPLING_HZ).astype(np.int64), 1)
        begins = sorted({0, *np.flatnonzero(steps > 1).tolist()})
        found = list(zip(begins, [*begins[1:], len(times)], steps[begins].tolist(), strict=True))
        for first, last, step in found:
            self._keep_pace(times[first:last], new=step > 1)
        return found

    def _keep_pace(self, times: Values, *, new: bool) -> None:
        """Refuse a stretch whose lines come at another rate; one that begins after a gap is `new`."""
        if new:
            self._since, self._count = float(times[0]), -1
        count = self._count + np.arange(1, len(times) + 1)
        passed = times - self._since
        late = np.abs(passed - count / SAMPLING_HZ) > np.maximum(JITTER_S, intake.RATE_TOLERANCE * passed)
        if late.any():
            first = int(np.argmax(late))
            intake.refuse_rate(float(count[first] / passed[first]), of="the table")
        self._count = int(count[-1])
        if self._count >= SAMPLING_HZ:
            self._since, self._count = float(times[-1]), 0


def _lines(descriptor: int, *, stall_s: float, clock: Callable[[], float] = time.monotonic) -> Iterator[list[str]]:
    """Return whole lines as they arrive, and [] where none does; a last line needs no end."""
    rest, since = b"", clock()
    while True:
        patience = max(0.0, since + stall_s - clock())
        if not select.select([descriptor], [], [], patience)[0] or (patience == 0 and stall_s > 0):
            yield []
            since = clock()
            continue
        data = os.read(descriptor, READ_BYTES)
        *whole, rest = (rest + data).replace(b"\r", b"\n").split(b"\n")
        if not data and rest:
            whole, rest = [rest], b""
        if len(rest) > LONGEST_LINE:
            raise StreamError(f"a line of the table has more than {LONGEST_LINE:,} bytes", "format")
        found = [line.decode(errors="replace") for line in whole if line.strip() and not line.startswith(b"#")]
        if found:
            yield found
            since = clock()
        if not data:
            return


def _is_number(text: str) -> bool:
    """Return whether a field is a number, or empty; Python would take underscores, too."""
    try:
        float(text.strip() or "nan")
    except ValueError:
        return False
    return "_" not in text
