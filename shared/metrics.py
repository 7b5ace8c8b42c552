"""How good predictions are: arrays in, numbers out.

A figure is a segment's or a record's (mean probability over its segments); the caller says which by what it
hands in.
"""

from typing import TypedDict

import numpy as np
import numpy.typing as npt

from shared.settings import Task

Floats = npt.NDArray[np.float32]


class Scores(TypedDict):
    """Metrics over n predictions; None where they are not defined, as an AUC of a class that never occurs."""

    n: int
    accuracy: float | None
    macro_f1: float | None
    macro_auc: float | None


def scores(probabilities: Floats, labels: Floats, *, task: Task) -> Scores:
    """Return accuracy, macro-F1 and macro-AUC of probabilities (N, 5) against labels (N, 5).

    Task `single`: the strongest class counts. Task `multi`: classes above one half count, accuracy asks for all
    five to be right. F1 and AUC are means over the superclasses that occur, AUC over those that do not always.
    """
    from sklearn.metrics import f1_score, roc_auc_score

    if len(labels) == 0:
        return {"n": 0, "accuracy": None, "macro_f1": None, "macro_auc": None}
    truth = labels > 0.5
    predicted = probabilities > 0.5
    if task == "single":
        predicted = np.eye(labels.shape[1], dtype=bool)[probabilities.argmax(axis=1)]
    occurring = truth.any(axis=0)
    varying = occurring & ~truth.all(axis=0)
    aucs = [roc_auc_score(truth[:, column], probabilities[:, column]) for column in np.flatnonzero(varying)]
    f1s = [f1_score(truth[:, c], predicted[:, c], zero_division=0.0) for c in np.flatnonzero(occurring)]
    return {
        "n": len(labels),
        "accuracy": float((predicted == truth).all(axis=1).mean()),
        "macro_f1": float(np.mean(f1s)) if f1s else None,
        "macro_auc": float(np.mean(aucs)) if aucs else None,
    }


def per_record(values: Floats, segments: int) -> Floats:
    """Return the mean over each record's segments: (records * segments, k) -> (records, k)."""
    mean: Floats = values.reshape(-1, segments, values.shape[1]).mean(axis=1)
    return mean
