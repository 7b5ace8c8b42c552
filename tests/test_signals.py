"""What a signal goes through before a network sees it."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import UsageError
from shared.signals import blank_leads, lead_sd, moving_average, odd_window, segments, spectrum


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@given(st.floats(0, 80), st.integers(0, 3))
def test_the_moving_average_is_the_models_pooling(window_ms, seed):
    signal = noise(2, 12, 60, seed=seed)
    window = odd_window(window_ms)
    pooled = torch.nn.AvgPool1d(window, 1, window // 2, count_include_pad=False)(torch.from_numpy(signal))
    np.testing.assert_allclose(moving_average(signal, window_ms=window_ms), pooled.numpy(), atol=1e-5)


@pytest.mark.parametrize(("window_ms", "samples"), [(0, 1), (2, 1), (4, 3), (8, 5), (10, 5), (12, 7), (50, 25)])
def test_a_window_is_at_least_as_long_as_asked_and_odd(window_ms, samples):
    assert odd_window(window_ms) == samples


def test_no_window_leaves_the_signal_as_it_is():
    signal = noise(12, 500)
    smoothed = moving_average(signal, window_ms=0)
    np.testing.assert_allclose(smoothed, signal, atol=1e-6)
    assert smoothed.dtype == np.float32


@pytest.mark.parametrize("window_ms", [-1, 1100])
def test_a_window_that_does_not_fit_is_refused(window_ms):
    with pytest.raises(UsageError, match="choose 0 to 1000 ms"):
        moving_average(noise(12, 500), window_ms=window_ms)


@pytest.mark.parametrize(("value", "blank"), [(0.0, (4,)), (0.7, (4,)), (None, ())])
def test_a_lead_that_never_changes_is_blank(value, blank):
    signal = noise(12, 5000)
    if value is not None:
        signal[4] = value
    assert blank_leads(signal) == blank


def test_a_lead_with_one_other_sample_is_not_blank():
    signal = np.zeros((12, 5000), dtype=np.float32)
    signal[:, 17] = 0.001
    assert blank_leads(signal) == ()


def test_segments_are_a_view_of_the_record_in_order():
    record = noise(12, 5000)
    cut = segments(record)
    assert cut.shape == (10, 12, 500)
    assert np.shares_memory(cut, record)
    np.testing.assert_array_equal(cut[3], record[:, 1500:2000])


def test_a_record_that_is_no_whole_number_of_segments_is_refused():
    with pytest.raises(UsageError, match="4999 samples"):
        segments(noise(12, 4999))


@given(st.integers(0, 5))
def test_the_scale_of_a_lead_is_the_same_from_records_and_from_segments(seed):
    records = noise(3, 12, 5000, seed=seed) * np.arange(1, 13, dtype=np.float32)[:, None]
    from_segments = lead_sd(np.concatenate([segments(record) for record in records]))
    np.testing.assert_allclose(from_segments, lead_sd(records), rtol=1e-6)
    np.testing.assert_allclose(from_segments, np.arange(1, 13), rtol=0.02)
    assert from_segments.dtype == np.float32


@pytest.mark.parametrize("hertz", [0, 1, 20, 249, 250])
def test_the_spectrum_shows_a_sine_at_its_frequency_with_its_amplitude(hertz):
    wave = np.cos(2 * np.pi * hertz * np.arange(500) / 500)
    frequencies, magnitude = spectrum(np.tile(wave, (12, 1)))
    assert frequencies.shape == (251,)
    assert magnitude.shape == (12, 251)
    assert frequencies[magnitude[5].argmax()] == hertz
    assert magnitude[5].max() == pytest.approx(1)


@given(st.integers(0, 20))
def test_the_spectrum_keeps_the_power(seed):
    segment = noise(12, 500, seed=seed).astype(np.float64)
    _, magnitude = spectrum(segment)
    power = (magnitude[:, 1:-1] ** 2).sum(axis=1) / 2 + magnitude[:, 0] ** 2 + magnitude[:, -1] ** 2
    np.testing.assert_allclose(power, (segment**2).mean(axis=1))
