"""What the report promises: one file that loads nothing, says what was measured, and breaks on nothing."""

import json
import re

import numpy as np
import pytest
from report_pages import Page, sample, sample_arrays, written


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    page, text = written(tmp_path_factory.mktemp("usual"), sample())
    return page, text, Page(text)


def test_the_page_loads_nothing_and_runs_nothing(usual):
    _, text, page = usual
    assert not {"script", "link", "iframe", "object", "embed", "base"} & set(page.tags)
    sources = page.values("src") + page.values("href") + page.values("xlink:href")
    assert sources
    assert all(source.startswith("#") for source in sources)
    assert "://" not in text
    assert "@import" not in text
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", text))
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert "default-src 'none'" in text


def test_the_page_is_balanced_and_its_ids_are_its_own(usual):
    _, _, page = usual
    assert page.faults == []
    assert page.open == []
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    wanted = [value[1:] for value in page.values("href")]
    wanted += [found for value in page.values("clip-path") for found in re.findall(r"#([^)]*)", value)]
    assert set(wanted) <= set(ids)


def test_the_page_can_be_heard_as_well_as_seen(usual):
    _, text, page = usual
    drawings = [tag for tag in re.findall(r"<svg[^>]*>", text) if "aria-hidden" not in tag]
    assert len(drawings) >= 16
    assert all(re.search(r'role="img" aria-label="[^"]{20,}"', tag) for tag in drawings)
    assert page.tags.count("table") == page.tags.count("caption")
    assert page.tags.count("h1") == 1
    assert re.search(r'<html lang="en">', text)


def test_every_digest_is_there_in_full(usual):
    _, _, page = usual
    for digest in re.findall(r"\b[0-9a-f]{64}\b", json.dumps(sample())):
        assert digest in page.text


def test_an_answer_that_was_not_used_and_a_device_without_a_model_are_told(tmp_path, usual):
    told = {"slot": 3, "pseudonym": "p-0badcafe", "asked": "train.probe", "reason": "its margins <b>are</b> no numbers"}
    silent = {"slot": 4, "pseudonym": "p-5ca1ab1e", "reason": "no answer came"}
    _, text = written(tmp_path, sample() | {"refused": [told], "silent": [silent]})
    page = Page(text).text
    assert "p-0badcafe, asked for train.probe: its margins <b>are</b> no numbers" in page
    assert "p-5ca1ab1e: no answer came" in page
    assert "<b>are</b>" not in text
    assert "not used" not in usual[2].text


def test_the_first_lines_say_who_withdrew_and_how_much_was_erased(usual):
    _, _, page = usual
    assert "Two of 24 patients withdrew." in page.text
    assert "erased 40 segments of ECG and the models that had learned from them, 2.9 MB in all" in page.text
    assert "One model served after a withdrawal is, byte for byte, the general model" in page.text
    assert "not a certificate" in page.text


def test_the_probe_is_said_not_to_measure_membership_with_this_runs_numbers(usual):
    _, _, page = usual
    said = page.text[page.text.index("This probe does not measure membership") :][:700]
    assert "no verdict rests on it" in said
    assert "57.0 %" in said
    assert "72.0 % of 24 on segments of control patients whom no model ever saw" in said
    assert "react as well" in said


@pytest.mark.parametrize("number", [2, 3, 4, 5])
def test_a_figure_names_its_counterpart_in_the_paper(usual, number):
    _, _, page = usual
    assert re.search(rf"Paper: figures? (\d and )?{number}", page.text) or f"Paper: figures {number} and" in page.text


def test_the_same_run_gives_the_same_bytes(tmp_path, usual):
    page, _ = written(tmp_path, sample())
    assert page.read_bytes() == usual[0].read_bytes()


def test_a_run_without_control_segments_has_a_page(tmp_path):
    page = Page(written(tmp_path, sample(), {})[1])
    assert page.text.count("the run had no public control segments to attack") == 2
    assert page.faults == []


