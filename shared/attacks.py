"""Adversarial perturbations of segments: one loop over signs of gradients, settings of it by name, and Carlini-Wagner.

Strength is given for each lead, in its standard deviations, so that a quiet lead is not drowned, or in microvolts; the
attack works in millivolts on the model's own input and clips nothing to a range, because an ECG has no natural one.
The model must be in evaluation mode. What the attacks show of a model is measured elsewhere.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared.attack_table import ATTACKS, CW, SIGNS, Signs, Unit, check_strength
from shared.errors import DataError, UsageError
from shared.model import ResNet34
from shared.settings import LEADS, Task
from shared.training import AdamW, Examples, apply, hits, task_loss

SEARCHES, CW_STEPS = 5, 100  # of Carlini-Wagner: constants tried, and steps for each
CW_RATE = 0.01  # SDs of a lead a step at first; it falls to none, and what is found is up to a third nearer
CW_FIRST = 10.0  # the constant tried first; squared distances are sums over 6000 samples


def per_lead(epsilon: float | Sequence[float], *, unit: Unit, lead_sd: Tensor) -> Tensor:
    """Return a strength in millivolts, (12,).

    Args:
        epsilon: one number for all leads or one a lead, in units of `unit`.
        unit: standard deviations of a lead, or microvolts.
        lead_sd: (12,) millivolts.

    Raises:
        UsageError: another unit, another number of numbers, or one that is below 0 or not finite.
    """
    check_strength(epsilon, unit=unit, what="epsilon")
    given = torch.as_tensor(epsilon, dtype=torch.float32).expand(len(LEADS))
    return given * lead_sd if unit == "sd" else given / 1000


def attack(
    model: ResNet34, examples: Examples, name: str, *, epsilon: Tensor, alpha: Tensor | None = None, seed: int = 0
) -> Tensor:
    """Return perturbed segments (N, 12, 500), millivolts.

    Args:
        model: whose gradients are followed; it is left as it was.
        examples: N segments and what they are to be mistaken from.
        name: one of `ATTACKS`.
        epsilon: (12,) millivolts, from `per_lead`. Carlini-Wagner looks for the smallest change itself; one that is
            larger than FGSM's at this epsilon is shortened to that.
        alpha: (12,) millivolts, the clip radius of equation 3; None leaves the attack's own.
        seed: of random starts and signs.

    Raises:
        UsageError: there is no such attack.
        DataError: a segment has a value that is not finite.
    """
    if name not in ATTACKS:
        raise UsageError(f"there is no attack {name!r}, expected one of {', '.join(ATTACKS)}")
    if name == CW:
        return shortened(examples.segments, carlini_wagner(model, examples), epsilon)
    return follow(model, examples, SIGNS[name], epsilon=epsilon, alpha=alpha, seed=seed)


def follow(
    model: ResNet34, examples: Examples, signs: Signs, *, epsilon: Tensor, alpha: Tensor | None = None, seed: int = 0
) -> Tensor:
    """Return E + delta after `signs.steps` steps delta <- Clip(delta + step * epsilon * sign(gradient)).

    The paper's equations 1, 2 and 3, BIM and PGD are settings of it; arguments as for `attack`.
    """
    segments, strength = examples.segments, epsilon[:, None]
    radius = (signs.radius * epsilon if alpha is None else alpha)[:, None].nan_to_num(0.0)  # no way to go, at 0 * inf
    rng = torch.Generator().manual_seed(seed)
    delta = strength * _drawn(segments, rng) if signs.random_start else torch.zeros_like(segments)
    for _ in range(signs.steps):
        direction = fgsm_direction(model, Examples(segments + delta, examples.labels))
        if signs.blind:
            direction = direction.abs() * _signs(segments, rng)
        delta = (delta + signs.step * strength * direction).clamp(-radius, radius)
    return segments + delta


def noise_as_far(segments: Tensor, attacked: Tensor, *, seed: int) -> Tensor:
    """Return segments (N, 12, 500) that noise moved as far in every sample as an attack did, to a side drawn at random.

    So it has the norms of the attack's change, of every segment and lead: what the attack does beyond it is direction.
    """
    rng = torch.Generator().manual_seed(seed)
    _drawn(segments, rng)  # the random start of an attack with the same seed, which this is not to follow
    return segments + (attacked - segments).abs() * _signs(segments, rng)


def fgsm_direction(model: ResNet34, examples: Examples, *, batch_size: int = 128) -> Tensor:
    """Return sign of the loss's gradient, (N, 12, 500): the paper's equation 1 without its epsilon.

    One gradient serves every epsilon. The model must be in evaluation mode.
    """
    return _in_batches(
        lambda x, labels: _gradient(task_loss(model(x), labels, model.task), x).sign(), examples, batch_size
    )


def perturb(segments: Tensor, direction: Tensor, *, epsilon_sd: float, lead_sd: Tensor) -> Tensor:
    """Return `segments + epsilon * direction`; equation 1.

    Args:
        segments: (N, 12, 500) millivolts.
        direction: (N, 12, 500), -1, 0 or 1.
        epsilon_sd: strength in standard deviations of each lead.
        lead_sd: (12,) millivolts.
    """
    return segments + epsilon_sd * lead_sd[:, None] * direction


def carlini_wagner(model: ResNet34, examples: Examples, *, batch_size: int = 128) -> Tensor:
    """Return the nearest segments found that are mistaken, (N, 12, 500); one that is wrong already stays as it is.

    Carlini and Wagner 2017, L2, untargeted, confidence 0: Adam on |delta|^2 + c * max(advantage, 0), where c is found
    for each segment, between what fails and what succeeds. Distances are in standard deviations of each lead. There is
    no change of variables by tanh, for there is no box to stay in. Where nothing is found the segment stays too.
    """
    return _in_batches(lambda x, labels: _nearest(model, Examples(x, labels)), examples, batch_size)


def advantage(logits: Tensor, labels: Tensor, task: Task) -> Tensor:
    """Return by how much the prediction is right, (B,): below 0 it is wrong.

    `single`: z_y minus the largest other logit. `multi`: the smallest over the labels, since one mistake is enough.
    """
    if task == "multi":
        return torch.where(labels > 0.5, logits, -logits).amin(dim=1)
    true = labels.argmax(dim=1, keepdim=True)
    return logits.gather(1, true)[:, 0] - logits.scatter(1, true, -math.inf).amax(dim=1)


def success(model: ResNet34, examples: Examples, attacked: Tensor) -> float:
    """Return the share of rightly predicted segments that are mistaken when attacked; 0 of 0 is not a number."""
    right, still = (hits(apply(model, x), examples.labels, model.task) for x in (examples.segments, attacked))
    return (~still[right]).float().mean().item()


def _gradient(loss: Tensor, x: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(loss, x)
    return gradient


def _in_batches(function: Callable[[Tensor, Tensor], Tensor], examples: Examples, batch_size: int) -> Tensor:
    """Return what `function` makes of all segments and labels; it may differentiate by the segments."""
    if not examples.segments.isfinite().all():
        raise DataError("a segment to be attacked has a value that is not finite; leave such records out")
    parts = zip(torch.split(examples.segments, batch_size), torch.split(examples.labels, batch_size), strict=True)
    found = [function(x.clone().requires_grad_(True), labels).detach() for x, labels in parts if len(x)]
    return torch.cat(found) if found else torch.empty_like(examples.segments)


def _drawn(segments: Tensor, rng: torch.Generator) -> Tensor:
    """Return numbers evenly drawn from -1 to 1, as many as samples."""
    return torch.rand(segments.shape, generator=rng) * 2 - 1


def _signs(segments: Tensor, rng: torch.Generator) -> Tensor:
    """Return -1 or 1, evenly drawn, for every sample."""
    return torch.where(_drawn(segments, rng) < 0, -1.0, 1.0)


def _nearest(model: ResNet34, examples: Examples) -> Tensor:
    """Search c for a batch: halfway between what failed and what succeeded, ten times as much while nothing did."""
    segments = examples.segments.detach()
    low, high = torch.zeros(len(segments)), torch.full((len(segments),), math.inf)
    c = torch.full((len(segments),), CW_FIRST)
    best, found = torch.full((len(segments),), math.inf), segments.clone()
    for _ in range(SEARCHES):
        distance, moved = _descend(model, Examples(segments, examples.labels), c)
        nearer = distance < best
        best, found = torch.where(nearer, distance, best), torch.where(nearer[:, None, None], moved, found)
        succeeded = distance.isfinite()
        low, high = torch.where(succeeded, low, c), torch.where(succeeded, c, high)
        c = torch.where(high.isinf(), c * 10, (low + high) / 2)
    return found


def _descend(model: ResNet34, examples: Examples, c: Tensor) -> tuple[Tensor, Tensor]:
    """Return the nearest mistaken segments on the way and their squared distances, infinite where there is none."""
    delta = nn.Parameter(torch.zeros_like(examples.segments))
    optimiser = AdamW([delta], weight_decay=0.0)
    best, found = torch.full((len(c),), math.inf), examples.segments.clone()
    for step in range(CW_STEPS + 1):
        moved = examples.segments + delta * model.lead_sd[:, None]
        ahead, distance = advantage(model(moved), examples.labels, model.task), delta.square().sum(dim=(1, 2))
        nearer = (ahead < 0) & (distance < best)
        best = torch.where(nearer, distance, best).detach()
        found = torch.where(nearer[:, None, None], moved, found).detach()
        delta.grad = _gradient((distance + c * F.relu(ahead)).sum(), delta)
        optimiser.step(CW_RATE * (1 - step / CW_STEPS))
    return best, found


def shortened(segments: Tensor, attacked: Tensor, epsilon: Tensor) -> Tensor:
    """Return `attacked` no farther from the segments than FGSM gets, by the L2 norm in epsilons."""
    strength = epsilon[:, None]
    delta = torch.where(strength > 0, attacked - segments, 0.0)
    norm = torch.where(strength > 0, delta / strength, 0.0).square().sum(dim=(1, 2)).sqrt()
    longest = math.sqrt(max(int((epsilon > 0).sum()), 1) * segments.shape[2])
    return segments + delta / (norm / longest).clamp(min=1.0)[:, None, None]
