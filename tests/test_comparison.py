"""The comparison of unlearning methods: one checkpoint, one row a method, figures that can be worked out by hand."""

import io
import json
import math
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from toy_world import UNLEARNING, case_of, world
from typer.testing import CliRunner

import shared.unlearning
import simulations.comparison
import simulations.worlds
from shared.errors import DataError, LetheError, UsageError, plainly
from shared.inference import t_interval
from shared.model import to_bytes
from shared.personalisation import accuracy, personalise
from shared.settings import Settings
from shared.training import Examples, join
from shared.unlearning import METHODS
from simulations.calibration_data import Wearer
from simulations.calibration_jobs import withdrawals
from simulations.cli import app
from simulations.comparison import Plan, _able, _readings, plain, subject_of
from simulations.comparison_case import ANOTHER, FLOOR, NOTHING, Reading, Subject, compare, kept
from simulations.comparison_figures import FIGURES, of_seed, over_seeds, rows
from simulations.comparison_table import COLUMNS, about, markdown, note, render

QUICK = ("finetune", "newton", "exact")
COMPARED = {
    "data": "d",
    "withdrawal": "all",
    "wearers": 2,
    "seeds": 2,
    "width": 2,
    "left_out": {},
    "models": [{"accuracy": 0.5, "majority": 0.5}],
    "seconds": 1.0,
    "seconds_models": 1.0,
    "workers": 2,
    "machine": "m",
}


@pytest.fixture(scope="module")
def toy():
    return world()


@pytest.fixture(scope="module")
def subject(toy) -> Subject:
    """A patient of two records, the second of which is withdrawn."""
    case = case_of(toy)
    noise = 0.4 * torch.randn(toy.gone.segments.shape, generator=torch.Generator().manual_seed(0))
    return Subject(
        general=case.general,
        public=case.public,
        trained=join([case.retain[:5], case.forget[:5]]),
        forget=case.forget[:5],
        own=case.retain[5:],
        neighbours=Examples(case.forget.segments + noise, case.forget.labels),
        personalisation=case.personalisation,
        unlearning=replace(UNLEARNING, epochs=2, i_mean_the_class=False),
    )


@pytest.fixture(scope="module")
def readings(subject) -> dict[str, Reading]:
    return {reading.method: reading for reading in compare(subject, tuple(METHODS))}


# One wearer


def test_every_method_has_a_row_and_so_have_doing_nothing_and_the_floor(readings):
    assert list(readings) == [NOTHING, FLOOR, *METHODS]


def test_the_retrained_copy_is_its_own_target(readings):
    exact = readings["exact"].figures
    assert {name: gap for name, gap in exact.items() if name.startswith("gap") and gap != 0} == {}
    assert (exact["tow"], exact["ain"], exact["relearn"]) == (1.0, 1.0, 1.0)
    assert exact["auc"] == exact["auc retrained"]


def test_what_left_the_model_as_it_was_is_told_from_what_changed_it(readings):
    unchanged = {name: reading.figures.get("unchanged") for name, reading in readings.items()}
    assert (unchanged[NOTHING], unchanged[FLOOR], unchanged["exact"], unchanged["gkt"]) == (1.0, 0.0, 0.0, None)


def test_newton_s_bound_is_told_and_nobody_else_s(readings):
    bounds = {name: reading.figures["certified"] for name, reading in readings.items() if not reading.reason}
    assert [name for name, bound in bounds.items() if not math.isnan(bound)] == ["newton"]
    assert 0 < bounds["newton"] < 10


def test_doing_nothing_leaves_a_trace_that_every_metric_sees(readings):
    nothing, exact = readings[NOTHING].figures, readings["exact"].figures
    assert nothing["gap forget"] > 0.3
    assert nothing["tow"] < 0.7
    assert nothing["ain"] == nothing["relearn"] == 0.0  # there is nothing to relearn
    assert nothing["zrf"] != exact["zrf"]
    assert nothing["auc"] >= nothing["auc retrained"]
    assert nothing["seconds"] == 0.0 < nothing["seconds retrained"]


def test_the_floor_is_a_retrained_copy_of_another_seed(subject, readings):
    other = replace(subject.personalisation, seed=subject.personalisation.seed + ANOTHER)
    copy = personalise(subject.general, kept(subject.trained, subject.forget), subject.public, other).model
    floor = readings[FLOOR].figures
    assert floor["forget"] == pytest.approx(accuracy(copy, subject.forget))
    assert floor["own"] == pytest.approx(accuracy(copy, subject.own))
    assert floor["gap forget"] == pytest.approx(floor["forget"] - readings["exact"].figures["forget"])
    assert abs(floor["gap forget"]) < readings[NOTHING].figures["gap forget"]


def test_the_class_filter_s_refusal_is_in_its_row_until_the_class_is_meant(subject, readings):
    assert readings["gkt"].figures == {}
    assert "--i-mean-the-class" in readings["gkt"].reason
    (meant,) = compare(replace(subject, unlearning=replace(UNLEARNING, generator_groups=1)), ["gkt"])[2:]
    assert (meant.method, meant.reason) == ("gkt", "")


def test_the_other_methods_have_figures(readings):
    without = [name for name, reading in readings.items() if reading.reason]
    assert without == ["gkt"]
    for reading in readings.values():
        assert reading.reason or set(FIGURES) - {"privleak", "cost"} <= set(reading.figures)


def test_what_needs_a_retain_set_says_so_in_its_row_when_there_is_none(subject):
    public = replace(subject.public, anchor=Examples.empty(), anchor_features=torch.empty(0, 32, 16))
    alone = replace(subject, trained=subject.forget, public=public)
    recipe = replace(alone.personalisation, profile="paper", steps=2, budget=1.0)
    found = {one.method: one for one in compare(replace(alone, personalisation=recipe), ["scrub", "newton"])}
    assert "there is nothing to retain" in found["scrub"].reason
    assert found["newton"].reason == ""
    assert math.isnan(found["newton"].figures["retain"])
    assert found["newton"].figures["tow"] <= 1.0  # of the forget and the test set alone


def timeless(reading: Reading) -> dict[str, float]:
    return {name: figure for name, figure in reading.figures.items() if "seconds" not in name}


def test_the_same_seed_gives_the_same_figures_but_for_seconds(subject, readings):
    for again in compare(subject, ["bad-teacher"]):
        assert timeless(again) == timeless(readings[again.method]) != {}


def test_a_failing_method_is_told_and_leaves_the_others_alone(subject, readings):
    def diverging(_case):
        raise LetheError("training diverged: the loss is nan at step 3; lower the learning rate")

    def vandal(case):
        with torch.no_grad():
            for model in (case.personal, case.general):
                for parameter in model.parameters():
                    parameter.fill_(math.nan)
        return case.personal

    before = to_bytes(subject.general)
    known = {**METHODS, "diverging": diverging, "vandal": vandal}
    found = {one.method: one for one in compare(subject, ["diverging", "vandal", "newton"], known=known)}
    assert found["diverging"].figures == {}
    assert "the loss is nan at step 3" in found["diverging"].reason
    assert "not finite" in found["vandal"].reason
    assert to_bytes(subject.general) == before
    for name in (NOTHING, FLOOR, "newton"):
        assert timeless(found[name]) == timeless(readings[name])


def test_a_method_in_a_file_of_its_own_is_a_row(tmp_path, monkeypatch, subject):
    (tmp_path / "half_way.py").write_text(
        '"""Half of the way back."""\n'
        "from shared.personalisation import between\n\n\n"
        "def unlearn(case):\n"
        "    return between(case.general, case.personal, 0.5, case.personalisation)\n"
    )
    monkeypatch.setattr(shared.unlearning, "__path__", [*shared.unlearning.__path__, str(tmp_path)])
    monkeypatch.setitem(METHODS, "half-way", shared.unlearning._methods()["half-way"])
    found = rows([(0, compare(subject, shared.unlearning.parse_methods("half-way")))])
    assert [row["method"] for row in found] == [NOTHING, FLOOR, "half-way", "exact"]
    assert 0 <= found[2]["figures"]["forget"]["value"] <= 1
    assert "| half-way | " in markdown(found)


