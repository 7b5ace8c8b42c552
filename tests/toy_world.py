"""A world small enough to unlearn in: five waveforms for five classes, and a patient of two records like others'.

The patient's records are labelled STTC; one looks half like MI and one half like HYP. A general model is wrong on both,
a personal one learns both by heart, and one that never saw the second does not know it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from shared.model import ResNet34, build
from shared.package import Public
from shared.personalisation import Frozen, personalise
from shared.settings import General, Personalisation, Profile, Task, Unlearning
from shared.training import Examples, fit, task_loss
from shared.unlearning.case import Case

UNLEARNING = Unlearning(epochs=4, generator_groups=3, generator_batch_size=8, i_mean_the_class=True)
LABEL, LIKE = 2, (1, 4)  # what the patient's segments are called, and what the two records look like


@dataclass(frozen=True)
class World:
    """A general model, its public segments, and the patient's two records."""

    general: ResNet34
    public: Public
    kept: Examples
    gone: Examples


def world(*, task: Task = "single", steps: int = 50) -> World:
    rng = torch.Generator().manual_seed(23)
    waves = _waves(5, rng)
    corpus, gate, control = (_segments(waves, count, rng) for count in (40, 8, 8))
    general = _trained(corpus, task, steps)
    public = Public.of(general, anchor=corpus[torch.randperm(200, generator=rng)[:40]], gate=gate, control=control)
    own = _waves(2, rng)
    kept, gone = (
        Examples(_noisy(0.5 * waves[like] + own[record], 6, rng), torch.eye(5)[LABEL].expand(6, 5))
        for record, like in enumerate(LIKE)
    )
    return World(general, public, kept, gone)


def case_of(world: World, *, profile: Profile = "default", retained: int = 6, seed: int = 0) -> Case:
    """The personal model of both records, and the second one to be forgotten."""
    rate, budget = (5e-3, 0.3) if profile == "default" else (4e-3, 0.5)  # the paper holds a copy to nothing
    settings = Personalisation(
        profile=profile, steps=25, learning_rate=rate, budget=budget, anchor_weight=1.0, seed=seed
    )
    frozen = Frozen(world.general, world.public, settings)
    both = Examples(
        torch.cat([world.kept.segments[:retained], world.gone.segments]),
        torch.cat([world.kept.labels[:retained], world.gone.labels]),
    )
    personal = personalise(world.general, both, world.public, settings, frozen=frozen)
    assert personal.accepted, personal.reason
    kept = world.kept[:retained]
    return Case(world.general, personal.model, kept, world.gone, world.public, settings, UNLEARNING, frozen)


def tail_of(model: ResNet34) -> tuple[str, str]:
    """How the names of the last block's and the head's tensors begin."""
    return f"blocks.{len(model.blocks) - 1}.", "head."


def _waves(count: int, rng: torch.Generator) -> Tensor:
    """Smooth waveforms of all leads, (count, 12, 500)."""
    t = torch.linspace(0, 2 * torch.pi, 500)
    parts = [torch.sin(k * t + 6.3 * torch.rand(count, 12, 1, generator=rng)) for k in (2, 5, 9)]
    return torch.stack([part * torch.rand(count, 12, 1, generator=rng) for part in parts]).sum(dim=0) / 2


def _noisy(wave: Tensor, count: int, rng: torch.Generator) -> Tensor:
    return wave + 0.4 * torch.randn(count, 12, 500, generator=rng)


def _segments(waves: Tensor, each: int, rng: torch.Generator) -> Examples:
    classes = torch.arange(len(waves)).repeat(each)
    return Examples(torch.cat([_noisy(waves[c], 1, rng) for c in classes]), torch.eye(5)[classes])


def _trained(corpus: Examples, task: Task, steps: int) -> ResNet34:
    model = build(General(width=4, task=task, smoothing_ms=0.0, dropout=0.0)).train()
    rng = torch.Generator().manual_seed(0)

    def loss(_: int) -> Tensor:
        rows = torch.randperm(len(corpus), generator=rng)[:32]
        return task_loss(model(corpus.segments[rows]), corpus.labels[rows], task)

    fit(model.parameters(), loss, steps=steps, learning_rate=1e-2, weight_decay=0.0)
    return model.eval()
