"""Whom the calibration of the auditor is made on: one small world a seed, cut from one data folder.

Every seed has wearers and strangers of its own, who are met by no other seed, and a general model of its own that
never saw any of them. What is asked of them is `simulations/calibration_jobs.py`'s.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from server.corpus import Corpus, segments_of
from server.general import evaluate, majority, public_segments
from server.learning import fit_general
from shared.errors import DataError
from shared.model import to_bytes
from shared.ptbxl import Signals, for_task, index, load
from shared.settings import SEGMENTS_PER_RECORD, Cohort, General, Settings
from shared.training import Examples
from simulations.split import split_patients

TRAINED_SEGMENTS = 7  # of a record's ten, the first ones in time: a device holds the last three out
QUICK_SEGMENTS = 40_000  # training crops of a general model, at most
CONTROL_SEGMENTS = 40  # how RMIA's population and the control group are filled
LEAST_CONTROLS = -(-CONTROL_SEGMENTS // SEGMENTS_PER_RECORD)  # patients a seed, so that one record each is enough
MODEL, PUBLIC = "model.safetensors", "public.safetensors"


@dataclass(frozen=True)
class Wearer:
    """One patient with a device, and a stranger whom no model ever saw.

    Attributes:
        name: for people, the seed and the number.
        records: the patient's training segments, one part a record, newest last; one or two.
        stranger: as many segments of another patient's record, of another superclass where there is one.
        held_out: of each record the last segments, which no model learns from.
        stranger_held_out: the same of the stranger's.
    """

    name: str
    records: tuple[Examples, ...]
    stranger: Examples
    held_out: tuple[Examples, ...]
    stranger_held_out: Examples


@dataclass(frozen=True)
class Cut:
    """Rows of `signals` by part and seed."""

    signals: Signals
    training: tuple[int, ...]
    validation: tuple[int, ...]
    control: tuple[int, ...]
    wearers: tuple[tuple[int, ...], ...]  # of one seed: every patient's rows, oldest first
    strangers: tuple[int, ...]  # of one seed: one row a wearer


def settings_of(width: int, *, seed: int) -> Settings:
    """Return the settings of one seed's world: Lethe's own, but for a general model that is trained quickly."""
    return Settings().with_values(
        {
            "general.width": width,
            "general.max_segments": QUICK_SEGMENTS,
            "general.seed": seed,
            "personalisation.seed": seed,
            "probe.control_segments": CONTROL_SEGMENTS,
        }
    )


def cut(data: Path, *, cache: Path, patients: int, seeds: int, seed: int) -> Cut:
    """Give every patient of a data folder a part in the world of one of `seeds` seeds.

    Args:
        data: a folder in PTB-XL's layout.
        cache: a folder for the int16 signals.
        patients: wearers a seed.
        seeds: how many worlds there are.
        seed: which one this is, 0, 1, ...

    Raises:
        UsageError: too few patients for so many worlds.
    """
    records, _ = for_task(index(data).records, General.task)
    signals = load(records, folder=data, cache=cache)
    of = rows_by_patient(signals)
    away, controls = seeds * patients, seeds * max(patients, LEAST_CONTROLS)
    split = split_patients({one: len(rows) for one, rows in of.items()}, Cohort(away, away + controls))
    wearers = [tuple(of[one]) for one in split.wearables[seed::seeds]]
    strangers = [of[one][0] for one in split.controls[:away][seed::seeds]]
    corpus = np.random.default_rng(seed).permutation(np.array(split.corpus)).tolist()
    held = max(1, round(len(corpus) * General.validation))
    return Cut(
        signals,
        training=rows_of(of, corpus[held:]),
        validation=rows_of(of, corpus[:held]),
        control=rows_of(of, split.controls[away:][seed::seeds]),
        wearers=tuple(wearers),
        strangers=_matched(signals, wearers, strangers),
    )


def build_world(found: Cut, settings: Settings, folder: Path) -> dict[str, float | None]:
    """Train the general model of one seed, write it and its public segments to `folder`, and say how good it is.

    Raises:
        DataError: the controls are fewer than the auditor needs.
    """
    corpus = Corpus(
        found.signals, np.array(found.training), np.array(found.validation), np.array(found.control, dtype=np.int64)
    )
    if (there := SEGMENTS_PER_RECORD * len(corpus.control)) < (wanted := settings.probe.control_segments):
        raise DataError(
            f"there are {there} control segments, expected {wanted}; take more patients with --patients, or more data"
        )
    model, _ = fit_general(corpus, settings.general, tell=lambda _done, _all: None)
    public = public_segments(model, corpus, settings)
    folder.mkdir(parents=True)
    (folder / MODEL).write_bytes(to_bytes(model))
    (folder / PUBLIC).write_bytes(public.to_bytes())
    scores = evaluate(model, corpus.signals, corpus.validation)["segment"]
    return {"accuracy": scores["accuracy"], "majority": majority(corpus.signals.labels[corpus.validation])}


def wearers_of(found: Cut, *, seed: int) -> list[Wearer]:
    """Return the wearers of one seed with their segments; of many records the oldest and the newest count."""
    made = []
    for number, (rows, stranger) in enumerate(zip(found.wearers, found.strangers, strict=True)):
        records = [_parted(found.signals, row) for row in _two(found.signals, rows)]
        theirs, theirs_held_out = _parted(found.signals, stranger)
        trained, held_out = zip(*records, strict=True)
        made.append(Wearer(f"{seed}/{number}", trained, theirs, held_out, theirs_held_out))
    return made


def rows_by_patient(signals: Signals) -> dict[str, list[int]]:
    """Return every patient's rows, oldest first."""
    of: dict[str, list[int]] = defaultdict(list)
    for row in sorted(range(len(signals.records)), key=lambda row: (signals.records[row].recorded_at, row)):
        of[signals.records[row].patient].append(row)
    return of


def rows_of(of: Mapping[str, Sequence[int]], patients: Sequence[str]) -> tuple[int, ...]:
    """Return all rows of some patients, patient by patient."""
    return tuple(row for one in patients for row in of[one])


def _parted(signals: Signals, row: int) -> tuple[Examples, Examples]:
    """Return the segments of a record that a device learns from, and those that it holds out."""
    whole = segments_of(signals, np.array([row]))
    return whole[:TRAINED_SEGMENTS], whole[TRAINED_SEGMENTS:]


def _two(signals: Signals, rows: Sequence[int]) -> tuple[int, ...]:
    """Return the first record and the newest other one, of another superclass if there is any."""
    first, others = rows[0], rows[1:]
    changed = [row for row in others if signals.records[row].labels != signals.records[first].labels]
    return (first, (changed or others)[-1]) if others else (first,)


def _matched(signals: Signals, wearers: Sequence[Sequence[int]], strangers: Sequence[int]) -> tuple[int, ...]:
    """Give every wearer a stranger of another superclass as long as there is one left."""
    left, found = list(strangers), []
    for rows in wearers:
        label = signals.records[rows[0]].labels
        different = [row for row in left if signals.records[row].labels != label]
        found.append((different or left)[0])
        left.remove(found[-1])
    return tuple(found)
