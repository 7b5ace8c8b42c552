"""What a report is made from: the two files that a run leaves in its report folder, read and checked.

`SHAPE` is the description of `result.json`. `figures.npz` holds public control segments only, never a
wearable patient's. What the page makes of them is `server/report.py`'s.
"""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from shared.errors import DataError
from shared.settings import LEADS, SEGMENT_SAMPLES, SUPERCLASSES

Result = dict[str, Any]
Arrays = dict[str, npt.NDArray[Any]]

_N = (float, None)  # a number that may be missing: nothing was held out, or nothing could be computed
_METRICS = {"n": int, "accuracy": _N, "macro_f1": _N, "macro_auc": _N}
_PART = {"patients": int, "records": int, "withdrawn": int}
_ACCURACY = {"n": int, "general": _N, "personal": _N, "unlearned": _N}
_BEFORE_AFTER = {"segments": int, "before": [_N], "after": [_N]}
_GROUP = {
    "patients": int,
    "segments": int,
    "general": [_N],
    "personal": [_N],
    "difference": [_N],
    "low": [_N],
    "high": [_N],
    "positive": _N,
    "extracted": (int, None),
}
_RATE = ({"value": float, "low": float, "high": float}, None)
_SCORE = {
    **{"name": str, "primary": bool},
    **dict.fromkeys(("auc", "low90", "high90", "low95", "high95", "p", "p_holm", "epsilon"), float),
    **{"tpr_at_1": _RATE, "tpr_at_5": _RATE},
}
_STATISTICS = {
    **dict.fromkeys(("method", "group", "unit", "verdict", "words"), str),
    **{"n": int, "segments": int, "identical": bool, "certainty": _N, "detectable": _N, "needed": (int, None)},
    **{"unlearned": [float], "never": [float], "scores": [_SCORE]},
}
_VERDICT = {
    **dict.fromkeys(("verdict", "words", "method"), str),
    **{"exact": bool, "copies": int, "seeds": [int]},
    **dict.fromkeys(("before", "after", "retained"), (_STATISTICS, None)),
    "earlier": [_STATISTICS],
    "bytes": {"holds": bool, "checks": [{"name": str, "expected": str, "seen": str, "holds": bool}]},
}
SHAPE: Mapping[str, Any] = {
    "run": str,
    "created": str,
    "code_version": str,
    "seconds": float,
    "settings": dict,
    "data": {"folder_name": str, "unit": str, "patients": int, "records": int, "left_out": dict},
    "split": {"corpus": _PART, "wearables": _PART, "controls": _PART},
    "general": {
        "digest": str,
        "data": str,
        "withdrawn": {"corpus": int, "control": int},
        "withdrawn_since": {"corpus": int, "control": int},
        "reused": bool,
        "device": str,
        "parameters": int,
        "seconds": float,
        "curves": [
            {
                "epoch": int,
                "train_loss": _N,
                "train_accuracy": _N,
                "validation_loss": _N,
                "validation_accuracy": _N,
            }
        ],
        "metrics": {"segment": _METRICS, "record": _METRICS},
        "majority": _N,
    },
    "personal": [
        {
            **dict.fromkeys(("records", "train_segments", "held_out_segments"), int),
            "slot": (int, None),
            **dict.fromkeys(("pseudonym", "split", "reason", "general", "personal", "bundle"), str),
            **dict.fromkeys(("own_general", "own_personal", "others_general", "others_personal"), _N),
            **{"accepted": bool, "parity": _N, "seconds": _N},
        }
    ],
    "probe": {"epsilons_sd": [float], "groups": {"member": _GROUP, "held_out": _GROUP, "control": _GROUP}},
    "withdrawals": [
        {
            **dict.fromkeys(("job", "pseudonym", "scope", "requested_at", "served", "general", "before", "after"), str),
            **{
                "slot": (int, None),
                "records": int,
                "named": [str],
                "unlearned_at": (str, None),
                "equals_general": bool,
            },
            "methods": [
                {
                    **{"method": str, "exact": bool, "after": str, "seconds": _N},
                    **{"own": _ACCURACY, "others": _ACCURACY},
                    "difference": dict.fromkeys(("forgotten", "held_out", "control"), _BEFORE_AFTER),
                }
            ],
            "erased": {"segments": int, "bytes": int, "files": [str]},
            **{"state": str, "reason": str, "deadline": (str, None), "steps": [{"state": str, "at": str}]},
            **{"verdict": (_VERDICT, None), "certificate": ({"file": str, "sha256": str}, None)},
        }
    ],
    "phases": [{"name": str, "seconds": _N}],
    "overhead_seconds": _N,
    "refused": [{"pseudonym": str, "asked": str, "reason": str}],
    "silent": [{"pseudonym": str, "reason": str}],
}
_SINCE: Result = {"refused": [], "silent": []}  # results of earlier versions lack them
_VERDICTS = ("PASS", "FAIL", "INCONCLUSIVE")
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_CURVES = ("general", "personal", "difference", "low", "high")


