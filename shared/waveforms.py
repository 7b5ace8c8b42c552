"""One WFDB record on disk -> twelve leads of 5000 samples, or the reason why not.

Knows WFDB's files and what Lethe asks of a signal; which records exist and what they mean is
`shared/ptbxl.py`'s. wfdb and scipy are imported when a file is read: opening a cache needs neither.
"""

import hashlib
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from shared.errors import DataError
from shared.fields import words
from shared.files import is_file
from shared.settings import LEADS, RECORD_SAMPLES, SAMPLING_HZ
from shared.signals import blank_leads

SECONDS = RECORD_SAMPLES // SAMPLING_HZ
MILLIVOLTS = {"mV": 1.0, "uV": 1e-3, "V": 1e3, "NU": 1.0}  # in one of each unit
MOST_SIGNALS = 256  # that a header may claim; ECGs have 12 to 15, and wfdb makes room for as many as it says
MOST_HEADER_BYTES = 65536  # PTB-XL's have under 1000
BYTES_A_SAMPLE = {"16": 2, "24": 3, "32": 4, "61": 2, "80": 1, "212": 1.5}  # WFDB formats of fixed size


class BadRecord(DataError):
    """A record that cannot be used; `reason` is one of `shared.ptbxl.REASONS`."""

    def __init__(self, message: str, reason: str = "unreadable") -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Waveform:
    """A record's signal as counts: millivolts = counts * mv_per_count[:, None]."""

    counts: NDArray[np.int16]  # (12, 5000), leads as in settings.LEADS
    mv_per_count: NDArray[np.float32]  # (12,)
    unit: str  # "mV", or "NU" for signals that are standardised already

    def millivolts(self) -> NDArray[np.float32]:
        """Return the signal (12, 5000) in millivolts (for `NU`, in its own unit)."""
        return self.counts * self.mv_per_count[:, None]


def signal_files(header: Path) -> tuple[str, ...]:
    """Return the names of the signal files that a header names, without reading them; () when it has none."""
    names = (_parted(line)[0] for line in _header_lines(header)[1:])
    return tuple(dict.fromkeys(name for name in names if "/" not in name and "\\" not in name))


def files_digest(header: Path) -> str:
    """Return the sha256 over a header and the signal files it names; a missing file changes it too.

    Names of record and files do not count, nor do comments, or how a number is written: a copy under another name is
    the same recording.
    """
    names = signal_files(header)
    total = hashlib.sha256(header_meaning(header).encode())
    for name in names:
        try:
            content = _content(header.parent / name)
            total.update(f"\n{len(content)} ".encode())
            total.update(content)
        except OSError:
            total.update(f"\n{name} missing".encode())
    return total.hexdigest()


def header_meaning(header: Path) -> str:
    """Return what a header says of its signals, in one spelling; two of one recording say the same.

    The signals' checksums are in it, so that two recordings hardly ever do.
    """
    record, *signals = _header_lines(header) or [f"no {header.name}"]
    number = {name: str(place) for place, name in enumerate(signal_files(header))}
    lines = [" ".join(map(_spelt, _parted(record)[1].split()[:3]))]  # signals, rate, samples; the hour is no matter
    for line in signals:
        name, about = _parted(line)
        lines.append(f"{number.get(name, name)} {_signal_meaning(about)}")
    return "\n".join(lines)


def _signal_meaning(about: str) -> str:
    """Return a signal's format, gain, numbers and lead in one spelling: 1000/mV is 1000.0(0)/mV.

    A baseline that is not written is the zero level, a unit is millivolts (WFDB's header(5)).
    """
    layout, gain, *numbers, lead = [*about.split(maxsplit=7), *[""] * 8][:8]
    written = re.fullmatch(r"([^(/]+)(?:\(([^)]*)\))?(?:/(\S+))?", gain)
    if written:
        zero = numbers[1] or "0"
        gain = f"{_spelt(written[1])}({_spelt(written[2] or zero)})/{written[3] or 'mV'}"
    return " ".join([layout, gain, *map(_spelt, numbers), " ".join(lead.upper().split())])


def _spelt(word: str) -> str:
    """Return a number in one spelling, and what is none as it is."""
    try:
        return f"{float(word):.17g}"
    except ValueError:
        return word


def _parted(line: str) -> tuple[str, str]:
    """Return the name that a header's line begins with, and the rest; a blank or a tab stands between."""
    name, *rest = line.split(maxsplit=1)
    return name, "".join(rest)


