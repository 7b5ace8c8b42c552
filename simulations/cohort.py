"""A synthetic cohort in PTB-XL's layout, for demonstrations, tests and machines without PTB-XL.

Decides who has which finding when, and writes the files; the signals are `simulations/dipole.py`'s. The same
number of patients and the same seed give the same bytes. A folder has its name only once it is whole.
"""

import csv
import hashlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shared.errors import DataError, UsageError
from shared.files import folder_beside
from shared.settings import LEADS, RECORD_SAMPLES, SAMPLING_HZ
from simulations.dipole import counts, patient_heart

# Records of one patient after another, repeated: 2.15 on average, and of any number of patients a third has 3 to 5.
RECORDS = (3, 1, 1, 5, 2, 1, 4, 1, 1, 3, 2, 1, 5, 1, 1, 3, 1, 2, 4, 1)
# Superclasses of one patient after another, repeated and then shuffled: NORM 43 %, the others 14 % each.
MIX = ("NORM", "MI", "NORM", "STTC", "CD", "NORM", "HYP")
CODES = {
    "NORM": ("NORM",),
    "MI": ("AMI", "IMI", "LMI"),
    "STTC": ("ISC_", "NDT", "ISCAL"),
    "CD": ("CRBBB", "CLBBB", "LAFB"),
    "HYP": ("LVH", "LAO/LAE", "RVH"),
}
STATEMENTS = {  # code: description, diagnostic, form, rhythm, subclass
    "NORM": ("normal ECG", "1.0", "", "", "NORM"),
    "AMI": ("anterior myocardial infarction", "1.0", "", "", "AMI"),
    "IMI": ("inferior myocardial infarction", "1.0", "", "", "IMI"),
    "LMI": ("lateral myocardial infarction", "1.0", "", "", "LMI"),
    "ISC_": ("ischaemia, no region named", "1.0", "", "", "ISC_"),
    "NDT": ("T wave changes without a diagnosis", "1.0", "1.0", "", "STTC"),
    "ISCAL": ("ischaemia in anterolateral leads", "1.0", "", "", "ISCA"),
    "CRBBB": ("complete right bundle branch block", "1.0", "", "", "CRBBB"),
    "CLBBB": ("complete left bundle branch block", "1.0", "", "", "CLBBB"),
    "LAFB": ("left anterior fascicular block", "1.0", "", "", "LAFB/LPFB"),
    "LVH": ("left ventricular hypertrophy", "1.0", "", "", "LVH"),
    "LAO/LAE": ("left atrial enlargement", "1.0", "", "", "LAO/LAE"),
    "RVH": ("right ventricular hypertrophy", "1.0", "", "", "RVH"),
    "SR": ("sinus rhythm", "", "", "1.0", ""),
}
SUPERCLASS = {code: superclass for superclass, codes in CODES.items() for code in codes}
CHANGING = 0.25  # of the patients with several records: another superclass from some visit on
SECOND = 0.08  # of the patients with a finding: a second one
YEAR = timedelta(days=365.25)


@dataclass(frozen=True)
class Visit:
    """One record to be made."""

    patient: int  # 0, 1, ...
    number: int  # 0 is the patient's first
    at: datetime
    findings: tuple[tuple[str, float], ...]  # SCP code and severity
    age: int
    sex: int
    fold: int


def record_count(patients: int) -> int:
    """Return how many records `write_cohort` writes for this many patients, whatever the seed."""
    return sum(RECORDS[patient % len(RECORDS)] for patient in range(patients))


def write_cohort(folder: Path, *, patients: int, seed: int, progress: Callable[[int], None] | None = None) -> None:
    """Write a cohort to `folder`, which must not exist or be empty.

    Args:
        folder: gets PTB-XL's layout: two tables, RECORDS, SHA256SUMS.txt, records500.
        patients: how many; about 2.15 records each, 120 kB a record.
        seed: same seed, same bytes.
        progress: told how many of `record_count(patients)` records are written.

    Raises:
        DataError: the folder holds something, or cannot be written.
        UsageError: fewer than one patient, or a negative seed.
    """
    if patients < 1 or seed < 0:
        raise UsageError(f"{patients} patients and seed {seed} were asked for, expected at least 1 and at least 0")
    folder = folder.absolute()
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise DataError(f"{folder} holds something already, expected a new or an empty folder; choose another")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with folder_beside(folder) as building:
            _write(building, plan(patients, seed=seed), seed=seed, progress=progress or (lambda _: None))
            building.replace(folder)
    except OSError as error:
        size = record_count(patients) * RECORD_SAMPLES * len(LEADS) * 2 / 1e6
        raise DataError(
            f"cannot write the cohort to {folder} ({error.strerror or error}), expected room for {size:.0f} MB there; "
            "make room or choose another folder"
        ) from error


