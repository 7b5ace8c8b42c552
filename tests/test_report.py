"""What the report promises: one file that loads nothing, says what was measured, and breaks on nothing."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from server.report import build
from shared.errors import DataError
from shared.settings import Settings

EPSILONS = [0.0, 0.01, 0.02, 0.05, 0.1, 0.2]
VOID = {"meta", "link", "br", "hr", "img", "input", "col", "wbr"}


def sha(rng):
    return rng.bytes(32).hex()


def curve(rng, start, end, noise=0.01):
    return [round(float(v), 4) for v in np.linspace(start, end, len(EPSILONS)) + rng.normal(0, noise, len(EPSILONS))]


def device(rng, slot, general):
    before = round(float(np.clip(rng.normal(0.72, 0.15), 0.1, 1)), 1)
    after = round(min(1.0, before + float(abs(rng.normal(0.15, 0.1)))), 1)
    others = 0.80
    accepted = bool(rng.random() < 0.9)
    return {
        "slot": slot,
        "pseudonym": f"p-{rng.bytes(4).hex()}",
        "records": 3 if slot % 3 else 1,
        "train_segments": 20,
        "held_out_segments": 10,
        "split": "record" if slot % 3 else "time",
        "accepted": accepted,
        "reason": "" if accepted else "others' accuracy would fall from 0.800 to 0.742, more than 0.020",
        "general": general,
        "personal": sha(rng) if accepted else general,
        "bundle": sha(rng),
        "own_general": before,
        "own_personal": after if accepted else before,
        "others_general": others,
        "others_personal": round(others - float(abs(rng.normal(0.005, 0.006))), 3) if accepted else others,
        "parity": 2e-7,
        "seconds": 1.1,
    }


def group(rng, patients, segments, gain, positive):
    general, gains = curve(rng, 0.8, 0.08), curve(rng, gain / 2, gain)
    return {
        "patients": patients,
        "segments": segments,
        "general": general,
        "personal": [round(a + b, 4) for a, b in zip(general, gains, strict=True)],
        "difference": gains,
        "low": [v - 0.04 for v in gains],
        "high": [v + 0.04 for v in gains],
        "positive": positive,
        "extracted": 31,
    }


def difference(rng, segments, before, after):
    return {"segments": segments, "before": curve(rng, before / 2, before), "after": curve(rng, after / 2, after)}


def method(rng, name, after, kept):
    own = {"n": 10 if kept else 0, "general": 0.7, "personal": 0.9, "unlearned": 0.8 if name == "exact" else 0.85}
    return {
        "method": name,
        "exact": name == "exact",
        "after": after,
        "seconds": 0.8,
        "own": own if kept else dict.fromkeys(own, None) | {"n": 0},
        "others": {"n": 60, "general": 0.8, "personal": 0.79, "unlearned": 0.8},
        "difference": {
            "forgotten": difference(rng, 10, 0.12, 0.0 if name == "exact" else 0.09),
            "held_out": difference(rng, 10, 0.08, 0.01),
            "control": difference(rng, 60, 0.05, 0.0 if name == "exact" else 0.04),
        },
    }


def withdrawal(rng, who, whole):
    after = who["general"] if whole else sha(rng)
    return {
        "job": f"j-{rng.bytes(4).hex()}",
        "pseudonym": who["pseudonym"],
        "slot": who["slot"],
        "scope": "patient" if whole else "records",
        "records": ["811", "812", "813"] if whole else ["812"],
        "requested_at": "2026-11-23T15:43:10+00:00",
        "unlearned_at": "2026-11-23T15:45:02+00:00",
        "served": "exact",
        "general": who["general"],
        "before": who["personal"],
        "methods": [method(rng, "finetune", sha(rng), not whole), method(rng, "exact", after, not whole)],
        "equals_general": whole,
        "erased": {
            "segments": 30 if whole else 10,
            "bytes": 2_612_345 if whole else 240_128,
            "files": ["segments/812.npy", "personal.safetensors", "bundle.onnx"],
        },
    }


def sample(devices=24, withdrawals=2, seed=0):
    """Return a result as a run writes it."""
    rng = np.random.default_rng(seed)
    general = sha(rng)
    fleet = [device(rng, slot, general) for slot in range(devices)]
    epochs = np.arange(1, 13)
    return {
        "run": "20261123-154500-ab12",
        "created": "2026-11-23T15:45:00+00:00",
        "code_version": "0.1.0+sha256:" + sha(rng)[:16],
        "seconds": 171.2,
        "settings": Settings().flat(),
        "data": {
            "folder_name": "ptbxl-mini",
            "unit": "mV",
            "digest": sha(rng),
            "patients": 379,
            "records": 404,
            "left_out": {"no superclass": 11, "several superclasses": 62},
        },
        "split": {
            "corpus": {"patients": 300, "records": 310},
            "wearables": {"patients": devices, "records": 2 * devices},
            "controls": {"patients": 24, "records": 24},
        },
        "general": {
            "digest": general,
            "reused": False,
            "device": "cpu",
            "parameters": 462_000,
            "seconds": 75.1,
            "curves": [
                {
                    "epoch": int(e),
                    "train_loss": round(1.1 * float(np.exp(-e / 4)) + 0.3, 4),
                    "train_accuracy": round(0.9 - 0.45 * float(np.exp(-e / 4)), 4),
                    "validation_loss": round(0.9 * float(np.exp(-e / 3)) + 0.5 + float(rng.normal(0, 0.02)), 4),
                    "validation_accuracy": round(0.8 - 0.35 * float(np.exp(-e / 3)) + float(rng.normal(0, 0.01)), 4),
                }
                for e in epochs
            ],
            "metrics": {
                "segment": {"n": 400, "accuracy": 0.79, "macro_f1": 0.61, "macro_auc": 0.88},
                "record": {"n": 40, "accuracy": 0.82, "macro_f1": 0.66, "macro_auc": 0.91},
            },
            "majority": 0.55,
        },
        "personal": fleet,
        "probe": {
            "epsilons_sd": EPSILONS,
            "groups": {
                "member": group(rng, devices, 400, 0.12, 0.57),
                "held_out": group(rng, devices, 200, 0.10, 0.57),
                "control": group(rng, 24, 60, 0.08, 0.72),
            },
        },
        "withdrawals": [withdrawal(rng, fleet[n], n % 2 == 0) for n in range(withdrawals)],
        "phases": [
            {"name": name, "seconds": seconds}
            for name, seconds in (
                ("general", 75.1),
                ("directory", 0.4),
                ("personalise", 31.0),
                ("probe", 12.5),
                ("unlearn", 9.3),
                ("result", 2.2),
            )
        ],
        "overhead_seconds": 24.5,
    }


def sample_arrays(seed=0, segments=60):
    """Return arrays as a run writes them: a beat on twelve leads and its perturbed copy."""
    rng = np.random.default_rng(seed)
    t = np.arange(500) / 500
    waves = ((0.2, 0.025, 0.12), (0.36, 0.008, -0.1), (0.38, 0.011, 1.0), (0.405, 0.01, -0.25), (0.65, 0.05, 0.3))
    beat = sum(height * np.exp(-(((t - centre) / width) ** 2) / 2) for centre, width, height in waves)
    gains = np.array([0.6, 1, 0.5, -0.8, 0.2, 0.7, -0.6, -1.1, 0.4, 1.1, 1.2, 0.9])
    clean = (gains[:, None] * beat + rng.normal(0, 0.008, (12, 500))).astype(np.float32)
    step = 0.05 * np.sign(np.cumsum(rng.normal(0, 1, (12, 500)), axis=1)) * clean.std(axis=1, keepdims=True)
    labels = np.sort(rng.choice(5, segments, p=[0.5, 0.15, 0.15, 0.1, 0.1]))
    wrong = rng.random((len(EPSILONS), segments)) < np.linspace(0.2, 0.92, len(EPSILONS))[:, None]
    return {
        "clean": clean,
        "adversarial": (clean + step).astype(np.float32),
        "epsilon_sd": np.float64(0.05),
        "lead_sd": clean.std(axis=1),
        "label": np.int64(0),
        "clean_prediction": np.int64(0),
        "adversarial_prediction": np.int64(2),
        "labels": labels,
        "predictions": np.where(wrong, rng.integers(0, 5, wrong.shape), labels),
    }


def written(folder, result, arrays=None):
    """Write a report folder, build its page, and return the page's path and text."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(json.dumps(result))
    np.savez(folder / "figures.npz", **(sample_arrays() if arrays is None else arrays))
    page = build(folder)
    return page, page.read_text()