def holes(value):
    """Return the result with every number that may be missing taken out."""
    may = {"accuracy", "macro_f1", "macro_auc", "majority", "parity", "positive", "extracted", "overhead_seconds"}
    may |= {"own_general", "own_personal", "others_general", "others_personal"}
    may |= {"train_loss", "train_accuracy", "validation_loss", "validation_accuracy"}
    lists = {"low", "high", "difference", "before", "after"}
    if isinstance(value, list):
        return [holes(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: None
        if key in may
        else [None] * len(item)
        if key in lists and isinstance(item, list)
        else dict.fromkeys(item, None) | {"n": 0}
        if key in ("own", "others")
        else holes(item)
        for key, item in value.items()
    }


def test_what_is_missing_reads_n_a(tmp_path):
    _, text = written(tmp_path, holes(sample()))
    page = Page(text)
    assert page.text.count("n/a") > 50
    assert page.faults == []
    assert not re.search(r"\b(None|nan|NaN)\b", text)


HOSTILE = "<script>alert('x')</script>\"&'{{ 7 * 7 }}$\\frac{a}$\u0001\u202e"


def test_hostile_strings_stay_text(tmp_path):
    result = sample()
    for row in [*result["personal"], *result["withdrawals"]]:
        row["pseudonym"] = HOSTILE
    result["personal"][0] |= {"accepted": False, "reason": HOSTILE, "split": HOSTILE}
    result["withdrawals"][0] |= {"job": HOSTILE, "named": [HOSTILE]}
    result["withdrawals"][0]["erased"]["files"] = [HOSTILE, "\ud800"]
    result["withdrawals"][0]["methods"][0]["method"] = HOSTILE
    spoilt = json.loads(json.dumps(result["withdrawals"][0]["verdict"]))
    spoilt["after"]["scores"][1]["name"] = HOSTILE
    spoilt["bytes"]["checks"][0] |= dict.fromkeys(("name", "expected", "seen"), HOSTILE)
    spoilt |= {"words": HOSTILE, "method": HOSTILE}
    result["withdrawals"][0] |= {"verdict": spoilt, "certificate": {"file": HOSTILE, "sha256": HOSTILE}}
    result["withdrawals"][0] |= {"reason": HOSTILE, "state": HOSTILE}
    result["data"] |= {"unit": HOSTILE, "folder_name": HOSTILE, "left_out": {HOSTILE: 1}}
    result["settings"][HOSTILE] = HOSTILE
    result |= {"run": HOSTILE, "code_version": HOSTILE}
    result["general"] |= {"device": HOSTILE, "digest": HOSTILE}
    result["phases"][0]["name"] = HOSTILE
    _, text = written(tmp_path, result)
    page = Page(text)
    assert "script" not in page.tags
    assert page.faults == []
    assert page.text.count("<script>alert('x')</script>\"&'{{ 7 * 7 }}") > 30
    assert not set(text) & {"\u0001", "\u202e", "\ud800"}


@pytest.mark.parametrize(("devices", "withdrawals"), [(1, 0), (1, 1), (2, 0), (41, 3)])
def test_small_and_odd_fleets_have_a_page(tmp_path, devices, withdrawals):
    _, text = written(tmp_path, sample(devices, withdrawals))
    page = Page(text)
    assert page.faults == []
    assert ("Nobody withdrew in this run" in page.text) == (withdrawals == 0)


def test_a_thousand_devices_stay_under_two_megabytes(tmp_path):
    result = sample(1000, 1000)
    path, text = written(tmp_path, result)
    page = Page(text)
    assert path.stat().st_size < 2_000_000
    assert page.faults == []
    assert all(row["personal"] in text and row["bundle"] in text for row in result["personal"])
    assert all(row["before"] in text and row["methods"][-1]["after"] in text for row in result["withdrawals"])
    assert page.text.count("unlearned by exact (served)") == 12  # the rest are rows of one table


def test_an_ordinary_page_is_a_fraction_of_that(usual):
    assert usual[0].stat().st_size < 400_000


def test_a_reused_model_without_curves_says_so(tmp_path):
    result = sample()
    result["general"] |= {"reused": True, "curves": []}
    text = Page(written(tmp_path, result)[1]).text
    assert "it was reused" in text
    assert "No curves were stored" in text


def test_a_signal_that_is_flat_can_be_drawn(tmp_path):
    arrays = sample_arrays() | {"clean": np.zeros((12, 500), np.float32)}
    assert Page(written(tmp_path, sample(), arrays)[1]).faults == []
