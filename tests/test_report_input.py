"""What a page is made from is checked first: what is missing, misshapen or contradicts itself is refused by name."""

import json
import re

import numpy as np
import pytest
from report_pages import sample, sample_arrays, written

from server.report import build
from shared.errors import DataError


def drop(result, *path):
    *parents, last = path
    for key in parents:
        result = result[key]
    del result[last]


def verdict(result):
    """Return a verdict that may be spoilt."""
    row = result["withdrawals"][0]
    row["verdict"] = json.loads(json.dumps(row["verdict"]))
    return row["verdict"]


BAD_RESULTS = {
    "has no 'probe'": lambda r: drop(r, "probe"),
    "general.metrics.record has no 'macro_f1'": lambda r: drop(r, "general", "metrics", "record", "macro_f1"),
    "personal[3].slot is str 'three', expected int": lambda r: r["personal"][3].update(slot="three"),
    "withdrawals[0].equals_general is int '1', expected bool": lambda r: r["withdrawals"][0].update(equals_general=1),
    "seconds is NoneType": lambda r: r.update(seconds=float("nan")),
    "probe.groups.control.low has 2 values, expected 6": lambda r: r["probe"]["groups"]["control"].update(low=[0, 0]),
    "serves 'magic', which was not measured": lambda r: r["withdrawals"][0].update(served="magic"),
    "has the verdict 'GREAT', expected one of PASS, FAIL, INCONCLUSIVE": lambda r: verdict(r).update(verdict="GREAT"),
    "after.verdict is NoneType": lambda r: verdict(r)["after"].update(verdict=None),
    "after.unlearned has 15 copies, expected 16": lambda r: verdict(r)["after"]["unlearned"].pop(),
    "before.never[0] is NoneType": lambda r: verdict(r)["before"]["never"].__setitem__(0, float("nan")),
    "after has no one primary score": lambda r: verdict(r)["after"]["scores"].pop(0),
    "bytes has no 'holds'": lambda r: verdict(r)["bytes"].pop("holds"),
    "withdrawals[1] has no 'verdict'": lambda r: drop(r, "withdrawals", 1, "verdict"),
    "withdrawals[0].steps[0] has no 'at'": lambda r: drop(r, "withdrawals", 0, "steps", 0, "at"),
    "has a certificate and no verdict": lambda r: r["withdrawals"][0].update(verdict=None),
    "has a certificate, and its verdict is FAIL, expected PASS": lambda r: verdict(r).update(verdict="FAIL"),
    "'yesterday' is no ISO 8601 time": lambda r: r.update(created="yesterday"),
}


@pytest.mark.parametrize("message", BAD_RESULTS)
def test_a_malformed_result_is_refused_by_name(tmp_path, message):
    result = sample()
    BAD_RESULTS[message](result)
    with pytest.raises(DataError, match=re.escape(message)):
        written(tmp_path, result)
    assert not (tmp_path / "report.html").exists()


BAD_ARRAYS = {
    "lead_sd is missing": lambda a: a.pop("lead_sd"),
    "clean has the shape (11, 500), expected (12, 500)": lambda a: a.update(clean=a["clean"][:11]),
    "predictions has the shape (5, 60), expected (6, 60)": lambda a: a.update(predictions=a["predictions"][:5]),
    "labels holds something that is no index": lambda a: a.update(labels=a["labels"] + 5),
    "adversarial holds something that is no finite float": lambda a: a["adversarial"].__setitem__((0, 0), np.nan),
}


@pytest.mark.parametrize("message", BAD_ARRAYS)
def test_malformed_arrays_are_refused_by_name(tmp_path, message):
    arrays = sample_arrays()
    BAD_ARRAYS[message](arrays)
    with pytest.raises(DataError, match=re.escape(message)):
        written(tmp_path, sample(), arrays)


@pytest.mark.parametrize("name", ["result.json", "figures.npz"])
@pytest.mark.parametrize("content", [None, b"", b"not what it should be"])
def test_a_missing_or_broken_file_is_named(tmp_path, name, content):
    (tmp_path / "result.json").write_text(json.dumps(sample(1, 0)))
    np.savez(tmp_path / "figures.npz", **sample_arrays())
    (tmp_path / "report.html").write_text("an earlier page")
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=name):
        build(tmp_path)
    assert (tmp_path / "report.html").read_text() == "an earlier page"
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []
