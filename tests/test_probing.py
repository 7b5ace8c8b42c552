"""The paper's probe: margins by hand, and both models on the same perturbed segments."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shared.attacks import fgsm_direction, perturb
from shared.model import ResNet34, build
from shared.personalisation import personalise
from shared.probing import margin, probe
from shared.settings import General, Personalisation
from shared.training import Examples, hits, one_thread

logits = st.lists(st.floats(-20, 20), min_size=5, max_size=5).map(lambda v: torch.tensor([v], dtype=torch.float64))


def test_a_margin_by_hand():
    z = torch.tensor([[1.0, 0.0, 0.0, 0.0, 0.0]])
    assert margin(z, torch.eye(5)[:1], "single").item() == pytest.approx(1 - math.log(4))
    assert margin(z, torch.eye(5)[1:2], "single").item() == pytest.approx(-math.log(math.e + 3))
    assert margin(z, torch.tensor([[1.0, 1.0, 0.0, 0.0, 0.0]]), "multi").item() == 0.0
    assert margin(z + 2, torch.tensor([[1.0, 1.0, 0.0, 1.0, 1.0]]), "multi").item() == -2.0


@given(logits, st.integers(0, 4))
def test_a_margin_is_the_log_odds_of_the_true_class(z, true):
    chance = z.softmax(1)[0, true]
    found = margin(z, torch.eye(5)[true : true + 1], "single")
    assert found.sigmoid().item() == pytest.approx(chance.item(), rel=1e-6, abs=1e-12)


@given(logits, st.integers(0, 4), st.floats(-5, 5))
def test_a_margin_does_not_change_when_all_logits_shift(z, true, shift):
    label = torch.eye(5)[true : true + 1]
    torch.testing.assert_close(margin(z + shift, label, "single"), margin(z, label, "single"))


@given(logits, st.lists(st.booleans(), min_size=5, max_size=5))
def test_a_positive_margin_of_all_labels_is_a_hit(z, labels):
    truth = torch.tensor([labels], dtype=torch.float64)
    smallest = margin(z, truth, "multi").item()
    if smallest:
        assert (smallest > 0) == bool(hits(z, truth, "multi"))


def test_both_models_are_measured_on_segments_perturbed_for_the_general_one(general, public):
    own = Examples(public.control.segments[:6], torch.eye(5)[3].expand(6, 5))
    with one_thread():
        personal = personalise(general, own, public, Personalisation(steps=5, budget=1.0)).model
        epsilons = (0.0, 0.02, 0.3)
        first, second = probe(general, [general, personal], own, epsilons_sd=epsilons)
        direction = fgsm_direction(general, own)
        for row, epsilon in enumerate(epsilons):
            moved = perturb(own.segments, direction, epsilon_sd=epsilon, lead_sd=general.lead_sd)
            for model, found in ((general, first), (personal, second)):
                with torch.inference_mode():
                    z = model(moved)
                assert found.hits[row].tolist() == hits(z, own.labels, "single").tolist()
                np.testing.assert_allclose(found.margins[row], margin(z, own.labels, "single").numpy(), rtol=1e-5)


def test_a_model_beside_itself_shows_no_difference(general, public):
    first, second = probe(general, [general, general], public.control, epsilons_sd=(0.0, 0.1))
    assert np.array_equal(first.hits, second.hits)
    assert np.array_equal(first.margins, second.margins)
    assert first.hits.shape == first.margins.shape == (2, len(public.control))


def test_no_segments_are_no_columns(general):
    (found,) = probe(general, [general], Examples.empty(), epsilons_sd=(0.0, 0.1, 0.2))
    assert found.hits.shape == found.margins.shape == (3, 0)


@pytest.mark.parametrize(("profile", "trunks"), [("default", 1), ("paper", 2)])
def test_what_models_have_in_common_is_evaluated_once_and_answers_are_those_of_each_alone(
    general, public, monkeypatch, profile, trunks
):
    own = Examples(public.control.segments[:6], torch.eye(5)[3].expand(6, 5))
    epsilons = (0.0, 0.02)
    with one_thread():
        personal = personalise(general, own, public, Personalisation(profile=profile, steps=5, budget=1.0)).model
        alone = [probe(general, [model], own, epsilons_sd=epsilons)[0] for model in (general, personal, general)]
        calls, trunk = [], ResNet34.trunk
        monkeypatch.setattr(ResNet34, "trunk", lambda self, *args, **kw: calls.append(1) or trunk(self, *args, **kw))
        found = probe(general, [general, personal, general], own, epsilons_sd=epsilons)
    for one, other in zip(found, alone, strict=True):
        assert np.array_equal(one.hits, other.hits)
        assert np.array_equal(one.margins, other.margins)
    assert len(calls) == 1 + trunks * len(epsilons)  # one for the gradient
    assert not np.array_equal(found[0].margins, found[1].margins)


def test_one_changed_weight_of_the_trunk_makes_it_another(general):
    other = copy.deepcopy(general)
    assert other.has_trunk_of(general)
    with torch.no_grad():
        other.head.weight[0, 0] += 1
        assert other.has_trunk_of(general)
        other.stem[0].weight[0, 0, 0] += 1
    assert not other.has_trunk_of(general)
    assert not other.has_trunk_of(build(General(width=2)))
