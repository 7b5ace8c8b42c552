"""What the page says of a withdrawal: never more than its digests, its verdict and its certificate do."""

import re

import pytest
from audited_withdrawals import at, audited
from report_pages import Page, sample, undrawn, written

from server import figures, roc


@pytest.fixture(autouse=True)
def _words_alone(monkeypatch):
    for place in (figures, roc):
        monkeypatch.setattr(place, "panel", undrawn)


def served(result, **changes):
    """Change the method that serves the first withdrawal, which no auditor has seen."""
    result["withdrawals"][0]["methods"][-1].update(changes)
    result["withdrawals"][0]["after"] = result["withdrawals"][0]["methods"][-1]["after"]
    result["withdrawals"][0].update(verdict=None, certificate=None)
    return result


def test_an_approximate_method_is_never_called_exact(tmp_path):
    result = served(sample(2, 1), method="finetune2", exact=False, after="ab" * 32)
    result["withdrawals"][0]["served"] = "finetune2"
    _, text = written(tmp_path, result)
    page = Page(text)
    assert "One model was changed by an approximate method." in page.text
    assert "One withdrawal was not audited: whether anything is left was not looked at." in page.text
    assert "Not audited" in page.text
    assert "byte for byte, the general model" not in page.text


def test_an_exact_method_whose_bytes_differ_is_shown_as_a_failure(tmp_path):
    _, text = written(tmp_path, served(sample(2, 1), after="ab" * 32))
    assert "should equal the general model byte for byte and does not" in Page(text).text
    assert "Exact: bytes equal" not in text


def test_a_flag_alone_does_not_make_bytes_equal(tmp_path):
    result = served(sample(2, 1), after="ab" * 32)
    assert result["withdrawals"][0]["equals_general"]
    assert "byte for byte, the general model" not in Page(written(tmp_path, result, {})[1]).text


def test_a_withdrawal_that_has_not_reached_its_device_is_not_called_done(tmp_path):
    result = sample(2, 1)
    result["withdrawals"][0]["unlearned_at"] = None
    text = Page(written(tmp_path, result, {})[1]).text
    assert "One withdrawal has not yet reached the device." in text
    assert "certified" not in text[: text.index("This page reports")]
    assert "byte for byte, the general model" not in text


def test_a_device_that_never_made_a_model_has_only_erased(tmp_path):
    result = sample(2, 1)
    result["withdrawals"][0] |= {
        "methods": [],
        "served": "",
        "general": "",
        "before": "",
        "after": "",
        "equals_general": False,
    }
    result["withdrawals"][0] |= {"verdict": None, "certificate": None}
    text = Page(written(tmp_path, result, {})[1]).text
    assert "One withdrawal came before a personal model had been made" in text
    assert "The device had made no model, so there was nothing to unlearn." in text
    assert "byte for byte, the general model" not in text


def test_a_general_model_that_stands_in_until_it_is_remade_is_told_as_such(tmp_path):
    result = sample(2, 1)
    result["withdrawals"][0] |= {"methods": [], "served": "", "reason": "the general model is being remade"}
    text = Page(written(tmp_path, result, {})[1]).text
    assert "The device put the general model back in the place of its own" in text
    assert "the general model is being remade" in text
    assert "had made no model" not in text


def test_a_patient_who_left_before_the_others_became_personal_is_still_counted(tmp_path):
    result = sample()
    del result["personal"][0]
    assert "Two of 24 patients withdrew." in Page(written(tmp_path, result, {})[1]).text


def article(tmp_path, **changes):
    """Return the first withdrawal's article as text, up to its appendix, of a partial withdrawal with this verdict."""
    result = sample(3, 2)
    result["withdrawals"] = [audited(result["withdrawals"][1], **changes)]
    text = written(tmp_path, result, {})[1]
    page = Page(text)
    assert page.faults == []
    found = page.text[page.text.index("Asked: forget") :]
    return found[: found.index("Technical appendix")], text


