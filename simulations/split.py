"""Which patient plays which part: pure, by patient, by seed.

A patient's place in every draw is a hash of the seed and the id, so it does not depend on the order of the table,
on the machine, or on who else is there. What the parts mean for consent is `server/registry.py`'s.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from shared.errors import UsageError
from shared.settings import Cohort


@dataclass(frozen=True)
class Split:
    """Patient ids by part; nobody plays two.

    Attributes:
        corpus: the general model learns from them.
        wearables: they wear a device, the one of slot k is `wearables[k]`.
        controls: no model ever sees them.
    """

    corpus: tuple[str, ...]
    wearables: tuple[str, ...]
    controls: tuple[str, ...]


def split_patients(records_per_patient: Mapping[str, int], cohort: Cohort) -> Split:
    """Give every patient one part.

    Those who recorded most wear devices, ties drawn; controls are drawn from the others; the rest is the corpus.

    Raises:
        UsageError: a negative number, or a corpus smaller than wearables and controls together.
    """
    away = cohort.wearables + cohort.controls
    if min(cohort.wearables, cohort.controls) < 0:
        raise UsageError(
            f"{cohort.wearables} wearables and {cohort.controls} controls were asked for, expected 0 or more of each"
        )
    if len(records_per_patient) < 2 * away:
        raise UsageError(
            f"{len(records_per_patient)} patients, expected at least {2 * away}: {cohort.wearables} wearables, "
            f"{cohort.controls} controls and at least as many left for the corpus; ask for fewer or take more data"
        )
    ranked = sorted(
        records_per_patient,
        key=lambda patient: (-records_per_patient[patient], _draw(cohort.seed, "wearable", patient)),
    )
    wearables, others = ranked[: cohort.wearables], ranked[cohort.wearables :]
    others.sort(key=lambda patient: _draw(cohort.seed, "control", patient))
    controls, corpus = others[: cohort.controls], others[cohort.controls :]
    return Split(corpus=tuple(sorted(corpus)), wearables=tuple(wearables), controls=tuple(controls))


def _draw(seed: int, part: str, patient: str) -> bytes:
    return hashlib.sha256(f"{seed}/{part}/{patient}".encode()).digest()
