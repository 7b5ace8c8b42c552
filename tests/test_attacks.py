"""Attacks: the identity at strength 0, exactly as large as they say, harmful, and what foolbox makes of the same."""

import itertools
import math
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from shared.attack_table import ATTACKS, CW, SIGNS, Signs
from shared.attacks import (
    advantage,
    attack,
    carlini_wagner,
    fgsm_direction,
    follow,
    noise_as_far,
    per_lead,
    perturb,
    success,
)
from shared.errors import DataError, UsageError
from shared.model import to_bytes
from shared.personalisation import accuracy
from shared.probing import margin
from shared.settings import LEADS
from shared.training import Examples, apply, hits, join

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # it imports scipy's filters from where they were
    import eagerpy
    import foolbox

SEGMENTS = torch.randn(4, 12, 500, generator=torch.Generator().manual_seed(0))
SD = torch.linspace(0.1, 1.2, 12)
strengths = st.floats(0, 3, width=32)


class Linear(nn.Module):
    """Logits that are linear in the segment: the gradient of the loss is known."""

    def __init__(self, task) -> None:
        super().__init__()
        self.task, self.width, self.lead_sd = task, 0, torch.ones(12)
        self.weight = torch.randn(5, 12, 500, generator=torch.Generator().manual_seed(3))

    def forward(self, segments):
        return torch.einsum("bls,cls->bc", segments, self.weight) / 100


def test_at_strength_zero_nothing_changes(general, public):
    direction = fgsm_direction(general, public.control)
    same = perturb(public.control.segments, direction, epsilon_sd=0.0, lead_sd=general.lead_sd)
    assert torch.equal(same, public.control.segments)


@given(strengths)
def test_the_largest_change_of_a_lead_is_epsilon_times_its_standard_deviation(epsilon):
    sd = torch.linspace(0.05, 1.7, len(LEADS))
    direction = torch.where(SEGMENTS > 0, 1.0, -1.0)
    change = perturb(torch.zeros_like(SEGMENTS), direction, epsilon_sd=epsilon, lead_sd=sd)
    assert torch.equal(change.abs().amax(dim=(0, 2)), epsilon * sd)
    assert torch.equal(change.abs().amin(dim=(0, 2)), epsilon * sd)
    moved = perturb(SEGMENTS, direction, epsilon_sd=epsilon, lead_sd=sd)
    assert torch.equal(moved, SEGMENTS + change)


@pytest.mark.parametrize("task", ["single", "multi"])
def test_the_direction_is_the_closed_form_s_on_a_linear_model(task):
    model = Linear(task)
    labels = torch.eye(5)[[0, 2, 4, 1]]
    found = fgsm_direction(model, Examples(SEGMENTS, labels), batch_size=3)
    logits = model(SEGMENTS)
    chance = logits.softmax(1) if task == "single" else logits.sigmoid()
    expected = torch.einsum("bc,cls->bls", chance - labels, model.weight).sign()
    assert (found == expected).float().mean() > 0.9999  # but for gradients at the rounding of zero
    assert torch.equal(found.abs(), torch.ones_like(found))


def test_the_margin_falls_on_a_linear_model_by_what_the_closed_form_says():
    """With two classes in play, a step of e against w loses e |w|_1."""
    model = Linear("multi")
    labels = torch.eye(5)[[0, 2, 4, 1]]
    direction = fgsm_direction(model, Examples(SEGMENTS, labels))
    moved = perturb(SEGMENTS, direction, epsilon_sd=0.01, lead_sd=torch.ones(12))
    expected = torch.einsum("bls,cls->bc", 0.01 * direction, model.weight) / 100
    torch.testing.assert_close(model(moved) - model(SEGMENTS), expected, atol=1e-4, rtol=1e-3)


