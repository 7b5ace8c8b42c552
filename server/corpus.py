"""The public side's signals: who learns, who validates, who is a control; by the registry's word."""

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from server.crops import Rows
from server.enrolment import refuse_other
from server.registry import Registry
from server.workspace import Workspace
from shared.errors import DataError
from shared.ptbxl import Record, Signals, for_task, index, load
from shared.ptbxl_tables import unlisted
from shared.settings import SEGMENT_SAMPLES, SEGMENTS_PER_RECORD, General, Settings
from shared.training import Examples


@dataclass(frozen=True)
class Corpus:
    """The public side's signals, sorted into who learns and who does not; rows of `signals`."""

    signals: Signals
    training: Rows
    validation: Rows
    control: Rows


class NothingToLearnError(DataError):
    """Too few records of the corpus may be used."""


def open_corpus(workspace: Workspace, registry: Registry, settings: Settings) -> Corpus:
    """Open the signals of consented corpus and control patients, and of nobody else.

    A record is its enrolled files: one whose files are others now is left out and counted, as is one that the tables
    no longer list.

    Raises:
        NothingToLearnError: too few records to train on.
        DataError: the data cannot be read.
        UsageError: the patients were enrolled under other settings.
    """
    refuse_other(settings, registry)
    of_role = {role: registry.records(role=role) for role in ("corpus", "control")}
    roles = {row.id: role for role, rows in of_role.items() for row in rows}
    enrolled = {row.id: row.sha256 for rows in of_role.values() for row in rows}
    tables = index(workspace.data)
    usable, _ = for_task(tables.records, settings.general.task)
    wanted = [record for record in usable if record.id in roles]
    signals = load(wanted, folder=workspace.data, cache=workspace.cache, enrolled=enrolled)
    signals = replace(signals, left_out=(*signals.left_out, *unlisted(tables, roles)))
    role = np.array([roles[record.id] for record in signals.records])
    corpus = np.flatnonzero(role == "corpus")
    held = _validation_patients([signals.records[row] for row in corpus], settings.general)
    is_held = np.array([signals.records[row].patient in held for row in corpus], dtype=bool)
    if len(corpus) < 2 or not (~is_held).any():
        raise NothingToLearnError(
            f"the corpus has {len(corpus)} usable records that consent allows, expected at least 2 of two patients; no "
            "general model is made of less, and who is in the corpus is chosen once: take more patients into a new "
            "workspace with `lethe init --home NEW`"
        )
    return Corpus(signals, corpus[~is_held], corpus[is_held], np.flatnonzero(role == "control"))


def record_of(corpus: Corpus, segment: npt.NDArray[np.float32]) -> str:
    """Return the id of the control record that a segment (12, 500) was cut from, "" when it is none's."""
    starts = np.arange(SEGMENTS_PER_RECORD) * SEGMENT_SAMPLES
    for row in corpus.control:
        cut = corpus.signals.crops(np.full(len(starts), row), starts)
        if (cut == segment).all(axis=(1, 2)).any():
            return corpus.signals.records[int(row)].id
    return ""


def segments_of(signals: Signals, rows: Rows) -> Examples:
    """Return all ten segments of each record, record by record."""
    starts = np.tile(np.arange(SEGMENTS_PER_RECORD) * SEGMENT_SAMPLES, len(rows))
    repeated = np.repeat(rows, SEGMENTS_PER_RECORD)
    if len(repeated) == 0:
        return Examples.empty()
    return Examples(torch.from_numpy(signals.crops(repeated, starts)), torch.from_numpy(signals.labels[repeated]))


def _validation_patients(records: list[Record], settings: General) -> set[str]:
    """Return the share of the corpus's patients that is held out: the first in an order in which nobody moves another.

    So who withdraws leaves all others on the side they were on, but for one when the share's rounding asks for it.
    """
    patients = {record.patient for record in records}
    count = max(1, round(len(patients) * settings.validation))
    return set(sorted(patients, key=lambda patient: _lot(patient, settings.seed))[:count])


def _lot(patient: str, seed: int) -> bytes:
    """Return what orders patients: drawn by seed, and a patient's own."""
    return hashlib.sha256(f"validation {seed} {patient}".encode()).digest()
