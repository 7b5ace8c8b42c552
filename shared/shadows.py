"""The counterfactual: copies that saw a patient's segments, copies that did not, and what each says of segments.

Plain functions of models and segments. A device calls them before it erases; copies live in memory, one a thread,
and only what they say of segments leaves this file. Whatever copies have in common is made once: the frozen layers'
features, the features of the disturbed segments, the copies that need no data of the patient.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from threading import Lock

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from shared.attacks import perturb
from shared.audit_messages import Readings
from shared.membership import modified_entropy
from shared.model import ResNet34
from shared.package import Public
from shared.personalisation import Frozen, personalise, trained_part
from shared.probing import margin
from shared.settings import Personalisation, Task, Unlearning
from shared.training import Examples, apply, join, task_loss
from shared.unlearning import EXACT, METHODS, Method
from shared.unlearning.case import Case

MEASURED = 32  # segments of a group that are measured, at most; more say little more of a copy and cost as much each
DECIMALS = 5  # of what is reported; the scores need no more, and the answers stay small
Rows = list[tuple[float, ...]]  # of one copy: margins, entropy, attacked and noised margins of N segments


@dataclass(frozen=True)
class Shadows:
    """Whose copies to make, of what, and how many.

    Attributes:
        general: the model that never saw the patient.
        retain, forget: the training segments that stay, L = D - S, and S.
        public: anchor and gate, from which copies learn, and control, on which they are measured.
        personalisation: how a copy is made; the copies' own seeds take the place of its seed.
        unlearning: how many epochs an approximate method takes.
        methods: names of `shared.unlearning.METHODS`, an arm each.
        copies: K, how many an arm.
        epsilon_sd: strength of attack and noise, in standard deviations of a lead.
        seed: from which the seeds of all copies come.
        learnt: what the copies that saw S learn from, where it is not L and S; with fewer records, others are held out.
    """

    general: ResNet34
    retain: Examples
    forget: Examples
    public: Public
    personalisation: Personalisation
    unlearning: Unlearning
    methods: tuple[str, ...]
    copies: int
    epsilon_sd: float
    seed: int
    learnt: Examples | None = None


def read_arms(
    shadows: Shadows,
    *,
    known: Mapping[str, Method] = METHODS,
    others: Mapping[str, Examples] | None = None,
    at_once: int = 1,
) -> dict[str, dict[str, Readings]]:
    """Make the copies of every arm and return arm -> group -> what they say; `AuditReply` names both.

    Args:
        shadows: whose copies.
        known: methods by name; those of `EXACT` make a copy of what is retained.
        others: more groups of segments to measure.
        at_once: how many copies to make at a time, a thread each; what they say does not depend on it.
    """
    groups = {"forgotten": shadows.forget, "retained": shadows.retain, "control": shadows.public.control}
    gauge = Gauge(shadows, {name: _spread(part) for name, part in (groups | dict(others or {})).items()})
    copies = _copies(shadows, known)
    arms: dict[str, list[Rows]] = {"never": [], "nothing": [], **{method: [] for method in shadows.methods}}

    def read(number: int) -> list[tuple[str, Rows]]:
        return [(arm, gauge.read(model)) for arm, model in copies(number)]

    with ThreadPoolExecutor(at_once) as threads:
        for found in threads.map(read, range(shadows.copies)):
            for arm, rows in found:
                arms[arm].append(rows)
    return {arm: gauge.sort(_repeated(rows, shadows.copies)) for arm, rows in arms.items()}


def seed_of(shadows: Shadows, arm: str, number: int) -> int:
    """Return the seed of one copy; no two of an audit are the same."""
    arms = ("never", "nothing", *shadows.methods)
    (base,) = np.random.SeedSequence(shadows.seed).generate_state(1, np.uint64)
    return int(base >> np.uint64(2)) + arms.index(arm) * shadows.copies + number


def _copies(shadows: Shadows, known: Mapping[str, Method]) -> Callable[[int], Iterator[tuple[str, ResNet34]]]:
    """Return what makes a copy of every arm, by the copy's number; where no data of the patient go in, the first only.

    A method that is not exact unlearns the copy of the arm "nothing", so that both are told apart on one model. One
    such method works at a time: some draw a network's first weights, and torch has one generator for that.
    """
    frozen, alone = Frozen(shadows.general, shadows.public, shadows.personalisation), Lock()
    whole = join([shadows.retain, shadows.forget]) if shadows.learnt is None else shadows.learnt
    case = Case(
        general=shadows.general,
        personal=shadows.general,
        retain=shadows.retain,
        forget=shadows.forget,
        public=shadows.public,
        personalisation=shadows.personalisation,
        unlearning=shadows.unlearning,
        frozen=frozen,
    )
    without = ["never", *(method for method in shadows.methods if method in EXACT)]

    def copies(number: int) -> Iterator[tuple[str, ResNet34]]:
        seeded = {
            arm: replace(shadows.personalisation, seed=seed_of(shadows, arm, number))
            for arm in ("never", "nothing", *shadows.methods)
        }
        for arm in without if number == 0 or len(shadows.retain) else ():
            made = personalise(shadows.general, shadows.retain, shadows.public, seeded[arm], frozen=frozen)
            yield arm, made.model
        personal = personalise(shadows.general, whole, shadows.public, seeded["nothing"], frozen=frozen).model
        yield "nothing", personal
        for method in shadows.methods:
            if method not in EXACT:
                with alone:
                    unlearned = known[method](replace(case, personal=personal, personalisation=seeded[method]))
                yield method, unlearned

    return copies


class Gauge:
    """Groups of segments, and what a copy says of them: clean, under FGSM on its own gradient, under random signs."""

    def __init__(self, shadows: Shadows, groups: Mapping[str, Examples]) -> None:
        """Evaluate once what copies have in common: the frozen layers on clean and on noisy segments."""
        self._shadows, self._sizes = shadows, {name: len(part) for name, part in groups.items()}
        self._whole = whole = join(list(groups.values()))
        frozen = trained_part(shadows.general, shadows.personalisation).frozen
        generator = torch.Generator().manual_seed(shadows.seed)
        signs = torch.randint(0, 2, whole.segments.shape, generator=generator) * 2.0 - 1.0
        self._noised = apply(frozen, self._disturbed(signs))
        self._input = whole.segments.clone().requires_grad_(True)
        self._features = frozen(self._input)

    def read(self, model: ResNet34) -> Rows:
        """Return margins, entropy, attacked and noised margins of one copy."""
        task, labels = model.task, self._whole.labels
        part = trained_part(model, self._shadows.personalisation)
        features = self._features.detach().requires_grad_(True)
        logits = part.trained(features)
        (at_features,) = torch.autograd.grad(task_loss(logits, labels, task), features)
        (gradient,) = torch.autograd.grad(self._features, self._input, at_features, retain_graph=True)
        clean, noised = logits.detach(), apply(part.trained, self._noised)
        attacked = apply(part.trained, apply(part.frozen, self._disturbed(gradient.sign())))
        margins = [margin(said, labels, task) for said in (clean, attacked, noised)]
        return [_rounded(said) for said in (margins[0], _entropy(clean, labels, task), *margins[1:])]

    def sort(self, rows: Sequence[Rows]) -> dict[str, Readings]:
        """Return K copies' rows by group."""
        found, start = {}, 0
        for name, size in self._sizes.items():
            part = slice(start, start + size)
            found[name] = Readings(*(tuple(of_copy[kind][part] for of_copy in rows) for kind in range(4)))
            start += size
        return found

    def _disturbed(self, direction: Tensor) -> Tensor:
        lead_sd = self._shadows.general.lead_sd
        return perturb(self._whole.segments, direction, epsilon_sd=self._shadows.epsilon_sd, lead_sd=lead_sd)


def _entropy(logits: Tensor, labels: Tensor, task: Task) -> Tensor:
    """Return the modified entropy of B segments, nats; for `multi` the mean over the labels, each a yes or a no."""
    if task == "single":
        return torch.from_numpy(modified_entropy(logits.numpy(), labels.numpy()))
    yes_or_no = F.pad(logits.flatten()[:, None], (1, 0)).numpy()  # (B * 5, 2)
    truth = torch.stack([1 - labels.flatten(), labels.flatten()], dim=1).numpy()
    return torch.from_numpy(modified_entropy(yes_or_no, truth)).reshape(labels.shape).mean(dim=1)


def _spread(examples: Examples) -> Examples:
    """Return `MEASURED` examples at most, evenly spread."""
    if len(examples) <= MEASURED:
        return examples
    return examples[torch.linspace(0, len(examples) - 1, MEASURED).round().long()]


def _repeated(rows: Sequence[Rows], copies: int) -> Sequence[Rows]:
    """Return one row a copy, where one stands for all of them too."""
    return list(rows) * copies if len(rows) == 1 else rows


def _rounded(values: Tensor) -> tuple[float, ...]:
    return tuple(round(value, DECIMALS) for value in values.tolist())
