"""The two tables of a PTB-XL folder -> records; no signal is read here.

A record's superclasses are those of its diagnostic SCP statements with a likelihood above 0 (0 means unknown).
"""

import ast
import csv
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from shared.errors import DataError, UsageError
from shared.fields import shown
from shared.settings import SUPERCLASSES

DATABASE = "ptbxl_database.csv"
STATEMENTS = "scp_statements.csv"
FILENAMES = {500: "filename_hr", 100: "filename_lr"}
MOST_PATH_BYTES, MOST_DATE = 200, 60  # PTB-XL's have 26 and 19; a file's name may have 255 bytes, with its suffix
NEEDED = ("ecg_id", "patient_id", "scp_codes", "strat_fold")

REASONS = (
    "no superclass",
    "blank lead",
    "not a number",
    "wrong leads",
    "wrong samples",
    "unreadable",
    "several superclasses",
    "missing file",
    "changed since enrolment",
    "not in the table",
    "same recording",
)


@dataclass(frozen=True)
class Record:
    """One 10 s ECG as the tables describe it."""

    id: str  # ecg_id: "17"
    patient: str  # pseudonymous: "15709"
    path: str  # relative to the folder, without suffix: "records500/00000/00017_hr"
    superclasses: tuple[str, ...]  # in the order of settings.SUPERCLASSES
    fold: int  # 1 to 10; no patient spans folds
    recorded_at: str  # "1984-11-09 09:17:34", or "" where the data set does not say
    hz: int  # 500 or 100

    @property
    def labels(self) -> tuple[float, ...]:
        """Return the superclasses as (5,) zeros and ones."""
        return tuple(float(name in self.superclasses) for name in SUPERCLASSES)


@dataclass(frozen=True)
class LeftOut:
    """A record that is not used, and why."""

    record: str
    reason: str  # one of REASONS
    detail: str  # for people: "record 17 has ..., expected ..."


@dataclass(frozen=True)
class Index:
    """What the tables of a folder hold."""

    folder: Path
    records: tuple[Record, ...]
    left_out: tuple[LeftOut, ...]


def index(folder: Path, *, hz: int | None = None) -> Index:
    """Read the tables of a data set in PTB-XL's layout.

    Args:
        folder: holds `ptbxl_database.csv` and `scp_statements.csv`.
        hz: 500 or 100; None takes 500 where the table has it.

    Raises:
        DataError: a missing folder, file or column, a cell that cannot be understood, an SCP code without a
            statement, a record that comes twice, a path that leaves the folder.
        UsageError: another `hz`.
    """
    if hz not in (None, *FILENAMES):
        raise UsageError(f"{hz} Hz was asked for, expected 500 or 100")
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder, expected one with {DATABASE}; check the path or fetch the data")
    classes = _classes(folder / STATEMENTS)
    rows = _rows(folder / DATABASE, needed=NEEDED)
    header, _ = next(rows)
    rate = hz or (500 if FILENAMES[500] in header else 100)
    if FILENAMES[rate] not in header:
        raise DataError(f"{folder / DATABASE} has no column {FILENAMES[rate]}, expected it for {rate} Hz")
    records: list[Record] = []
    left_out: list[LeftOut] = []
    seen: set[str] = set()
    for row, where in rows:
        record = _record(row, where, classes=classes, hz=rate)
        if record.id in seen:
            raise DataError(f"{where} names record {record.id} again, expected every ecg_id once; remove one")
        seen.add(record.id)
        if not record.path:
            why = f"record {record.id} has an empty {FILENAMES[rate]}, expected its path"
            left_out.append(LeftOut(record.id, "missing file", why))
        elif not record.superclasses:
            why = f"record {record.id} has no superclass by its codes {row['scp_codes']}, expected one or more"
            left_out.append(LeftOut(record.id, "no superclass", why))
        else:
            records.append(record)
    return Index(folder, tuple(records), tuple(left_out))


def unlisted(tables: Index, enrolled: Iterable[str]) -> Iterator[LeftOut]:
    """Yield the enrolled records that the tables do not list any more."""
    listed = {record.id for record in tables.records} | {one.record for one in tables.left_out}
    for record in enrolled:
        if record not in listed:
            seen = f"record {record} is enrolled, but {DATABASE} does not list it any more; put its line back"
            yield LeftOut(record, "not in the table", seen)