TRACE = "The records had left a trace: copies made with them are surer of them than copies that never had them"
NO_TRACE = "No trace could be seen even before unlearning"
KINDS = {
    "Verdict: PASS, exact": ({}, [TRACE, "could not be told from 16", "not proof of absence", "Its sha256"]),
    "Verdict: PASS, not falsified at this power": (
        {"exact": False, "copies": 143, "seed": 4},
        [TRACE, "The device changed its model by finetune", "Not falsified at this power"],
    ),
    "Verdict: INCONCLUSIVE": ({"exact": False}, [TRACE, "copies an arm would decide", "No certificate was issued"]),
    "Verdict: FAIL": (
        {"exact": False, "means": (0.4, 1.9, 1.5)},
        [TRACE, "copies are still surer than copies that never had the records", "No certificate was issued"],
    ),
}


@pytest.mark.parametrize("title", KINDS)
def test_each_verdict_is_told_with_its_numbers(tmp_path, title):
    changes, expected = KINDS[title]
    text, _ = article(tmp_path, **changes)
    assert title in text
    assert [words for words in expected if words not in text] == []
    assert re.search(r"the surer one in \d+ of 100 pairs; 50 is chance; 95 % interval \d+ to \d+", text)


def test_a_method_that_moves_what_is_kept_fails_for_that(tmp_path):
    text, _ = article(tmp_path, exact=False, copies=143, seed=4, moved=-1.0)
    assert "Verdict: FAIL" in text
    assert "but on the records that the patient keeps they can, in more than chance explains." in text
    assert "Not falsified" not in text


def test_where_bytes_decide_the_appendix_names_no_number_of_copies_and_nothing_as_decided(tmp_path):
    _, page = article(tmp_path, means=(2.6, 2.6, 2.6))
    assert "copies an arm would decide" not in page
    assert "Decided: INCONCLUSIVE" not in page


def test_where_no_trace_could_be_seen_the_page_says_so_and_calls_it_no_success(tmp_path):
    text, _ = article(tmp_path, means=(2.6, 2.6, 2.6))
    assert NO_TRACE in text
    assert "That is no success of the method." in text
    assert "were already sure of them: they give the true label a probability of 0.9" in text
    assert TRACE not in text


def test_overshooting_is_told_as_such(tmp_path):
    text, _ = article(tmp_path, exact=False, means=(0.4, 1.9, -0.6))
    assert "After unlearning, copies are less sure than copies that never had the records" in text
    assert "Failed the audit" in Page(written(tmp_path, failed(), {})[1]).text


def failed():
    result = sample(3, 2)
    result["withdrawals"][1] = audited(result["withdrawals"][1], holds=False)
    return result


def test_a_failed_withdrawal_is_counted_in_the_first_lines_and_in_the_table(tmp_path):
    text = Page(written(tmp_path, failed(), {})[1]).text
    head, body = text[: text.index("This page reports")], text[text.index("2 withdrawals. The unit") :][:500]
    assert "One withdrawal passed the audit and is certified." in head
    assert "One withdrawal failed the audit and is not certified." in head
    assert "PASS, exact everything" in body
    assert "FAIL 1 record" in body


def test_a_failed_audit_is_never_called_certified_nor_falsified_at_no_power(tmp_path):
    text, _ = article(tmp_path, exact=False, means=(0.4, 1.9, 1.5))
    assert "certified" not in text.lower().replace("certified not yet", "")
    assert "Not falsified" not in text


def test_the_picture_has_a_dot_for_every_copy(tmp_path):
    text, page = article(tmp_path)
    drawing = page[page.index('<svg class="strips"') :]
    assert drawing[: drawing.index("</svg>")].count("<circle") == 3 * 16
    assert re.search(r'role="img" aria-label="Mean margin of each copy on the withdrawn segments. Made with', drawing)
    assert "One dot is one copy of the model" in text


def test_a_passed_exact_audit_without_copies_rests_on_bytes_and_says_so(tmp_path):
    text, page = article(tmp_path, copies=0)
    assert "No copies were compared for this withdrawal, so there is no picture of the evidence." in text
    assert "runs, byte for byte, the file that it would have" in text
    assert "N = 0 copies" in page
    assert "strips" not in page[page.index("</style>") :]


