"""What sharded training saves when patients of the corpus withdraw, and what it costs; `simulations/benchmark.py` asks.

The patients withdraw one after another, drawn by seed. What is saved is told beside the training of one network on
everybody, which is what a removal costs without shards.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from server.corpus import Corpus, segments_of
from server.general import evaluate
from server.learning import fit_general
from server.sisa import Sharded, Sharding, train_sharded
from shared.metrics import per_record, scores
from shared.settings import SEGMENTS_PER_RECORD, General

Made = TypeVar("Made")


def measure(
    corpus: Corpus, settings: General, sharding: Sharding, *, removals: int, tell: Callable[[int], None]
) -> dict[str, Any]:
    """Train one network and the sharded ones, remove patients, and return seconds and accuracies by record.

    Args:
        corpus: who learns; the validation records are who it is evaluated on.
        settings: of every network.
        sharding: into what the sharded ones are divided; its seed draws who withdraws too.
        removals: how many patients withdraw, one after another; one or more.
        tell: told how many trainings are done, of `removals + 2`.
    """
    one, seconds_one = _timed(lambda: fit_general(corpus, settings, tell=lambda *_: None)[0])
    tell(1)
    records = corpus.signals.records
    people = sorted({records[row].patient for row in corpus.training})
    leaving = np.random.default_rng(sharding.seed).permutation(people)[:removals].tolist()
    found, left = [], corpus
    with tempfile.TemporaryDirectory(prefix="lethe-sisa-") as folder:

        def train(part: Corpus) -> Sharded:
            return train_sharded(part, settings, sharding, folder=Path(folder), tell=lambda *_: None)

        whole, seconds_whole = _timed(lambda: train(corpus))
        tell(2)
        for number, patient in enumerate(leaving):
            left = replace(left, training=np.array([row for row in left.training if records[row].patient != patient]))
            after, seconds = _timed(partial(train, left))
            found.append({"slices": len(after.trained), "seconds": seconds, "ratio": seconds / seconds_one})
            tell(number + 3)
    return {
        "one": {"seconds": seconds_one, "accuracy": evaluate(one, corpus.signals, corpus.validation)["record"]},
        "sharded": {"seconds": seconds_whole, "accuracy": _of_records(whole, corpus)},
        "after_all_removals": _of_records(after, corpus),
        "removals": found,
        "mean_ratio": float(np.mean([row["ratio"] for row in found])),
    }


def _of_records(model: Sharded, corpus: Corpus) -> dict[str, Any]:
    """Return the metrics a record of who validates."""
    examples = segments_of(corpus.signals, corpus.validation)
    said = per_record(model.probabilities(examples.segments).numpy(), SEGMENTS_PER_RECORD)
    return dict(scores(said, examples.labels.numpy()[::SEGMENTS_PER_RECORD], task=model.models[0].task))


def _timed(make: Callable[[], Made]) -> tuple[Made, float]:
    began = time.perf_counter()
    made = make()
    return made, time.perf_counter() - began
