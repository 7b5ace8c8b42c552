"""Copies that saw segments and copies that did not: what is shared is what each would be alone."""

import time
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from server.comparison import check_reply
from shared import shadows as shadows_file
from shared.attacks import fgsm_direction, perturb
from shared.audit_messages import AuditReply, AuditRequest
from shared.errors import LetheError
from shared.membership import modified_entropy
from shared.model import ResNet34, build, to_bytes
from shared.package import Public
from shared.personalisation import Frozen, personalise
from shared.probing import margin
from shared.settings import General, Personalisation, Unlearning
from shared.shadows import MEASURED, Gauge, Shadows, read_arms, seed_of
from shared.training import Examples, apply, join
from shared.unlearning import METHODS
from shared.unlearning.case import Case

SETTINGS = Personalisation(steps=6, budget=1.0, learning_rate=1e-2, batch_size=3)


@pytest.fixture
def shadows(general, public) -> Shadows:
    own = Examples(public.control.segments[:8], torch.eye(5)[2].expand(8, 5))
    unlearning = Unlearning(epochs=2)
    methods = ("finetune", "exact")
    return Shadows(general, own[:5], own[5:], public, SETTINGS, unlearning, methods, copies=3, epsilon_sd=0.05, seed=7)


def margins(model, examples) -> torch.Tensor:
    return margin(apply(model, examples.segments), examples.labels, model.task)


def close(rows, expected) -> bool:
    return torch.allclose(torch.tensor(rows), torch.as_tensor(expected).float(), atol=1e-4)


def test_every_arm_has_every_copy_on_every_segment(shadows):
    arms = read_arms(shadows)
    assert list(arms) == ["never", "nothing", "finetune", "exact"]
    for groups in arms.values():
        sizes = {"forgotten": 3, "retained": 5, "control": len(shadows.public.control)}
        assert {name: len(said.margins[0]) for name, said in groups.items()} == sizes
        for said in groups.values():
            for rows in (said.margins, said.entropy, said.attacked, said.noised):
                assert [len(row) for row in rows] == [len(said.margins[0])] * 3


def test_the_same_seed_gives_the_same_readings_and_another_one_others(shadows):
    first = read_arms(shadows)
    assert read_arms(shadows) == first
    other = read_arms(replace(shadows, seed=8))
    assert all(other[arm]["forgotten"].margins != first[arm]["forgotten"].margins for arm in first)


def test_copies_made_at_the_same_time_say_what_they_say_one_by_one(shadows):
    several = replace(shadows, methods=("finetune", "bad-teacher", "saliency", "exact"), copies=6)
    for nothing_kept in (False, True):
        asked = replace(several, retain=Examples.empty(), methods=("exact",)) if nothing_kept else several
        assert read_arms(asked, at_once=3) == read_arms(asked)


def test_methods_that_may_draw_from_the_one_generator_of_torch_work_one_at_a_time(shadows):
    inside: list[int] = []

    def drawing(case: Case) -> ResNet34:
        inside.append(1)
        time.sleep(0.05)
        alone = len(inside) == 1
        inside.pop()
        assert alone
        return case.personal

    read_arms(replace(shadows, copies=6), known={**METHODS, "finetune": drawing}, at_once=3)


def test_an_error_in_one_of_many_threads_ends_the_audit(shadows):
    def broken(_: Case) -> ResNet34:
        raise LetheError("diverged")

    with pytest.raises(LetheError, match="diverged"):
        read_arms(replace(shadows, copies=6), known={**METHODS, "finetune": broken}, at_once=3)


def test_the_copies_are_those_that_a_device_would_make_with_their_seeds(shadows):
    arms, whole = read_arms(shadows), join([shadows.retain, shadows.forget])
    for number in range(shadows.copies):
        seeds = {arm: replace(SETTINGS, seed=seed_of(shadows, arm, number)) for arm in arms}
        made = {
            arm: personalise(shadows.general, own, shadows.public, seeds[arm]).model
            for arm, own in (("never", shadows.retain), ("exact", shadows.retain), ("nothing", whole))
        }
        made["finetune"] = METHODS["finetune"](
            Case(
                shadows.general,
                made["nothing"],
                shadows.retain,
                shadows.forget,
                shadows.public,
                seeds["finetune"],
                shadows.unlearning,
                Frozen(shadows.general, shadows.public, SETTINGS),
            )
        )
        for arm, model in made.items():
            assert close(arms[arm]["forgotten"].margins[number], margins(model, shadows.forget))
            assert close(arms[arm]["retained"].margins[number], margins(model, shadows.retain))


