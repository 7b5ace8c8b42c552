"""A personal copy: it learns its patient, leaves the general model alone, and gives way when others lose."""

import copy
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toy_world import tail_of

from shared import personalisation
from shared.model import ResNet34, model_digest, to_bytes
from shared.package import Public
from shared.personalisation import Frozen, accuracy, between, distillation, held_out_mask, personalise, tune
from shared.settings import Personalisation
from shared.tail import tail_as_products
from shared.training import Examples, apply, task_loss

SETTINGS = Personalisation(steps=12, budget=1.0)


@pytest.fixture
def own(public) -> Examples:
    """One patient's segments, all of the class that the general model knows least."""
    segments = public.control.segments[:8]
    return Examples(segments, torch.eye(5)[4].expand(8, 5))


def loss(model, examples) -> float:
    with torch.inference_mode():
        return task_loss(model(examples.segments), examples.labels, model.task).item()


@pytest.mark.parametrize("profile", ["default", "paper"])
def test_a_copy_learns_its_patient(general, public, own, profile):
    settings = replace(SETTINGS, profile=profile, learning_rate=3e-2, anchor_weight=1.0)
    made = personalise(general, own, public, settings)
    assert made.accepted
    assert made.reason == ""
    assert loss(made.model, own) < 0.8 * loss(general, own)


def test_the_general_model_is_not_touched(general, public, own):
    before = to_bytes(general)
    personalise(general, own, public, SETTINGS)
    assert to_bytes(general) == before


def test_the_same_segments_give_the_same_bytes(general, public, own):
    first = personalise(general, own, public, SETTINGS).model
    torch.rand(7)  # nothing comes from the global generator
    assert to_bytes(personalise(general, own, public, SETTINGS).model) == to_bytes(first)


def tuned(model: ResNet34, *what: Any, **how: Any) -> list[ResNet34]:
    """The model after each epoch of tuning a copy."""
    model, made = copy.deepcopy(model), []
    tune(model, *what, **how, after_epoch=lambda each: made.append(copy.deepcopy(each)))
    assert to_bytes(made[-1]) == to_bytes(model)
    return made


@pytest.mark.parametrize("profile", ["default", "paper"])
def test_copies_that_share_their_frozen_layers_are_those_that_do_not(general, public, own, profile):
    settings = replace(SETTINGS, profile=profile, batch_size=3)
    frozen = Frozen(general, public, settings)
    for seed, segments in ((0, own), (1, own), (1, own[:5])):
        seeded = replace(settings, seed=seed)
        alone = personalise(general, segments, public, seeded).model
        shared = personalise(general, segments, public, seeded, frozen=frozen).model
        assert to_bytes(shared) == to_bytes(alone)
        parts = [segments, public.anchor]
        again = tuned(alone, parts, seeded, epochs=1, frozen=Frozen(general, public, seeded))
        assert to_bytes(tuned(alone, parts, seeded, epochs=1, frozen=frozen)[-1]) == to_bytes(again[-1])


def test_frozen_layers_see_a_patient_s_segments_once_and_the_public_ones_never(general, public, own, monkeypatch):
    seen = []
    monkeypatch.setattr(
        general, "trunk", lambda segments, look=general.trunk: seen.append(len(segments)) or look(segments)
    )
    frozen = Frozen(general, public, SETTINGS)
    for seed in range(3):
        personalise(general, own, public, replace(SETTINGS, seed=seed), frozen=frozen)
    assert seen == [len(own)]


def test_another_seed_gives_another_copy_when_batches_are_drawn(general, public, own):
    small = replace(SETTINGS, batch_size=3)
    first, second = (personalise(general, own, public, replace(small, seed=seed)).model for seed in (0, 1))
    assert model_digest(first) != model_digest(second)


