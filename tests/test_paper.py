"""The paper, reproduced in small: what is counted is right by hand, and what is said follows the numbers both ways."""

import io
import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fleet import quietly
from rich.console import Console
from typer.testing import CliRunner

import simulations.paper_pictures
from shared.errors import DataError, UsageError
from shared.settings import SEGMENT_SAMPLES, SUPERCLASSES
from shared.training import Examples, apply
from shared.unlearning import gkt
from simulations.cli import app
from simulations.paper_models import (
    EPSILON,
    EPSILONS,
    UNLEARNED,
    Measured,
    Reading,
    attacked,
    measure,
    opened,
    settings_of,
    train,
)
from simulations.paper_models import read as asked
from simulations.paper_people import Group, Wearer, people_of, unseen_segments, wearers_of
from simulations.paper_pictures import DRAWN, pictures
from simulations.paper_results import (
    ANY,
    CANDIDATES,
    contrasts,
    estimate,
    extraction,
    extractions,
    figures_of,
    points,
    table,
)
from simulations.paper_tables import PAPER, grids, listing, markdown, render
from simulations.paper_words import paragraph
from simulations.paper_writing import ready
from simulations.table1 import Plan, about_people, outcome_of, reproduce, transferred_of

AT = EPSILONS.index(EPSILON)


# What is counted


def reading(hits, losses=None) -> Reading:
    """One model on a group; `hits` by segment are the same at every strength."""
    hits = np.array(hits, dtype=bool)
    return Reading(np.tile(hits, (len(EPSILONS), 1)), np.full(len(hits), 1.0) if losses is None else np.array(losses))


def patient(wearer: int, *, seed: int = 0, **models) -> Measured:
    """`models`: name -> group -> hits."""
    readings = {name: {group: reading(hits) for group, hits in groups.items()} for name, groups in models.items()}
    return Measured(seed, wearer, readings, failed={}, seconds={})


WRONG = {"member": [0, 0, 0, 0], "held_out": [0, 0], "control": [0, 0, 0, 1], "test": [0] * 6}
TWO = [
    patient(
        0,
        general=WRONG,
        personal={"member": [1, 1, 1, 0], "held_out": [1, 0], "control": [1, 1, 0, 1], "test": [1, 0, 0, 1, 1, 1]},
    ),
    patient(
        1,
        general=WRONG,
        personal={"member": [1, 0, 0, 0], "held_out": [0, 0], "control": [0, 0, 0, 0], "test": [0, 0, 0, 1, 1, 1]},
    ),
]


def test_precision_and_recall_of_the_extracted_points_are_those_worked_out_by_hand():
    found = extraction(TWO, "personal", ANY)
    assert found["extracted"] == {"member": 4, "held_out": 1, "control": 2}  # the fourth control both get right
    assert found["asked"] == {"member": 8, "held_out": 4, "control": 8}
    assert found["precision"]["value"] == pytest.approx(4 / 7)
    assert found["recall"]["value"] == pytest.approx(4 / 8)
    assert found["base"] == pytest.approx(8 / 20)
    assert found["precision"]["low"] < 4 / 7 < found["precision"]["high"]


def test_a_point_counts_at_the_strengths_at_which_it_was_extracted():
    one = TWO[0]
    hits = one.readings["personal"]["member"].hits.copy()
    hits[AT] = False
    one = replace(
        one, readings=one.readings | {"personal": {**one.readings["personal"], "member": Reading(hits, np.ones(4))}}
    )
    assert extraction([one], "personal", EPSILON)["extracted"]["member"] == 0
    assert extraction([one], "personal", ANY)["extracted"]["member"] == 3
    listed = [point for point in points([one], [wearer()]) if point["member"]]
    assert [point["segment"] for point in listed] == [0, 1, 2]
    assert all(EPSILON not in point["epsilons"] and 0.0 in point["epsilons"] for point in listed)


def wearer() -> Wearer:
    sizes = {"member": 4, "held_out": 2, "control": 4}
    groups = {
        name: Group(Examples.empty(), tuple((f"record of {name}", number) for number in range(size)))
        for name, size in sizes.items()
    }
    return Wearer("p", 0, True, groups)


