"""Doing nothing and overshooting fail, what cannot be judged is never a PASS, and words follow the numbers."""

import json
from dataclasses import replace

import numpy as np
import pytest

from server.auditor import bytes_of, choose, judge_job, judge_method, look, statistics, wants_confirmation
from server.comparison import check_reply
from server.method_audit import _decide
from server.rule import decide
from server.verdicts import STANDS_IN
from shared.audit_messages import AuditReply, AuditRequest, Readings, VerifyReply
from shared.errors import AuditError
from shared.inference import auc_interval
from shared.messages import UnlearnReply
from shared.settings import Personalisation, Unlearning

EXACT = frozenset({"exact"})
SHIFTS = {"nothing": 2.0, "finetune": 2.0, "overshoot": -2.0, "exact": 0.0}
OK = UnlearnReply("job", 3, "ok", served="exact", general="general", before="old", after="model", bundle="onnx")
ON_DISK = VerifyReply(
    "job", 3, "ok", general="general", served="model", bundle="onnx", fresh="model", records=("kept",)
)


def readings(margins) -> Readings:
    margins = np.array(margins, dtype=float)
    parts = margins, np.logaddexp(0, -margins), margins - 1, margins - 0.1
    return Readings(*(tuple(map(tuple, part.tolist())) for part in parts))


def answer(seed=0, *, copies=16, shifts=SHIFTS, sure=0.0, segments=4) -> AuditReply:
    """Margins of one patient: normal around each segment's own, shifted by what an arm knows more."""
    rng = np.random.default_rng(seed)
    base = {"forgotten": rng.normal(sure, 1, segments), "retained": rng.normal(size=3), "control": rng.normal(size=30)}

    def arm(shift):
        shifted = {"forgotten": shift}
        return {
            group: readings(mean + shifted.get(group, 0.0) + rng.normal(size=(copies, len(mean))))
            for group, mean in base.items()
        }

    return AuditReply("job", 3, "ok", arms={name: arm(shift) for name, shift in {"never": 0.0, **shifts}.items()})


def changed(reply, arm, group, **parts) -> AuditReply:
    arms = {name: dict(groups) for name, groups in reply.arms.items()}
    arms[arm][group] = replace(arms[arm][group], **parts)
    return replace(reply, arms=arms)


def single_model(copies=16) -> AuditReply:
    """A full withdrawal: the exact copies and those that never saw the patient are the general model."""
    same = {"forgotten": readings(np.full((copies, 4), 1.5)), "control": readings(np.zeros((copies, 9)))}
    other = {**same, "forgotten": readings(np.random.default_rng(0).normal(3, 0.5, (copies, 4)))}
    return AuditReply("job", 3, "ok", arms={"never": same, "exact": same, "nothing": other, "finetune": other})


def looks_at(*replies, method="exact"):
    return [look(reply, method, exact=method in EXACT, seed=seed) for seed, reply in enumerate(replies)]


def judged(*replies, method="exact", found=None, **more):
    looks = looks_at(*replies, method=method)
    return judge_job(looks, found or checked(), method=method, exact=method in EXACT, **more)


def checked(scope="records", verified=ON_DISK, *, acknowledged=OK, clean=True, exact=True, remade=True, weights=None):
    return bytes_of(
        scope,
        ["gone"],
        acknowledged,
        verified,
        general="general",
        lineage_clean=clean,
        exact=exact,
        remade=exact and remade and scope == "records",
        weights=weights,
    )


def test_doing_nothing_fails_as_a_trace_and_overshooting_fails_as_one():
    residual, overshoot = (statistics(answer(), method, seed=0) for method in ("nothing", "overshoot"))
    assert (residual["verdict"], overshoot["verdict"]) == ("FAIL", "FAIL")
    assert "trace is left" in residual["words"]
    assert "overshoots" in overshoot["words"]
    assert residual["needed"] is None


def test_an_exact_method_that_overshoots_is_refuted_too():
    found = statistics(answer(shifts={"nothing": 2.0, "exact": -2.0}), "exact", exact=True, seed=0)
    assert found["verdict"] == "FAIL"


def test_an_epsilon_that_is_proved_lets_nothing_pass_though_the_mean_is_right():
    reply = answer(copies=400, shifts={"nothing": 2.0, "finetune": 0.0})
    either = np.repeat([-30.0, 30.0], 200)[:, None]
    split = tuple(map(tuple, (either + np.array(reply.arms["finetune"]["forgotten"].margins)).tolist()))
    found = statistics(changed(reply, "finetune", "forgotten", margins=split), "finetune", seed=0)
    assert found["scores"][0]["auc"] == pytest.approx(0.5, abs=0.01)
    assert found["scores"][0]["epsilon"] > 0
    assert found["verdict"] == "INCONCLUSIVE"
    assert found["needed"] > 400


def test_halves_that_taught_each_other_count_once():
    by_name = {score["name"]: score for score in statistics(answer(), "exact", exact=True, seed=0)["scores"]}
    learnt = by_name["ulira"]
    assert (learnt["low95"], learnt["high95"]) == auc_interval(learnt["auc"], 8, confidence=0.95)


def test_sixteen_copies_of_an_equal_arm_decide_nothing_and_say_how_many_would():
    found = statistics(answer(shifts={"nothing": 2.0, "finetune": 0.0}), "finetune", seed=0)
    assert found["verdict"] == "INCONCLUSIVE"
    assert found["needed"] > 16
    assert found["detectable"] == pytest.approx(0.79, abs=0.005)
    assert f"About {found['needed']} copies" in found["words"]


def test_where_bytes_decide_no_number_of_copies_is_said_to():
    reply = answer(shifts={"nothing": 0.0, "exact": 0.0})
    for method in ("exact", "nothing"):
        found = statistics(reply, method, exact=method == "exact", seed=0)
        assert (found["verdict"], found["needed"]) == ("INCONCLUSIVE", None)
        assert "would decide" not in found["words"]


def test_many_copies_of_an_equal_arm_pass_and_no_more_is_said_than_not_falsified():
    found = statistics(answer(2, copies=400, shifts={"nothing": 2.0, "finetune": 0.0}), "finetune", seed=0)
    assert found["verdict"] == "PASS"
    assert "Not falsified at this power" in found["words"]
    assert found["scores"][0]["epsilon"] == 0


def test_the_primary_score_comes_first_and_alone_keeps_its_p():
    scores = statistics(answer(), "finetune", seed=0)["scores"]
    assert [score["primary"] for score in scores] == [True] + [False] * 6
    assert scores[0]["p_holm"] == scores[0]["p"]
    assert all(score["p_holm"] >= score["p"] for score in scores[1:])
    assert scores[0]["tpr_at_1"] is None  # sixteen copies know no rate of one in a hundred


def test_a_difference_that_only_a_secondary_score_sees_keeps_an_approximate_method_alone_from_pass():
    reply = answer(1, shifts={"nothing": 2.0, "exact": 0.0})
    margins = np.array(reply.arms["exact"]["forgotten"].margins)
    reply = changed(reply, "exact", "forgotten", attacked=tuple(map(tuple, (margins - 5).tolist())))
    found = {exact: statistics(reply, "exact", exact=exact, seed=0) for exact in (True, False)}
    assert {one["verdict"] for one in found.values()} == {"INCONCLUSIVE"}  # K decides nothing yet
    assert "FGSM discrepancy" in found[False]["words"]
    wide = [{**score, "low90": 0.45, "high90": 0.55, "epsilon": 0.0} for score in found[False]["scores"]]
    assert [decide(wide, 256, identical=False, exact=exact) for exact in (True, False)] == ["PASS", "INCONCLUSIVE"]


def test_too_few_copies_decide_nothing_however_far_apart():
    found = statistics(answer(copies=4, shifts={"nothing": 9.0, "finetune": 9.0}), "finetune", seed=0)
    assert (found["verdict"], found["scores"][0]["auc"]) == ("INCONCLUSIVE", 1.0)
    assert found["needed"] >= 8


def test_retraining_is_refuted_no_more_often_than_one_time_in_twenty():
    failed = sum(
        statistics(answer(seed, shifts={"exact": 0.0}), "exact", exact=True, seed=seed)["verdict"] == "FAIL"
        for seed in range(150)
    )
    assert failed / 150 <= 0.08


