"""SISA: who goes moves nobody, one shard alone is trained again, and the rest is as if the patient had never come."""

import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from fleet import TINY, copied
from hypothesis import given
from hypothesis import strategies as st

from server.corpus import Corpus, open_corpus, segments_of
from server.general import train_general
from server.sisa import Sharding, train_sharded
from shared.errors import DataError, UsageError
from shared.model import probabilities
from shared.ptbxl import for_task, index, load

SETTINGS = replace(TINY.general, width=2, epochs=2)
SHARDING = Sharding(shards=2, slices=2)


@pytest.fixture(scope="module")
def corpus(cohort_folder, tmp_path_factory) -> Corpus:
    records, _ = for_task(index(cohort_folder).records, "single")
    signals = load(records, folder=cohort_folder, cache=tmp_path_factory.mktemp("cache"))
    rows = np.arange(len(signals.records))
    new = np.array([record.fold > 8 for record in signals.records])
    return Corpus(signals, rows[~new], rows[new], rows[:0])


def without(corpus: Corpus, patient: str) -> Corpus:
    kept = [row for row in corpus.training if corpus.signals.records[row].patient != patient]
    return replace(corpus, training=np.array(kept))


def patient_of(corpus: Corpus, place: tuple[int, int]) -> str:
    people = sorted({corpus.signals.records[row].patient for row in corpus.training})
    return next(one for one in people if SHARDING.place(one) == place)


def trained(corpus: Corpus, folder, sharding=SHARDING):
    return train_sharded(corpus, SETTINGS, sharding, folder=folder, tell=lambda *_: None)