def test_a_personal_model_that_the_gate_refuses_has_nothing_to_forget(subject):
    assert compare(replace(subject, personalisation=replace(subject.personalisation, budget=-2.0)), QUICK) == []


# The forget set


def test_what_is_kept_is_the_rest_in_its_order(subject):
    trained = subject.trained
    rest = kept(trained, join([trained[3:4], trained[0:1]]))
    assert torch.equal(rest.segments, torch.cat([trained.segments[1:3], trained.segments[4:]]))
    assert len(kept(trained, trained)) == 0


def test_an_empty_forget_set_is_refused(subject):
    with pytest.raises(UsageError, match="the forget set is empty"):
        compare(replace(subject, forget=Examples.empty()), QUICK)


def test_a_forget_set_that_was_not_learnt_is_refused(subject):
    strange = join([subject.forget[:2], subject.own])
    with pytest.raises(UsageError, match="1 of 3 segments of the forget set are not among the 10"):
        compare(replace(subject, forget=strange), QUICK)
    relabelled = Examples(subject.forget.segments, subject.forget.labels.roll(1, dims=1))
    with pytest.raises(UsageError, match="5 of 5 segments"):
        compare(replace(subject, forget=relabelled), QUICK)


# Whose withdrawals


@pytest.fixture
def wearer(toy) -> Wearer:
    held = (toy.kept[5:], toy.gone[5:])
    return Wearer("0/0", (toy.kept[:5], toy.gone[:5]), toy.gone[:4], held, toy.gone[4:5])


@pytest.mark.parametrize("withdrawal", ["all", "record", "class", "canary"])
def test_every_withdrawal_of_the_calibration_can_be_compared(toy, wearer, withdrawal):
    retain, forget = withdrawals(wearer)[withdrawal]
    found = subject_of(wearer, withdrawal, toy.general, toy.public, Settings())
    assert torch.equal(found.forget.segments, forget.segments)
    assert torch.equal(kept(found.trained, found.forget).segments, retain.segments)
    assert not {one.numpy().tobytes() for one in join([found.own, found.neighbours]).segments} & {
        one.numpy().tobytes() for one in found.trained.segments
    }
    if withdrawal == "canary":
        assert not (found.neighbours.labels * found.own.labels).any()


# Many wearers


def of(method: str, *, reason: str = "", **figures: float) -> Reading:
    whole = dict.fromkeys(FIGURES, 0.5) | {"auc": 0.5, "auc retrained": 0.5, "seconds": 1.0}
    whole |= {"unchanged": 0.0, "certified": math.nan}
    return Reading(method, {} if reason else whole | {"seconds retrained": 1.0} | figures, reason)


def test_student_s_interval_is_the_textbook_s():
    """Mean 3, standard deviation 1.5811; t(4, .975) = 2.7764."""
    low, high = t_interval([1.0, 2.0, 3.0, 4.0, 5.0], confidence=0.95)
    assert (low, high) == pytest.approx((3 - 2.7764 * 1.5811 / 5**0.5, 3 + 2.7764 * 1.5811 / 5**0.5), abs=1e-3)


def test_seeds_and_not_wearers_are_what_an_interval_is_over():
    """Means a seed .25 and .75, however many wearers: mean .5, sd .3536, t(1, .975) = 12.706."""
    few = rows([(0, [of("m", forget=0.25)]), (1, [of("m", forget=0.75)])])
    many = rows([(0, [of("m", forget=0.0)]), (0, [of("m", forget=0.5)]), *[(1, [of("m", forget=0.75)])] * 9])
    for (found,) in (few, many):
        figure = found["figures"]["forget"]
        assert figure["value"] == pytest.approx(0.5)
        assert figure["high"] - figure["value"] == pytest.approx(12.706 * 0.3536 / 2**0.5, abs=1e-3)
        assert figure["value"] - figure["low"] == pytest.approx(figure["high"] - figure["value"])
    assert (many[0]["wearers"], many[0]["seeds"]) == (11, 2)


