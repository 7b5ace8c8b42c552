"""Every setting of Lethe, with its unit and its default; no other file holds one.

A run is described by one `Settings`. Flower's run configuration and the scenario files
(`simulations/*.toml`) speak the same names, flattened with dots: `general.width`, `probe.epsilons_sd`.
"""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from math import inf, isfinite
from typing import Literal, Self, get_args, get_type_hints

from shared.errors import UsageError
from shared.unlearning import parse_methods

Task = Literal["single", "multi"]
Profile = Literal["default", "paper"]
Removal = Literal["exact", "sisa"]
Value = bool | int | float | str

SUPERCLASSES = ("NORM", "MI", "STTC", "CD", "HYP")
LEADS = ("I", "II", "III", "AVR", "AVL", "AVF", "V1", "V2", "V3", "V4", "V5", "V6")
SAMPLING_HZ = 500
RECORD_SAMPLES = 5000
SEGMENT_SAMPLES = 500
SEGMENTS_PER_RECORD = RECORD_SAMPLES // SEGMENT_SAMPLES


@dataclass(frozen=True)
class Cohort:
    """Who plays which part, by patient and never by segment: `simulations/split.py`.

    Those who recorded most wear devices; `seed` draws between ties, and who of the others is a control.
    """

    wearables: int = 24  # patients with a device, one Flower node each
    controls: int = 24  # patients whom no model ever sees
    seed: int = 0


@dataclass(frozen=True)
class General:
    """The general model and its training."""

    width: int = 16  # channels of the first stage; 64 is the paper's ResNet-34
    task: Task = "single"  # one superclass a record (softmax) or any number (sigmoid)
    smoothing_ms: float = 10.0  # moving average in front of the network; 0 leaves it out
    epochs: int = 12  # an epoch sees ten 1 s crops of every record
    batch_size: int = 128
    learning_rate: float = 2e-3  # peak of a one-cycle schedule
    weight_decay: float = 5e-2
    averaging: float = 0.99  # decay of the moving average over steps that becomes the model
    mixup: float = 0.3  # parameter of the beta distribution that blends pairs of crops; 0 leaves it out
    noise_sd: float = 0.1  # Gaussian noise on training crops, in standard deviations of each lead
    gain_sd: float = 0.2  # of the logarithm of a crop's random gain
    lead_dropout: float = 0.1  # probability that a lead of a crop is blanked
    dropout: float = 0.3  # in front of the head, in training
    max_segments: int = 0  # train on at most this many crops in all; 0 means no limit
    validation: float = 0.1  # share of the corpus's patients
    unlearning: Removal = "exact"  # of a corpus patient: trained again, or `sisa`, from the patient's slice on
    slices: int = 3  # of patients, for `sisa`: learnt one after another, for an epoch each at least (`server/sisa.py`)
    seed: int = 0


@dataclass(frozen=True)
class Personalisation:
    """How a device makes its own copy."""

    profile: Profile = "default"  # last block and head with an anchor, or the paper's whole network without
    steps: int = 30
    batch_size: int = 32  # own segments a step, at most
    anchor_batch_size: int = 16  # anchor segments a step, at most
    learning_rate: float = 2e-3
    anchor_segments: int = 64  # public corpus segments, trained on by the general model, to hold a copy to it
    gate_segments: int = 128  # public corpus segments no model is trained on, to measure what others lose
    anchor_weight: float = 5.0  # of the distillation term
    budget: float = 0.02  # others' accuracy may fall by this much before the device rolls back
    held_out: float = 0.3  # of the segments, when a device has one record and splits by time
    int8: bool = False  # whether its wearable runs eight bits, where they cost no more than their gate allows
    seed: int = 0


@dataclass(frozen=True)
class Unlearning:
    """What happens when a patient withdraws."""

    methods: str = "finetune,exact"  # the ladder: all are measured from one checkpoint, the first that passes is served
    epochs: int = 4  # of a method that trains, each over the whole retain set; validation data say which is kept
    generator_groups: int = (
        4000  # of zero-shot transfer at most, as published: a generator step and ten student steps each
    )
    generator_batch_size: int = 256  # segments that its generator makes a step
    i_mean_the_class: bool = False  # lets `gkt` forget the patient's superclass for everybody
    rehearsals: int = 0  # patients who withdraw in mid-run; a demonstration, 0 in production