def test_every_extracted_point_is_listed_with_what_it_really_was():
    listed = points(TWO, [wearer(), wearer()])
    assert [(one["wearer"], one["group"], one["segment"]) for one in listed] == [
        *((0, "member", segment) for segment in (0, 1, 2)),
        (0, "held_out", 0),
        *((0, "control", segment) for segment in (0, 1)),
        (1, "member", 0),
    ]
    assert [one["member"] for one in listed] == [True] * 3 + [False] * 3 + [True]
    assert (
        listing(listed).splitlines()[-1]
        == "| personal | 0 | 1 | record of member | 0 | member | 0, 0.01, 0.02, 0.05, 0.1, 0.2 |"
    )


def test_where_nothing_is_extracted_precision_is_not_defined_and_recall_is_not_certain_to_be_0():
    found = extraction([patient(n, general=WRONG, personal=WRONG) for n in range(3)], "personal", ANY)
    assert found["precision"]["value"] is None
    assert found["recall"]["value"] == 0.0
    assert found["recall"]["high"] == pytest.approx(0.7076, abs=1e-4)  # Clopper-Pearson of 0 in 3, from its tables


def test_a_figure_is_a_mean_over_patients_of_means_over_seeds_and_tells_the_seeds_apart():
    found = estimate(np.array([[0.0, 1.0, np.nan], [1.0, 1.0, 0.5]]))
    assert found["value"] == pytest.approx((0.5 + 1.0 + 0.5) / 3)
    assert (found["least"], found["most"]) == (pytest.approx(0.5), pytest.approx(2.5 / 3))
    assert (found["patients"], found["seeds"]) == (3, 2)
    assert found["low"] < found["value"] < found["high"]
    alone = estimate(np.array([[0.5]]))
    assert (alone["value"], alone["low"]) == (0.5, None)


def test_on_the_test_data_the_people_who_were_asked_about_are_resampled_too():
    assert figures_of(TWO, "personal", "test", "accuracy").tolist() == [
        [pytest.approx([1 / 3, 1]), pytest.approx([0, 1])]
    ]
    same = np.tile(np.array([0.0, 1.0, 0.0, 1.0, 1.0]), (1, 8, 1))  # eight models that agree on five people
    found = estimate(same)
    assert (found["value"], found["patients"]) == (pytest.approx(0.6), 8)
    assert found["low"] < 0.3 < 0.9 < found["high"]  # and not 0.6 to 0.6, as if the five were everybody


def test_equation_7_is_the_accuracy_under_attack_minus_the_general_model_s():
    assert figures_of(TWO, "personal", "member", "difference").tolist() == [[0.75, 0.25]]
    assert figures_of(TWO, "personal", "control", "difference").tolist() == [[0.5, -0.25]]
    assert np.isnan(figures_of(TWO, "personal", "test", "difference")).all()  # it is not attacked


# What is said of it


def world(*, member: float, held_out: float, control: float, loss: dict[str, float] | None = None):
    """A result on twelve patients: equation 7 of about so much by group, and losses on the members by model."""
    noise, found = np.random.default_rng(0), []
    loss = {"general": 1.0, "personal": 1.0, "finetune": 1.0, "exact": 1.0} | (loss or {})
    for number in range(12):
        readings = {}
        for model, level in loss.items():
            readings[model] = {}
            for group, gain in {"member": member, "held_out": held_out, "control": control, "test": 0.0}.items():
                right = round(100 * (0.3 + (gain + 0.04 * noise.standard_normal() if model == "personal" else 0.0)))
                size = 99 if group == "test" else 100  # three segments of a person
                hits = np.arange(size) < right
                losses = np.full(size, level if group == "member" else 1.0) + 0.05 * noise.standard_normal()
                readings[model][group] = reading(hits, losses)
        found.append(Measured(0, number, readings, failed={}, seconds={}))
    return {
        "table": table(found),
        "contrasts": contrasts(found),
        "extractions": extractions(found),
        "patients": 12,
        "seeds": 1,
        "epsilon": EPSILON,
    }


