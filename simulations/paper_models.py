"""The paper's models of one patient, and what they say: general, personal, and unlearned by each method.

The setting is the paper's: the personal model is the whole network fine-tuned at a lower rate on the patient's
segments (section 3.1.4), with nothing that holds it back; the forget set S is all of them (section 4). Retraining
without S is then the general model. Whose segments these are is `simulations/paper_people.py`'s, what follows from
the figures `simulations/paper_results.py`'s.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from server.general import evaluate, majority, public_segments
from server.learning import fit_general
from shared.attacks import fgsm_direction, perturb
from shared.errors import LetheError
from shared.model import ResNet34, load, to_bytes
from shared.package import Public
from shared.personalisation import Frozen, personalise
from shared.probing import Bools, probe
from shared.settings import Settings
from shared.training import Examples, apply
from shared.unlearning import METHODS
from shared.unlearning.case import Case
from simulations.calibration_data import MODEL, PUBLIC
from simulations.paper_people import People, Wearer, corpus_of, unseen_segments
from simulations.shortened import SHORTENED

UNLEARNED = {  # the paper's two, and the reference that it lacks: names in pictures, tables and sentences
    "finetune": "fine-tuning",
    "gkt": "gkt",
    "exact": "exact",
}
DEAR = "gkt"  # of this one only some patients' models are made
STEPS = 4  # of fine-tuning: with more, one patient's label overwrites what the network knew of everybody else's
EPSILONS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2)  # in standard deviations of a lead; the paper names none
EPSILON = 0.05  # at which equation 7 is quoted and figures 2 and 3 are drawn


@dataclass(frozen=True)
class Reading:
    """What one model says of one group of N segments.

    Attributes:
        hits: (E, N) whether it is right under FGSM crafted on the general model (equation 5), E of `EPSILONS`.
        losses: (N,) cross-entropy of the unperturbed segments, in nats.
    """

    hits: Bools
    losses: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Measured:
    """One patient under one seed.

    Attributes:
        seed, wearer: which; the wearer's number.
        readings: model -> group -> reading; groups are the wearer's and "test", which is not attacked.
        failed: method -> why there is no model.
        seconds: model -> how long it took on one core.
    """

    seed: int
    wearer: int
    readings: dict[str, dict[str, Reading]]
    failed: dict[str, str]
    seconds: dict[str, float]


def settings_of(*, width: int, epochs: int, seed: int, i_mean_the_class: bool) -> Settings:
    """Return the paper's setting: no gate, no anchor while fine-tuning, a shortened zero-shot transfer."""
    return Settings().with_values(
        {
            "general.width": width,
            "general.epochs": epochs,
            "general.seed": seed,
            "personalisation.profile": "paper",
            "personalisation.budget": 1.0,
            "personalisation.steps": STEPS,
            "personalisation.seed": seed,
            **SHORTENED,
            "unlearning.i_mean_the_class": i_mean_the_class,
        }
    )


def train(people: People, settings: Settings, folder: Path) -> dict[str, Any]:
    """Train the general model of one seed, write it and its public segments to `folder`; return curves and scores."""
    corpus = corpus_of(people, seed=settings.general.seed)
    model, curves = fit_general(corpus, settings.general, tell=lambda _done, _all: None)
    folder.mkdir(parents=True)
    (folder / MODEL).write_bytes(to_bytes(model))
    (folder / PUBLIC).write_bytes(public_segments(model, corpus, settings).to_bytes())
    scores = evaluate(model, corpus.signals, corpus.validation)["segment"]
    labels = corpus.signals.labels[corpus.validation]
    return {"curves": curves, "accuracy": scores["accuracy"], "majority": majority(labels)}


def measure(
    wearer: Wearer, number: int, general: ResNet34, public: Public, test: Examples, settings: Settings, *, dear: bool
) -> Measured:
    """Make a patient's models and ask them about the patient's, the control's and the test segments.

    A method that cannot says why and leaves the others alone; `dear` tells whether `DEAR` is made for this patient.
    """
    recipe, own = settings.personalisation, wearer.groups["member"].examples
    frozen, models, failed, seconds = Frozen(general, public, recipe), {"general": general}, {}, {}
    began = time.process_time()
    models["personal"] = personalise(general, own, public, recipe, frozen=frozen).model
    seconds["personal"] = time.process_time() - began
    empty = Examples.empty()
    case = Case(general, models["personal"], empty, own, public, recipe, settings.unlearning, frozen)
    for method in UNLEARNED:
        if method == DEAR and not dear:
            continue
        began = time.process_time()
        try:
            models[method] = METHODS[method](case)
            seconds[method] = time.process_time() - began
        except LetheError as error:
            failed[method] = str(error)
    readings: dict[str, dict[str, Reading]] = {name: {} for name in models}
    groups = {name: (group.examples, EPSILONS) for name, group in wearer.groups.items()} | {"test": (test, (0.0,))}
    for group, (examples, epsilons) in groups.items():
        for name, reading in zip(models, read(general, list(models.values()), examples, epsilons), strict=True):
            readings[name][group] = reading
    return Measured(settings.general.seed, number, readings, failed, seconds)


def read(general: ResNet34, models: Sequence[ResNet34], examples: Examples, epsilons: Sequence[float]) -> list[Reading]:
    """Return what each of the models says; `epsilons` begin with 0.

    The loss is softplus(-margin), since a margin is the logit of the true label's probability.
    """
    found = probe(general, models, examples, epsilons_sd=epsilons)
    return [Reading(one.hits, np.logaddexp(0.0, -one.margins[0].astype(np.float64))) for one in found]


def attacked(model: ResNet34, examples: Examples, *, epsilon: float) -> dict[str, npt.NDArray[Any]]:
    """Return what figures 2 and 3 show: predictions without and with FGSM, and one segment before and after.

    The segment is the first that FGSM makes the model mistake, if there is any.
    """
    moved = perturb(examples.segments, fgsm_direction(model, examples), epsilon_sd=epsilon, lead_sd=model.lead_sd)
    labels = examples.labels.argmax(dim=1)
    before, after = (apply(model, segments).argmax(dim=1) for segments in (examples.segments, moved))
    turned = ((before == labels) & (after != labels)).nonzero()[:, 0]
    shown = int(turned[0]) if len(turned) else 0
    arrays: dict[str, torch.Tensor] = {
        "labels": labels,
        "before": before,
        "after": after,
        "clean": examples.segments[shown],
        "adversarial": moved[shown],
        "shown": torch.tensor(shown),
    }
    return {name: tensor.numpy() for name, tensor in arrays.items()}


def opened(folder: Path, people: People) -> tuple[ResNet34, Public, Examples]:
    """Return a seed's general model, its public segments, and the test data."""
    return load(folder / MODEL), Public.from_bytes((folder / PUBLIC).read_bytes()), unseen_segments(people)