def files(folder) -> dict[str, bytes]:
    """The networks and, beside them, their curves."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def whole(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sisa")
    return folder, trained(corpus, folder)


@pytest.mark.parametrize(("place", "again"), [((1, 0), ((1, 0), (1, 1))), ((0, 1), ((0, 1),))])
def test_a_removal_trains_from_the_last_clean_slice_of_one_shard_and_equals_a_training_without(
    corpus, whole, tmp_path, place, again
):
    folder, before = whole
    assert before.trained == ((0, 0), (0, 1), (1, 0), (1, 1))
    later = copied(folder, tmp_path / "later")
    left = without(corpus, patient_of(corpus, place))
    assert trained(left, later).trained == again
    assert len(set(files(folder)) & set(files(later))) == 2 * (4 - len(again))
    trained(left, tmp_path / "fresh")
    assert files(later) == files(tmp_path / "fresh")


def test_what_was_made_of_the_patient_goes_before_anything_is_trained(corpus, whole, tmp_path, monkeypatch):
    folder, _ = whole
    later = copied(folder, tmp_path / "later")

    def die(*_, **__):
        raise RuntimeError("killed")

    left = without(corpus, patient_of(corpus, (1, 0)))
    with monkeypatch.context() as patch:
        patch.setattr("server.sisa.fit_general", die)
        with pytest.raises(RuntimeError):
            trained(left, later)
    assert {name[:3] for name in files(later)} == {"0-0", "0-1"}
    assert trained(left, later).trained == ((1, 0), (1, 1))


def test_what_is_there_is_not_trained_again_and_answers_with_the_mean(corpus, whole):
    folder, before = whole
    again = trained(corpus, folder)
    assert again.trained == ()
    segments = segments_of(corpus.signals, corpus.validation[:1]).segments
    said = again.probabilities(segments)
    with torch.inference_mode():
        one, other = (probabilities(model(segments), "single") for model in before.models)
    assert torch.allclose(said, (one + other) / 2, atol=1e-6)
    assert not torch.allclose(one, other, atol=1e-3)


def test_a_changed_label_is_another_record(corpus, whole, tmp_path):
    later = copied(whole[0], tmp_path / "later")
    row = next(r for r in corpus.training if SHARDING.place(corpus.signals.records[r].patient) == (0, 1))
    records = list(corpus.signals.records)
    records[row] = replace(records[row], superclasses=("HYP",) if records[row].superclasses != ("HYP",) else ("MI",))
    changed = replace(corpus, signals=replace(corpus.signals, records=tuple(records)))
    assert trained(changed, later).trained == ((0, 1),)


@given(st.text(min_size=1), st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_everybody_has_a_place_of_their_own_and_nobody_else_s_doing(patient, shards, slices, seed):
    sharding = Sharding(shards, slices, seed)
    shard, number = sharding.place(patient)
    assert (shard, number) == Sharding(shards, slices, seed).place(patient)
    assert 0 <= shard < shards
    assert 0 <= number < slices


def test_places_are_shared_out_evenly():
    counts = Counter(Sharding(4, 3).place(str(patient)) for patient in range(12_000))
    assert len(counts) == 12
    assert all(abs(count - 1000) < 5 * 1000**0.5 for count in counts.values())  # five standard deviations


def test_a_shard_of_nobody_is_refused(corpus, tmp_path):
    with pytest.raises(DataError, match="of 400 has no patient; take fewer shards"):
        trained(corpus, tmp_path, Sharding(shards=400))


def test_a_shard_that_has_lost_everybody_keeps_no_network_of_theirs(corpus, whole, tmp_path):
    folder, _ = whole
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    places = [SHARDING.place(corpus.signals.records[row].patient)[0] for row in corpus.training]
    left = replace(corpus, training=corpus.training[np.array(places) == 0])
    with pytest.raises(DataError, match="shard 1 of 2 has no patient"):
        trained(left, tmp_path)
    assert {name.split("-")[0] for name in files(tmp_path)} == {"0"}


@pytest.mark.parametrize("words", [{"shards": 0}, {"slices": 0}])
def test_no_shard_and_no_slice_are_refused(words):
    with pytest.raises(UsageError, match="expected 1 or more of each"):
        Sharding(**words)


@pytest.mark.parametrize("kind", ["safetensors", "json"])
def test_a_damaged_file_is_named(corpus, whole, tmp_path, kind):
    folder, _ = whole
    for name, data in files(folder).items():
        (tmp_path / name).write_bytes(data[:-1] if name.endswith(kind) else data)
    with pytest.raises(DataError, match=rf"0-\d-.*{kind}"):
        trained(corpus, tmp_path)


def test_epochs_are_told_and_curves_counted_through_all_slices(corpus, tmp_path):
    told = []
    made = train_sharded(corpus, SETTINGS, SHARDING, folder=tmp_path, tell=lambda *step: told.append(step))
    assert told == [(number, 4) for number in range(1, 5)]  # of two epochs in two slices, one a slice; two shards
    assert [[row["epoch"] for row in curves] for curves in made.curves] == [[1, 2], [1, 2]]
    assert trained(corpus, tmp_path).curves == made.curves


# In a run


SLICED = TINY.with_values({"general.unlearning": "sisa", "general.epochs": 2, "general.max_segments": 600})


def train(fleet, settings=SLICED):
    return train_general(fleet.workspace, fleet.registry, settings, tell=lambda *_: None)


def test_a_run_keeps_one_network_and_a_corpus_patient_costs_the_slices_from_theirs_on(fleet):
    before = train(fleet)
    assert sorted(name[:3] for name in files(fleet.workspace.slices) if name.endswith(".safetensors")) == [
        *("0-0", "0-1", "0-2")
    ]
    assert len(before.record["curves"]) == 3
    corpus = open_corpus(fleet.workspace, fleet.registry, SLICED)
    people = {corpus.signals.records[row].patient for row in corpus.training}
    leaving = next(one for one in sorted(people) if Sharding(1, 3, SLICED.general.seed).place(one)[1] == 2)
    fleet.registry.withdraw(leaving)
    kept = files(fleet.workspace.slices)
    after = train(fleet)
    assert after.digest != before.digest
    assert {name[:3] for name in set(kept) & set(files(fleet.workspace.slices))} == {"0-0", "0-1"}
    assert {name[:3] for name in set(files(fleet.workspace.slices)) - set(kept)} == {"0-2"}
    shutil.rmtree(fleet.workspace.slices)
    shutil.rmtree(fleet.workspace.models / after.digest)
    assert train(fleet).digest == after.digest  # from nothing, without the patient: the same bytes


def test_what_is_trained_at_once_keeps_no_slices(fleet):
    train(fleet)
    assert train(fleet, SLICED.with_values({"general.unlearning": "exact"})).digest
    assert not fleet.workspace.slices.exists()


def test_who_leaves_moves_nobody_between_training_and_validation(fleet):
    def sides(corpus):
        return [{corpus.signals.records[row].patient for row in rows} for rows in (corpus.training, corpus.validation)]

    training, validation = sides(open_corpus(fleet.workspace, fleet.registry, SLICED))
    leaving = sorted(training)[0]
    fleet.registry.withdraw(leaving)
    assert sides(open_corpus(fleet.workspace, fleet.registry, SLICED)) == [training - {leaving}, validation]