@pytest.mark.parametrize(
    ("difference", "said"),
    [
        ({"member": 0.2, "held_out": 0.2, "control": 0.2}, "are not told apart by it"),
        ({"member": 0.1, "held_out": 0.2, "control": 0.3}, "it is no sign of membership"),
        (
            {"member": 0.2, "held_out": 0.4, "control": 0.0},
            "it reacts to the patient, not to what the model was trained on",
        ),
        ({"member": 0.3, "held_out": 0.3, "control": 0.0}, "reacts to more than the patient is not shown"),
        ({"member": 0.3, "held_out": 0.1, "control": 0.0}, "here it does react to what the model was trained on"),
    ],
)
def test_the_paragraph_says_of_equation_7_what_its_controls_say(difference, said):
    text = paragraph(world(**difference))
    claims = [
        "are not told apart",
        "no sign of membership",
        "reacts to the patient",
        "here it does react",
        "is not shown",
    ]
    assert said in text
    assert [claim for claim in claims if claim in text] == [claim for claim in claims if claim in said]


@pytest.mark.parametrize(
    ("difference", "said"),
    [
        ({"member": 0.3, "held_out": 0.0, "control": 0.0}, "better than a guess"),
        ({"member": 0.0, "held_out": 0.3, "control": 0.3}, "worse than a guess"),
        ({"member": 0.2, "held_out": 0.2, "control": 0.2}, "not told from a guess"),
        ({"member": -0.2, "held_out": -0.2, "control": -0.2}, "extracted no point at any strength"),
    ],
)
def test_the_paragraph_says_whether_equation_8_is_better_than_a_guess(difference, said):
    assert said in paragraph(world(**difference))


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (1.0, "is not told from the retrained model's"),
        (0.4, "is below the retrained model's"),
        (1.6, "is above the retrained model's"),
    ],
)
def test_the_paragraph_says_of_an_unlearned_model_on_which_side_of_retraining_it_is(loss, said):
    text = paragraph(world(member=0.2, held_out=0.2, control=0.2, loss={"finetune": loss}))
    assert f"After fine-tuning (12 patients) the loss on the forget set {said}" in text
    assert "There is no model unlearned by gkt." in text


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        ({"personal": 0.4}, "part of what figure 6 shows is what was learnt"),
        ({}, "these figures do not tell"),
        ({"personal": 0.4, "general": 0.4}, "these figures do not tell"),  # members are easier: nothing was learnt
        ({"personal": 1.6}, "no trace of what was learnt"),
    ],
)
def test_the_paragraph_says_what_figure_6_is_made_of(loss, said):
    assert said in paragraph(world(member=0.0, held_out=0.0, control=0.0, loss=loss))


@pytest.mark.parametrize("patients", [1, 2, 5, 6])
def test_of_a_handful_of_patients_nothing_is_said_though_their_range_excludes_0(patients):
    told = world(member=0.3, held_out=0.1, control=0.0, loss={"finetune": 0.4, "personal": 0.4})
    few = {name: found | {"patients": patients} for name, found in told["contrasts"].items()}
    text = paragraph(told | {"patients": patients, "contrasts": few})
    claims = ("here it does react", "something of the patients is still there", "better than a guess.", "part of what")
    assert [claim in text.replace("to say whether this is better than a guess.", "") for claim in claims] == [
        patients == 6
    ] * 4
    assert text.count("too few to say") == (0 if patients == 6 else 3)


def test_one_patient_gives_no_interval_and_the_paragraph_says_so():
    found = [TWO[0]]
    result = {"table": table(found), "contrasts": contrasts(found), "extractions": extractions(found)}
    text = paragraph(result | {"patients": 1, "seeds": 1, "epsilon": EPSILON})
    assert "1 patient is too few to say whether that difference tells members from others." in text
    assert "1 patient and 1 seed" in text


# On a tiny world