def load_result(path: Path) -> Result:
    """Return the run's results, checked against `SHAPE`; numbers that are not finite become missing."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: None)
    except FileNotFoundError:
        raise DataError(f"{path} is missing; `lethe run` writes it, `lethe report` only reads it") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is not readable JSON ({error}); run again to write a new one") from error
    result = _clean(result)
    _check(result, dict, path.name)
    result = _SINCE | result
    _check(result, SHAPE, path.name)
    strengths = len(result["probe"]["epsilons_sd"])
    for name, group in result["probe"]["groups"].items():
        for key in _CURVES:
            if len(group[key]) != strengths:
                where, seen = f"{path.name}: probe.groups.{name}.{key}", len(group[key])
                raise DataError(f"{where} has {seen} values, expected {strengths}, one for each epsilon")
    for withdrawal in result["withdrawals"]:
        _check_withdrawal(withdrawal, path.name)
    return dict(result)


def _check_withdrawal(withdrawal: Result, file: str) -> None:
    """Raise DataError where a withdrawal contradicts itself, or has a verdict that is none or rests on no score."""
    where = f"{file}: job {withdrawal['job']}"
    measured = [method["method"] for method in withdrawal["methods"]]
    if measured and withdrawal["served"] not in measured:
        raise DataError(f"{where} serves {withdrawal['served']!r}, which was not measured")
    verdict = withdrawal["verdict"]
    if verdict is None:
        if withdrawal["certificate"] is not None:
            raise DataError(f"{where} has a certificate and no verdict")
        return
    compared = {part: verdict[part] for part in ("before", "after", "retained") if verdict[part] is not None}
    for part in (verdict, *compared.values()):
        if part["verdict"] not in _VERDICTS:
            raise DataError(f"{where} has the verdict {part['verdict']!r}, expected one of {', '.join(_VERDICTS)}")
    if withdrawal["certificate"] is not None and verdict["verdict"] != "PASS":
        raise DataError(f"{where} has a certificate, and its verdict is {verdict['verdict']}, expected PASS")
    for name, part in compared.items():
        if sum(score["primary"] for score in part["scores"]) != 1:
            raise DataError(f"{where}: {name} has no one primary score, on which a verdict rests")
        for arm in ("unlearned", "never"):
            if len(part[arm]) != part["n"] or not part["n"]:
                raise DataError(f"{where}: {name}.{arm} has {len(part[arm])} copies, expected {part['n']}, at least 1")


def _clean(value: Any) -> Any:
    """Return JSON with a mark for characters that no page can show or that turn text around, None for infinity."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return _UNPRINTABLE.sub("\ufffd", value)
    if isinstance(value, list):
        return [_clean(item) for item in value]
    if isinstance(value, dict):
        return {_clean(key): _clean(item) for key, item in value.items()}
    return value


def _check(value: Any, shape: Any, where: str) -> None:
    """Raise DataError unless `value` has the `shape`: a type, {key: shape}, [shape] or (shape, None)."""
    if isinstance(shape, tuple):
        if value is not None:
            _check(value, shape[0], where)
        return
    kind: type = shape if isinstance(shape, type) else type(shape)
    allowed = (int, float) if kind is float else (kind,)
    fits = isinstance(value, allowed) and (kind is bool or not isinstance(value, bool))
    if not fits:
        raise DataError(f"{where} is {_short(value)}, expected {kind.__name__}; was it written by this version?")
    if isinstance(shape, list):
        for number, item in enumerate(value):
            _check(item, shape[0], f"{where}[{number}]")
    elif isinstance(shape, Mapping):
        for key, part in shape.items():
            if key not in value:
                raise DataError(f"{where} has no {key!r}; was it written by this version?")
            _check(value[key], part, f"{where}.{key}")


def _short(value: object) -> str:
    return f"{type(value).__name__} {str(value)[:40]!r}"


def load_arrays(path: Path, *, strengths: int) -> Arrays:
    """Return the arrays that the figures of public control segments need; none when a run had no such segments."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: np.asarray(file[name]) for name in file.files}
    except FileNotFoundError:
        raise DataError(f"{path} is missing; `lethe run` writes it, `lethe report` only reads it") from None
    except (OSError, ValueError, BadZipFile, EOFError) as error:
        raise DataError(f"{path} is not a readable .npz file ({error}); run again to write a new one") from error
    if not arrays:
        return {}
    segments = arrays["labels"].size if "labels" in arrays else 0
    expected: dict[str, tuple[int, ...]] = {
        "clean": (len(LEADS), SEGMENT_SAMPLES),
        "adversarial": (len(LEADS), SEGMENT_SAMPLES),
        "epsilon_sd": (),
        "lead_sd": (len(LEADS),),
        "label": (),
        "clean_prediction": (),
        "adversarial_prediction": (),
        "labels": (segments,),
        "predictions": (strengths, segments),
    }
    for name, shape in expected.items():
        if name not in arrays or arrays[name].shape != shape:
            seen = f"has the shape {arrays[name].shape}" if name in arrays else "is missing"
            raise DataError(f"{path.name}: {name} {seen}, expected {shape}; was it written by this version?")
    for name in ("clean", "adversarial"):
        if arrays[name].dtype.kind != "f" or not np.isfinite(arrays[name]).all():
            raise DataError(f"{path.name}: {name} holds something that is no finite float; run again")
    for name in ("label", "clean_prediction", "adversarial_prediction", "labels", "predictions"):
        if not np.isin(arrays[name], np.arange(len(SUPERCLASSES))).all():
            raise DataError(f"{path.name}: {name} holds something that is no index of {', '.join(SUPERCLASSES)}")
    return arrays