def _rows(path: Path, *, needed: tuple[str, ...]) -> Iterator[tuple[dict[str, str], str]]:
    """Yield the header (name -> name), then every row, each with where it stands."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            header = reader.fieldnames or ()
            missing = [name for name in needed if name not in header]
            if missing:
                raise DataError(
                    f"{path} has no column {', '.join(missing)}, expected PTB-XL's columns; fetch the file again"
                )
            yield {name: name for name in header}, str(path)
            for row in reader:
                where = f"{path.name} line {reader.line_num}"
                if None in row or None in row.values():
                    raise DataError(f"{where} has not {len(header)} cells, expected one a column; fetch it again")
                yield row, where
    except FileNotFoundError as error:
        raise DataError(f"{path.parent} has no {path.name}, expected PTB-XL's layout; fetch the data") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read ({error}), expected a CSV file in UTF-8; fetch it again") from error


def _classes(path: Path) -> dict[str, str]:
    """Return SCP code -> superclass, "" for statements that are not diagnostic."""
    classes = {}
    rows = _rows(path, needed=("diagnostic", "diagnostic_class"))
    code_column = next(iter(next(rows)[0]))  # the first column has no name
    for row, where in rows:
        diagnostic = row["diagnostic"].strip() not in ("", "0", "0.0")
        superclass = row["diagnostic_class"].strip() if diagnostic else ""
        if superclass and superclass not in SUPERCLASSES:
            raise DataError(
                f"{where} has the diagnostic_class {superclass!r}, expected one of {', '.join(SUPERCLASSES)}"
            )
        classes[row[code_column].strip()] = superclass
    return classes


def _record(row: Mapping[str, str], where: str, *, classes: Mapping[str, str], hz: int) -> Record:
    """Return what one row of the database says; a record without superclass or path has an empty one."""
    record = _whole(row, "ecg_id", where)
    found = set()
    for code, likelihood in _codes(row["scp_codes"], where, record).items():
        if code not in classes:
            raise DataError(
                f"record {record} has the SCP code {code!r}, which {STATEMENTS} does not explain; "
                f"add its statement there, or correct the code in {where}"
            )
        if likelihood > 0:
            found.add(classes[code])
    return Record(
        id=record,
        patient=_whole(row, "patient_id", where),
        path=_path(row[FILENAMES[hz]].strip(), where),
        superclasses=tuple(name for name in SUPERCLASSES if name in found),
        fold=_fold(row, where),
        recorded_at=_date(row.get("recording_date", "").strip(), where),
        hz=hz,
    )


def _fold(row: Mapping[str, str], where: str) -> int:
    """Return the fold of PTB-XL's stratified split, 1 to 10."""
    fold = int(_whole(row, "strat_fold", where))
    if not 1 <= fold <= 10:
        raise DataError(f"{where} has the strat_fold {fold}, expected 1 to 10; correct it")
    return fold


def _whole(row: Mapping[str, str], column: str, where: str) -> str:
    """Return a whole number, which PTB-XL may write as 15709.0, as "15709"."""
    try:
        value = float(row[column])
        if value < 0 or value != int(value):
            raise ValueError
    except (ValueError, OverflowError) as error:
        raise DataError(f"{where} has {column} {row[column]!r}, expected a whole number; correct it") from error
    return str(int(value))


def _codes(cell: str, where: str, record: str) -> dict[str, float]:
    """Return SCP code -> likelihood (0 to 100) from a Python literal, which is parsed and never executed."""
    try:
        codes = ast.literal_eval(cell)
        if not isinstance(codes, dict) or not all(isinstance(code, str) for code in codes):
            raise ValueError("not a dictionary of codes")
        likelihoods = {code: float(likelihood) for code, likelihood in codes.items()}
        if not all(0 <= likelihood <= 100 for likelihood in likelihoods.values()):
            raise ValueError("a likelihood outside 0 to 100")
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise DataError(
            f"record {record} has scp_codes {cell[:60]!r} ({where}), expected {{'NORM': 100.0}} or alike; correct it"
        ) from error
    return likelihoods


def _path(name: str, where: str) -> str:
    """Return a record's path if it stays within the data set."""
    path = PurePosixPath(name)
    odd = path.is_absolute() or ".." in path.parts or any(letter in name for letter in "\\:") or not name.isprintable()
    if odd or len(name.encode()) > MOST_PATH_BYTES:
        raise DataError(f"{where} has the path {shown(name)}, expected one within the folder; correct it")
    return name


def _date(text: str, where: str) -> str:
    """Return when a record was taken, as the data set writes it: it is kept, compared and shown."""
    if not text.isprintable() or len(text) > MOST_DATE:
        raise DataError(f"{where} has the recording_date {shown(text)}, expected a date and time; correct it")
    return text