@given(st.integers(1, 300), st.lists(st.sampled_from("abcdef"), unique=True), st.integers(0, 2**32 - 1))
def test_no_two_copies_of_an_audit_share_a_seed(copies, methods, seed):
    empty = Examples.empty()
    shadows = Shadows(None, empty, empty, None, SETTINGS, Unlearning(), tuple(methods), copies, 0.05, seed)
    arms = ("never", "nothing", *methods)
    seeds = [seed_of(shadows, arm, number) for arm in arms for number in range(copies)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize("profile", ["default", "paper"])
@pytest.mark.parametrize("task", ["single", "multi"])
def test_a_copy_is_read_as_the_whole_model_would_be(public, profile, task):
    general = build(General(width=2, task=task, seed=1), lead_sd=torch.linspace(0.1, 0.3, 12)).eval()
    public = Public.of(general, anchor=public.anchor, gate=public.gate, control=public.control)
    own = public.control[:4]
    settings = replace(SETTINGS, profile=profile)
    copy = personalise(general, own, public, settings).model
    shadows = Shadows(general, own, own, public, settings, Unlearning(), (), 1, 0.2, 3)
    said = Gauge(shadows, {"own": own}).read(copy)
    direction = fgsm_direction(copy, own)
    attacked = perturb(own.segments, direction, epsilon_sd=0.2, lead_sd=general.lead_sd)
    assert close(said[0], margins(copy, own))
    assert close(said[2], margins(copy, Examples(attacked, own.labels)))
    assert not close(said[2], said[0])
    assert not close(said[3], said[0])
    assert not close(said[3], said[2])
    logits = apply(copy, own.segments)
    if task == "single":
        assert close(said[1], modified_entropy(logits, own.labels))
    else:  # of each label, by the formula for two classes
        p = torch.where(own.labels > 0.5, logits, -logits).double().sigmoid()
        assert close(said[1], (-2 * (1 - p) * p.log()).mean(dim=1))


def test_where_nothing_is_retained_the_general_model_stands_for_all_copies_that_never_saw(shadows, monkeypatch):
    made = []

    def counted(general, own, *rest, **options):
        made.append(len(own))
        return personalise(general, own, *rest, **options)

    monkeypatch.setattr(shadows_file, "personalise", counted)
    arms = read_arms(replace(shadows, retain=Examples.empty()))
    for arm in ("never", "exact"):
        rows = arms[arm]["forgotten"].margins
        assert rows == (rows[0],) * 3
        assert close(rows[0], margins(shadows.general, shadows.forget))
    assert sorted(made) == [0, 0, 3, 3, 3]


def test_copies_that_never_saw_the_forgotten_segments_do_not_depend_on_them(shadows):
    other = replace(shadows, forget=Examples(shadows.forget.segments * 3, shadows.forget.labels))
    first, second = read_arms(shadows), read_arms(other)
    for arm in ("never", "exact"):
        assert first[arm]["control"] == second[arm]["control"]
    assert first["nothing"]["control"] != second["nothing"]["control"]


def test_what_was_learnt_may_be_other_than_what_is_kept_and_forgotten(shadows):
    other = replace(shadows, learnt=shadows.forget)
    first, second = read_arms(shadows), read_arms(other)
    assert first["never"] == second["never"]
    model = personalise(
        shadows.general, shadows.forget, shadows.public, replace(SETTINGS, seed=seed_of(other, "nothing", 0))
    ).model
    assert close(second["nothing"]["forgotten"].margins[0], margins(model, shadows.forget))


def test_long_groups_are_thinned_out_evenly_and_others_can_be_added(shadows):
    many = Examples(shadows.forget.segments.repeat(30, 1, 1), shadows.forget.labels.repeat(30, 1))
    arms = read_arms(replace(shadows, copies=1, methods=()), others={"many": many, "none": Examples.empty()})
    assert len(arms["never"]["many"].margins[0]) == MEASURED
    assert arms["never"]["none"].margins == ((),)


def test_nothing_that_is_given_is_changed(shadows):
    before = to_bytes(shadows.general), shadows.public.to_bytes(), shadows.forget.segments.clone()
    read_arms(shadows)
    assert (to_bytes(shadows.general), shadows.public.to_bytes()) == before[:2]
    assert torch.equal(shadows.forget.segments, before[2])


def test_copies_that_saw_a_wrong_label_are_surer_of_it_than_copies_that_did_not(shadows):
    settings = replace(SETTINGS, steps=20, anchor_weight=0.0)
    arms = read_arms(replace(shadows, personalisation=settings, retain=Examples.empty()))
    mean = {arm: torch.tensor(groups["forgotten"].margins).mean(dim=1) for arm, groups in arms.items()}
    assert mean["nothing"].min() > mean["never"].max()


RECIPES = {
    "as it is": {},
    "the gate lets nothing pass": {"budget": -1.0},
    "the gate lets some pass": {"budget": 0.0, "learning_rate": 3e-3},
    "no chance in the recipe": {"batch_size": 32, "anchor_batch_size": 1000},
    "the paper's, without an anchor": {"profile": "paper", "batch_size": 32},
    "steps that change next to nothing": {"learning_rate": 1e-12},
}
LADDER = ("finetune", "newton", "exact")


@pytest.mark.parametrize("nothing_kept", [False, True])
@pytest.mark.parametrize("recipe", RECIPES)
def test_honest_copies_are_never_taken_for_repeated_ones(shadows, recipe, nothing_kept):
    """Rolled back, weakened, made without chance: an answer that comes twice is one answer."""
    kept = Examples.empty() if nothing_kept else shadows.retain
    able = tuple(method for method in LADDER if not nothing_kept or method in ("finetune", "exact"))
    made = replace(SETTINGS, **RECIPES[recipe])
    asked = replace(shadows, retain=kept, methods=able, personalisation=made, copies=4)
    arms = read_arms(asked)
    request = AuditRequest("j", "records", ("r",), able, made, asked.unlearning, copies=4, epsilon_sd=0.05, seed=7)
    check_reply(AuditReply("j", 0, "ok", arms=arms), request, slot=0, kept=not nothing_kept)
