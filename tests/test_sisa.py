"""SISA: who goes moves nobody, one shard alone is trained again, and the rest is as if the patient had never come."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from fleet import TINY, copied
from hypothesis import given
from hypothesis import strategies as st

from server.corpus import Corpus, segments_of
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
    assert len(set(files(folder)) & set(files(later))) == 4 - len(again)
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
    assert sorted(name[:3] for name in files(later)) == ["0-0", "0-1"]
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


def test_a_damaged_file_is_named(corpus, whole, tmp_path):
    folder, _ = whole
    for name, data in files(folder).items():
        (tmp_path / name).write_bytes(data[:-1])
    with pytest.raises(DataError, match="0-1-"):
        trained(corpus, tmp_path)