def test_the_default_profile_changes_the_last_block_and_the_head_only(general, public, own):
    made = personalise(general, own, public, SETTINGS).model
    before = general.state_dict()
    changed = {name for name, tensor in made.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed
    assert all(name.startswith(tail_of(general)) for name in changed)
    assert not any("running" in name or "num_batches" in name for name in changed)


def test_the_paper_s_profile_changes_the_whole_network_and_no_statistics(general, public, own):
    made = personalise(general, own, public, replace(SETTINGS, profile="paper")).model
    before = general.state_dict()
    changed = {name for name, tensor in made.state_dict().items() if not torch.equal(tensor, before[name])}
    assert "stem.0.weight" in changed
    assert not any("running" in name or "num_batches" in name for name in changed)


def test_the_anchor_holds_the_copy_to_the_general_model(general, public, own):
    def distance(weight):
        made = personalise(general, own, public, replace(SETTINGS, anchor_weight=weight, learning_rate=2e-2)).model
        with torch.inference_mode():
            found, expected = (model(public.anchor.segments) for model in (made, general))
            return distillation(found, expected, general.task).item()

    assert distance(20.0) < 0.7 * distance(0.0)


def test_the_paper_s_profile_does_not_look_at_the_anchor(general, public, own):
    settings = replace(SETTINGS, profile="paper")
    other = replace(public, anchor=public.anchor[:2], anchor_features=public.anchor_features[:2])
    first, second = (personalise(general, own, part, settings).model for part in (public, other))
    assert to_bytes(first) == to_bytes(second)


def harmful(general, public) -> Public:
    """A gate on which the general model is always right, so that every change can only lose."""
    with torch.inference_mode():
        right = general(public.gate.segments).argmax(1)
    return replace(public, gate=Examples(public.gate.segments, torch.eye(5)[right]))


def test_a_copy_that_costs_others_more_than_the_budget_is_rolled_back(general, public, own):
    settings = replace(SETTINGS, learning_rate=0.5, anchor_weight=0.0, steps=30, budget=0.0)
    made = personalise(general, own, harmful(general, public), settings)
    assert not made.accepted
    assert to_bytes(made.model) == to_bytes(general)
    assert re.search(r"from 1\.000 to 0\.\d{3}, by more than 0\.000", made.reason)


def test_the_same_copy_is_accepted_by_a_budget_as_large_as_the_loss(general, public, own):
    settings = replace(SETTINGS, learning_rate=0.5, anchor_weight=0.0, steps=30)
    gate = harmful(general, public)
    full = personalise(general, own, gate, replace(settings, budget=1.0))
    lost = accuracy(general, gate.gate) - accuracy(full.model, gate.gate)
    assert lost > 0
    at, below = (personalise(general, own, gate, replace(settings, budget=lost + d)) for d in (1e-6, -1e-6))
    assert to_bytes(at.model) == to_bytes(full.model)
    assert to_bytes(below.model) != to_bytes(full.model)


@pytest.mark.parametrize("budget", [0.0, 0.05, 0.3])
def test_whatever_is_accepted_keeps_to_the_budget(general, public, own, budget):
    settings = replace(SETTINGS, learning_rate=0.05, anchor_weight=0.0, budget=budget)
    gate = harmful(general, public)
    made = personalise(general, own, gate, settings)
    assert accuracy(general, gate.gate) - accuracy(made.model, gate.gate) <= budget


def test_without_segments_the_general_model_stays_with_the_reason(general, public):
    made = personalise(general, Examples.empty(), public, SETTINGS)
    assert not made.accepted
    assert made.reason
    assert to_bytes(made.model) == to_bytes(general)


def test_between_runs_from_the_general_to_the_tuned_model(general, public, own):
    tuned = personalise(general, own, public, SETTINGS).model
    assert to_bytes(between(general, tuned, 1.0, SETTINGS)) == to_bytes(tuned)
    half = between(general, tuned, 0.5, SETTINGS)
    torch.testing.assert_close(half.head.weight, (general.head.weight + tuned.head.weight) / 2)


@pytest.mark.parametrize("epochs", [1, 3])
@pytest.mark.parametrize("batch_size", [1, 3, 8, 50])
def test_an_epoch_of_tuning_sees_every_segment_once(general, public, own, epochs, batch_size, monkeypatch):
    seen = []

    def watched(model):
        tail = tail_as_products(model)
        return lambda features: seen.append(features) or tail(features)

    frozen, settings = Frozen(general, public, SETTINGS), replace(SETTINGS, batch_size=batch_size)
    monkeypatch.setattr(personalisation, "tail_as_products", watched)
    models = tuned(general, [own], settings, epochs=epochs, frozen=frozen)
    assert len({to_bytes(model) for model in models}) == epochs
    assert len(seen) == epochs * -(-len(own) // batch_size)
    expected = sorted(apply(general.trunk, own.segments).flatten(1).sum(1).tolist())
    rows = torch.cat(seen).flatten(1).sum(1).split(len(own))
    assert len(rows) == epochs
    for epoch in rows:
        assert sorted(epoch.tolist()) == pytest.approx(expected)
    assert len({tuple(epoch.tolist()) for epoch in rows}) == epochs  # in another order each time


def test_tuning_on_nothing_changes_nothing(general, public):
    frozen = Frozen(general, public, SETTINGS)
    model = copy.deepcopy(general)
    tune(model, [Examples.empty()], SETTINGS, epochs=2, frozen=frozen, after_epoch=lambda _: pytest.fail("an epoch"))
    assert to_bytes(model) == to_bytes(general)


def test_a_copy_has_trained_layers_of_its_own_and_shares_the_frozen_ones(general, public, own):
    made = personalise(general, own, public, SETTINGS).model
    places = {name: parameter.data_ptr() for name, parameter in general.named_parameters()}
    apart = {name for name, parameter in made.named_parameters() if parameter.data_ptr() != places[name]}
    assert apart == {name for name in places if name.startswith(tail_of(general))}


sizes = st.lists(st.integers(1, 10), max_size=6)


@given(sizes, st.floats(0, 1))
def test_something_is_held_out_and_never_all(sizes, share):
    held, kind = held_out_mask(sizes, share)
    assert len(held) == sum(sizes)
    assert (kind == "none") == (sum(sizes) < 2)
    if kind == "none":
        assert not held.any()
    else:
        assert 0 < int(held.sum()) < len(held)


@given(sizes, st.floats(0, 1))
def test_what_is_held_out_is_the_newest(sizes, share):
    held, kind = held_out_mask(sizes, share)
    assert held.tolist() == sorted(held.tolist())
    if kind == "record":  # whole records: a segment's neighbours would give it away
        first = len(held) - int(held.sum())
        assert first in [sum(sizes[:n]) for n in range(len(sizes))]


def test_the_split_by_hand():
    assert held_out_mask([10], 0.3)[0].sum() == 3
    assert held_out_mask([10, 10, 10], 0.3)[0].tolist() == [False] * 20 + [True] * 10
    assert held_out_mask([10, 10, 10, 10, 10, 10, 10], 0.3)[0].sum() == 20
    assert held_out_mask([10, 10], 0.3)[1] == "record"
    assert held_out_mask([10], 0.3)[1] == "time"
    assert held_out_mask([], 0.3)[1] == "none"


def test_distillation_is_the_divergence_from_the_teacher():
    teacher = torch.tensor([[0.0, 0.0, 0.0, 0.0, 0.0]])
    student = torch.tensor([[torch.tensor(4.0).log(), 0.0, 0.0, 0.0, 0.0]])
    by_hand = sum(0.2 * torch.tensor(0.2 / q).log() for q in (0.5, 0.125, 0.125, 0.125, 0.125))
    assert distillation(student, teacher, "single").item() == pytest.approx(by_hand.item(), rel=1e-5)
    first = 0.5 * torch.tensor(0.5 / 0.8).log() + 0.5 * torch.tensor(0.5 / 0.2).log()
    assert distillation(student, teacher, "multi").item() == pytest.approx(first.item(), rel=1e-5)


@given(st.lists(st.floats(-30, 30), min_size=10, max_size=10), st.sampled_from(["single", "multi"]))
def test_a_divergence_is_never_negative_and_zero_from_itself(values, task):
    student, teacher = torch.tensor(values, dtype=torch.float64).reshape(2, 1, 5)
    assert distillation(student, teacher, task) >= -1e-9
    assert distillation(teacher, teacher, task).item() == pytest.approx(0, abs=1e-9)


def test_the_accuracy_of_nothing_is_no_number(general):
    value = accuracy(general, Examples.empty())
    assert value != value