@dataclass(frozen=True)
class Probe:
    """The paper's FGSM probe (equations 1 and 5 to 8)."""

    epsilons_sd: str = "0,0.01,0.02,0.05,0.1,0.2"  # in standard deviations of each lead
    control_segments: int = 120  # of patients whom no model ever sees; a comparison of copies takes LEAST_CONTROLS


@dataclass(frozen=True)
class Audit:
    """The counterfactual audit of a withdrawal, and the certificate."""

    copies: int = 16  # models an arm that a device trains to compare; 0 leaves the statistics out
    epsilon_sd: float = 0.05  # strength of the attack whose discrepancy is one of the scores, in lead SDs
    white_box: bool = False  # whether devices also send the served weights, for the server's memory alone
    deadline_days: int = 30  # by when a withdrawal is to be certified; at most 92, for the law (GDPR, article 12) gives
    # a month, and two more where it is complex
    valid_days: int = 3650  # how long a certificate may be relied on; at most a century
    seed: int = 0


@dataclass(frozen=True)
class Streaming:
    """How a wearable in use runs its bundle; no part of a run, so `Settings` does not hold it."""

    hop_s: float = 0.5  # a window of one second is judged this often
    smoothing_windows: int = 6  # conclusive windows whose probabilities are averaged
    alarm_on: float = 0.6  # an episode begins where the average reaches this,
    alarm_off: float = 0.4  # and ends where it falls below this
    check_s: float = 1.0  # between two looks at whether the bundle may still run
    stall_s: float = 2.0  # nothing came for so long: a gap
    valid_days: int = 90  # how long a signed bundle may run; every run of the hospital signs it anew in time
    flat_mv: float = 0.02  # a lead that moves less within a window is flat,
    still_ms: float = 400.0  # and so is one that has one value for so long
    clipped_ms: float = 50.0  # a lead that stays so long at the window's very end of its range,
    clipped_mv: float = 0.5  # so far from its median, is saturated
    noise_mv: float = 0.04  # a lead whose typical step from sample to sample is larger is noisy
    least_mv: float = 0.02  # where no lead moves more in a window, the samples are not in millivolts: volts,
    most_mv: float = 50.0  # and where one moves more, microvolts
    range_mv: float = 20.0  # a lead that moves more is out of range; on 4,040 segments of real ECG none did by 14
    units_s: float = 5.0  # so long a stream may begin like that before it is refused: electrodes are being put on


LEAST_CONTROLS = 10  # segments, one record's; RMIA counts the share of them that a copy outdoes
MOST_SEED = 2**32 - 1  # what NumPy's old generators take, and PyTorch's too


@dataclass(frozen=True)
class _Range:
    """The numbers a setting may be, from `least` to `most`; `open` leaves the ends themselves out."""

    least: float = 0
    most: float = inf
    open: Literal["", "least", "most", "both"] = ""

    def __contains__(self, value: float) -> bool:
        above = value > self.least if self.open in ("least", "both") else value >= self.least
        below = value < self.most if self.open in ("most", "both") else value <= self.most
        return above and below and isfinite(value)

    def __str__(self) -> str:
        least = f"more than {self.least:g}" if self.open in ("least", "both") else f"{self.least:g} or more"
        if self.most == inf:
            return least
        return f"{least} and {'less than' if self.open in ('most', 'both') else 'at most'} {self.most:.10g}"


