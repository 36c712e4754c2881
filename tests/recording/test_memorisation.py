"""The rule for the begin of memorisation, on curves whose answer is known."""

import math

import numpy as np
import pytest

from layerprobe.errors import InputError
from layerprobe.recording import Onset, memorisation_onset
from layerprobe.recording.memorisation import is_higher, is_less_often_right, wilson_interval

EPOCHS = np.arange(40)
RISING = 1 - 0.8 * 0.9**EPOCHS  # fit of the training labels


def onset(accuracy, fit=RISING, holdout_rows=1000, train_rows=9000, seed=None, **options):
    """The rule on rows that are lost in the order of their number, or at random (seed), per epoch."""
    share = np.asarray(accuracy, float)[:, None]
    position = (np.arange(holdout_rows) + 0.5) / holdout_rows
    if seed is not None:
        position = np.random.default_rng(seed).random((len(share), holdout_rows))
    correct = np.where(np.isnan(share), -1, position < share).astype(int)
    return memorisation_onset(correct, fit, train_rows=train_rows, **options)


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


def test_paired_test_is_mcnemars():
    from scipy.stats import binomtest

    rng = np.random.default_rng(0)
    for level in (0.05, 0.01, 0.001):
        for _ in range(50):
            first, second = rng.random((2, 60)) < np.array([[0.5], [0.7]])
            lost, won = (second & ~first).sum(), (first & ~second).sum()
            p = binomtest(int(lost), int(lost + won), 0.5, alternative="greater").pvalue
            assert is_less_often_right(first, second, level) == (p < level)
    assert not is_less_often_right(first, first, 0.05)


def test_fall_of_holdout_accuracy_while_the_fit_rises_is_memorisation():
    accuracy = np.where(EPOCHS < 8, 0.3 + 0.04 * EPOCHS, 0.58 - 0.01 * (EPOCHS - 7))
    # The same rows stay lost: with 1,000 rows one point is ten rows that only the best epoch predicts.
    assert onset(accuracy) == Onset(best=8, epoch=9)
    assert onset(accuracy, holdout_rows=300) == Onset(best=8, epoch=11)
    # Rows that change at random in every epoch hide a loss of few points.
    assert onset(accuracy, seed=0).epoch > 12
    assert onset(accuracy[:10], RISING[:10]) is None  # two epochs only


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
        # a plateau; which rows are correct changes at random in every epoch: the most unfavourable case
        runs = (rng.random((100, rows)) < share for _ in range(60))
        assert np.mean([memorisation_onset(run, fit, train_rows=9000) is not None for run in runs]) < 0.05


@pytest.mark.parametrize(
    ("correct", "fit", "options", "message"),
    [
        ([[1]], [0.5, 0.6], {}, "one fit per epoch"),
        ([1, 0], [0.5, 0.6], {}, "hold-out row was predicted correctly"),
        ([[0.5, 1.0]], [0.5], {}, "0 and 1"),
        ([[2, 1]], [0.5], {}, "0 and 1"),
        ([[0, 1]], [50.0], {}, "shares in"),
        ([[0, 1]], [0.5], {"train_rows": 0}, "train_rows must be a whole number"),
        ([[0, 1]], [0.5], {"level": 0}, "level must be a number above 0"),
    ],
)
def test_invalid_values_raise(correct, fit, options, message):
    with pytest.raises(InputError, match=message):
        memorisation_onset(np.array(correct), fit, **{"train_rows": 9000, **options})
