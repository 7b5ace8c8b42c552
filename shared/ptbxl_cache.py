"""The int16 cache of waveforms: one memory-mapped file, named by the digest of what it was made from.

Opening an unchanged cache costs a `stat` a file: what it said is remembered beside the digests. A folder holds one
cache; building or opening another one deletes it, so that signals that are no longer asked for do not linger. Which
records those are, and their labels, is `shared/ptbxl.py`'s.

A source may come with the sha256 that its files must have. One with other files is refused before its signal is
read, so that nobody's waveform enters under another record's name. A recording is there once: see `copies`.

Layout of `<digest>.samples`: int16 (N, 12, 5000), then JSON (names, scales, unit, what was left out), then the JSON's
length in eight bytes. The JSON stands last because it is known last, and a file without it is no cache.
"""

import hashlib
import json
import os
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from shared.errors import DataError, WorkspaceError
from shared.files import flush_folder, write_atomically
from shared.settings import LEADS, RECORD_SAMPLES
from shared.waveforms import BadRecord, Waveform, files_digest, read_waveform, signal_files

VERSION = 5  # of the layout and of how signals are read; part of every digest
RECORD_BYTES = len(LEADS) * RECORD_SAMPLES * 2


@dataclass(frozen=True)
class Source:
    """Where one record's signal comes from."""

    name: str  # what messages call it
    patient: str
    stem: Path  # without suffix
    hz: int
    sha256: str | None = None  # that its files must have (`shared.waveforms.files_digest`); None: whatever is there


@dataclass(frozen=True)
class Refused:
    """A source that could not be used."""

    row: int  # in the list of sources
    reason: str
    detail: str


@dataclass(frozen=True)
class Cache:
    """An open cache; row k of the arrays is source `rows[k]`."""

    samples: NDArray[np.int16]  # (N, 12, 5000), memory-mapped
    mv_per_count: NDArray[np.float32]  # (N, 12)
    rows: tuple[int, ...]
    refused: tuple[Refused, ...]
    unit: str
    files: tuple[str, ...]  # sha256 of each used source's files


def copies(known: Sequence[tuple[str, str, str]]) -> dict[int, str]:
    """Return which of `known`, (record, patient, sha256 of its files), are left out as copies, by place, and why.

    Of copies of one patient the first is kept. Of a recording under two patients none is: nobody can tell whose it is.
    """
    places: dict[str, list[int]] = defaultdict(list)
    for place, (_, _, sha256) in enumerate(known):
        places[sha256].append(place)
    found = {}
    for same in places.values():
        owners = {known[place][1] for place in same}
        for place in same[1:] if len(owners) == 1 else same:
            other = known[same[1] if place == same[0] else same[0]]
            found[place] = (
                f"record {known[place][0]} is the same recording as record {other[0]} of patient {other[1]}, expected "
                "every recording once; it is left out"
            )
    return found


def open_cache(sources: Sequence[Source], *, folder: Path, progress: Callable[[int], None] | None = None) -> Cache:
    """Open the cache of exactly these sources in `folder`, building it when it is not there.

    Args:
        sources: whose signals; none other's are in the folder afterwards.
        folder: the cache's own folder, created when missing.
        progress: told how many sources have been read, when they are read.

    Raises:
        DataError: no source can be used, or units differ.
        WorkspaceError: the cache cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files = _digests(sources, folder / "files.json")
        path = folder / f"{_digest(sources, files)}.samples"
        cache = _open(path, files)
        if cache is None:
            _build(sources, files, path, progress=progress or (lambda _: None))
            cache = _open(path, files)
        for other in folder.glob("*.samples"):
            if other != path:
                other.unlink(missing_ok=True)
    except OSError as error:
        raise WorkspaceError(
            f"cannot keep the signals of {len(sources)} records in {folder} ({error.strerror or error}), expected "
            f"about {len(sources) * RECORD_BYTES / 1e6:.0f} MB to be writable there; make room and start again"
        ) from error
    if cache is None:
        raise DataError(f"{path} changed while it was opened; is another run using {folder}? Start again")
    return cache


def _digests(sources: Sequence[Source], index: Path) -> list[str]:
    """Return the sha256 of each source's files; those whose `stat` is as remembered are not read again."""
    known: Any = {}
    with suppress(OSError, ValueError, RecursionError):
        known = json.loads(index.read_text(encoding="utf-8"))
    known = known if isinstance(known, dict) and known.get("version") == VERSION else {}
    current: dict[str, Any] = {"version": VERSION}
    for source in sources:
        header = _header(source)
        entry: Any = known.get(str(header))
        if not _is_known(entry) or entry["stats"] != _stats(header, entry["files"]):
            files = [header.name, *signal_files(header)]
            entry = {"files": files, "stats": _stats(header, files), "sha256": files_digest(header)}
        current[str(header)] = entry
    if current != known:
        write_atomically(index, json.dumps(current).encode())
    return [current[str(_header(source))]["sha256"] for source in sources]


def _is_known(entry: Any) -> bool:
    """Return whether what is remembered of a record's files has the form in which it is kept."""
    kept = isinstance(entry, dict) and {"stats", "files", "sha256"} <= set(entry) and isinstance(entry["files"], list)
    kept = kept and all(isinstance(one, str) for one in (entry["sha256"], *entry["files"]))
    return kept and not entry["sha256"].strip("0123456789abcdef")  # hex, and no letter that cannot be written down


