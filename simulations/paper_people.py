"""Who is who in the paper's experiment: wearers, their never-used controls, the test data and the corpus.

The patients' parts are the same under every seed; a seed draws the corpus's validation patients, the general model's
training and the fine-tuning. What is measured of them is `simulations/paper_models.py`'s.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from server.corpus import Corpus, segments_of
from shared.personalisation import held_out_mask
from shared.ptbxl import Signals, for_task, index, load
from shared.settings import SEGMENTS_PER_RECORD, Cohort, General, Personalisation
from shared.training import Examples
from simulations.calibration_data import rows_by_patient, rows_of
from simulations.split import split_patients

CONTROLS = 2  # never-used patients a wearer: enough that most wearers find one of their own superclass
TEST_SEGMENTS = (1, 4, 8)  # of a never-used patient's first record, for the test data
Source = tuple[str, int]  # a record's id and the number of one of its ten segments


@dataclass(frozen=True)
class Group:
    """Segments of one kind, and where each was cut."""

    examples: Examples
    sources: tuple[Source, ...]


@dataclass(frozen=True)
class Wearer:
    """One patient with a personal model.

    Attributes:
        patient: the id in the data.
        superclass: column of the label that most of the member segments carry.
        matched: whether the control is of that superclass too.
        groups: "member", what the personal model is trained on, the paper's forget set S; "held_out", the patient's
            own that no model sees; "control", a record of a patient whom no model ever sees.
    """

    patient: str
    superclass: int
    matched: bool
    groups: dict[str, Group]


@dataclass(frozen=True)
class People:
    """Rows of `signals` by patient and part; nobody plays two."""

    signals: Signals
    wearers: tuple[tuple[int, ...], ...]  # oldest record first
    controls: tuple[int, ...]  # the first record of each
    corpus: tuple[tuple[int, ...], ...]


def people_of(data: Path, *, cache: Path, patients: int) -> People:
    """Give every patient of a data folder a part.

    Args:
        data: a folder in PTB-XL's layout.
        cache: a folder for the int16 signals.
        patients: wearers.

    Raises:
        DataError: the folder is not what it should be.
        UsageError: too few patients.
    """
    records, _ = for_task(index(data).records, General.task)
    signals = load(records, folder=data, cache=cache)
    of = rows_by_patient(signals)
    split = split_patients({one: len(rows) for one, rows in of.items()}, Cohort(patients, CONTROLS * patients))
    return People(
        signals,
        wearers=tuple(tuple(of[one]) for one in split.wearables),
        controls=tuple(of[one][0] for one in split.controls),
        corpus=tuple(rows_of(of, [one]) for one in split.corpus),
    )


def corpus_of(people: People, *, seed: int) -> Corpus:
    """Return what the general model of a seed learns from, and the patients who validate it."""
    order = np.random.default_rng(seed).permutation(len(people.corpus))
    held = max(1, round(len(order) * General.validation))
    validation, training = (
        np.array([row for one in part for row in people.corpus[one]], dtype=np.int64)
        for part in (order[:held], order[held:])
    )
    return Corpus(people.signals, training, validation, np.empty(0, dtype=np.int64))


def wearers_of(people: People) -> list[Wearer]:
    """Return the wearers with their segments, each with a control of the same superclass as long as there is one."""
    left, found = list(people.controls), []
    for rows in people.wearers:
        own = _group(people.signals, rows)
        held, _ = held_out_mask([SEGMENTS_PER_RECORD] * len(rows), Personalisation.held_out)
        member = _some(own, (~held).nonzero()[:, 0].tolist())
        superclass = Counter(member.examples.labels.argmax(dim=1).tolist()).most_common(1)[0][0]
        alike = [row for row in left if people.signals.labels[row].argmax() == superclass]
        control = (alike or left)[0]
        left.remove(control)
        groups = {
            "member": member,
            "held_out": _some(own, held.nonzero()[:, 0].tolist()),
            "control": _group(people.signals, (control,)),
        }
        found.append(Wearer(people.signals.records[rows[0]].patient, superclass, bool(alike), groups))
    return found


def unseen_segments(people: People) -> Examples:
    """Return three segments of every never-used patient, patient by patient."""
    whole = segments_of(people.signals, np.array(people.controls))
    chosen = [SEGMENTS_PER_RECORD * one + segment for one in range(len(people.controls)) for segment in TEST_SEGMENTS]
    return Examples(whole.segments[chosen], whole.labels[chosen])


def _group(signals: Signals, rows: Sequence[int]) -> Group:
    sources = [(signals.records[row].id, segment) for row in rows for segment in range(SEGMENTS_PER_RECORD)]
    return Group(segments_of(signals, np.array(rows)), tuple(sources))


def _some(group: Group, chosen: Sequence[int]) -> Group:
    examples = Examples(group.examples.segments[chosen], group.examples.labels[chosen])
    return Group(examples, tuple(group.sources[row] for row in chosen))
