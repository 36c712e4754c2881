"""The rule for the begin of memorisation, on curves whose answer is known."""

import math

import numpy as np
import pytest

from layerprobe.errors import InputError
from layerprobe.recording import Onset, memorisation_onset
from layerprobe.recording.memorisation import is_higher, wilson_interval

EPOCHS = np.arange(40)
RISING = 1 - 0.8 * 0.9**EPOCHS  # fit of the training labels


def onset(accuracy, fit=RISING, holdout_rows=1000, train_rows=9000, **options):
    return memorisation_onset(accuracy, fit, holdout_rows=holdout_rows, train_rows=train_rows, **options)


def test_wilson_interval_agrees_with_scipy():
    from scipy.stats import binomtest

    for successes, rows in ((0, 10), (3, 10), (977, 1000), (1000, 1000)):
        interval = binomtest(successes, rows).proportion_ci(0.95, method="wilson")
        expected = (interval.low, interval.high)
        assert wilson_interval(successes / rows, rows, 1.959963985) == pytest.approx(expected)


def test_higher_share_is_newcombes_example():
    # Newcombe (1998), table II: 56/70 against 48/80 has the interval 0.0524 to 0.3339 by method 10
    low = 56 / 70 - wilson_interval(56 / 70, 70, 1.959964)[0]
    high = wilson_interval(48 / 80, 80, 1.959964)[1] - 48 / 80
    assert 56 / 70 - 48 / 80 - math.hypot(low, high) == pytest.approx(0.0524, abs=5e-5)
    assert is_higher(0.8, 0.6, 75, 0.025)
    assert not is_higher(0.6, 0.8, 75, 0.025)
    assert not is_higher(0.8, 0.6, 10, 0.025)
    assert not is_higher(math.nan, 0.6, 75, 0.025)


def test_fall_of_holdout_accuracy_while_the_fit_rises_is_memorisation():
    accuracy = np.where(EPOCHS < 8, 0.3 + 0.04 * EPOCHS, 0.58 - 0.01 * (EPOCHS - 7))
    assert onset(accuracy) == Onset(best=8, epoch=14)  # six points lower
    assert onset(accuracy, holdout_rows=30000).epoch == 10
    assert onset(accuracy, holdout_rows=100).epoch > 20
    assert onset(accuracy[:15], RISING[:15]) is None  # not significant yet


@pytest.mark.parametrize(
    ("accuracy", "fit"),
    [
        (0.9 - 0.6 * 0.9**EPOCHS, RISING),  # clean labels: both rise
        (np.full(40, 0.6), RISING),  # memorisation without a loss on the hold-out
        (np.where(EPOCHS < 20, 0.6, 0.1), np.where(EPOCHS < 20, 0.6, 0.1)),  # divergence
        (np.where(EPOCHS % 5 == 4, 0.4, 0.6), RISING),  # single bad epochs
        (np.linspace(0.6, 0.5, 40), np.ones(40)),  # memorised before: the fit cannot rise
        (np.full(40, np.nan), RISING),
        (np.linspace(0.6, 0.3, 40), np.full(40, np.nan)),
        ([], []),
    ],
)
def test_other_curves_are_not_memorisation(accuracy, fit):
    assert onset(accuracy, fit) is None


def test_begin_is_the_first_of_three_epochs_in_a_row():
    fit = [0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.97]
    assert onset([0.6, 0.4, 0.4, 0.6, 0.4, 0.4, 0.4], fit) == Onset(best=1, epoch=5)
    assert onset([0.6, 0.4, 0.4, 0.6, 0.4, 0.4], fit[:6]) is None
    assert onset([0.6, 0.6, 0.6, 0.4, math.nan, 0.4, 0.4], fit) is None


def test_higher_accuracy_later_moves_the_best_epoch():
    accuracy = [0.5, 0.6, 0.45, 0.45, 0.45, 0.7, 0.7]
    fit = [0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9]
    assert onset(accuracy[:5], fit[:5]) == Onset(best=2, epoch=3)
    assert onset(accuracy, fit) is None  # a smaller learning rate


def test_false_results_are_rare():
    rng = np.random.default_rng(0)
    fit = np.linspace(0.5, 0.9, 100)
    for rows, share in ((200, 0.3), (1000, 0.6), (1000, 0.97)):
        # a plateau, as if the hold-out were drawn anew after each epoch: the most unfavourable case
        curves = rng.binomial(rows, share, (200, 100)) / rows
        assert np.mean([onset(curve, fit, rows) is not None for curve in curves]) < 0.05


@pytest.mark.parametrize(
    ("accuracy", "fit", "options", "message"),
    [
        ([0.5], [0.5, 0.6], {}, "one hold-out accuracy and one fit per epoch"),
        ([50.0], [0.5], {}, "shares in"),
        ([0.5], [0.5], {"holdout_rows": 0}, "holdout_rows must be a whole number"),
        ([0.5], [0.5], {"level": 0}, "level must be a number above 0"),
    ],
)
def test_invalid_curves_raise(accuracy, fit, options, message):
    with pytest.raises(InputError, match=message):
        onset(accuracy, fit, **options)