@pytest.fixture(scope="module")
def tiny_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def tiny(cohort_folder, tiny_cache, tmp_path_factory):
    """Three wearers of a synthetic cohort, a general model of width 2, and gkt as it is without permission."""
    folder = tmp_path_factory.mktemp("paper")
    plan = Plan(cohort_folder, patients=3, width=2, seeds=1, epochs=1)
    people = people_of(plan.data, cache=tiny_cache, patients=plan.patients)
    small = {"personalisation.steps": 10, "personalisation.anchor_segments": 16, "personalisation.gate_segments": 16}
    settings = settings_of(width=2, epochs=1, seed=0, i_mean_the_class=False).with_values(small)
    general = [train(people, settings, folder / "0")]
    model, public, test = opened(folder / "0", people)
    wearers = wearers_of(people)
    found = [measure(one, n, model, public, test, settings, dear=True) for n, one in enumerate(wearers)]
    shown = attacked(model, unseen_segments(people), epsilon=EPSILON)
    about = about_people(plan, people, wearers) | {"general": general, "seconds": 1.0, "seconds_models": 0.5}
    about |= {"cpu_seconds_all": 1.5}
    outcome = outcome_of(about | {"workers": 1, "machine": "here"}, found, wearers, shown)
    return plan, people, wearers, (model, public, test, settings), outcome


def test_nobody_plays_two_parts_and_a_control_has_the_wearer_s_superclass(tiny):
    _, people, wearers, _, _ = tiny
    records = people.signals.records
    parts = [
        {one.patient for one in wearers},
        {records[row].patient for row in people.controls},
        {records[row].patient for rows in people.corpus for row in rows},
    ]
    assert sum(map(len, parts)) == len(set.union(*parts)) == len({record.patient for record in records})
    of = {record.id: record for record in records}
    for one in wearers:
        owners = {name: {of[record].patient for record, _ in group.sources} for name, group in one.groups.items()}
        assert owners["member"] == owners["held_out"] == {one.patient}
        assert owners["control"] <= parts[1]
        assert not set(one.groups["member"].sources) & set(one.groups["held_out"].sources)
        (control,) = {record for record, _ in one.groups["control"].sources}
        assert one.matched == (of[control].labels[one.superclass] == 1.0)
    assert len({one.groups["control"].sources[0] for one in wearers}) == len(wearers)


def test_a_source_says_where_its_segment_was_cut(tiny):
    _, people, wearers, _, _ = tiny
    rows = {record.id: row for row, record in enumerate(people.signals.records)}
    for group in wearers[0].groups.values():
        for segment, (record, number) in zip(group.examples.segments, group.sources, strict=True):
            cut = people.signals.crops([rows[record]], [number * SEGMENT_SAMPLES])[0]
            assert np.array_equal(segment.numpy(), cut)


def test_retraining_without_all_of_a_patient_s_data_is_the_general_model(tiny):
    outcome = tiny[-1]
    for one in outcome.found:
        for group, expected in one.readings["general"].items():
            assert np.array_equal(one.readings["exact"][group].hits, expected.hits)
            assert np.array_equal(one.readings["exact"][group].losses, expected.losses)
    assert extraction(outcome.found, "exact", ANY)["extracted"] == dict.fromkeys(CANDIDATES, 0)


def test_a_loss_is_the_cross_entropy_of_the_segment(tiny):
    model, _, test, _ = tiny[3]
    (found,) = asked(model, [model], test, (0.0,))
    expected = F.cross_entropy(apply(model, test.segments), test.labels, reduction="none")
    assert found.losses == pytest.approx(expected.numpy(), abs=1e-5)


def test_a_method_that_fails_says_why_in_its_row_and_stops_nothing_else(tiny):
    outcome = tiny[-1]
    assert outcome.result["failed"]["gkt"]["failed"] == outcome.result["failed"]["gkt"]["tried"] == 3
    lines = markdown(outcome.result, {}).splitlines()
    (row,) = [line for line in lines if line.startswith("| unlearned, gkt | 0 |") and "forgets whole classes" in line][
        :1
    ]
    assert "--i-mean-the-class" in row
    assert all(set(UNLEARNED) - set(one.readings) == {"gkt"} for one in outcome.found)
    assert "There is no model unlearned by gkt." in paragraph(outcome.result)


