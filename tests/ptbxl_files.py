"""Changing and breaking a data set in PTB-XL's layout, for tests."""

import csv
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from shared.settings import LEADS
from simulations.cohort import write_cohort


def change_rows(folder: Path, change, name="ptbxl_database.csv"):
    """Rewrite a table after `change(rows)`."""
    with (folder / name).open(newline="") as file:
        rows = list(csv.DictReader(file))
    change(rows)
    with (folder / name).open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def set_cell(folder: Path, column: str, value: str, row: int = 0):
    change_rows(folder, lambda rows: rows[row].update({column: value}))


def header(folder: Path, record) -> Path:
    return folder / f"{record.path}.hea"


def counts_of(folder: Path, record) -> np.ndarray:
    return np.fromfile(folder / f"{record.path}.dat", "<i2").reshape(-1, 12).T


def rewrite(folder: Path, record, counts: np.ndarray, *, leads=LEADS, hz=500, gain="1000.0(0)/mV", sums=True):
    """Write a record's files anew from counts (leads, samples), with a header that agrees."""
    name = Path(record.path).name
    lines = [f"{name} {len(counts)} {hz} {counts.shape[1]}"]
    for lead, values in zip(leads, counts, strict=True):
        total = f"{int(values.sum(dtype=np.int64)) % 65536}" if sums else "0"
        lines.append(f"{name}.dat 16 {gain} 16 0 {values[0]} {total} 0 {lead}")
    header(folder, record).write_text("\n".join(lines) + "\n")
    counts.T.astype("<i2").tofile(folder / f"{record.path}.dat")


@contextmanager
def room_for(file_bytes: int) -> Iterator[None]:
    """Let no file grow beyond this size, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def changed_sample(folder, record):
    counts = counts_of(folder, record).copy()
    counts[3, 2500] += 1
    counts.T.astype("<i2").tofile(folder / f"{record.path}.dat")


def replaced(folder, record, old, new):
    header(folder, record).write_text(header(folder, record).read_text().replace(old, new))


def copy_record(record, other, *, of: Path, to: Path):
    """Put a record of one folder in another record's place in a folder, under that one's name."""
    for suffix in ("hea", "dat"):
        whole = (of / f"{record.path}.{suffix}").read_bytes()
        whole = whole.replace(Path(record.path).name.encode(), Path(other.path).name.encode())
        (to / f"{other.path}.{suffix}").write_bytes(whole)


def small_cohort(folder: Path) -> Path:
    """Write four patients, the same ones every time."""
    write_cohort(folder, patients=4, seed=3)
    return folder