def test_ratios_of_steps_are_medians_because_they_may_be_infinite():
    told = ((0, 0.0), (0, math.inf), (0, 2.0), (1, math.inf), (2, 0.5), (2, math.nan))
    found = rows([(seed, [of("m", ain=ratio)]) for seed, ratio in told])
    assert found[0]["figures"]["ain"] == {"value": 2.0, "low": 0.5, "high": math.inf}
    assert "| 2.00 (0.50-inf) |" in markdown(found)
    assert json.loads(json.dumps(plain(found), allow_nan=False))[0]["figures"]["ain"]["high"] == "inf"


def test_cost_is_a_quotient_of_sums_and_privleak_one_of_means():
    found = of_seed(
        [
            of("m", **{"seconds": 3.0, "seconds retrained": 1.0, "auc": 1.0, "auc retrained": 0.0}).figures,
            of("m", **{"seconds": 3.0, "seconds retrained": 3.0, "auc": 0.5, "auc retrained": 1.0}).figures,
        ]
    )
    assert found["cost"] == 6 / 4
    assert found["seconds"] == 3.0
    assert found["privleak"] == pytest.approx(100 * (0.75 - 0.5) / 0.5)
    hopeless = of_seed([of("m", **{"auc retrained": 0.0, "seconds retrained": 0.0}).figures])
    assert math.isnan(hopeless["privleak"])
    assert math.isnan(hopeless["cost"])


def test_what_is_of_no_wearer_stays_empty_and_one_seed_has_no_interval():
    (found,) = rows([(0, [of("m", retain=math.nan)])])
    assert found["figures"]["retain"] == {"value": None, "low": None, "high": None}
    assert found["figures"]["own"] == {"value": 0.5, "low": None, "high": None}
    assert over_seeds([math.nan, 0.5], "mean") == {"value": 0.5, "low": None, "high": None}


@pytest.mark.parametrize(
    ("costs", "dearer"),
    [([2.0], False), ([0.9], False), ([2.0, 2.1, 2.2], True), ([0.5, 3.0, 1.0], False), ([1.0, 1.0], False)],
)
def test_a_method_dearer_than_retraining_says_so_when_seeds_agree(costs, dearer):
    (found,) = rows([(seed, [of("m", seconds=cost)]) for seed, cost in enumerate(costs)])
    assert found["dearer"] == dearer
    assert ("dearer than retraining" in note(found)) == dearer


def test_a_row_says_how_many_models_a_method_left_as_they_were_and_what_it_certifies():
    pairs = [(0, [of("m", unchanged=1.0)]), (0, [of("m", certified=0.02)]), (1, [of("m", certified=0.0314)])]
    (found,) = rows(pairs)
    assert (found["unchanged"], found["certified"]) == (1, 0.0314)
    assert (
        note(found) == "left 1 of 3 models as they were; certified: no head farther than 0.031 from the retrained one"
    )
    (nothing,) = rows([(0, [of(NOTHING, unchanged=1.0)])])
    assert note(nothing) == ""  # that is what it is


def test_reasons_are_counted_and_told_in_the_row():
    pairs = [(0, [of("m", reason="no")]), (0, [of("m", reason="no")]), (1, [of("m", reason="never")]), (1, [of("m")])]
    (found,) = rows(pairs)
    assert found["reasons"] == {"no": 2, "never": 1}
    assert (found["wearers"], found["seeds"]) == (1, 1)
    assert note(found) == "no figures of 3 of 4 wearers: no; other reasons: 1"
    (none,) = rows(pairs[:3])
    assert none["figures"] == {}
    line = markdown([none]).splitlines()[-1]
    assert line == f"| m |{' - |' * len(COLUMNS)} no figures of 3 of 3 wearers: no; other reasons: 1 |"


