"""The auditor audited: withdrawals of whom the truth is known, judged by the auditor, and counted.

Doing nothing must be found, over-forgetting refused, retraining left alone, strangers never accused. What refutes an
exact method on its own level is looked at a second time, as it is in a job. Nothing is
asserted: the rates go to the terminal, and into docs/AUDIT.md and the README. Whose withdrawals these are is in
`simulations/calibration_data.py`, what is asked of them in `calibration_jobs.py`, the table in `calibration_table.py`.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from server.auditor import judge_method
from server.rule import CONFIRMATION, LEAST_PATIENTS
from server.verdicts import MethodVerdict
from shared.audit_messages import AuditReply
from shared.machine import cores
from shared.settings import Settings
from shared.unlearning import EXACT
from simulations.calibration_jobs import QUESTIONS, Question, audit, bytes_hold, judged, questions_of, withdrawals
from simulations.calibration_table import Outcome, Row, row
from simulations.pool import Progress, pool_of, run_all
from simulations.worlds import Worlds, build_all, machine, prepare, wearers_in, world_of

Levels = Mapping[tuple[str, str], dict[int | None, MethodVerdict]]  # (question, method) -> seed, or None for all


@dataclass(frozen=True)
class Plan:
    """What is calibrated.

    Attributes:
        data: a folder in PTB-XL's layout.
        patients: wearers a seed; `server.rule.LEAST_PATIENTS` or more, or no method is judged a seed.
        copies: K, an arm.
        seeds: worlds: patients, general model and copies of their own.
        width: of the general models.
        only: the withdrawals that are made, such as "class"; () makes all of `calibration_jobs.withdrawals`.
    """

    data: Path
    patients: int = 8
    copies: int = 16
    seeds: int = 5
    width: int = 16
    only: tuple[str, ...] = ()

    def worlds(self, scratch: Path) -> Worlds:
        """Return the worlds of the plan; what they are made of is kept in `scratch`."""
        return Worlds(self.data, scratch, patients=self.patients, seeds=self.seeds, width=self.width)


class Result(TypedDict):
    """What was found; plain JSON. `looks` counts an exact method's verdicts on its own level, and refuted ones."""

    data: str
    patients: int
    copies: int
    seeds: int
    width: int
    models: list[dict[str, float | None]]
    rows: list[Row]
    jobs: list[dict[str, Any]]
    bytes: dict[str, dict[str, int]]
    looks: dict[str, int]
    seconds: float
    seconds_models: float
    cpu_seconds_audit: float
    workers: int
    machine: str


@dataclass(frozen=True)
class _Answer:
    """One device's answer, and whether the bytes of "nothing" and "exact" are what they would have been."""

    world: int
    wearer: str
    withdrawal: str
    reply: AuditReply
    bytes: dict[str, bool]
    cpu_seconds: float


def calibrate(plan: Plan, *, scratch: Path, progress: Progress, workers: int | None = None) -> Result:
    """Make the withdrawals of a plan, judge them, and count.

    Args:
        plan: of whom and how many.
        scratch: an empty folder for signals and models.
        progress: draws a bar, such as `shared.terminal.progress`.
        workers: processes, each on one thread; default one a core.

    Raises:
        DataError: too few control segments, or the folder is not what it should be.
        UsageError: too few patients.
    """
    began, workers = time.perf_counter(), workers or cores()
    prepare(plan.worlds(scratch))
    with pool_of(workers) as pool:
        models = build_all(plan.worlds(scratch), pool, progress)
        trained = time.perf_counter()
        tasks = [(_answer, plan, scratch, *one) for one in _withdrawals(plan, scratch)]
        answers: list[_Answer] = run_all(pool, progress, "auditing withdrawals", tasks)
        levels = _levels(answers)
        due = [(_again, plan, scratch, *one) for one in _due(plan, scratch, levels)]
        again: list[_Answer] = run_all(pool, progress, "looking a second time", due) if due else []
    outcomes = [outcome for answer in answers for outcome in _judged(answer)]
    final = _confirmed(levels, again)
    return {
        "data": plan.data.name,
        "patients": plan.patients,
        "copies": plan.copies,
        "seeds": plan.seeds,
        "width": plan.width,
        "models": models,
        "rows": list(_rows(outcomes, final)),
        "jobs": [_brief(outcome) for outcome in outcomes],
        "bytes": _bytes(answers),
        "looks": {
            "verdicts": sum(len(found) for (_, method), found in levels.items() if method in EXACT),
            "refuted_once": len(_refuted(levels)),
            "refuted_twice": len(_refuted(final)),
        },
        "seconds": time.perf_counter() - began,
        "seconds_models": trained - began,
        "cpu_seconds_audit": sum(answer.cpu_seconds for answer in (*answers, *again)),
        "workers": workers,
        "machine": machine(),
    }


def _settings(plan: Plan, scratch: Path, seed: int) -> Settings:
    settings = plan.worlds(scratch).settings(seed)
    return replace(settings, audit=replace(settings.audit, copies=plan.copies))