def test_fgsm_lowers_the_accuracy_of_a_trained_model(general, public):
    direction = fgsm_direction(general, public.anchor)

    def under(epsilon):
        moved = perturb(public.anchor.segments, direction, epsilon_sd=epsilon, lead_sd=general.lead_sd)
        return accuracy(general, Examples(moved, public.anchor.labels))

    assert under(0.0) > 0.4  # better than chance on what it was trained on
    assert under(0.2) < under(0.0) - 0.2


def test_a_small_step_lowers_every_margin_and_noise_of_that_size_does_not(general, public):
    examples = public.anchor
    direction = fgsm_direction(general, examples)
    noise = torch.where(torch.rand(direction.shape, generator=torch.Generator().manual_seed(1)) < 0.5, -1.0, 1.0)

    def fall(step):
        moved = perturb(examples.segments, step, epsilon_sd=0.02, lead_sd=general.lead_sd)
        with torch.inference_mode():
            before, after = (margin(general(x), examples.labels, general.task) for x in (examples.segments, moved))
        return (before - after).mean().item()

    assert fall(direction) > 0
    assert fall(direction) > 5 * abs(fall(noise))


def test_batches_do_not_change_the_direction_and_the_model_is_left_as_it_was(general, public):
    before = to_bytes(general)
    whole = fgsm_direction(general, public.gate)
    parts = fgsm_direction(general, public.gate, batch_size=5)
    assert (whole == parts).float().mean() > 0.999
    assert to_bytes(general) == before
    assert all(parameter.grad is None for parameter in general.parameters())


def test_no_segments_have_no_direction(general):
    assert fgsm_direction(general, Examples.empty()).shape == (0, 12, 500)


def right(general, public):
    """What the general model predicts rightly of the public segments."""
    whole = join([public.anchor, public.gate, public.control])
    return whole[hits(apply(general, whole.segments), whole.labels, general.task)]


def strength(general, epsilon_sd):
    return per_lead(epsilon_sd, unit="sd", lead_sd=general.lead_sd)


@pytest.mark.parametrize(
    ("epsilon", "unit", "expected"),
    [
        (0.5, "sd", [0.5 * 0.1 * (lead + 1) for lead in range(12)]),
        (range(12), "sd", [lead * 0.1 * (lead + 1) for lead in range(12)]),
        (50, "uV", [0.05] * 12),
        ([10.0] * 11 + [0.0], "uV", [0.01] * 11 + [0.0]),
    ],
)
def test_a_strength_is_one_number_or_one_a_lead_in_either_unit(epsilon, unit, expected):
    found = per_lead(list(epsilon) if isinstance(epsilon, range) else epsilon, unit=unit, lead_sd=SD)
    torch.testing.assert_close(found, torch.tensor(expected))


def shorten(monkeypatch):
    """Let Carlini-Wagner, which costs as much as a hundred others, find what it can in a few steps."""
    monkeypatch.setattr("shared.attacks.SEARCHES", 2)
    monkeypatch.setattr("shared.attacks.CW_FIRST", 200.0)
    monkeypatch.setattr("shared.attacks.CW_STEPS", 25)


@pytest.mark.parametrize("name", ATTACKS)
def test_every_attack_is_the_identity_at_strength_zero_and_leaves_the_model_alone(general, public, name, monkeypatch):
    shorten(monkeypatch)
    before = to_bytes(general)
    examples = public.gate[:2]
    assert torch.equal(attack(general, examples, name, epsilon=torch.zeros(12)), examples.segments)
    assert to_bytes(general) == before
    assert all(parameter.grad is None for parameter in general.parameters())


@pytest.mark.parametrize("name", ATTACKS)
def test_a_lead_of_strength_zero_is_left_alone_and_the_others_are_not(general, public, name, monkeypatch):
    shorten(monkeypatch)
    examples = right(general, public)[:2]
    epsilon = torch.where(torch.arange(12) == 3, 0.0, strength(general, 0.05))
    moved = attack(general, examples, name, epsilon=epsilon) - examples.segments
    assert torch.equal(moved[:, 3], torch.zeros(2, 500))
    assert (moved.abs().amax(dim=(0, 2)) > 0).sum() == 11


