"""The unlearning methods: exact ones by bytes, the paper's fine-tuning as it is written."""

import copy
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import UsageError
from shared.model import ResNet34, to_bytes
from shared.personalisation import Frozen, personalise, tune
from shared.settings import Personalisation, Settings, Unlearning
from shared.training import Examples, task_loss
from shared.unlearning import EXACT, METHODS, parse_methods
from shared.unlearning.case import Case

SETTINGS = Personalisation(steps=6, budget=1.0, learning_rate=1e-2)
UNLEARNING = Unlearning(epochs=2, generator_groups=2, generator_batch_size=8, i_mean_the_class=True)


@pytest.fixture
def case(general, public) -> Case:
    own = Examples(public.control.segments[:10], torch.eye(5)[2].expand(10, 5))
    personal = personalise(general, own, public, SETTINGS).model
    return Case(general, personal, own[:6], own[6:], public, SETTINGS, UNLEARNING, Frozen(general, public, SETTINGS))


def test_exact_is_the_copy_that_never_had_the_forgotten_segments(case):
    never = personalise(case.general, case.retain, case.public, case.personalisation).model
    assert to_bytes(METHODS["exact"](case)) == to_bytes(never) != to_bytes(case.personal)


def test_exact_with_nothing_retained_is_the_general_model(case):
    assert to_bytes(METHODS["exact"](replace(case, retain=Examples.empty()))) == to_bytes(case.general)


@pytest.mark.parametrize("method", sorted(EXACT))
def test_an_exact_method_does_not_depend_on_what_it_forgets(case, method):
    other = replace(case, personal=case.general, forget=Examples(case.forget.segments * 7, case.forget.labels))
    assert to_bytes(METHODS[method](other)) == to_bytes(METHODS[method](case))


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("retained", [0, 6])
def test_no_method_changes_what_it_is_given_and_all_are_repeatable(case, method, retained):
    case = replace(case, retain=case.retain[:retained])
    before = to_bytes(case.general), to_bytes(case.personal), case.public.to_bytes(), case.retain.segments.clone()
    first = to_bytes(METHODS[method](case))
    assert to_bytes(METHODS[method](case)) == first
    after = to_bytes(case.general), to_bytes(case.personal), case.public.to_bytes(), case.retain.segments
    assert after[:3] == before[:3]
    assert torch.equal(after[3], before[3])


def epochs_of(case: Case) -> list[tuple[bytes, float]]:
    """The model after each epoch of fine-tuning on what is retained, and its loss on others' validation segments."""
    model, gate, made = copy.deepcopy(case.personal), case.public.gate, []

    def look(model: ResNet34) -> None:
        with torch.no_grad():
            made.append((to_bytes(model), task_loss(model(gate.segments), gate.labels, "single").item()))

    parts, epochs = [case.retain, case.public.anchor], case.unlearning.epochs
    tune(model, parts, case.personalisation, epochs=epochs, frozen=case.frozen, after_epoch=look)
    assert made[-1][0] == to_bytes(model)
    return made


@pytest.mark.parametrize("anchored", [False, True])
def test_finetune_continues_on_the_retain_set_and_keeps_the_epoch_by_which_others_lose_least(case, anchored):
    """Without an anchor nothing holds the model to others, and the first epoch is the best of them."""
    if not anchored:
        nothing, features = Examples.empty(), case.public.anchor_features[:0]
        case = replace(case, public=replace(case.public, anchor=nothing, anchor_features=features))
    case = replace(case, personalisation=replace(SETTINGS, learning_rate=1e-3, batch_size=4))
    made = epochs_of(case)
    losses = [loss for _, loss in made]
    assert losses.index(min(losses)) == (1 if anchored else 0)
    assert to_bytes(METHODS["finetune"](case)) == min(made, key=lambda each: each[1])[0]


def test_finetune_without_others_takes_its_epochs_to_the_end(case):
    gate = replace(case.public, gate=Examples.empty(), gate_features=case.public.gate_features[:0])
    alone = replace(case, public=gate, frozen=Frozen(case.general, gate, SETTINGS))
    assert to_bytes(METHODS["finetune"](alone)) == epochs_of(case)[-1][0]


def test_finetune_is_never_the_personal_model_as_it_was_though_others_lose_by_every_epoch(case):
    case = replace(case, personalisation=replace(SETTINGS, learning_rate=1e-1))
    with torch.no_grad():
        before = task_loss(case.personal(case.public.gate.segments), case.public.gate.labels, "single").item()
    assert all(loss > before for _, loss in epochs_of(case))
    assert to_bytes(METHODS["finetune"](case)) != to_bytes(case.personal)


def test_finetune_never_sees_the_forgotten_segments(case):
    other = replace(case, forget=Examples(case.forget.segments + 9, case.forget.labels))
    assert to_bytes(METHODS["finetune"](other)) == to_bytes(METHODS["finetune"](case))


@given(st.lists(st.sampled_from(sorted(METHODS)), min_size=1), st.sampled_from([",", ", ", " ,"]))
def test_a_ladder_has_every_method_once_in_its_order_and_ends_with_exact(names, comma):
    approximate = [name for name in dict.fromkeys(names) if name != "exact"]
    assert parse_methods(comma.join(names)) == (*approximate, "exact")


@pytest.mark.parametrize("names", ["", ",", "hope", "exact,hope", "Exact"])
def test_an_unknown_method_is_refused_with_those_that_exist(names):
    with pytest.raises(UsageError, match=r"expected names of bad-teacher, deepclean, exact, finetune.*, ssd$"):
        parse_methods(names)


def test_sisa_among_methods_for_personal_models_is_refused_with_where_it_is_chosen():
    with pytest.raises(UsageError, match=r"sisa is for the general model: general\.unlearning=sisa$"):
        parse_methods("finetune,sisa")
    assert Settings().with_values({"general.unlearning": "sisa"}).general.unlearning == "sisa"


def test_a_number_of_slices_without_sisa_is_refused_and_with_it_taken():
    with pytest.raises(UsageError, match=r"general\.slices is 4, .*; set general\.unlearning=sisa, too"):
        Settings().with_values({"general.slices": 4})
    assert Settings().with_values({"general.slices": 4, "general.unlearning": "sisa"}).general.slices == 4