def _withdrawals(plan: Plan, scratch: Path) -> Iterable[tuple[int, int, str]]:
    """Return seed, wearer and withdrawal of every audit."""
    for seed in range(plan.seeds):
        for number, wearer in enumerate(wearers_in(plan.worlds(scratch), seed)):
            for withdrawal in withdrawals(wearer):
                if not plan.only or withdrawal in plan.only:
                    yield seed, number, withdrawal


def _answer(plan: Plan, scratch: Path, seed: int, number: int, withdrawal: str) -> _Answer:
    began = time.process_time()
    wearer, settings = wearers_in(plan.worlds(scratch), seed)[number], _settings(plan, scratch, seed)
    general, public = world_of(plan.worlds(scratch), seed)
    reply = audit(wearer, withdrawal, general, public, settings, seed=_seed(seed, number, withdrawal))
    held = bytes_hold(wearer, withdrawal, general, public, settings)
    return _Answer(seed, wearer.name, withdrawal, reply, held, time.process_time() - began)


def _again(plan: Plan, scratch: Path, seed: int, number: int, withdrawal: str) -> _Answer:
    """Audit an exact method with fresh copies and `CONFIRMATION` times as many."""
    began = time.process_time()
    more = replace(plan, copies=CONFIRMATION * plan.copies)
    wearer, settings = wearers_in(plan.worlds(scratch), seed)[number], _settings(more, scratch, seed)
    general, public = world_of(plan.worlds(scratch), seed)
    fresh = _seed(seed, number, withdrawal, look=1)
    reply = audit(wearer, withdrawal, general, public, settings, seed=fresh, methods=EXACT)
    return _Answer(seed, wearer.name, withdrawal, reply, {}, time.process_time() - began)


def _seed(seed: int, number: int, withdrawal: str, *, look: int = 0) -> int:
    entropy = [seed, number, *withdrawal.encode(), *([look] if look else [])]
    return int(np.random.SeedSequence(entropy).generate_state(1)[0])


def _judged(answer: _Answer) -> list[Outcome]:
    return [
        outcome
        for question in questions_of(answer.withdrawal)
        for outcome in judged(answer.reply, question, wearer=answer.wearer, seed=answer.world)
    ]


def _rows(outcomes: Sequence[Outcome], levels: Levels) -> Iterable[Row]:
    for question in QUESTIONS:
        for method, expected in question.expected.items():
            found = [one for one in outcomes if (one["question"], one["method"]) == (question.title, method)]
            if found:
                yield row(question.title, expected, found, levels[question.title, method])


def _levels(answers: Sequence[_Answer]) -> Levels:
    """Return every method's verdicts on its own level."""
    asked = {answer.withdrawal for answer in answers}
    return {
        (question.title, method): _level(
            answers, question, method, seeds=(*sorted({one.world for one in answers}), None)
        )
        for question in QUESTIONS
        if question.withdrawal in asked
        for method in question.expected
    }


def _level(
    answers: Sequence[_Answer], question: Question, method: str, *, seeds: Iterable[int | None]
) -> dict[int | None, MethodVerdict]:
    """Return a method's verdict of each of `seeds` that has patients enough; None is all of them together."""
    asked = [answer for answer in answers if answer.withdrawal == question.withdrawal]
    found: dict[int | None, MethodVerdict] = {}
    for seed in seeds:
        replies = [answer.reply for answer in asked if seed in (None, answer.world)]
        if len(replies) >= LEAST_PATIENTS:
            found[seed] = judge_method(replies, method, group=question.group, seed=seed or 0)
    return found


def _refuted(levels: Levels) -> list[tuple[Question, str, int | None]]:
    """Return the questions, methods and seeds in which an exact method FAILs."""
    return [
        (question, method, seed)
        for question in QUESTIONS
        for method in question.expected
        for seed, verdict in levels.get((question.title, method), {}).items()
        if method in EXACT and verdict["verdict"] == "FAIL"
    ]


def _due(plan: Plan, scratch: Path, levels: Levels) -> list[tuple[int, int, str]]:
    """Return seed, wearer and withdrawal of every audit that is made a second time."""
    due = {(question.withdrawal, seed) for question, _, seed in _refuted(levels)}
    return [one for one in _withdrawals(plan, scratch) if {(one[2], one[0]), (one[2], None)} & due]


def _confirmed(levels: Levels, again: Sequence[_Answer]) -> Levels:
    """Return the verdicts, those that refute an exact method replaced by what the second look says."""
    final = {key: dict(found) for key, found in levels.items()}
    for question, method, seed in _refuted(levels):
        final[question.title, method] |= _level(again, question, method, seeds=[seed])
    return final


def _bytes(answers: Sequence[_Answer]) -> dict[str, dict[str, int]]:
    names = list(answers[0].bytes)
    return {name: {"jobs": len(answers), "holds": sum(answer.bytes[name] for answer in answers)} for name in names}


def _brief(outcome: Outcome) -> dict[str, Any]:
    primary = outcome["statistics"]["scores"][0]
    figures = {name: primary[name] for name in ("auc", "low95", "high95")}
    about = {name: outcome[name] for name in ("seed", "wearer", "question", "method")}
    return {**about, "verdict": outcome["statistics"]["verdict"], **figures}