@pytest.mark.slow
def test_gkt_runs_when_the_class_is_meant_and_leaves_the_others_as_they_were(tiny, monkeypatch):
    monkeypatch.setattr(gkt, "EPSILON", 0.9)  # of a network that has learnt little nothing would pass
    _, _, wearers, (model, public, test, settings), _ = tiny
    every = torch.eye(len(SUPERCLASSES))[torch.arange(len(public.gate)) % len(SUPERCLASSES)]
    mixed = replace(public, gate=replace(public.gate, labels=every))  # that of so few people holds one class alone
    quick = {
        "unlearning.i_mean_the_class": True,
        "unlearning.generator_groups": 1,
        "unlearning.generator_batch_size": 8,
    }
    shy, meant = (
        measure(wearers[0], 0, model, mixed, test, settings.with_values(chosen), dear=True) for chosen in ({}, quick)
    )
    assert "--i-mean-the-class" in shy.failed["gkt"]
    assert meant.failed == {}
    assert meant.readings["gkt"].keys() == meant.readings["exact"].keys()
    for name in ("personal", "finetune", "exact"):
        for group, found in meant.readings[name].items():  # the same seed, the same bytes
            assert np.array_equal(found.losses, shy.readings[name][group].losses)


def test_gkt_is_made_for_one_wearer_of_each_superclass(tiny):
    plan, _, wearers, _, _ = tiny
    assert transferred_of(plan, wearers) == {(0, number) for number in range(3)}  # all are refused, at no cost
    chosen = transferred_of(replace(plan, i_mean_the_class=True), wearers)
    assert sorted(wearers[number].superclass for _, number in chosen) == sorted({one.superclass for one in wearers})


def test_a_shortened_transfer_is_said_to_be_one_where_it_was_tried(tiny):
    result = tiny[-1].result
    assert "gkt is cut to" not in markdown(result, {})
    text = markdown({**result, "i_mean_the_class": True}, {})
    assert "gkt is cut to 50 groups of 64 generated segments" in text
    assert "published: 4000 of 256" in text


def test_table_1_has_the_paper_s_numbers_beside_ours(tiny):
    table1 = grids(tiny[-1].result)[0]
    assert [row[0] for row in table1.rows] == ["general", "personal", "unlearned"]
    assert [row[1] for row in table1.rows] == list(PAPER["finetune"].values()) == ["54", "58", "58"]
    assert [row[4] for row in table1.rows] == list(PAPER["gkt"].values()) == ["62", "67.23", "65.76"]
    assert all(re.match(r"\d", row[2]) for row in table1.rows)


def test_below_table_1_a_terminal_says_shortly_why_a_method_has_no_numbers_and_in_full_later(tiny):
    page = Console(width=80, file=io.StringIO())
    page.print(render(tiny[-1].result))
    first, after = page.file.getvalue().split("Accuracy, per cent", 1)
    short = "unlearned, gkt: no model for 3 of 3 patients: gkt forgets whole classes; see below"
    assert short in " ".join(first.split())
    assert "--i-mean-the-class" not in first
    assert "--i-mean-the-class" in after


def test_every_figure_is_a_file_that_needs_nothing_else(tiny):
    drawn = pictures(tiny[-1])
    assert set(drawn) == {*(f"figure-{number}.svg" for number in range(2, 8)), "controls.svg"}
    for name, (svg, caption) in drawn.items():
        root = ET.fromstring(svg)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert "var(" not in svg
        assert "#0101" not in svg  # every colour that stands for a name has got its value
        assert not re.findall(r'(?:href|src)="(?!#)', svg)
        ids = [element.get("id") for element in root.iter() if element.get("id")]
        assert len(ids) == len(set(ids)), name
        assert caption


