"""FGSM: the identity at strength 0, exactly as large as it says, and harmful."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from shared.attacks import fgsm_direction, perturb
from shared.model import to_bytes
from shared.personalisation import accuracy
from shared.probing import margin
from shared.settings import LEADS
from shared.training import Examples

SEGMENTS = torch.randn(4, 12, 500, generator=torch.Generator().manual_seed(0))
strengths = st.floats(0, 3, width=32)


class Linear(nn.Module):
    """Logits that are linear in the segment: the gradient of the loss is known."""

    def __init__(self, task) -> None:
        super().__init__()
        self.task, self.width = task, 0
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
