import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import norm

from layerprobe.auditing.method.policies import Interval
from layerprobe.auditing.review.estimating import (
    PRIOR,
    correct_gain,
    correct_share,
    error_of_majority,
    error_rate,
    share_of_sum,
    stratified_mean,
    wilson,
)
from layerprobe.auditing.review.sampling import draw_sample


@pytest.mark.parametrize(("k", "n"), [(0, 10), (1, 10), (5, 9), (10, 10), (37, 200)])
def test_wilson_limits_solve_the_score_equation(k, n):
    value, low, high = wilson(k, n)
    assert value == k / n
    for limit in (low, high):
        if 0 < limit < 1:
            z = abs(k / n - limit) / np.sqrt(limit * (1 - limit) / n)
            assert z == pytest.approx(norm.ppf(0.975), rel=1e-9)


def test_fully_reviewed_strata_are_exact():
    values = np.array([1.0, 0, 0, 1, 1, 0, 0, 0])
    stratum = np.array([0, 0, 0, 1, 1, 1, 1, 1])
    mean = stratified_mean(values, stratum, np.array([3, 5]))
    assert mean == pytest.approx((3 / 8, 3 / 8, 3 / 8))


def test_stratum_without_decisions_is_unknown():
    mean = stratified_mean(np.zeros(4), np.zeros(4, int), np.array([4, 4]))
    assert mean == pytest.approx((0.0, 0.0, 0.5))  # the value is that of the decided stratum


def test_gain_of_a_stratum_without_decisions_may_be_negative():
    mean = stratified_mean(np.ones(4), np.zeros(4, int), np.array([4, 4]), -1.0)
    assert mean == pytest.approx((1.0, 0.0, 1.0))


def test_strata_without_decisions_give_every_share_that_is_possible():
    values = np.zeros(10)
    mean = stratified_mean(values, np.zeros(10, int), np.array([10, 30, 30, 30]))
    assert mean.low == pytest.approx(0, abs=1e-12)
    assert mean.high == pytest.approx(0.9, abs=1e-12)


def test_share_of_sum_is_monotone_in_both_parts():
    value, low, high = share_of_sum(Interval(0.2, 0.1, 0.3), Interval(0.2, 0.1, 0.3))
    assert value == 0.5
    assert 0.2 < low < 0.4 < 0.6 < high < 0.8
    assert share_of_sum(Interval(0.2, 0.2, 0.2), Interval(0.0, 0.0, 0.0)) == (1, 1, 1)


def test_error_rate_follows_from_repeated_decisions():
    def log_density(e):  # of 180 different pairs among 1,000, and of the prior
        return 180 * np.log(2 * e * (1 - e)) + 820 * np.log(1 - 2 * e * (1 - e)) + (PRIOR - 1) * np.log(1 - e)

    none, some = error_rate(10, 0), error_rate(1000, 180)
    assert none.value == none.low == 0
    assert 0.02 < none.high < 0.1
    mode = minimize_scalar(lambda e: -log_density(e), bounds=(0.01, 0.49), method="bounded").x
    assert some.value == pytest.approx(mode, abs=1e-4)
    assert some.value == pytest.approx(0.1, abs=0.003)
    assert some.low < 0.1 < some.high < 0.13
    assert error_rate(0, 0).high < 0.15


@pytest.mark.parametrize(("pairs", "different"), [(1, 1), (3, 1), (5, 2), (10, 1), (10, 10)])
def test_error_rate_of_few_repeated_decisions_is_inside_its_interval(pairs, different):
    value, low, high = error_rate(pairs, different)
    assert 0 < low < value < (low + high) / 2 + 0.02 < high
    assert value < 0.25


def test_correction_inverts_the_errors_of_a_reviewer():
    """Its limits are the shares behind errors that all fall on right labels, or all on wrong ones."""
    exact = Interval(0.05, 0.05, 0.05)
    observed = 0.3 * 0.95 + 0.7 * 0.05
    value, low, high = correct_share(Interval(observed, observed, observed), exact, 10**9)
    assert value == pytest.approx(0.3)
    assert low + (1 - low) * 0.05 == pytest.approx(observed, abs=1e-4)
    assert high * 0.95 == pytest.approx(observed, abs=1e-4)
    gain = correct_gain(Interval(0.45, 0.45, 0.45), exact, 10**9)
    assert gain.value == pytest.approx(0.5)