def test_a_reason_stays_in_its_cell():
    (found,) = rows([(0, [of("m", reason="a | b\nc")])])
    assert markdown([found]).splitlines()[-1].endswith("| no figures of 1 of 1 wearers: a \\| b c |")


def test_eighty_columns_hold_every_figure_whole():
    figures = {name: {"value": -0.88, "low": -9.76, "high": 8.0} for name in FIGURES}
    figures |= {name: {"value": 88.88, "low": 0.88, "high": 888.8} for name in ("ain", "relearn")}
    figures["privleak"] = {"value": -88.8, "low": -888.8, "high": 711.2}
    row = {"method": "negative-gradient-plus", "wearers": 2, "seeds": 2, "figures": figures}
    page = Console(width=80, file=io.StringIO())
    told = {"reasons": {"why": 1}, "dearer": True, "unchanged": 2, "certified": 0.0314}
    page.print(render({**COMPARED, "rows": [row | told], "published_schedule": False}))
    assert "…" not in page.file.getvalue()
    assert "dearer" in page.file.getvalue()


@pytest.mark.parametrize("published", [False, True])
def test_the_methods_that_learn_on_generated_inputs_are_said_to_be_cut_short_unless_they_are_not(published):
    rows_of_all = rows([(0, [of(name) for name in (NOTHING, FLOOR, *METHODS)])])
    result = {**COMPARED, "rows": rows_of_all, "published_schedule": published}
    told = "gkt and gkt-patient: cut to 50 groups of 64 generated inputs" in " ".join(about(result))
    assert told != published


def footer(readings: list[tuple[int, list[Reading]]], **values: object) -> str:
    return "\n".join(about({**COMPARED, "rows": rows(readings), "published_schedule": False, **values}))


def test_what_made_no_model_is_not_said_to_be_cut_short():
    assert "cut to" not in footer([(0, [of("gkt", reason="the class was not meant"), of("newton")])])
    half = [(0, [of("gkt", reason="no")]), (1, [of("gkt")])]
    assert "gkt: cut to 50 groups" in footer(half)


def test_one_seed_has_no_interval_and_none_is_explained():
    one, two = [(0, [of("m", seconds=9.0)])], [(0, [of("m")]), (1, [of("m")])]
    assert "±" not in markdown(rows(one)) + footer(one, seeds=1)
    assert "1 wearer in 1 seed, width" in footer(one, seeds=1, wearers=1)
    assert note(rows(one)[0]) == ""
    assert "±: Student's" in footer(two)
    assert "2 wearers in 2 seeds" in footer(two)


def test_an_interval_that_holds_every_value_there_is_says_so_and_no_other_does():
    """Of two seeds .3 apart it is 1.9 to either side of an accuracy, and a cost has no upper end."""
    apart = [(0, [of("m", forget=0.4, **{"gap own": -0.4, "seconds": 1.0})])]
    apart += [(1, [of("m", forget=0.7, **{"gap own": 0.4, "seconds": 1.3})])]
    line = markdown(rows(apart))
    assert "| 0.55 ±? |" in line
    assert "| +0.00 ±? |" in line
    assert "| 1.15 ±1.91 |" in line
    assert "±?: the interval holds every value there is; take more seeds" in footer(apart)
    assert "±?" not in markdown(rows([(0, [of("m", forget=0.5)]), (1, [of("m", forget=0.52)])]))


@pytest.mark.parametrize("published", [False, True])
def test_the_published_schedule_is_that_of_the_settings(monkeypatch, tmp_path, wearer, toy, published):
    asked = []
    monkeypatch.setattr(simulations.comparison, "wearers_in", lambda *_: [wearer])
    monkeypatch.setattr(simulations.comparison, "world_of", lambda *_: (toy.general, toy.public))
    monkeypatch.setattr(simulations.comparison, "compare", lambda subject, _: asked.append(subject.unlearning))
    _readings(Plan(tmp_path, QUICK, withdrawal="all", published_schedule=published), tmp_path, 0, 0)
    made = [(one.generator_groups, one.generator_batch_size) for one in asked]
    assert made == [(4000, 256) if published else (50, 64)]