def _digest(sources: Sequence[Source], files: Sequence[str]) -> str:
    """Return the digest of the sources' names, patients, order, rates and files, those expected and those found."""
    total = hashlib.sha256(f"lethe signals {VERSION}\n".encode())
    for source, found in zip(sources, files, strict=True):
        total.update(f"{source.name} {source.patient} {source.hz} {source.sha256} {found}\n".encode())
    return total.hexdigest()


def _header(source: Source) -> Path:
    return source.stem.parent / f"{source.stem.name}.hea"


def _stats(header: Path, names: Sequence[str]) -> list[list[int]]:
    """Return size, times of content and of inode (ns) and inode of each named file beside `header`; [] if missing.

    Size and time of content alone would not do: files of one size, unpacked or copied with their times, share both.
    """
    stats = []
    for name in names:
        try:
            found = os.stat(f"{header.parent}{os.sep}{name}")  # noqa: PTH116 (a Path a file doubles the time)
            stats.append([found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino])
        except (OSError, ValueError):  # a null byte in a damaged index
            stats.append([])
    return stats


def _build(sources: Sequence[Source], files: Sequence[str], path: Path, *, progress: Callable[[int], None]) -> None:
    """Read every source through WFDB and write the cache; under its own name only once it is whole."""
    for leftover in path.parent.glob("*.part"):
        leftover.unlink(missing_ok=True)

    def write(file: BinaryIO) -> None:
        scales: list[list[float]] = []
        rows: list[int] = []
        refused: list[Refused] = []
        units: dict[str, str] = {}
        again = copies([(one.name, one.patient, sha256) for one, sha256 in zip(sources, files, strict=True)])
        for row, source in enumerate(sources):
            if row in again:
                refused.append(Refused(row, "same recording", again[row]))
                continue
            waveform = _read(source, row, refused, found=files[row])
            if waveform is not None:
                file.write(np.ascontiguousarray(waveform.counts, dtype="<i2").tobytes())
                scales.append(waveform.mv_per_count.tolist())
                rows.append(row)
                units.setdefault(waveform.unit, source.name)
            progress(row + 1)
        _check(sources, refused, units)
        about = {
            "names": [sources[row].name for row in rows],
            "scales": scales,
            "rows": rows,
            "refused": [asdict(one) for one in refused],
            "unit": next(iter(units)),
        }
        text = json.dumps(about).encode()
        file.write(text + len(text).to_bytes(8, "little"))

    _replace(path, write)


def _read(source: Source, row: int, refused: list[Refused], *, found: str) -> Waveform | None:
    """Return a source's signal, or None and the reason; `found` is the sha256 of its files by which the cache goes."""
    header = _header(source)
    whole = [] not in _stats(header, (header.name, *signal_files(header)))  # a missing file is a reason of its own
    try:
        if whole and source.sha256 not in (None, found):
            raise BadRecord(_changed(source), "changed since enrolment")
        waveform = read_waveform(source.stem, hz=source.hz, name=source.name)
    except BadRecord as error:
        refused.append(Refused(row, error.reason, str(error)))
        return None
    if files_digest(header) != found:
        raise DataError(f"the files of record {source.name} changed while they were read; start again")
    return waveform


def _changed(source: Source) -> str:
    return (
        f"record {source.name} has other files than were enrolled (sha256 {(source.sha256 or '')[:12]}…, "
        f"{source.stem}), expected those; put them back, or enrol anew"
    )


def _check(sources: Sequence[Source], refused: Sequence[Refused], units: dict[str, str]) -> None:
    """Refuse a cache without a signal, or one that mixes millivolts with standardised signals."""
    if not units:
        first = f"; the first: {refused[0].detail}" if refused else ""
        raise DataError(f"none of {len(sources)} records can be used, expected at least one{first}")
    if len(units) > 1:
        seen = " but ".join(f"record {name} is in {unit}" for unit, name in units.items())
        raise DataError(f"{seen}, expected one unit for all; use folders with one unit each")


def _replace(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file that may be larger than memory so that its name holds all of it or nothing."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{path.stem[:16]}-", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise
    flush_folder(path.parent)


def _open(path: Path, files: Sequence[str]) -> Cache | None:
    """Map a cache into memory; None when it is missing or damaged."""
    try:
        about, before = _about(path)
        scales = np.asarray(about["scales"], dtype=np.float32)
        if before != len(scales) * RECORD_BYTES:
            return None
        shape = (len(scales), len(LEADS), RECORD_SAMPLES)
        samples = np.memmap(path, dtype="<i2", mode="r", shape=shape)
        refused = tuple(Refused(**one) for one in about["refused"])
        rows = tuple(about["rows"])
        return Cache(samples, scales, rows, refused, about["unit"], tuple(files[row] for row in rows))
    except (OSError, ValueError, KeyError, TypeError, IndexError, RecursionError):
        return None


def names_in(path: Path) -> tuple[str, ...] | None:
    """Return the names of the sources whose signals a cache's file holds; None where it cannot be read."""
    try:
        return tuple(map(str, _about(path)[0]["names"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _about(path: Path) -> tuple[dict[str, Any], int]:
    """Return the JSON at the end of a cache's file, and how many bytes stand before it.

    Raises:
        OSError, ValueError, TypeError: it is no cache.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - 8, 0))
        before = size - 8 - int.from_bytes(file.read(8), "little")
        if before < 0:
            raise ValueError(f"{path} is cut off")
        file.seek(before)
        about = json.loads(file.read(size - 8 - before))
    if not isinstance(about, dict):
        raise ValueError(f"{path} does not end as a cache does")
    return about, before
