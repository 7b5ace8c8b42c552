"""Where a wearable's samples come from here: a WFDB record, a table of text, a generator; all as `stream.Chunk`s.

A sensor's driver would stand in this file's place. Samples that cannot be twelve leads in millivolts at 500 Hz are
refused; a time that jumps is a gap. wfdb is imported when a record is read: it alone takes a second.
"""

import os
import select
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from client.stream import Chunk
from shared.errors import StreamError
from shared.settings import LEADS, SAMPLING_HZ

CHUNK = 125  # samples given at once, a quarter of a second
BLOCK = 60 * SAMPLING_HZ  # samples read from a record at once
READ_BYTES = 1 << 16
TIMES = ("TIME", "T", "SECONDS")
MILLIVOLTS = {"mV": 1.0, "uV": 1e-3, "V": 1e3, "NU": 1.0}  # a header that states its unit is believed
# A beat of the generator: millivolts, seconds after its begin, width in seconds.
WAVES = ((0.12, 0.16, 0.025), (-0.10, 0.268, 0.010), (1.10, 0.30, 0.011), (-0.25, 0.33, 0.012), (0.30, 0.56, 0.045))
TOWARDS = {"I": 0.6, "II": 1.0, "V1": -0.5, "V2": -0.2, "V3": 0.5, "V4": 1.1, "V5": 1.0, "V6": 0.8}


def record(path: Path) -> Iterator[Chunk]:
    """Give a WFDB record of any length; samples that its format calls invalid are missing.

    Raises:
        StreamError: it cannot be read, or has other leads, units or another sampling rate.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # wfdb 4.3 calls pandas in a way that warns
        import wfdb

    name = path.with_suffix("") if path.suffix in (".hea", ".dat") else path
    try:
        header = wfdb.rdheader(str(name))
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise StreamError(f"{name} is no WFDB record ({error})", "format") from None
    _refuse_rate(float(header.fs), of=f"record {name.name}")
    columns = _columns([str(lead).upper() for lead in header.sig_name or ()], of=f"record {name.name}")
    unknown = sorted({header.units[column] for column in columns} - MILLIVOLTS.keys())
    if unknown:
        raise StreamError(f"record {name.name} is in {', '.join(unknown)}, expected mV, uV or V", "units")
    scale = np.array([MILLIVOLTS[header.units[column]] for column in columns])[:, None]
    for since in range(0, header.sig_len, BLOCK):
        try:
            block = wfdb.rdrecord(
                str(name), sampfrom=since, sampto=min(since + BLOCK, header.sig_len), channels=columns
            )
        except (OSError, ValueError) as error:
            raise StreamError(f"record {name.name} cannot be read after {since} samples ({error})", "format") from None
        yield from _chunks(since, (block.p_signal.T * scale).astype(np.float32))


def table(descriptor: int, *, stall_s: float) -> Iterator[Chunk]:
    """Give what arrives on a file descriptor as comma-separated lines, twelve numbers each, as soon as it arrives.

    A first line may name the columns: leads in any order, and a column `time` in seconds, whose jumps are gaps. An
    empty field or `nan` is a missing sample. Where nothing comes for `stall_s` seconds an empty chunk is given.

    Raises:
        StreamError: other columns, another sampling rate, or something that is no number.
    """
    reader: _Table | None = None
    for lines in _lines(descriptor, stall_s=stall_s):
        if reader is None and lines:
            reader = _Table(lines[0])
            lines = lines[1:] if reader.named else lines
        if reader is not None:
            yield from reader.chunks(lines)
        else:
            yield Chunk(0, np.empty((len(LEADS), 0), dtype=np.float32))


def generated(seconds: float) -> Iterator[Chunk]:
    """Give a made-up regular rhythm of 60 a minute: what a bench plays into the electrodes, and no patient's."""
    at = np.arange(SAMPLING_HZ) / SAMPLING_HZ
    beat = sum(height * np.exp(-0.5 * ((at - centre) / width) ** 2) for height, centre, width in WAVES)
    leads = {name: share * beat for name, share in TOWARDS.items()}
    leads |= {"III": leads["II"] - leads["I"], "AVR": -(leads["I"] + leads["II"]) / 2}
    leads |= {"AVL": leads["I"] - leads["II"] / 2, "AVF": leads["II"] - leads["I"] / 2}
    period = np.stack([leads[name] for name in LEADS]).astype(np.float32)
    for since in range(0, round(seconds * SAMPLING_HZ), CHUNK):
        places = np.arange(since, min(since + CHUNK, round(seconds * SAMPLING_HZ)))
        ripple = np.sin(places * np.linspace(2, 3, len(LEADS))[:, None]).astype(np.float32)  # 160 Hz and more
        yield Chunk(since, period[:, places % SAMPLING_HZ] + np.float32(0.005) * ripple)


