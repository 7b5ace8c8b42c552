"""The calibration's withdrawals: of whom, of what, by which method, and what the auditor is expected to say.

The copies are those that a device makes (`shared/shadows.py`); the truth is known, because the withdrawals are made up.
"""

import copy
from collections.abc import Collection
from dataclasses import dataclass

import torch

from server.auditor import statistics
from shared.audit_messages import AuditReply
from shared.model import ResNet34, model_digest
from shared.package import Public
from shared.personalisation import Frozen, personalise
from shared.settings import Settings
from shared.shadows import Shadows, read_arms
from shared.training import Examples, fit, join, task_loss
from shared.unlearning import EXACT, METHODS, Method
from shared.unlearning.case import Case
from simulations.calibration_data import Wearer
from simulations.calibration_table import Expected, Outcome

OVER = "over-forgetting"
PLANTED = 3  # segments of the first record that get a wrong label
STRANGER = "stranger"


@dataclass(frozen=True)
class Question:
    """What the auditor is asked of a withdrawal.

    Attributes:
        title: for people.
        withdrawal: whose copies answer it; a key of `withdrawals`.
        group: the segments in question.
        expected: method -> what the auditor is to say. The method "nothing" has not unlearned.
    """

    title: str
    withdrawal: str
    group: str
    expected: dict[str, Expected]


_MEASURED: dict[str, Expected] = {"nothing": "FAIL", "finetune": "-", "exact": "not FAIL"}
_OTHERS: dict[str, Expected] = {"nothing": "-", "finetune": "-", "exact": "not FAIL"}
QUESTIONS = (
    Question("everything", "all", "forgotten", _MEASURED | {OVER: "FAIL"}),
    Question("another record", "record", "forgotten", _MEASURED),
    Question("another class", "class", "forgotten", _MEASURED | {OVER: "FAIL"}),
    Question("planted labels", "canary", "forgotten", _MEASURED),
    Question("never used", "canary", STRANGER, {"exact": "not FAIL"}),
    Question("what is kept", "class", "retained", _OTHERS),
    Question("other patients", "class", "control", _OTHERS),
)


def overforget(case: Case) -> ResNet34:
    """Climb the loss of the forget set: what a method does that forgets more than it was asked to.

    It is no method of Lethe; the auditor must refuse it. Gradient ascent on the forgotten segments, a baseline of
    Golatkar et al. 2020, for as many steps as the copy was made in.
    """
    model = copy.deepcopy(case.personal)
    model.eval().requires_grad_(False)
    seen, trained = case.frozen.see(case.forget), model.tail_parameters()
    for parameter in trained:
        parameter.requires_grad_(True)

    def loss(_: int) -> torch.Tensor:
        return -task_loss(model.tail(seen.features), seen.labels, model.task)

    recipe = case.personalisation
    fit(trained, loss, steps=recipe.steps, learning_rate=recipe.learning_rate, weight_decay=0.0)
    return model


KNOWN: dict[str, Method] = {**METHODS, OVER: overforget}


def withdrawals(wearer: Wearer) -> dict[str, tuple[Examples, Examples]]:
    """Return the retain and the forget set of every withdrawal that this wearer can make.

    - all: both records, everything; nothing is retained.
    - record: the second record, for wearers who have one.
    - class: a record of another patient that the device was given too, of another superclass where there is one.
    - canary: the last segments of the first record, learnt under a wrong label.
    """
    first = wearer.records[0]
    kept, planted = first[: len(first) - PLANTED], first[len(first) - PLANTED :]
    found = {
        "all": (Examples.empty(), join(wearer.records)),
        "class": (first, wearer.stranger),
        "canary": (kept, Examples(planted.segments, planted.labels.roll(1, dims=1))),
    }
    return found | ({"record": (first, wearer.records[1])} if len(wearer.records) > 1 else {})


def questions_of(withdrawal: str) -> list[Question]:
    """Return what is asked of the copies of one withdrawal."""
    return [question for question in QUESTIONS if question.withdrawal == withdrawal]


def audit(
    wearer: Wearer,
    withdrawal: str,
    general: ResNet34,
    public: Public,
    settings: Settings,
    *,
    seed: int,
    methods: Collection[str] = tuple(KNOWN),
) -> AuditReply:
    """Return what a device would answer to `query.audit`, and what its copies say of a stranger's segments.

    Of the methods that its questions are about, those of `methods` get an arm.
    """
    retain, forget = withdrawals(wearer)[withdrawal]
    asked = questions_of(withdrawal)
    arms_of = dict.fromkeys(method for one in asked for method in one.expected if method in KNOWN)
    shadows = Shadows(
        general=general,
        retain=retain,
        forget=forget,
        public=public,
        personalisation=settings.personalisation,
        unlearning=settings.unlearning,
        methods=tuple(method for method in arms_of if method in methods),
        copies=settings.audit.copies,
        epsilon_sd=settings.audit.epsilon_sd,
        seed=seed,
    )
    others = {STRANGER: wearer.stranger} if any(one.group == STRANGER for one in asked) else {}
    arms = read_arms(shadows, known=KNOWN, others=others)
    return AuditReply(f"{wearer.name}/{withdrawal}", slot=0, status="ok", arms=arms)


def judged(reply: AuditReply, question: Question, *, wearer: str, seed: int) -> list[Outcome]:
    """Return the auditor's verdicts on one answer, one a method.

    Of a stranger whom no copy met the auditor does not know that the method is exact: it uses its whole rule.
    """
    return [
        {
            "seed": seed,
            "wearer": wearer,
            "question": question.title,
            "method": method,
            "statistics": statistics(
                reply,
                method,
                group=question.group,
                exact=method in EXACT and question.group != STRANGER,
                seed=seed,
            ),
        }
        for method in question.expected
    ]


def bytes_hold(
    wearer: Wearer, withdrawal: str, general: ResNet34, public: Public, settings: Settings
) -> dict[str, bool]:
    """Return for "nothing" and "exact" whether the model's digest is what it would have been without the data."""
    retain, forget = withdrawals(wearer)[withdrawal]
    recipe = settings.personalisation
    personal = personalise(general, join([retain, forget]), public, recipe).model
    frozen = Frozen(general, public, recipe)
    case = Case(general, personal, retain, forget, public, recipe, settings.unlearning, frozen)
    expected = model_digest(personalise(general, retain, public, recipe).model)
    served = {"nothing": personal, "exact": METHODS["exact"](case)}
    return {name: model_digest(model) == expected for name, model in served.items()}