def _header_lines(header: Path) -> list[str]:
    """Return the line of the record and those of its signals; nothing where there is no header that can be read."""
    try:
        lines = _content(header).decode("utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]


def _content(path: Path) -> bytes:
    """Return a file's bytes; what is no file, such as a pipe, would have none or no end of them."""
    if not is_file(path):
        raise FileNotFoundError(path)
    return path.read_bytes()


def read_waveform(stem: Path, *, hz: int, name: str) -> Waveform:
    """Read the record `stem` (a path without suffix) that should be ten seconds of twelve leads at `hz`.

    Counts of a 16-bit file at 500 Hz come out as they are in the file; anything else (another rate, an offset,
    a wider format) is requantised to 16 bits over each lead's own range.

    Args:
        stem: where the record is.
        hz: 500 or 100; 100 Hz are resampled to 500.
        name: what messages call the record.

    Raises:
        BadRecord: with the reason, and what to do.
    """
    found = _wfdb_record(stem, hz=hz, name=name)
    order = _lead_order(found.sig_name, name=name)
    unit, factors = _units(found.units, name=name)
    values = np.asarray(found.p_signal, dtype=np.float64).T
    if not np.isfinite(values).all():
        bad = [LEADS[row] for row, lead in enumerate(order) if not np.isfinite(values[lead]).all()]
        _refuse("not a number", name, f"has invalid samples in {', '.join(bad)}, expected a number everywhere")
    counts = _stored_counts(found, values)
    _check_sums(found, counts, stem, name=name)
    blank = blank_leads(values[order])
    if blank:
        leads = ", ".join(LEADS[lead] for lead in blank)
        _refuse("blank lead", name, f"has a blank lead ({leads} never changes), expected a signal in all twelve")
    gains = np.asarray(found.adc_gain, dtype=np.float64)
    fits = np.abs(counts).max() <= np.iinfo(np.int16).max
    if hz == SAMPLING_HZ and fits and not np.any(found.baseline):
        return Waveform(counts[order].astype(np.int16), (factors / gains)[order].astype(np.float32), unit)
    return _requantise(_resampled(values * factors[:, None], hz=hz)[order], unit=unit)


def _refuse(reason: str, name: str, seen: str) -> NoReturn:
    raise BadRecord(f"record {name} {seen}; fetch its files again or leave the record out", reason)


def _wfdb_record(stem: Path, *, hz: int, name: str) -> Any:  # wfdb is untyped
    """Return wfdb's record, with every way in which reading can fail as one error.

    Parsing the header is nearly all of the time, so that of a good record is parsed once, with the signal. Where it
    claims another length, or reading fails, it is looked at alone: wfdb only says that an array cannot be reshaped.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # wfdb 4.3 calls pandas in a way that warns
        import wfdb

    header = stem.parent / f"{stem.name}.hea"
    _check_size(header, name=name)
    for path in (header, *(stem.parent / file for file in signal_files(header))):
        if not is_file(path):
            _refuse("missing file", name, f"has no file {words(path.name)}, expected it in {path.parent}")
    try:
        first = next(iter(_header_lines(header)), "").split()
        if first[3:4] != [str(hz * SECONDS)]:  # as much would be read as it claims
            _check_samples(wfdb.rdheader(str(stem)), stem, hz=hz, name=name)
        found = _read(wfdb, stem, hz=hz, name=name)
    except BadRecord:
        raise
    except Exception as error:  # wfdb raises whatever its parsing trips over: KeyError, IndexError, ValueError...
        seen = f"cannot be read ({type(error).__name__}: {error}), expected a header that agrees with its signal file"
        raise BadRecord(f"record {name} {seen}; fetch its files again or leave the record out", "unreadable") from error
    whole = found.p_signal is not None and found.file_name
    if not whole or not all(found.adc_gain) or not np.isfinite(found.adc_gain).all():
        _refuse("unreadable", name, "has no signal with a gain, or one that is no number, expected one for every lead")
    return found


def _read(wfdb: Any, stem: Path, *, hz: int, name: str) -> Any:
    try:
        with np.errstate(all="ignore"):  # what a strange gain makes of the samples is looked at afterwards
            found = wfdb.rdrecord(str(stem))
    except Exception:
        _check_samples(wfdb.rdheader(str(stem)), stem, hz=hz, name=name)
        raise
    _check_samples(found, stem, hz=hz, name=name)
    return found


def _check_size(header: Path, *, name: str) -> None:
    """Refuse a header that claims more than any ECG has, before anything is made as large as it says."""
    if not is_file(header):
        return
    if (size := header.stat().st_size) > MOST_HEADER_BYTES:
        _refuse("unreadable", name, f"has a header of {size} bytes, expected at most {MOST_HEADER_BYTES}")
    said = [line.split() for line in _header_lines(header)]
    claimed = said[0][1] if said and len(said[0]) > 1 else ""
    if claimed.isdecimal() and (len(claimed) > 9 or int(claimed) > MOST_SIGNALS):
        seen = claimed if len(claimed) <= 12 else f"{claimed[:12]}…"
        _refuse("wrong leads", name, f"has a header that claims {seen} leads, expected {len(LEADS)}")
    if claimed.isdecimal() and len(said) - 1 != int(claimed):
        _refuse("wrong leads", name, f"has a header of {len(said) - 1} signals that claims {claimed}, expected as many")
    layouts = [words[1] for words in said[1:] if len(words) > 1]
    if wide := [layout for layout in layouts if re.search(r"[x:]\d", layout)]:
        _refuse(
            "unreadable", name, f"has the format {wide[0][:24]} in its header, expected one sample a frame, no skew"
        )


def _check_samples(found: Any, stem: Path, *, hz: int, name: str) -> None:
    """Refuse another rate or length than `hz` and ten seconds, and a file whose size its header does not explain."""
    seen, expected = f"{found.sig_len} samples at {found.fs:g} Hz", f"{hz * SECONDS} at {hz} Hz"
    if found.fs != hz or found.sig_len != hz * SECONDS:
        _refuse("wrong samples", name, f"has {seen}, expected {expected}")
    for file in dict.fromkeys(found.file_name):
        signals = [signal for signal, owner in enumerate(found.file_name) if owner == file]
        widths = [BYTES_A_SAMPLE.get(found.fmt[signal]) for signal in signals]
        if None in widths:
            continue
        size = int(sum(filter(None, widths)) * found.sig_len) + (found.byte_offset[signals[0]] or 0)
        actual = (stem.parent / file).stat().st_size
        if actual != size:
            _refuse("unreadable", name, f"has {actual} bytes in {file}, expected {size} by its header")


def _lead_order(names: list[str], *, name: str) -> list[int]:
    """Return which of the file's signals is each lead of `LEADS`; lead names differ in case between data sets."""
    seen = [str(lead).strip().upper() for lead in names]
    missing = [lead for lead in LEADS if lead not in seen]
    if len(seen) == len(LEADS) and not missing:
        return [seen.index(lead) for lead in LEADS]
    extra = [lead for lead in seen if lead not in LEADS]
    twice = sorted({lead for lead in seen if seen.count(lead) > 1})
    notes = [f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing"] if missing else []
    notes += [f"unknown: {', '.join(extra)}"] if extra else []
    notes += [f"more than once: {', '.join(twice)}"] if twice else []
    _refuse("wrong leads", name, f"has {len(seen)} leads, expected {len(LEADS)} ({'; '.join(notes)})")


def _units(units: list[str], *, name: str) -> tuple[str, NDArray[np.float64]]:
    """Return the record's unit and the factors (signals,) that make millivolts of the file's values."""
    unknown = sorted({unit for unit in units if unit not in MILLIVOLTS})
    if unknown or ("NU" in units and set(units) != {"NU"}):
        seen = ", ".join(sorted(set(units)))
        _refuse("unreadable", name, f"has the unit {seen}, expected mV, uV, V or NU, NU for all leads or none")
    return "NU" if "NU" in units else "mV", np.array([MILLIVOLTS[unit] for unit in units])


def _stored_counts(found: Any, values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the integers (signals, samples) that the file holds, from wfdb's physical values."""
    gains, baselines = np.asarray(found.adc_gain), np.asarray(found.baseline)
    counts: NDArray[np.int64] = np.rint(values * gains[:, None] + baselines[:, None]).astype(np.int64)
    return counts


def _check_sums(found: Any, counts: NDArray[np.int64], stem: Path, *, name: str) -> None:
    """Refuse a signal whose 16-bit sum is not the one in the header (where the header has one)."""
    for sums, stated, lead in zip(counts.sum(axis=1), found.checksum or (), found.sig_name, strict=False):
        if stated is not None and (int(sums) - int(stated)) % 65536:
            seen = f"has samples of {lead} that disagree with the checksum in {stem.name}.hea"
            _refuse("unreadable", name, f"{seen}, expected {stated}")


def _resampled(values: NDArray[np.float64], *, hz: int) -> NDArray[np.float64]:
    """Return the signal at 500 Hz: polyphase, with the ends extended by a line so that they do not ring."""
    if hz == SAMPLING_HZ:
        return values
    from scipy.signal import resample_poly

    return np.asarray(resample_poly(values, SAMPLING_HZ // hz, 1, axis=1, padtype="line"))


def _requantise(values: NDArray[np.float64], *, unit: str) -> Waveform:
    """Return 16-bit counts over each lead's own range: the error is at most its peak / 65534."""
    step = np.abs(values).max(axis=1) / np.iinfo(np.int16).max
    return Waveform(np.rint(values / step[:, None]).astype(np.int16), step.astype(np.float32), unit)