def without(reply, arm, group=None):
    arms = {name: dict(groups) for name, groups in reply.arms.items()}
    if group is None:
        del arms[arm]
    else:
        del arms[arm][group]
    return replace(reply, arms=arms)


NAN = ((float("nan"),) * 4,) * 16
BROKEN = {
    "no arm": without(answer(), "finetune"),
    "no reference": without(answer(), "never"),
    "no segments": without(answer(), "finetune", "forgotten"),
    "no controls": without(answer(), "never", "control"),
    "margins that are no numbers": changed(answer(), "finetune", "forgotten", margins=NAN),
    "a noised margin that is infinite": changed(answer(), "never", "control", noised=((float("inf"),) * 30,) * 16),
    "a margin beyond all measure": changed(answer(), "finetune", "forgotten", margins=((1e200,) * 4,) * 16),
    "an entropy less": changed(answer(), "finetune", "forgotten", entropy=((1.0,) * 4,) * 15),
    "ragged rows": changed(answer(), "finetune", "forgotten", margins=((1.0,) * 4,) * 15 + ((1.0,) * 3,)),
    "entropies below 0": changed(answer(), "finetune", "forgotten", entropy=((-5.0,) * 4,) * 16),
    "margins missing": changed(answer(), "finetune", "forgotten", margins=()),
    "arms of different size": replace(answer(), arms={**answer().arms, "finetune": answer(copies=8).arms["finetune"]}),
    "other segments": replace(answer(), arms={**answer().arms, "finetune": answer(segments=5).arms["finetune"]}),
    "one copy": answer(copies=1),
    "no segment at all": answer(segments=0),
    "refused": AuditReply("job", 3, "refused", reason="the device has no personal model"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_cannot_be_judged_is_refused_by_name_and_lets_nothing_pass(case):
    with pytest.raises(AuditError) as told:
        statistics(BROKEN[case], "finetune", seed=0)
    assert "job" in str(told.value)
    assert told.value.exit_code == 4
    assert choose(BROKEN[case], ("finetune", "exact"), EXACT, seed=0) == "exact"


ASKED = AuditRequest(
    job="job",
    scope="records",
    records=("gone",),
    methods=("finetune", "exact"),
    personalisation=Personalisation(),
    unlearning=Unlearning(),
    copies=16,
    epsilon_sd=0.05,
    seed=0,
)


def put(reply, arm, others, *, chosen=range(16)) -> AuditReply:
    """An arm that gives, copy by copy, the answers of another one's `chosen` copies."""
    arms = dict(reply.arms)
    names = Readings.__dataclass_fields__
    arms[arm] = {
        group: Readings(*(tuple(getattr(part, name)[row] for row in chosen) for name in names))
        for group, part in reply.arms[others].items()
    }
    return replace(reply, arms=arms)


def rolled_back(reply, arm, copies) -> AuditReply:
    """An arm of which some copies are the general model."""
    arms = dict(reply.arms)
    arms[arm] = {
        group: Readings(
            *(
                tuple((0.5,) * len(row) if number in copies else row for number, row in enumerate(rows))
                for rows in vars(part).values()
            )
        )
        for group, part in reply.arms[arm].items()
    }
    return replace(reply, arms=arms)


REPEATS = {
    "the copies that never saw anything, again": put(answer(), "finetune", "never"),
    "the same in another order": put(answer(), "exact", "never", chosen=[*range(15, -1, -1)]),
    "half of them": put(answer(), "exact", "never", chosen=[0, 1, 2, 3] * 4),
    "one arm under all names": put(put(put(answer(), "exact", "never"), "nothing", "never"), "finetune", "never"),
    "eight copies sent twice": put(answer(), "never", "never", chosen=[*range(8)] * 2),
    "two copies sent twice": put(answer(), "exact", "exact", chosen=[0, 0, 1, 1, *range(2, 14)]),
    "retraining's copies for the method's": put(answer(), "finetune", "exact"),
    "copies of nothing in another order": put(answer(), "finetune", "nothing", chosen=[*range(15, -1, -1)]),
    "copies of nothing for retraining's": put(answer(), "exact", "nothing"),
}
UNASKED = {
    **REPEATS,
    **{name: BROKEN[name] for name in BROKEN if name not in ("refused", "other segments")},
    "a method less": without(answer(), "exact"),
    "what was not unlearned is missing": without(answer(), "nothing"),
    "what is kept is missing": without(answer(), "exact", "retained"),
    "fewer copies than were asked for": answer(copies=8),
    "more copies than were asked for": answer(copies=17),
    "too few controls": replace(
        answer(),
        arms={
            arm: {**groups, "control": readings(np.array(groups["control"].margins)[:, :9])}
            for arm, groups in answer().arms.items()
        },
    ),
}


@pytest.mark.parametrize("case", UNASKED)
def test_an_answer_that_is_not_what_was_asked_for_is_refused_by_name(case):
    with pytest.raises(AuditError, match="job"):
        check_reply(UNASKED[case], ASKED, slot=3, kept=True)


def test_an_answer_as_it_was_asked_for_is_accepted_and_so_is_a_refusal():
    check_reply(answer(), ASKED, slot=3, kept=True)
    check_reply(without(answer(), "exact", "retained"), ASKED, slot=3, kept=False)
    check_reply(BROKEN["refused"], ASKED, slot=3, kept=True)


@pytest.mark.parametrize("case", REPEATS)
def test_copies_that_repeat_others_are_refused_with_what_was_seen(case):
    with pytest.raises(
        AuditError, match=r"answers (come more than once|of arm '\w+' are those of arm '\w+'), expected"
    ):
        check_reply(REPEATS[case], ASKED, slot=3, kept=True)


def test_one_answer_may_come_again_and_a_method_may_change_nothing():
    reply = answer()
    for arm, copies in {"never": range(16), "exact": range(16), "nothing": range(3), "finetune": range(2)}.items():
        reply = rolled_back(reply, arm, copies)
        check_reply(reply, ASKED, slot=3, kept=True)
    single = put(answer(), "never", "never", chosen=[0] * 16)  # a recipe without chance
    check_reply(put(single, "exact", "never"), ASKED, slot=3, kept=True)
    always = put(answer(), "finetune", "finetune", chosen=[0] * 16)  # a method without chance, of copies rolled back
    check_reply(rolled_back(rolled_back(always, "never", range(9)), "nothing", range(16)), ASKED, slot=3, kept=True)
    check_reply(put(answer(), "finetune", "nothing"), ASKED, slot=3, kept=True)


@pytest.mark.parametrize(("job", "slot"), [("another", 3), ("job", 4)])
def test_an_answer_of_another_job_or_device_is_not_used(job, slot):
    with pytest.raises(AuditError, match="not used"):
        check_reply(replace(answer(), job=job), ASKED, slot=slot, kept=True)
    with pytest.raises(AuditError, match="not used"):
        checked(verified=replace(ON_DISK, job=job, slot=slot))


def test_the_ladder_ends_at_exact():
    passing = answer(2, copies=400, shifts={"nothing": 2.0, "finetune": 0.0, "overshoot": -2.0, "exact": 0.0})
    assert choose(passing, ("overshoot", "finetune", "exact"), EXACT, seed=0) == "finetune"
    assert choose(answer(), ("overshoot", "finetune", "exact"), EXACT, seed=0) == "exact"
    assert choose(passing, ("overshoot",), EXACT, seed=0) == "exact"
    assert choose(None, ("finetune",), EXACT, seed=0) == "exact"


def test_bytes_of_a_partial_withdrawal_are_those_of_a_fresh_copy():
    assert checked()["holds"]
    rolled_back = replace(ON_DISK, served="general")
    assert not checked(verified=rolled_back, acknowledged=replace(OK, after="general"))["holds"]  # who says so?
    assert checked(verified=replace(rolled_back, fresh="general"), acknowledged=replace(OK, after="general"))["holds"]
    assert not checked(verified=replace(ON_DISK, fresh="other"))["holds"]
    assert not checked(verified=replace(ON_DISK, general="other"))["holds"]
    assert checked(verified=replace(ON_DISK, fresh="other"), exact=False)["holds"]


def test_a_general_model_that_stands_in_claims_its_own_bytes_and_no_more():
    stands_in = replace(ON_DISK, served="general", fresh="")
    found = checked(verified=stands_in, acknowledged=replace(OK, served="", after="general"), remade=False)
    assert found["holds"]
    words = judge_job([], found, method=STANDS_IN, exact=True)["words"]
    assert "The general model, which no wearable's data reach, is in use" in words
    assert "what it would have been" not in words


def test_bytes_of_a_full_withdrawal_are_the_general_models():
    bare = replace(ON_DISK, served="general", records=(), fresh="")
    restored = replace(OK, after="general")
    assert checked("patient", bare, acknowledged=restored)["holds"]
    assert not checked("patient", replace(bare, records=("kept",)), acknowledged=restored)["holds"]
    assert not checked("patient", ON_DISK)["holds"]  # doing nothing
    assert not checked("patient", bare, acknowledged=restored, clean=False)["holds"]


def test_no_model_is_what_it_would_have_been_too():
    none = replace(ON_DISK, served="", bundle="", records=())
    assert checked("patient", none, acknowledged=replace(OK, after="", bundle=""))["holds"]


@pytest.mark.parametrize(
    "seen",
    [
        replace(ON_DISK, records=("gone", "kept")),
        replace(ON_DISK, leftovers=("bundle.onnx.old",)),
        replace(ON_DISK, bundle="other"),
        replace(ON_DISK, served="other", fresh="other"),
    ],
)
def test_what_is_left_on_a_device_fails_any_method(seen):
    for exact in (True, False):
        found = checked(verified=seen, exact=exact)
        assert not found["holds"]
        assert judged(answer(), found=found)["verdict"] == "FAIL"


def test_weights_that_the_server_sees_must_be_those_that_the_device_names():
    assert checked(weights="model")["holds"]
    assert not checked(weights="other")["holds"]


def test_a_device_that_does_not_say_what_is_on_its_disk_leaves_it_open():
    for silent in (None, VerifyReply("job", 3, "refused", reason="the disk is damaged")):
        assert judged(answer(), found=checked(verified=silent))["verdict"] == "INCONCLUSIVE"


def test_exact_passes_on_bytes_and_says_what_the_copies_add():
    verdict = judged(answer())
    assert verdict["verdict"] == "PASS"
    assert (verdict["before"]["verdict"], verdict["copies"], verdict["seeds"]) == ("FAIL", 16, [0])
    assert verdict["retained"]["group"] == "retained"
    assert "byte for byte" in verdict["words"]
    assert json.loads(json.dumps(verdict, allow_nan=False)) == verdict


def test_exact_without_copies_passes_on_bytes_and_says_so():
    verdict = judged()
    assert (verdict["verdict"], verdict["after"], verdict["copies"]) == ("PASS", None, 0)
    assert "No copies were compared." in verdict["words"]
    assert "compared: no personal model." in judged(unmeasured="no personal model")["words"]


def test_an_exact_method_is_refuted_by_two_looks_and_not_by_one():
    lie = answer(shifts={"nothing": 2.0, "exact": 2.0})
    again = answer(9, copies=64, shifts={"nothing": 2.0, "exact": 2.0})
    assert wants_confirmation(looks_at(lie), exact=True)
    assert not wants_confirmation(looks_at(lie, again), exact=True)
    assert not wants_confirmation(looks_at(answer()), exact=True)
    assert judged(lie)["verdict"] == "INCONCLUSIVE"
    assert judged(lie, again)["verdict"] == "FAIL"


def test_a_first_look_that_a_second_one_clears_is_told_all_the_same():
    cleared = judged(answer(shifts={"nothing": 2.0, "exact": 2.0}), answer(9, copies=64))
    assert (cleared["verdict"], cleared["copies"], cleared["seeds"]) == ("PASS", 64, [0, 1])
    assert [one["verdict"] for one in cleared["earlier"]] == ["FAIL"]
    assert "A first look refuted it (AUC " in cleared["words"]
    assert "A first look" not in judged(answer())["words"]


def test_an_approximate_method_needs_copies_that_pass():
    found = checked(exact=False)
    assert judged(method="finetune", found=found)["verdict"] == "INCONCLUSIVE"
    assert judged(answer(), method="finetune", found=found)["verdict"] == "FAIL"
    good = answer(2, copies=400, shifts={"nothing": 2.0, "finetune": 0.0})
    assert judged(good, method="finetune", found=found)["verdict"] == "PASS"
    gone = checked(verified=replace(ON_DISK, records=("gone",)), exact=False)
    assert judged(good, method="finetune", found=gone)["verdict"] == "FAIL"


def moved_on_what_is_kept(method="finetune") -> AuditReply:
    """A method that forgets what it should and moves what the patient keeps."""
    reply = answer(2, copies=400, shifts={"nothing": 2.0, method: 0.0})
    kept = np.array(reply.arms[method]["retained"].margins) - 3
    return changed(reply, method, "retained", margins=tuple(map(tuple, kept.tolist())))


def test_an_approximate_method_that_moves_what_is_kept_fails_and_is_not_served():
    reply = moved_on_what_is_kept()
    verdict = judged(reply, method="finetune", found=checked(exact=False))
    assert [verdict[part]["verdict"] for part in ("after", "retained")] == ["PASS", "FAIL"]
    assert verdict["verdict"] == "FAIL"
    assert "keeps answer differently, which refutes the method" in verdict["words"]
    assert choose(reply, ("finetune", "exact"), EXACT, seed=0) == "exact"


def test_what_is_kept_does_not_refute_bytes_and_is_told():
    verdict = judged(moved_on_what_is_kept("exact"))
    assert (verdict["verdict"], verdict["retained"]["verdict"]) == ("PASS", "FAIL")
    assert "The segments that the patient keeps answer differently: mean margin" in verdict["words"]


def test_where_nothing_leaves_no_trace_either_the_words_do_not_call_it_a_success():
    verdict = judged(answer(shifts={"nothing": 0.0, "exact": 0.0}, sure=6.0))
    assert "already sure of these segments" in verdict["words"]
    assert "A weaker trace would be missed before and after" in verdict["words"]
    unsure = judged(answer(shifts={"nothing": 0.0, "exact": 0.0}, sure=-6.0))["words"]
    assert "A weaker trace would be missed before and after" in unsure
    assert "already sure" not in unsure


def test_models_that_are_equal_have_an_honest_interval_and_the_words_say_equal():
    found = statistics(single_model(), "exact", exact=True, seed=0)
    primary = found["scores"][0]
    assert (primary["auc"], found["identical"], found["verdict"]) == (0.5, True, "INCONCLUSIVE")
    assert found["needed"] is None
    assert primary["low95"] < 0.3
    assert primary["high95"] > 0.7
    assert "alike to the last digit" in found["words"]
    assert statistics(single_model(), "nothing", seed=0)["verdict"] == "FAIL"
    bare = replace(ON_DISK, served="general", records=(), fresh="")
    verdict = judged(single_model(), found=checked("patient", bare, acknowledged=replace(OK, after="general")))
    assert (verdict["verdict"], verdict["retained"]) == ("PASS", None)


@pytest.mark.parametrize("copies", [8, 16, 100, 143, 400])
def test_one_model_asked_many_times_is_no_sample_and_passes_nothing(copies):
    same = single_model(copies).arms["exact"]
    reply = AuditReply("job", 3, "ok", arms=dict.fromkeys(("never", "nothing", "finetune", "exact"), same))
    for method, exact in (("finetune", False), ("exact", True)):
        found = statistics(reply, method, exact=exact, seed=0)
        assert (found["verdict"], found["needed"]) == ("INCONCLUSIVE", None)
        assert "Equal answers measure nothing" in found["words"]
    assert choose(reply, ("finetune", "exact"), EXACT, seed=0) == "exact"
    assert judged(reply, method="finetune", found=checked(exact=False))["verdict"] == "INCONCLUSIVE"


PATIENTS = [answer(100 + seed, shifts={"nothing": 1.0, "overshoot": -1.0, "exact": 0.0}) for seed in range(40)]


@pytest.mark.parametrize(("method", "said"), [("nothing", "trace is left"), ("overshoot", "overshoots")])
def test_over_forty_patients_doing_nothing_and_overshooting_fail(method, said):
    verdict = judge_method(PATIENTS, method, seed=0)
    assert (verdict["verdict"], verdict["unit"], verdict["n"]) == ("FAIL", "patient", 40)
    assert verdict["scores"][0]["low95"] > 0.5
    assert said in verdict["words"]
    assert verdict["refuted"]["value"] > 0.5


def test_over_forty_patients_retraining_is_never_called_fail_in_five_seeds():
    for seed in range(5):
        patients = [answer(1000 * seed + each, shifts={"nothing": 1.0, "exact": 0.0}) for each in range(40)]
        verdict = judge_method(patients, "exact", seed=seed)
        assert verdict["verdict"] != "FAIL"
        assert verdict["refuted"]["low"] <= 0.05


def test_the_figures_of_a_method_count_patients():
    verdict = judge_method(PATIENTS, "nothing", seed=0)
    primary = verdict["scores"][0]
    assert (primary["name"], primary["tpr_at_1"]) == ("ulira", None)  # forty patients know no rate of one in a hundred
    assert 0 <= primary["tpr_at_5"]["low"] <= primary["tpr_at_5"]["high"] <= 1
    assert primary["low95"] <= primary["low90"] <= primary["auc"] <= primary["high90"] <= primary["high95"]
    assert json.loads(json.dumps(verdict, allow_nan=False)) == verdict
    assert judge_method(PATIENTS, "nothing", seed=0) == verdict


def test_traces_that_go_up_in_one_patient_and_down_in_the_next_are_found():
    mixed = [answer(seed, shifts={"nothing": 1.5 * (-1) ** seed}) for seed in range(20)]
    verdict = judge_method(mixed, "nothing", seed=0)
    assert verdict["verdict"] == "FAIL"
    by_name = {score["name"]: score for score in verdict["scores"]}
    assert by_name["margin"]["low95"] < 0.5 < by_name["margin"]["high95"]


def test_where_no_patient_left_a_trace_a_method_is_not_praised():
    blank = [answer(seed, shifts={"nothing": 0.0, "exact": 0.0}, sure=5.0) for seed in range(20)]
    words = judge_method(blank, "exact", seed=0)["words"]
    assert "already sure of these segments" in words
    assert "no more than chance gives" in words
    assert "no more than chance" not in judge_method(PATIENTS, "exact", seed=0)["words"]


def test_patients_whose_models_are_all_equal_are_no_proof_of_a_method():
    verdict = judge_method([single_model()] * 10, "exact", seed=0)
    assert verdict["scores"][0]["low95"] < 0.4 < 0.6 < verdict["scores"][0]["high95"]
    for patients in (10, 150):
        verdict = judge_method([single_model()] * patients, "exact", seed=0)
        assert (verdict["verdict"], verdict["needed"]) == ("INCONCLUSIVE", None)
        assert "Equal answers measure nothing" in verdict["words"]


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, "PASS"),
        ({"p_holm": 0.04}, "INCONCLUSIVE"),  # withholds a PASS; a FAIL takes half the level
        ({"p_holm": 0.024}, "FAIL"),
        ({"epsilon": 0.1}, "INCONCLUSIVE"),
        ({"low95": 0.51}, "FAIL"),
    ],
)
def test_a_method_is_judged_at_half_the_level_and_passes_without_an_epsilon_alone(changed, verdict):
    figures = {"low90": 0.45, "high90": 0.55, "low95": 0.44, "high95": 0.56, "p_holm": 1.0, "epsilon": 0.0}
    place = "p_holm" in changed  # of the scores: the primary one first
    scores = [figures | (changed if number == place else {}) for number in range(3)]
    assert _decide(scores, 40, identical=False) == verdict


def test_a_method_is_not_judged_by_one_patient_nor_decided_by_a_few():
    with pytest.raises(AuditError, match="expected 2 or more"):
        judge_method(PATIENTS[:1], "nothing", seed=0)
    few = judge_method(PATIENTS[:7], "nothing", seed=0)
    assert few["verdict"] == "INCONCLUSIVE"
    assert "(too few for an interval)." in few["words"]
    assert "95 %" not in few["words"]
    assert "95 % interval" in judge_method(PATIENTS[:8], "nothing", seed=0)["words"]
    with pytest.raises(AuditError):
        judge_method([*PATIENTS[:9], BROKEN["margins that are no numbers"]], "finetune", seed=0)
