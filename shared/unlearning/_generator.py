"""Zero-shot transfer through a gate: a generator makes inputs, and a student learns there what its teacher says.

Source: Chundawat et al. 2023, "Zero-shot machine unlearning", gated knowledge transfer, with the schedule of its code:
a generator step and ten student steps a group, Adam at 1e-3, gradients clipped to norm 5, a look at validation data
every 50 groups. Under the profile `paper` the generator makes segments in millivolts; under the default profile, whose
models differ behind frozen layers alone, it makes what those layers give out. One thing is added: where nothing that
the generator makes passes the gate, it learns to pass.
No method: the file's name begins with an underscore.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared.errors import LetheError
from shared.model import ResNet34
from shared.personalisation import distillation, trained_part
from shared.settings import LEADS, SEGMENT_SAMPLES, Task
from shared.stopping import stop_if_asked
from shared.training import AdamW
from shared.unlearning._choice import Best
from shared.unlearning.case import Case

NOISE = 128  # length of z
STUDENT_STEPS = 10  # after each of the generator's
RATE, CLIP = 1e-3, 5.0
PASSING_RATE = 1e-2  # while nothing passes the gate, which is ours
ATTENTION = 250.0  # weight of the attention loss
LOOK_EVERY = 50  # groups; the best that a look saw is kept: what is forgotten comes back if it runs on
DRAWS = 100  # steps in which a generator may learn to pass, after which the transfer stops
FEATURES = 16  # positions that the frozen layers give out

Gate = Callable[[Tensor, Tensor], Tensor]  # inputs (B, ...), teacher's logits (B, 5) -> (B,), below 0 for what passes


class Generator(nn.Module):
    """Noise (B, 128) -> segments (B, 12, 500) in millivolts, or features (B, C, 16)."""

    scale: Tensor

    def __init__(self, channels: int, samples: int, scale: Tensor | None) -> None:
        """`scale` is the leads' standard deviation, for segments; features are what a ReLU gives out."""
        super().__init__()
        self.first, self.scale = nn.Linear(NOISE, 128 * (samples // 4)), torch.ones(1) if scale is None else scale
        self.positive, self.quarter = scale is None, samples // 4
        self.layers = nn.Sequential(
            nn.BatchNorm1d(128),
            nn.Upsample(scale_factor=2),
            nn.Conv1d(128, 128, 3, padding=1),
            nn.BatchNorm1d(128),
            nn.LeakyReLU(0.2),
            nn.Upsample(scale_factor=2),
            nn.Conv1d(128, 64, 3, padding=1),
            nn.BatchNorm1d(64),
            nn.LeakyReLU(0.2),
            nn.Conv1d(64, channels, 3, padding=1),
            nn.BatchNorm1d(channels),
        )

    def forward(self, z: Tensor) -> Tensor:
        """Return (B, channels, samples)."""
        made: Tensor = self.layers(self.first(z).unflatten(1, (128, self.quarter))) * self.scale[:, None]
        return F.relu(made) if self.positive else made


@dataclass(frozen=True)
class Answer:
    """What a model says of inputs: logits (B, 5), and what each of its watched blocks gave out, (B, C, 1, T)."""

    logits: Tensor
    activations: list[Tensor]


def transfer(
    case: Case,
    teacher: ResNet34,
    student: ResNet34,
    gate: Gate,
    score: Callable[[ResNet34], float],
    *,
    first: float | None,
) -> ResNet34:
    """Train `student` in place on generated inputs that pass the gate, and return it as it scored lowest.

    `first` is what the student scores before it learns anything; None, if that is no result.

    Raises:
        LetheError: nothing passes the gate from the beginning, the loss is not a finite number, or nothing that was
            learnt could be scored.
    """
    rng = torch.Generator().manual_seed(case.personalisation.seed)
    generator, weights = _untrained(case), trained_part(student, case.personalisation).parameters
    makers = list(generator.parameters())
    adam_generator, adam_student = AdamW(makers, weight_decay=0.0), AdamW(weights, weight_decay=0.0)
    learning = student.training
    best = Best(student.state_dict(), math.inf if first is None else first)
    for group in range(1, case.unlearning.generator_groups + 1):
        z = _passing(case, generator, adam_generator, teacher, gate, rng)
        if z is None and group == 1:
            raise LetheError(f"the generator did not learn in {DRAWS} steps to make anything that passes the gate")
        if z is None:
            best.offer(student, score(student.eval()))
            break
        student.train(learning)
        for step in range(1 + STUDENT_STEPS):
            with torch.set_grad_enabled(step == 0):  # afterwards the student alone learns
                made = generator(z)
                theirs = answer(teacher, made)
            pair = _admitted(made, theirs, student, gate)
            if pair is None:  # what the generator has just learnt does not pass
                break
            if step == 0:
                _step(adam_generator, makers, -divergence(*pair, student.task), RATE)
            else:
                _step(adam_student, weights, student_loss(*pair, student.task), RATE)
            stop_if_asked()
        if group % LOOK_EVERY == 0 or group == case.unlearning.generator_groups:
            best.offer(student, score(student.eval()))
    if first is None and math.isinf(best.score):
        raise LetheError("nothing that the student learnt could be scored on public data: are there too few of them?")
    return best.settle(student)


def divergence(teacher: Answer, student: Answer, task: Task) -> Tensor:
    """Return D_KL(T || S), mean over inputs: the paper's equation 9."""
    return distillation(student.logits, teacher.logits, task)


def student_loss(teacher: Answer, student: Answer, task: Task) -> Tensor:
    """Return the divergence and, 250 times, how far the student's attention is from the teacher's."""
    apart = attention_loss(teacher.activations, student.activations)
    return divergence(teacher, student, task) + ATTENTION * apart


def attention_loss(teacher: Sequence[Tensor], student: Sequence[Tensor]) -> Tensor:
    """Return the sum over blocks of the mean squared difference of attention: the paper's equation 10.

    Attention is the mean over channels of squared activations, divided by its L2 norm (Zagoruyko and Komodakis 2017).
    """

    def attention(activations: Tensor) -> Tensor:
        return F.normalize(activations.square().mean(dim=1).flatten(1), dim=1)

    pairs = zip(teacher, student, strict=True)
    return torch.stack([F.mse_loss(attention(theirs), attention(its)) for theirs, its in pairs]).sum()


def divergences(teacher: Tensor, student: Tensor, task: Task) -> Tensor:
    """Return D_KL(T || S) of each of B logits (B, 5), nats; for `multi` the sum over the labels."""
    if task == "single":
        theirs, its = teacher.log_softmax(dim=1), student.log_softmax(dim=1)
        return (theirs.exp() * (theirs - its)).sum(dim=1)
    p = teacher.sigmoid()
    cross, entropy = (F.binary_cross_entropy_with_logits(z, p, reduction="none") for z in (student, teacher))
    return (cross - entropy).sum(dim=1)


def _untrained(case: Case) -> Generator:
    """Return a generator of what the trained layers take, with weights of the case's seed."""
    segments = case.personalisation.profile == "paper"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(case.personalisation.seed)
        if segments:
            return Generator(len(LEADS), SEGMENT_SAMPLES, case.general.lead_sd)
        return Generator(8 * case.general.width, FEATURES, None)


def _passing(
    case: Case, generator: Generator, adam: AdamW, teacher: ResNet34, gate: Gate, rng: torch.Generator
) -> Tensor | None:
    """Return noise of which something passes the gate, which the generator learns if need be; or nothing at last."""
    for _ in range(DRAWS):
        z = torch.randn(case.unlearning.generator_batch_size, NOISE, generator=rng)
        with torch.no_grad():
            made = generator(z)
            passes = gate(made, answer(teacher, made).logits) < 0
        if passes.any():
            return z
        made = generator(z)
        excess = gate(made, answer(teacher, made).logits).mean()
        _step(adam, list(generator.parameters()), excess, PASSING_RATE)
    return None


def _admitted(made: Tensor, teacher: Answer, student: ResNet34, gate: Gate) -> tuple[Answer, Answer] | None:
    """Return what teacher and student say of those generated inputs that pass, if any do."""
    with torch.no_grad():
        passing = gate(made, teacher.logits) < 0
    if not passing.any():
        return None
    theirs = Answer(teacher.logits[passing], [activations[passing] for activations in teacher.activations])
    return theirs, answer(student, made[passing])


def answer(model: ResNet34, inputs: Tensor) -> Answer:
    """Return what a model says of segments (B, 12, 500), or of features (B, 8 * width, 16), with the ends of stages."""
    ends: list[Tensor] = []  # by argument and not by hooks: copies of one model share layers
    whole = inputs.shape[1:] == (len(LEADS), SEGMENT_SAMPLES)
    logits = model.tail(model.trunk(inputs, ends=ends) if whole else inputs, ends=ends)
    return Answer(logits, ends)


def _step(adam: AdamW, parameters: list[nn.Parameter], loss: Tensor, rate: float) -> None:
    """Move parameters against a loss's clipped gradient."""
    if not loss.isfinite():
        raise LetheError(f"zero-shot transfer diverged: the loss is {loss.item()}")
    gradients = torch.autograd.grad(loss, parameters)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    nn.utils.clip_grad_norm_(parameters, CLIP)
    adam.step(rate)