class _Table:
    """What the columns are, and how far the table is."""

    def __init__(self, first: str) -> None:
        fields = [field.strip().upper() for field in first.split(",")]
        self.named = not _is_number(fields[0])
        names: Sequence[str] = fields if self.named else LEADS
        if len(fields) != len(names):
            raise StreamError(f"the table has {len(fields)} columns and names none, expected {len(LEADS)}", "leads")
        self._columns = _columns(names, of="the table")
        self._time = next((number for number, name in enumerate(names) if name in TIMES), None)
        self._width, self._line = len(names), 1 if self.named else 0
        self._at, self._clock = 0, None if self._time is None else float("nan")

    def chunks(self, lines: Sequence[str]) -> Iterator[Chunk]:
        """Return the samples of some lines, in stretches without a gap."""
        values = self._values(lines)
        samples = values[:, self._columns].T.astype(np.float32)
        for first, last in self._stretches(values):
            yield from _chunks(self._at, samples[:, first:last])
            self._at += last - first
        if not lines:
            yield Chunk(self._at, samples)

    def _values(self, lines: Sequence[str]) -> npt.NDArray[np.float64]:
        """Return the numbers of some lines, (lines, columns)."""
        if not lines:
            return np.empty((0, self._width))
        try:
            found = np.loadtxt(lines, delimiter=",", ndmin=2)
        except ValueError:
            found = np.array([self._row(line, self._line + number) for number, line in enumerate(lines, start=1)])
        if found.shape != (len(lines), self._width):
            found = np.array([self._row(line, self._line + number) for number, line in enumerate(lines, start=1)])
        self._line += len(lines)
        return np.asarray(found, dtype=np.float64)

    def _row(self, line: str, number: int) -> list[float]:
        fields = line.split(",")
        if len(fields) != self._width:
            raise StreamError(f"line {number} has {len(fields)} columns, expected {self._width}", "leads")
        try:
            return [float(field) if field.strip() else float("nan") for field in fields]
        except ValueError:
            raise StreamError(f"line {number} holds something that is no number", "format") from None

    def _stretches(self, values: npt.NDArray[np.float64]) -> Iterator[tuple[int, int]]:
        """Return first and last line of each stretch without a gap; before it, move on by what is missing."""
        if self._time is None or self._clock is None or not len(values):
            yield 0, len(values)
            return
        times = values[:, self._time]
        if np.isnan(times).any():
            raise StreamError(f"a time is missing before line {self._line + 1}", "format")
        if np.isnan(self._clock):
            self._clock = float(times[0]) - 1 / SAMPLING_HZ
            if len(times) > 1:
                _refuse_rate(1 / max(float(np.median(np.diff(times))), 1e-9), of="the table")
        steps = np.rint(np.diff(times, prepend=self._clock) * SAMPLING_HZ).astype(int)
        self._clock = float(times[-1])
        if (steps < 1).any():
            raise StreamError(f"time stands still or goes back before line {self._line + 1}", "format")
        jumps = np.flatnonzero(steps > 1)
        begins = sorted({0, *jumps.tolist()})
        for first, last in zip(begins, [*begins[1:], len(values)], strict=True):
            self._at += int(steps[first]) - 1
            yield first, last


def _lines(descriptor: int, *, stall_s: float) -> Iterator[list[str]]:
    """Return whole lines as they arrive, and [] where nothing does; a last line needs no end."""
    rest = b""
    while True:
        if not select.select([descriptor], [], [], stall_s)[0]:
            yield []
            continue
        data = os.read(descriptor, READ_BYTES)
        *whole, rest = (rest + data).split(b"\n")
        if not data and rest:
            whole, rest = [rest], b""
        if found := [line.decode(errors="replace") for line in whole if line.strip()]:
            yield found
        if not data:
            return


def _chunks(since: int, samples: npt.NDArray[np.float32]) -> Iterator[Chunk]:
    for start in range(0, samples.shape[1], CHUNK):
        yield Chunk(since + start, samples[:, start : start + CHUNK])


def _columns(names: Sequence[str], *, of: str) -> list[int]:
    """Return where the leads are among the columns.

    Raises:
        StreamError: one is missing, or is there twice.
    """
    missing = [lead for lead in LEADS if names.count(lead) != 1]
    if missing:
        here = sum(lead in names for lead in LEADS)
        raise StreamError(
            f"{of} has {here} of the leads, expected {len(LEADS)}: {', '.join(missing)} missing or there twice", "leads"
        )
    return [names.index(lead) for lead in LEADS]


def _refuse_rate(hz: float, *, of: str) -> None:
    if abs(hz / SAMPLING_HZ - 1) > 0.02:
        raise StreamError(f"{of} has {hz:g} samples a second, expected {SAMPLING_HZ}; resample it first", "rate")


def _is_number(text: Any) -> bool:
    try:
        float(text or "nan")
    except ValueError:
        return False
    return True