# The command


def refused(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["compare", *arguments])
    assert isinstance(done.exception, UsageError | DataError), done.output
    return f"{type(done.exception).__name__}: {done.exception}"


def test_unknown_methods_are_refused_before_anything_is_made():
    assert refused("--methods", "scrub,amnesia").startswith("UsageError: --methods is 'scrub,amnesia', expected names")
    assert refused("--methods", ",").startswith("UsageError: --methods")


def no_run(*_, **__):
    raise AssertionError("something was computed")


@pytest.mark.parametrize("place", ["missing/table.md", "file/table.json", "folder"])
@pytest.mark.parametrize("command", ["compare", "audit calibrate"])
def test_a_file_that_cannot_be_written_is_refused_before_anything_is_computed(tmp_path, monkeypatch, command, place):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    monkeypatch.setattr(simulations.worlds, "data_or_synthetic", no_run)
    done = CliRunner().invoke(app, [*command.split(), "--out", str(tmp_path / place)])
    assert isinstance(done.exception, DataError), done.exception
    assert str(tmp_path / place) in str(done.exception)
    assert ".lethe" not in str(done.exception)
    assert {path.name for path in tmp_path.rglob("*")} == {"file", "folder"}


def test_a_table_that_cannot_be_written_all_the_same_is_shown_and_the_error_names_the_file(tmp_path, monkeypatch):
    out = tmp_path / "folder" / "table.md"
    out.parent.mkdir()

    def run(*_, **__):
        out.parent.rmdir()
        return {**COMPARED, "rows": rows([(0, [of("newton")])]), "published_schedule": False}

    monkeypatch.setattr(simulations.comparison, "run", run)
    done = CliRunner().invoke(app, ["compare", "--data", str(tmp_path), "--out", str(out)])
    assert "newton" in done.stdout
    assert (type(done.exception), done.exception.filename) == (FileNotFoundError, str(out))
    assert plainly(done.exception) == f"No such file or directory ({out}); check the path and its rights and try again"


def test_a_folder_of_too_few_wearers_is_refused(cohort_folder, tmp_path):
    assert "expected at least 240" in refused("--data", str(cohort_folder))
    assert refused("--data", str(tmp_path)).startswith("DataError")


def test_a_world_in_which_nobody_has_two_records_is_refused(monkeypatch, tmp_path, wearer):
    one = replace(wearer, records=wearer.records[:1])
    monkeypatch.setattr(simulations.comparison, "wearers_in", lambda _, seed: [wearer] if seed == 0 else [one])
    with pytest.raises(DataError, match="of 8 wearers of seed 1 nobody has two records"):
        _able(Plan(tmp_path, QUICK, seeds=2), tmp_path)
    assert _able(Plan(tmp_path, QUICK, seeds=1), tmp_path) == [(0, 0)]


@pytest.mark.slow
def test_the_command_prints_a_row_a_method_and_what_it_compared(cohort_folder, tmp_path):
    out = tmp_path / "table.md"
    words = "--patients 4 --seeds 1 --width 2 --methods newton,gkt --withdrawal class --json"
    done = CliRunner().invoke(app, ["compare", "--data", str(cohort_folder), *words.split(), "--out", str(out)])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert [row["method"] for row in result["rows"]] == [NOTHING, FLOOR, "newton", "gkt", "exact"]
    assert result["wearers"] + sum(result["left_out"].values()) == 4
    assert sum(result["rows"][3]["reasons"].values()) == result["wearers"]
    assert out.read_text().startswith("| method | forget | retain | own held-out | others |")
    page = Console(width=80, file=io.StringIO())
    page.print(render(result))
    drawn = page.file.getvalue()
    assert all(drawn.count(row["method"]) >= 5 for row in result["rows"])  # a row in each part of the table
    assert "--i-mean-the-class" in "".join(drawn.split())
    assert f"withdrawal of 'class', {result['wearers']} wearers in 1 seed, width 2" in drawn