@pytest.mark.parametrize("name", ATTACKS)
def test_no_segments_are_attacked_to_none(general, name):
    assert attack(general, Examples.empty(), name, epsilon=torch.ones(12)).shape == (0, 12, 500)


@pytest.mark.parametrize("name", ["noise", "pgd"])
def test_a_random_start_is_its_seed_s(general, public, name):
    examples, epsilon = public.gate[:3], strength(general, 0.05)
    first, again, other = (attack(general, examples, name, epsilon=epsilon, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("name", ["noise", "fgsm", "bim", "pgd"])
def test_no_sample_moves_farther_than_epsilon(general, public, name):
    examples, epsilon = public.anchor[:8], strength(general, 0.1)
    moved = attack(general, examples, name, epsilon=epsilon) - examples.segments
    assert (moved.abs() <= epsilon[:, None] * 1.0001 + 1e-6).all()
    torch.testing.assert_close(moved.abs().amax(dim=(0, 2)), epsilon, rtol=1e-3, atol=1e-6)


def test_noise_has_the_very_norms_of_fgsm(general, public):
    examples, epsilon = public.anchor[:8], strength(general, 0.1)
    noise, fgsm = (attack(general, examples, name, epsilon=epsilon) - examples.segments for name in ("noise", "fgsm"))
    for norm in (2, math.inf):
        torch.testing.assert_close(*(torch.linalg.vector_norm(delta, norm, dim=2) for delta in (noise, fgsm)))


@pytest.mark.parametrize("name", ["i-fgsm", "clipped-i-fgsm", "pgd", CW])
def test_the_noise_beside_an_attack_goes_as_far_in_every_sample_and_nowhere_in_particular(
    general, public, name, monkeypatch
):
    shorten(monkeypatch)
    examples = right(general, public)[:3]
    attacked = attack(general, examples, name, epsilon=strength(general, 0.05))
    noise = noise_as_far(examples.segments, attacked, seed=0)
    change, blind = (moved - examples.segments for moved in (attacked, noise))
    torch.testing.assert_close(blind.abs(), change.abs(), rtol=1e-4, atol=1e-6)
    assert (blind * change).sum().abs() < 0.05 * change.square().sum()
    assert torch.equal(noise, noise_as_far(examples.segments, attacked, seed=0))
    assert not torch.equal(noise, noise_as_far(examples.segments, attacked, seed=1))


def test_iterated_fgsm_goes_a_whole_epsilon_a_step_and_alpha_is_where_it_is_clipped():
    """On a linear model the gradient's signs stay, so equation 2 ends M epsilons away, and equation 3 at alpha."""
    model, epsilon = Linear("multi"), torch.linspace(1e-5, 1e-4, 12)
    examples = Examples(torch.zeros(2, 12, 500), torch.eye(5)[[0, 2]])
    direction = fgsm_direction(model, examples)
    far = attack(model, examples, "i-fgsm", epsilon=epsilon)
    torch.testing.assert_close(far, 10 * epsilon[:, None] * direction)
    for alpha in (0.5 * epsilon, 3.3 * epsilon, 99 * epsilon):
        held = attack(model, examples, "clipped-i-fgsm", epsilon=epsilon, alpha=alpha)
        torch.testing.assert_close(held, torch.minimum(alpha, 10 * epsilon)[:, None] * direction)


def test_stronger_attacks_succeed_more_often_and_noise_least(general, public):
    examples = right(general, public)
    found = {}
    for name in ("noise", "fgsm", "bim", "pgd"):
        found[name] = [
            success(general, examples, attack(general, examples, name, epsilon=strength(general, epsilon)))
            for epsilon in (0.02, 0.05, 0.1)
        ]
    for weaker, stronger in itertools.pairwise(found.values()):
        assert all(one <= other for one, other in zip(weaker, stronger, strict=True)), found
    assert found["noise"][-1] < found["pgd"][-1]
    assert found["pgd"] == sorted(found["pgd"])


class InStandardDeviations(nn.Module):
    """The model on segments in standard deviations of each lead, to speak with foolbox of one epsilon."""

    def __init__(self, model) -> None:
        super().__init__()
        self.model = model

    def forward(self, segments):
        return self.model(segments * self.model.lead_sd[:, None])


@pytest.mark.parametrize(
    ("signs", "theirs"),
    [
        (SIGNS["fgsm"], foolbox.attacks.LinfFastGradientAttack()),
        (SIGNS["bim"], foolbox.attacks.LinfBasicIterativeAttack(rel_stepsize=0.1, steps=10, random_start=False)),
        (Signs(6, step=0.5, radius=1.0), foolbox.attacks.LinfPGD(rel_stepsize=0.5, steps=6, random_start=False)),
        (SIGNS["pgd"], foolbox.attacks.LinfPGD(rel_stepsize=0.1, steps=20, random_start=True)),
    ],
)
def test_foolbox_makes_the_same_of_the_same_settings(general, public, signs, theirs, monkeypatch):
    examples, epsilon = public.anchor[:6], 0.05
    begun = 2 * torch.rand(examples.segments.shape, generator=torch.Generator().manual_seed(0)) - 1
    monkeypatch.setattr(theirs, "get_random_start", lambda x, at: x + eagerpy.astensor(at * begun))
    model = foolbox.PyTorchModel(InStandardDeviations(general).eval(), bounds=(-20, 20))
    ours = follow(general, examples, signs, epsilon=strength(general, epsilon)) / general.lead_sd[:, None]
    scaled = examples.segments / general.lead_sd[:, None]
    criterion = foolbox.criteria.Misclassification(examples.labels.argmax(dim=1))
    found, _, _ = theirs(model, scaled, criterion, epsilons=epsilon)
    assert found.shape == (6, 12, 500)
    assert (torch.isclose(found, ours, atol=1e-5)).float().mean() > 0.99  # signs of gradients that round to 0 differ


def test_carlini_wagner_finds_the_distance_to_the_boundary_of_a_linear_model():
    """With a yes or a no for each label, the nearest mistake lies |z| / |w| away along w."""
    model = Linear("multi")
    model.weight[1:] = 0.0  # so that only the first label's logit varies
    labels = torch.tensor([[1.0, 0, 0, 0, 0], [0.0, 0, 0, 0, 0]])
    direction = model.weight[0] / model.weight[0].norm()
    segments = torch.stack([direction, -2 * direction])  # 1 and 2 away from the boundary
    model.forward = lambda x: torch.einsum("bls,cls->bc", x, model.weight) / 100 + torch.tensor([0, -9.0, -9, -9, -9])
    moved = carlini_wagner(model, Examples(segments, labels)) - segments
    assert (model(moved + segments)[:, 0] * (labels[:, 0] - 0.5) < 0).all()
    norms = moved.flatten(1).norm(dim=1)
    assert (norms >= torch.tensor([1.0, 2.0]) * 0.999).all()
    assert (norms <= torch.tensor([1.0, 2.0]) * 1.05).all()


def test_carlini_wagner_gets_as_near_as_foolbox_does(general, public):
    examples = right(general, public)[:3]
    ours = (carlini_wagner(general, examples) - examples.segments) / general.lead_sd[:, None]
    model = foolbox.PyTorchModel(InStandardDeviations(general).eval(), bounds=(-20, 20))
    theirs = foolbox.attacks.L2CarliniWagnerAttack(binary_search_steps=4, steps=60, initial_const=10.0)
    scaled = examples.segments / general.lead_sd[:, None]
    criterion = foolbox.criteria.Misclassification(examples.labels.argmax(dim=1))
    found, _, succeeded = theirs(model, scaled, criterion, epsilons=None)
    assert succeeded.all()
    assert success(general, examples, examples.segments + ours * general.lead_sd[:, None]) == 1.0
    assert (ours.flatten(1).norm(dim=1) <= 1.1 * (found - scaled).flatten(1).norm(dim=1)).all()


def test_carlini_wagner_leaves_what_is_wrong_already_and_is_held_to_fgsm_s_norm(general, public, monkeypatch):
    shorten(monkeypatch)
    wrong = ~hits(apply(general, public.anchor.segments), public.anchor.labels, general.task)
    examples = public.anchor[wrong][:3]
    assert len(examples)
    assert torch.equal(carlini_wagner(general, examples), examples.segments)
    examples = right(general, public)[:3]
    held = attack(general, examples, CW, epsilon=strength(general, 1e-4)) - examples.segments
    norms = (held / strength(general, 1e-4)[:, None]).flatten(1).norm(dim=1)
    assert (norms <= math.sqrt(6000) * 1.001).all()
    free = carlini_wagner(general, examples)
    found = (free != examples.segments).flatten(1).any(dim=1)  # it gives up on what it cannot turn in a few steps
    assert found.sum() >= 2
    assert (norms[found] > math.sqrt(6000) * 0.9).all()
    ample = attack(general, examples, CW, epsilon=strength(general, 9.0))
    torch.testing.assert_close(ample, free)  # which is no farther than it need be


@pytest.mark.parametrize(
    ("task", "labels", "expected"),
    [
        ("single", [0, 1.0, 0, 0, 0], -1.0),  # 3 against 4
        ("single", [1.0, 0, 0, 0, 0], 1.0),
        ("multi", [1.0, 1, 0, 0, 0], 1.0),  # the fourth label's -1 is the least sure of being right
        ("multi", [1.0, 0, 0, 0, 0], -3.0),
    ],
)
def test_the_advantage_is_that_of_the_least_certain_label(task, labels, expected):
    assert advantage(torch.tensor([[4.0, 3, -2, -1, -5]]), torch.tensor([labels]), task).item() == expected


def test_success_counts_what_was_right_only():
    model = Linear("single")
    truth = torch.eye(5)[model(SEGMENTS).argmax(1)]
    truth[0] = truth[0].roll(1)  # one of four is wrong before any attack
    moved = SEGMENTS.clone()
    moved[:2] = -moved[:2] * 9
    broken = (model(moved[1:2]).argmax(1) != truth[1:2].argmax(1)).sum().item()
    assert success(model, Examples(SEGMENTS, truth), moved) == pytest.approx(broken / 3)
    assert math.isnan(success(model, Examples(SEGMENTS[:1], truth[:1]), moved[:1]))


@pytest.mark.parametrize(
    ("epsilon", "unit", "said"),
    [
        (float("nan"), "sd", "is nan, expected a finite number"),
        (-0.1, "sd", "not below 0"),
        ([0.1, 0.2], "sd", "has 2 numbers, expected one, or 12"),
        (10.0, "mV", "unit 'mV'"),
    ],
)
def test_a_strength_that_makes_no_sense_is_refused(epsilon, unit, said):
    with pytest.raises(UsageError, match=said):
        per_lead(epsilon, unit=unit, lead_sd=SD)


def test_an_unknown_attack_and_a_segment_that_is_no_number_are_refused(general, public):
    strength = per_lead(0.1, unit="sd", lead_sd=general.lead_sd)
    with pytest.raises(UsageError, match="no attack 'fgsm,bim'"):
        attack(general, public.control, "fgsm,bim", epsilon=strength)
    broken = public.control.segments.clone()
    broken[0, 3, 7] = math.nan
    for name in ("fgsm", CW):
        with pytest.raises(DataError, match="not finite"):
            attack(general, Examples(broken, public.control.labels), name, epsilon=strength)
