"""Estimators of the noise rate beside the mixture, and their interval."""

import numpy as np
import pytest
import torch

from layerprobe.auditing.method.noise import (
    implied_accuracy,
    rate_by_neighbours,
    rate_by_trusted_rows,
    span,
)


def predictions(rows, K, accuracy, rate, rng):
    """Return predicted, given and true classes with evenly spread errors and wrong labels."""
    true = rng.integers(K, size=rows)

    def changed(share):
        return np.where(rng.random(rows) < share, (true + rng.integers(1, K, rows)) % K, true)

    return changed(1 - accuracy), changed(rate), true


def trial(K, accuracy, rate, rng, trusted=100, rows=700):
    predicted, _, true = predictions(trusted, K, accuracy, rate, rng)
    others, given, _ = predictions(rows, K, accuracy, rate, rng)
    return rate_by_trusted_rows(torch.from_numpy(predicted == true), torch.from_numpy(others == given), K)


@pytest.mark.parametrize(
    ("K", "accuracy", "rate"), [(2, 0.9, 0.2), (10, 0.7, 0.4), (10, 0.97, 0.05), (5, 1.0, 0.2)]
)
def test_trusted_rows_recover_the_rate_with_nominal_coverage(K, accuracy, rate):
    rng = np.random.default_rng(0)
    found = [trial(K, accuracy, rate, rng) for _ in range(300)]
    assert np.mean([one.value for one in found]) == pytest.approx(rate, abs=0.015)
    assert np.mean([one.low <= rate <= one.high for one in found]) >= 0.92
    exact = rate_by_trusted_rows(torch.ones(100).bool(), torch.arange(1000) >= 250, 5)
    assert exact.value == pytest.approx(0.25)  # a = 1, b = 0, c = .75


@pytest.mark.parametrize("accuracy", [0.75, 0.95])
def test_interval_by_trusted_rows_holds_where_errors_repeat_the_wrong_labels(accuracy):
    """Errors and wrong labels of one true class are all of the next class, unlike assumed."""
    rng = np.random.default_rng(0)
    held = []
    for _ in range(200):
        error, wrong = rng.random(800) < 1 - accuracy, rng.random(800) < 0.3
        agrees = torch.from_numpy(error == wrong)[100:]
        one = rate_by_trusted_rows(torch.from_numpy(~error)[:100], agrees, 10)
        held.append(one.low <= 0.3 <= one.high)
    assert np.mean(held) >= 0.95


def test_more_trusted_rows_narrow_the_interval_down_to_the_error_of_the_predictions():
    few, many = (trial(10, 0.8, 0.3, np.random.default_rng(1), trusted=t, rows=50 * t) for t in (50, 5000))
    assert many.high - many.low == pytest.approx(0.2, abs=0.03)
    assert few.high - few.low > 0.3


def test_rate_is_unknown_with_predictions_by_chance():
    found = rate_by_trusted_rows(torch.arange(100) % 5 == 0, torch.arange(700) % 5 == 0, 5)
    assert np.isnan(found.value)
    assert found.low == 0
    assert found.high == pytest.approx(0.8, abs=0.04)


def test_hoc_reads_the_rate_of_separate_classes():
    rng = np.random.default_rng(0)
    true = rng.integers(4, size=1500)
    X = torch.from_numpy(8 * np.eye(4)[true] + rng.standard_normal((1500, 4)))
    given = np.where(rng.random(1500) < 0.3, (true + rng.integers(1, 4, 1500)) % 4, true)
    assert rate_by_neighbours(X, torch.from_numpy(given), 4) == pytest.approx(
        (given != true).mean(), abs=0.03
    )
    assert np.isnan(rate_by_neighbours(X, torch.from_numpy(given), 1000))


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.4])
def test_accuracy_follows_from_agreement_and_rate(rate):
    agreement = (1 - rate) * 0.8 + rate * 0.2 / 9
    assert implied_accuracy(agreement, rate, 10) == pytest.approx(0.8)


def agreeing(share, rows=2000):
    return torch.arange(rows) < share * rows


def test_span_is_the_range_of_the_estimators_and_wider_for_weak_decoders():
    # accuracy (.78 - .2 / 9) / (.8 - .2 / 9) = .974
    low, high = span(0.18, 0.22, [0.2, 0.19, 0.27, float("nan")], agreeing(0.78), 10)
    assert high == 0.27
    assert low == pytest.approx(0.18 - 0.5 * (1 - (0.78 - 0.2 / 9) / (0.8 - 0.2 / 9)))
    assert span(0.18, 0.22, [0.2], agreeing(0.7), 10)[0] < low
    assert span(0.18, 0.22, [0.2], agreeing(0.5), 10) == (0.0, pytest.approx(0.522, abs=0.001))
    assert 0.001 < span(0.0, 0.0, [0.0], agreeing(1.0), 10)[1] < 0.002  # no disagreement in 2000 rows


@pytest.mark.parametrize("share", [0.3, 0.45])
def test_disagreement_bounds_the_rate_where_the_decoder_learns_the_noise(share):
    """A share of one class has the label of another, and predictions repeat it as often."""
    rng = np.random.default_rng(0)
    true = rng.integers(4, size=4000)
    given, predicted = (np.where((true == 0) & (rng.random(4000) < share), 1, true) for _ in range(2))
    differ = given != predicted
    low, high = span(0.0, 0.01, [0.005], torch.from_numpy(~differ), 4)
    assert low <= (given != true).mean() <= high
    assert high == pytest.approx(differ.mean() + 1.96 * differ.std() / 4000**0.5, abs=0.001)


@pytest.mark.parametrize("rows", [200, 2000])
def test_intervals_hold_for_the_share_among_other_rows(rows):
    """The rate is .5 everywhere; its share among the training rows and the held-out ones varies."""
    rng = np.random.default_rng(0)
    by_bound, by_trusted = [], []
    for _ in range(400):
        share = rng.binomial(rows, 0.5) / rows  # of wrong labels among the training rows
        agrees = torch.from_numpy(rng.random(500) >= 0.5)  # a decoder without errors
        by_bound.append(share <= span(0.3, 0.4, [0.35], agrees, 10, rows)[1])
        _, low, high = rate_by_trusted_rows(torch.ones(10_000).bool(), agrees, 10, rows)
        by_trusted.append(low <= share <= high)
    assert np.mean(by_bound) >= 0.96
    assert 0.93 <= np.mean(by_trusted) <= 0.99