@pytest.mark.parametrize(("K", "m"), [(2, 1), (2, 3), (10, 1), (10, 2), (10, 3)])
def test_error_rate_of_a_majority_is_that_of_simulated_decisions(K, m):
    """Each row has m independent decisions; 10 % are errors, which name all other classes equally often."""
    generator = np.random.default_rng(K * m)
    other = generator.integers(1, K, (200_000, m))
    named = np.where(generator.random((200_000, m)) < 0.1, other, 0)  # 0 is right
    votes = np.stack([(named == k).sum(1) for k in range(K)], 1)
    decided = (votes == votes.max(1, keepdims=True)).sum(1) == 1
    simulated = (votes.argmax(1) != 0)[decided].mean()
    ordered = np.sort(votes[decided], 1)[:, ::-1]
    assert error_of_majority(0.1, ordered, K).mean() == pytest.approx(simulated, rel=0.15)
    assert not error_of_majority(0.0, ordered, K).any()


def population(kind, noise, generator, n=1500):
    """Wrong labels and announced scores: informative, weak, blind or too suspicious."""
    wrong = generator.random(n) < noise
    centre = {"good": (-3, 4), "weak": (0, 1), "blind": (3, 3), "suspicious": (-3, -1)}[kind]
    score = 1 / (1 + np.exp(-np.where(wrong, *centre) - generator.normal(0, 1.5, n)))
    return wrong, score, score < 0.5


@pytest.mark.parametrize("kind", ["good", "weak", "blind", "suspicious"])
@pytest.mark.parametrize("noise", [0.0, 0.05, 0.2, 0.4])
@pytest.mark.parametrize("error", [0.0, 0.03])
def test_intervals_have_their_coverage_for_good_and_bad_scores(kind, noise, error):
    """95 % intervals hold in at least 93 %; of 150 draws 90 % may be expected by chance."""
    held = {"noise": [], "precision": [], "gain": []}
    for seed in range(150):
        generator = np.random.default_rng(seed)
        wrong, score, flags = population(kind, noise, generator)
        helps = generator.random(len(wrong)) < 0.8  # the suggestion is right where the given label is wrong
        sample = draw_sample(score, flags, 100, seed)

        def decide(rows, generator=generator, wrong=wrong):
            decided = np.where(generator.random(len(rows)) < error, ~wrong[rows], wrong[rows])
            return decided.astype(float)

        first, second = decide(sample.positions), decide(sample.repeated)
        known = dict(zip(sample.positions, first, strict=True))
        different = sum(known[i] != again for i, again in zip(sample.repeated, second, strict=True))
        errors = error_rate(len(sample.repeated), different)
        stratum = sample.stratum[sample.positions]
        gained = np.where(first > 0, helps[sample.positions] * 1.0, -1.0)
        true_gain = np.where(wrong, helps * 1.0, -1.0)

        def estimate(values, domain, correct, sample=sample, stratum=stratum, errors=errors):
            inside = domain[sample.positions]
            sizes = np.bincount(sample.stratum[domain], minlength=len(sample.names))
            mean = stratified_mean(values[inside], stratum[inside], sizes)
            return correct(mean, errors, int(domain.sum()))

        everything = np.ones(len(wrong), bool)
        results = [("noise", estimate(first, everything, correct_share), wrong.mean())]
        if flags.any():
            results += [
                ("precision", estimate(first, flags, correct_share), wrong[flags].mean()),
                ("gain", estimate(gained, flags, correct_gain), true_gain[flags].mean()),
            ]
        for name, (_, low, high), truth in results:
            held[name].append(low - 1e-9 <= truth <= high + 1e-9)
    for name, outcomes in held.items():
        assert np.mean(outcomes) >= 0.9, (name, np.mean(outcomes))
