"""Made-up runs for the report's tests: results and arrays as a run writes them, and a page read as text."""

import json
from html.parser import HTMLParser

import numpy as np
from audited_withdrawals import at, audited
from markupsafe import Markup

from server.panels import Panel
from server.report import build
from shared.settings import Settings

EPSILONS = [0.0, 0.01, 0.02, 0.05, 0.1, 0.2]
APART = {"td", "th", "li", "dt", "dd", "p", "h1", "h2", "h3", "h4", "h5", "span", "strong"}  # words end with them
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
        "records": 3 if whole else 1,
        "named": ["811", "812", "813"] if whole else ["812"],
        "requested_at": at(),
        "unlearned_at": at(seconds=112),
        "served": "exact",
        "general": who["general"],
        "before": who["personal"],
        "after": after,
        "methods": [method(rng, "finetune", sha(rng), not whole), method(rng, "exact", after, not whole)],
        "equals_general": whole,
        "state": "UNLEARNED",
        "reason": "",
        "deadline": at(days=30),
        "steps": [{"state": "DISPATCHED", "at": at(seconds=95)}, {"state": "UNLEARNED", "at": at(seconds=112)}],
        "verdict": None,
        "certificate": None,
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
            "patients": 379,
            "records": 404,
            "left_out": {"no superclass": 11, "several superclasses": 62},
        },
        "split": {
            "corpus": {"patients": 300, "records": 310, "withdrawn": 0},
            "wearables": {"patients": devices, "records": 2 * devices, "withdrawn": 4},
            "controls": {"patients": 24, "records": 24, "withdrawn": 0},
        },
        "general": {
            "digest": general,
            "data": sha(rng),
            "withdrawn": {"corpus": 0, "control": 0},
            "withdrawn_since": {"corpus": 0, "control": 0},
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
        "withdrawals": [audited(withdrawal(rng, fleet[n], n % 2 == 0)) for n in range(withdrawals)],
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


def undrawn(_name, alt, _draw, **_):
    """Stand in for `server.panels.panel` where a page's words alone are looked at: pictures take it seconds."""
    return Panel(alt, Markup('<svg role="img" aria-label="{}"></svg>').format(alt))


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
        if tag in APART:
            self.words.append(" ")

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self):
        return " ".join("".join(self.words).split())

    def values(self, name):
        return [value for _, found, value in self.attributes if found == name]