class Page(HTMLParser):
    """Reads a page: text, attributes, ids, and every tag that is not closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.faults, self.tags, self.attributes, self.words = [], [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.faults.append(tag)

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self):
        return " ".join("".join(self.words).split())

    def values(self, name):
        return [value for _, found, value in self.attributes if found == name]


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


def test_the_first_lines_say_who_withdrew_and_how_much_was_erased(usual):
    _, _, page = usual
    assert "Two of 24 patients withdrew." in page.text
    assert "erased 40 segments of ECG and the models that had learned from them, 2.9 MB in all" in page.text
    assert "One model now served is, byte for byte, the general model" in page.text
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


def served(result, **changes):
    """Change the method that serves the first withdrawal."""
    result["withdrawals"][0]["methods"][-1].update(changes)
    return result


def test_an_approximate_method_is_never_called_exact(tmp_path):
    result = served(sample(withdrawals=1), method="finetune2", exact=False, after="ab" * 32)
    result["withdrawals"][0]["served"] = "finetune2"
    _, text = written(tmp_path, result)
    page = Page(text)
    assert "whether it forgot is not verified by this run" in page.text
    assert "Approximate: not verified by this run" in page.text
    assert "byte for byte, the general model" not in page.text


def test_an_exact_method_whose_bytes_differ_is_shown_as_a_failure(tmp_path):
    _, text = written(tmp_path, served(sample(withdrawals=1), after="ab" * 32))
    assert "should equal the general model byte for byte and does not" in Page(text).text
    assert "Exact: bytes equal" not in text


def test_a_flag_alone_does_not_make_bytes_equal(tmp_path):
    result = served(sample(withdrawals=1), after="ab" * 32)
    assert result["withdrawals"][0]["equals_general"]
    assert "byte for byte, the general model" not in Page(written(tmp_path, result)[1]).text


def test_a_withdrawal_that_has_not_reached_its_device_is_not_called_done(tmp_path):
    result = sample(withdrawals=1)
    result["withdrawals"][0]["unlearned_at"] = None
    text = Page(written(tmp_path, result)[1]).text
    assert "One withdrawal has not yet reached the device." in text
    assert "byte for byte, the general model" not in text


def test_a_device_that_never_made_a_model_has_only_erased(tmp_path):
    result = sample(withdrawals=1)
    result["withdrawals"][0] |= {"methods": [], "served": "", "general": "", "before": "", "equals_general": False}
    text = Page(written(tmp_path, result)[1]).text
    assert "One withdrawal came before a personal model had been made" in text
    assert "No model had been made" in text
    assert "byte for byte, the general model" not in text


def test_a_patient_who_left_before_the_others_became_personal_is_still_counted(tmp_path):
    result = sample()
    del result["personal"][0]
    assert "Two of 24 patients withdrew." in Page(written(tmp_path, result)[1]).text


def test_a_run_without_control_segments_has_a_page(tmp_path):
    page = Page(written(tmp_path, sample(), {})[1])
    assert page.text.count("This run had no public control segments to attack.") == 2
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
    result["withdrawals"][0] |= {"job": HOSTILE, "records": [HOSTILE]}
    result["withdrawals"][0]["erased"]["files"] = [HOSTILE, "\ud800"]
    result["withdrawals"][0]["methods"][0]["method"] = HOSTILE
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


def drop(result, *path):
    *parents, last = path
    for key in parents:
        result = result[key]
    del result[last]


BAD_RESULTS = {
    "has no 'probe'": lambda r: drop(r, "probe"),
    "general.metrics.record has no 'macro_f1'": lambda r: drop(r, "general", "metrics", "record", "macro_f1"),
    "personal[3].slot is str 'three', expected int": lambda r: r["personal"][3].update(slot="three"),
    "withdrawals[0].equals_general is int '1', expected bool": lambda r: r["withdrawals"][0].update(equals_general=1),
    "seconds is NoneType": lambda r: r.update(seconds=float("nan")),
    "probe.groups.control.low has 2 values, expected 6": lambda r: r["probe"]["groups"]["control"].update(low=[0, 0]),
    "serves 'magic', which was not measured": lambda r: r["withdrawals"][0].update(served="magic"),
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