def plan(patients: int, *, seed: int) -> list[Visit]:
    """Return all visits in the order of time, which is the order of their ecg_id."""
    rng = np.random.default_rng([seed, 0])
    records = rng.permutation([RECORDS[patient % len(RECORDS)] for patient in range(patients)])
    mix = rng.permutation([MIX[patient % len(MIX)] for patient in range(patients)])
    folds = rng.permutation(patients) % 10 + 1
    visits = [
        visit
        for patient in range(patients)
        for visit in _history(
            patient,
            str(mix[patient]),
            int(records[patient]),
            int(folds[patient]),
            np.random.default_rng([seed, 1, patient]),
        )
    ]
    return sorted(visits, key=lambda visit: (visit.at, visit.patient))


def _history(patient: int, superclass: str, records: int, fold: int, rng: np.random.Generator) -> Iterator[Visit]:
    """Yield a patient's visits: months apart, severity drifting, the superclass of some changing once."""
    at = datetime(1990, 1, 1) + timedelta(minutes=int(rng.integers(6 * 365 * 24 * 60)))
    birth = at - YEAR * int(rng.integers(30 if superclass == "NORM" else 45, 85))
    sex = int(rng.integers(2))
    findings = _findings(superclass, rng)
    change = int(rng.integers(1, records)) if records > 1 and rng.uniform() < CHANGING else records
    for number in range(records):
        if number == change:
            others = [name for name in CODES if name != superclass]
            findings = _findings(str(rng.choice(others)), rng)
        elif number:
            findings = tuple((code, float(severity * np.exp(rng.normal(0, 0.12)))) for code, severity in findings)
        yield Visit(patient, number, at, findings, age=int((at - birth) / YEAR), sex=sex, fold=fold)
        at += timedelta(days=int(rng.integers(60, 420)), minutes=int(rng.integers(24 * 60)))


def _findings(superclass: str, rng: np.random.Generator) -> tuple[tuple[str, float], ...]:
    """Draw what a patient of this superclass has; mild findings are hard to tell from none."""
    if superclass == "NORM":
        return (("NORM", 0.0),)
    chosen = [superclass]
    if rng.uniform() < SECOND:
        chosen.append(str(rng.choice([name for name in CODES if name not in ("NORM", superclass)])))
    return tuple((str(rng.choice(CODES[name])), float(0.15 + rng.beta(1.6, 1.8))) for name in chosen)


def _write(folder: Path, visits: list[Visit], *, seed: int, progress: Callable[[int], None]) -> None:
    """Write all files of the layout and their checksums."""
    sums: dict[str, str] = {}

    def put(name: str, content: bytes) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        sums[name] = hashlib.sha256(content).hexdigest()

    for ecg_id, visit in enumerate(visits, start=1):
        heart = patient_heart(np.random.default_rng([seed, 2, visit.patient]))
        signal = counts(heart, visit.findings, np.random.default_rng([seed, 3, visit.patient, visit.number]))
        put(f"{_path(ecg_id)}.dat", signal.T.astype("<i2").tobytes())
        put(f"{_path(ecg_id)}.hea", _header(Path(_path(ecg_id)).name, signal).encode())
        progress(ecg_id)
    put("ptbxl_database.csv", _database(visits).encode())
    put("scp_statements.csv", _statements().encode())
    put("RECORDS", "".join(f"{_path(ecg_id)}\n" for ecg_id in range(1, len(visits) + 1)).encode())
    put("SHA256SUMS.txt", "".join(f"{digest} {name}\n" for name, digest in sorted(sums.items())).encode())


def _path(ecg_id: int) -> str:
    return f"records500/{ecg_id // 1000 * 1000:05d}/{ecg_id:05d}_hr"


def _header(name: str, signal: NDArray[np.int16]) -> str:
    """Return the WFDB header of a format-16 file in microvolts: gain 1000 a millivolt."""
    lines = [f"{name} {len(LEADS)} {SAMPLING_HZ} {RECORD_SAMPLES}"]
    for lead, values in zip(LEADS, signal, strict=True):
        total = int(values.sum(dtype=np.int64)) % 65536
        lines.append(f"{name}.dat 16 1000.0(0)/mV 16 0 {values[0]} {total} 0 {lead}")
    return "\n".join(lines) + "\n"


def _database(visits: list[Visit]) -> str:
    rows: list[list[object]] = [
        ["ecg_id", "patient_id", "age", "sex", "recording_date", "scp_codes", "strat_fold", "filename_hr"]
    ]
    for ecg_id, visit in enumerate(visits, start=1):
        codes = {code: _likelihood(code, severity) for code, severity in visit.findings} | {"SR": 0.0}
        patient, age = float(visit.patient + 1), float(visit.age)
        rows.append([ecg_id, patient, age, visit.sex, visit.at, codes, visit.fold, _path(ecg_id)])
    return _csv(rows)


def _likelihood(code: str, severity: float) -> float:
    """Return how sure a cardiologist would be, in PTB-XL's steps."""
    if code == "NORM" or severity > 0.5:
        return 100.0
    return 80.0 if severity > 0.35 else 50.0


def _statements() -> str:
    head: list[object] = ["", "description", "diagnostic", "form", "rhythm", "diagnostic_class", "diagnostic_subclass"]
    rows: list[list[object]] = [
        [code, *about[:4], SUPERCLASS.get(code, ""), about[4]] for code, about in STATEMENTS.items()
    ]
    return _csv([head, *rows])


def _csv(rows: list[list[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