def test_figures_6_and_7_say_what_they_count_and_a_method_s_losses_have_an_axis_of_their_own(tiny, monkeypatch):
    plan, drawn, seen = tiny[0], simulations.paper_pictures.panel, []

    def spied(name, alt, draw, **sizes):
        return drawn(name, alt, lambda axes: (draw(axes), seen.append(axes)), **sizes)

    sizes = {group: len(one.losses) for group, one in tiny[-1].found[0].readings["exact"].items()}
    spread = {group: reading(np.ones(size), np.geomspace(1e-4, 10, size)) for group, size in sizes.items()}
    same = {group: reading(np.ones(size), np.full(size, 1e-3)) for group, size in sizes.items()}
    found = [
        Measured(0, one, dict.fromkeys(("general", "personal", "finetune"), spread) | {"gkt": same}, {}, {})
        for one in range(3)
    ]
    monkeypatch.setattr(simulations.paper_pictures, "panel", spied)
    _, caption = pictures(replace(tiny[-1], found=found))["figure-6.svg"]
    assert "test data once a patient and seed" in caption
    (axes,) = [each for each in seen if len(each) == 6][:1]
    for row in (axes[:3], axes[3:]):
        highest = max(patch.get_data().values.max() for each in row for patch in each.patches)
        assert {each.get_ylim()[1] for each in row} == {highest / DRAWN}
    assert axes[0].get_ylim()[1] < axes[3].get_ylim()[1]
    told = [text.get_text() for text in axes[2].texts if "losses" in text.get_text()]
    assert told == [f"{plan.patients * plan.seeds * len(tiny[3][2]):,} losses"]  # every patient's model is asked of all


def test_what_is_attacked_for_the_figures_is_a_segment_of_a_never_used_patient(tiny):
    _, people, _, (model, _, test, _), outcome = tiny
    shown = outcome.shown
    assert len(test) == 3 * len(people.controls) == len(shown["labels"])
    assert torch.equal(torch.from_numpy(shown["clean"]), test.segments[int(shown["shown"])])
    step = np.abs(shown["adversarial"] - shown["clean"]) / model.lead_sd.numpy()[:, None]
    assert step.max() == pytest.approx(EPSILON, rel=1e-3)


# What cannot be


@pytest.mark.parametrize("name", ["patients", "width", "seeds", "epochs"])
def test_fewer_than_one_of_anything_is_refused(cohort_folder, tmp_path, name):
    with pytest.raises(UsageError, match=f"--{name} is 0, expected 1 or more"):
        reproduce(replace(Plan(cohort_folder), **{name: 0}), scratch=tmp_path, progress=quietly)


def test_a_folder_that_is_not_there_and_too_few_patients_are_refused(cohort_folder, tiny_cache, tmp_path):
    with pytest.raises(DataError, match="is no folder, expected one with ptbxl_database"):
        reproduce(Plan(tmp_path / "nowhere"), scratch=tmp_path, progress=quietly)
    with pytest.raises(UsageError, match="29 patients, expected at least 120: 20 wearables"):
        people_of(cohort_folder, cache=tiny_cache, patients=20)


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_computed(tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(DataError, match="expected a folder of one's own"), ready(place):
            raise AssertionError("something was computed")
    with ready(tmp_path / "new" / "folder"):
        (tmp_path / "new" / "folder" / "paper.md").write_text("")
    assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == ["paper.md"]


@pytest.mark.parametrize(
    ("options", "error"),
    [(["--data", "nowhere"], DataError), (["--patients", "0"], UsageError), (["--patients", "500"], UsageError)],
)
def test_what_is_refused_leaves_no_folder_and_takes_none_that_was_there(cohort_folder, tmp_path, options, error):
    (tmp_path / "mine").mkdir()
    for folder in (tmp_path / "mine" / "new" / "paper", tmp_path / "mine"):
        done = CliRunner().invoke(app, ["paper", "--data", str(cohort_folder), "--out", str(folder), *options])
        assert isinstance(done.exception, error), done.output
    assert list(tmp_path.rglob("*")) == [tmp_path / "mine"]


@pytest.mark.slow
@pytest.mark.usefixtures("resnet34")  # the processes that train build the network at its full depth
def test_the_command_writes_tables_pictures_and_the_list_of_points(cohort_folder, tmp_path):
    words = f"paper --data {cohort_folder} --out {tmp_path / 'out'} --patients 2 --width 2 --seeds 2 --epochs 1 --json"
    done = CliRunner().invoke(app, words.split())
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {
        *(f"figure-{n}.svg" for n in range(2, 8)),
        "controls.svg",
        "paper.md",
        "paper.json",
        "extracted.md",
    }
    kept = json.loads((tmp_path / "out" / "paper.json").read_text())
    assert {**kept, "files": result["files"]} == result
    assert result["table"]["personal"]["member"]["accuracy"]["seeds"] == 2
    assert paragraph(kept) in (tmp_path / "out" / "paper.md").read_text()