def test_a_run_without_audit_says_that_nobody_looked(tmp_path):
    result = sample(2, 1)
    result["withdrawals"][0] |= {"verdict": None, "certificate": None, "deadline": None, "steps": []}
    text = Page(written(tmp_path, result, {})[1]).text
    assert "This withdrawal was not audited, so there is no evidence to picture." in text
    assert "One withdrawal was not audited: whether anything is left was not looked at." in text


@pytest.mark.parametrize(
    ("deadline", "created", "expected"),
    [
        (at(days=30), at(seconds=110), "29 days left when this page was made"),
        (at(seconds=100), at(seconds=110), "missed"),
        (None, at(), "none was told"),
    ],
)
def test_a_deadline_is_running_or_missed_while_nothing_is_certified(tmp_path, deadline, created, expected):
    result = sample(2, 1) | {"created": created}
    result["withdrawals"][0] |= {"verdict": None, "certificate": None, "deadline": deadline}
    assert f" {expected} What was done" in Page(written(tmp_path, result, {})[1]).text


def test_a_certificate_that_came_late_did_not_keep_its_deadline(tmp_path):
    result = sample(2, 1)
    assert "UTC kept What was done" in Page(written(tmp_path, result, {})[1]).text
    result["withdrawals"][0]["deadline"] = at(seconds=100)
    assert "UTC missed What was done" in Page(written(tmp_path, result, {})[1]).text


def test_the_appendix_has_every_score_with_intervals_seeds_power_and_every_check_of_bytes(tmp_path):
    result = sample(2, 1)
    verdict = result["withdrawals"][0]["verdict"]
    text = Page(written(tmp_path, result, {})[1]).text
    text = text[text.index("Technical appendix") :]
    for name in ("mean margin, primary", "U-LiRA", "RMIA", "loss threshold", "modified entropy", "FGSM", "noise"):
        assert text.count(name) >= 2
    for part in ("before", "after"):
        for score in verdict[part]["scores"]:
            assert f"{score['auc']:.2f} {score['low95']:.2f} to {score['high95']:.2f}" in text
        assert f"Smallest AUC told from .50 with 80 % power: {verdict[part]['detectable']:.2f}" in text
    assert "The unit is a copy; N = 16 an arm; seeds 7." in text
    assert verdict["after"]["identical"]
    assert "All copies of both arms answered alike, and no number of copies would decide." in text
    assert all(f"{c['name']} {c['expected']} {c['seen']} yes" in text for c in verdict["bytes"]["checks"])


def test_a_reason_of_a_failure_is_shown(tmp_path):
    result = failed()
    result["withdrawals"][1]["reason"] = "the bytes do not hold"
    assert "the bytes do not hold" in Page(written(tmp_path, result, {})[1]).text


@pytest.mark.parametrize(
    ("changes", "whole", "says"),
    [
        ({}, True, "runs the general model, byte for byte: the file that it had before it met this patient."),
        ({}, False, "the file that it would have if it had never had these records. As a cross-check 16 copies"),
        ({"copies": 0}, False, "No copies were compared, so the bytes alone decide."),
        ({"holds": False}, False, "is not what should be there (withdrawn records)."),
        (
            {"exact": False, "copies": 160},
            False,
            "Not falsified at this power: a difference smaller than that is not ruled out.",
        ),
        ({"exact": False}, False, "and 16 are too few to rule a difference out; about "),
        ({"exact": False, "means": (0.4, 1.9, 1.9)}, False, "can be told from 16 that never had them, in more than"),
        ({"means": (0.4, 1.9, 1.9), "looks": 2}, False, "can, twice, be told from 64 that never had them"),
        ({"means": (0.4, 1.9, 1.9)}, False, "no certificate; the data are gone, so no run can compare others"),
    ],
)
def test_the_verdict_is_told_to_people_who_are_no_statisticians(tmp_path, changes, whole, says):
    result = sample(2, 2)
    row = next(row for row in result["withdrawals"] if (row["scope"] == "patient") == whole)
    result["withdrawals"] = [audited(row, **changes)]
    _, text = written(tmp_path, result, {})
    page = Page(text)
    assert says in page.text
    assert result["withdrawals"][0]["verdict"]["words"] in page.text  # the auditor's own, in the appendix
    assert ("ROC curve." in text) == (changes.get("copies", 16) > 0)