_SEED = _Range(most=MOST_SEED)
_COUNT = _Range(least=1)
_POSITIVE = _Range(open="least")
_SHARE = _Range(most=1, open="both")
_DROPOUT = _Range(most=1, open="most")
_RANGES = {
    "cohort.wearables": _COUNT,
    "cohort.controls": _COUNT,
    "cohort.seed": _SEED,
    "general.width": _COUNT,
    "general.smoothing_ms": _Range(most=1000 * SEGMENT_SAMPLES / SAMPLING_HZ),
    "general.epochs": _COUNT,
    "general.batch_size": _COUNT,
    "general.learning_rate": _POSITIVE,
    "general.averaging": _DROPOUT,
    "general.lead_dropout": _DROPOUT,
    "general.dropout": _DROPOUT,
    "general.validation": _SHARE,
    "general.slices": _COUNT,
    "general.seed": _SEED,
    "personalisation.steps": _COUNT,
    "personalisation.batch_size": _COUNT,
    "personalisation.anchor_batch_size": _COUNT,
    "personalisation.learning_rate": _POSITIVE,
    "personalisation.anchor_segments": _COUNT,
    "personalisation.gate_segments": _COUNT,
    "personalisation.budget": _Range(most=1),
    "personalisation.held_out": _SHARE,
    "personalisation.seed": _SEED,
    "unlearning.epochs": _COUNT,
    "unlearning.generator_groups": _COUNT,
    "unlearning.generator_batch_size": _Range(least=2),
    "probe.control_segments": _Range(least=LEAST_CONTROLS),
    "audit.deadline_days": _Range(least=1, most=92),
    "audit.valid_days": _Range(least=1, most=36_500),
    "audit.seed": _SEED,
}  # any other number is 0 or more


@dataclass(frozen=True)
class Settings:
    """All settings of one run."""

    cohort: Cohort = field(default_factory=Cohort)
    general: General = field(default_factory=General)
    personalisation: Personalisation = field(default_factory=Personalisation)
    unlearning: Unlearning = field(default_factory=Unlearning)
    probe: Probe = field(default_factory=Probe)
    audit: Audit = field(default_factory=Audit)

    def flat(self) -> dict[str, Value]:
        """Return `{"general.width": 16, ...}`."""
        return {f"{group}.{name}": value for group, part in asdict(self).items() for name, value in part.items()}

    def with_values(self, values: Mapping[str, object]) -> Self:
        """Return a copy with `{"general.width": 64}` replaced.

        Raises:
            UsageError: an unknown name, a value of the wrong type or outside its range, or slices without `sisa`.
        """
        groups = {f.name: getattr(self, f.name) for f in fields(self)}
        for key, value in values.items():
            group, _, name = key.partition(".")
            if group not in groups or name not in get_type_hints(type(groups[group])):
                near = difflib.get_close_matches(key, self.flat(), n=1)
                hint = f"did you mean {near[0]}? " if near else ""
                named = [name for name in sorted(self.flat()) if group not in groups or name.startswith(f"{group}.")]
                raise UsageError(f"unknown setting {key!r}; {hint}there are {', '.join(named)}")
            groups[group] = replace(groups[group], **{name: _checked(type(groups[group]), key, name, value)})
        made = type(self)(**groups)
        if made.general.unlearning == "exact" and made.general.slices not in (1, General.slices):
            raise UsageError(
                f"general.slices is {made.general.slices}, and nothing is learnt in slices without sisa; set "
                f"general.unlearning=sisa, too, or leave general.slices at {General.slices}"
            )
        return made


def numbers(text: str) -> tuple[float, ...]:
    """Return the numbers of a setting such as `probe.epsilons_sd`; Flower's configuration has no lists.

    Raises:
        UsageError: something in it is no number, or negative.
    """
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"{text!r} is no list of numbers, expected something like '0,0.01,0.05'") from error
    if any(not 0 <= number < float("inf") for number in found):
        raise UsageError(f"{text!r} holds a number that is negative or not finite, expected 0 or more")
    return found


_TEXTS: Mapping[str, Callable[[str], object]] = {"probe.epsilons_sd": numbers, "unlearning.methods": parse_methods}


def _checked(group: type, key: str, name: str, value: object) -> Value:
    """Return `value` as the type that the field declares, within its range."""
    kind = get_type_hints(group)[name]
    choices = get_args(kind)
    if choices:
        if value in choices:
            return str(value)
        raise UsageError(f"{key} is {value!r}, expected one of {', '.join(choices)}")
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not kind:
        raise UsageError(f"{key} is {value!r}, expected {kind.__name__}")
    if key in _TEXTS:
        _TEXTS[key](str(value))
    allowed = _RANGES.get(key, _Range())
    if isinstance(value, int | float) and value not in allowed:
        raise UsageError(f"{key} is {value!r}, expected {allowed}")
    return value  # type: ignore[return-value]
