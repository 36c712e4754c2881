"""Selection policies: which rows and labels choose the layer."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import binom

from auditing.planted import clusters, prints
from layerprobe.auditing.features import Features, LabelledFeatures
from layerprobe.auditing.method.policies import (
    MIN_ROWS,
    POLICIES,
    REFUSED,
    SelectionSet,
    check_policy,
    held_out_set,
    interval,
    memorisation_corrected,
    memorised_share,
    selection_sets,
    split_test_rows,
    view_set,
)
from layerprobe.errors import InputError

NOTHING = {"holdout": None, "trusted": None, "test": None}
NEEDS = [("noisy_holdout", "holdout"), ("trusted", "trusted"), ("test_split", "test")]
A, B, C = ({"fc": clusters(6, seed=seed)[0]} for seed in range(3))
LOGITS = torch.eye(3).repeat(2, 1)
Y = torch.arange(6) % 3


@pytest.mark.parametrize("policy", ["in_sample", "loo", "leave_one_out", "cross_validation", "out_of_fold"])
def test_in_sample_policies_are_refused(policy):
    with pytest.raises(InputError, match="already contain its label") as caught:
        check_policy(policy, {**NOTHING, "holdout": object()}, views=True)
    assert all(name in str(caught.value) for name, one in POLICIES.items() if one.needs)
    assert policy in REFUSED


def test_unknown_policy_is_refused():
    with pytest.raises(InputError, match=r"'best'.*noisy_holdout needs holdout="):
        check_policy("best", NOTHING, views=True)


@pytest.mark.parametrize(("policy", "argument"), NEEDS)
def test_each_policy_requires_its_argument_and_refuses_unused_ones(policy, argument):
    check_policy(policy, {**NOTHING, argument: object()}, views=False)
    with pytest.raises(InputError, match=f"pass {argument}="):
        check_policy(policy, NOTHING, views=True)
    other = "holdout" if argument == "test" else "test"
    with pytest.raises(InputError, match=f"does not use {other}="):
        check_policy(policy, {**NOTHING, argument: object(), other: object()}, views=True)


def test_trusted_rows_are_taken_beside_a_noisy_hold_out():
    check_policy("noisy_holdout", {**NOTHING, "holdout": object(), "trusted": object()}, views=False)


def test_unseen_views_require_views():
    check_policy("unseen_views", NOTHING, views=True)
    with pytest.raises(InputError, match="which keep the label"):
        check_policy("unseen_views", NOTHING, views=False)
    with pytest.raises(InputError, match="does not use trusted="):
        check_policy("unseen_views", {**NOTHING, "trusted": object()}, views=True)


def test_held_out_rows_are_averaged_over_views():
    train, held_out = Features(A, B), Features(B, C, LOGITS, LOGITS.softmax(1))
    selection = held_out_set(train, held_out, Y, clean=True)
    assert selection.fitted_on is B
    assert list(selection.views) == [C]
    assert selection.clean
    assert selection.correct(selection.logits).tolist() == [1] * 6
    assert torch.equal(selection.averaged, held_out.probabilities)
    assert not selection.of_training_rows
    assert held_out_set(train, Features(B, C), Y, clean=False).averaged is None
    without_views = Features(C, C, LOGITS, LOGITS.softmax(1))  # their average is the head again
    assert held_out_set(train, without_views, Y, clean=False).averaged is None


@pytest.mark.parametrize("policy", ["noisy_holdout", "trusted", "test_split"])
def test_too_few_held_out_rows_are_refused(policy):
    train, held_out = (LabelledFeatures(Features(X, X), Y, prints(6), np.arange(6)) for X in (A, B))
    with pytest.raises(InputError, match=rf"at least {MIN_ROWS} rows as {POLICIES[policy].needs}=.*got 6"):
        selection_sets(policy, train, held_out)


def memorised_views(shares, n=2000, K=3):
    """Return views of which the head memorises these shares, and a label-free posterior."""
    rng = np.random.default_rng(0)
    true, given = (torch.from_numpy(rng.integers(K, size=n)) for _ in range(2))
    given = torch.where(torch.from_numpy(rng.random(n) < 0.6), true, given)
    posterior = 0.1 + 0.7 * torch.eye(K, dtype=torch.float64)[true]
    predicted = [torch.where(torch.from_numpy(rng.random(n) < share), given, true) for share in shares]
    logits = [torch.eye(K)[labels] for labels in predicted]
    views = [{"fc": one} for one in logits]
    return SelectionSet({}, views, given, False, logits, None, of_training_rows=True), posterior


def test_most_memorised_views_are_left_out():
    selection, posterior = memorised_views([0.4, 0.02])
    assert selection.least_memorised_views(posterior) == [1]
    corrected = selection.corrected_for_memorisation([1], posterior)
    assert corrected.views == [selection.views[1]]
    assert corrected.logits == [selection.logits[1]]
    alike, posterior = memorised_views([0.05, 0.1])
    assert alike.least_memorised_views(posterior) == [0, 1]
    assert replace(alike, logits=[]).least_memorised_views(posterior) == [0, 1]


def test_correction_removes_the_advantage_of_memorised_views():
    selection, posterior = memorised_views([0.4, 0.02])
    plain = [float(selection.correct([scores]).mean()) for scores in selection.logits]
    corrected = selection.corrected_for_memorisation([0, 1], posterior)
    unbiased = [float(corrected.correct([scores]).mean()) for scores in selection.logits]
    assert plain[0] > plain[1] + 0.05
    assert unbiased[0] == pytest.approx(unbiased[1], abs=0.04)


def test_views_score_candidates_fitted_on_the_rows_without_views():
    kept = np.array([1, 4, 5])
    of = [Features({"fc": x["fc"][kept]}, {}, LOGITS[kept].roll(k, 0)) for k, x in enumerate((B, C))]
    selection = view_set(Features(A, B, views={"flip": of[0], "up": of[1]}, kept=kept), Y)
    assert selection.fitted_on is A
    assert [view["fc"].shape for view in selection.views] == [(3, 6), (3, 6)]
    assert selection.y.tolist() == Y[kept].tolist()
    assert not selection.clean
    assert selection.of_training_rows
    expected = [
        (int(a == y) + int(b == y)) / 2 for a, b, y in zip((1, 1, 2), (2, 1, 1), (1, 1, 2), strict=True)
    ]
    assert selection.correct(selection.logits).tolist() == expected
    torch.testing.assert_close(selection.averaged, (of[0].logits.softmax(1) + of[1].logits.softmax(1)) / 2)


def test_subset_selects_rows_of_all_fields():
    whole = held_out_set(Features(A, B), Features(B, C, LOGITS, LOGITS), Y, clean=True)
    part = whole.subset(torch.tensor([4, 0]))
    assert torch.equal(part.views[0]["fc"], C["fc"][[4, 0]])
    assert part.y.tolist() == [1, 0]
    assert torch.equal(part.logits[0], LOGITS[[4, 0]])
    assert torch.equal(part.averaged, LOGITS[[4, 0]])
    assert part.fitted_on is B


def test_test_split_selects_with_a_fifth_of_the_rows():
    y, hashes = torch.arange(300) % 3, prints(300)
    selecting, measuring = split_test_rows(y, hashes)
    assert torch.cat([selecting, measuring]).sort().values.tolist() == list(range(300))
    assert y[selecting].bincount().tolist() == [20, 20, 20]
    order = np.random.default_rng(0).permutation(300)
    again, _ = split_test_rows(y[order], hashes[order])
    assert set(order[again.numpy()]) == set(selecting.tolist())


K, N = 10, 20_000


def planted(memory, accuracy, *, seed=0, n=N, noise=0.4, blind=0.6):
    """Given labels, a blind decoder's posterior, predictions with and without memory."""
    rng = np.random.default_rng(seed)

    def noisy(labels, wrong):
        return np.where(rng.random(n) < wrong, (labels + rng.integers(1, K, n)) % K, labels)

    true = rng.integers(K, size=n)
    given, seen = noisy(true, noise), noisy(true, 1 - blind)
    likely = np.where(np.arange(K) == seen[:, None], blind, (1 - blind) / (K - 1))
    posterior = likely * np.where(np.arange(K) == given[:, None], 1 - noise, noise / (K - 1))
    posterior /= posterior.sum(1, keepdims=True)
    understood = noisy(true, 1 - accuracy)
    predicted = np.where(rng.random(n) < memory, given, understood)
    tensors = [torch.from_numpy(array) for array in (given, posterior, predicted, understood)]
    return tensors[0], tensors[1], tensors[2], tensors[3]


@pytest.mark.parametrize("accuracy", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("memory", [0.0, 0.2, 0.45])
def test_memorised_share_and_accuracy_are_recovered(memory, accuracy):
    given, posterior, predicted, understood = planted(memory, accuracy)
    assert memorised_share(predicted, given, posterior) == pytest.approx(memory, abs=0.03)
    without = float(memorisation_corrected(predicted, given, posterior).mean())
    assert without == pytest.approx(float((understood == given).double().mean()), abs=0.02)


def test_row_values_give_a_valid_interval():
    means, halves = [], []
    for seed in range(40):
        given, posterior, predicted, _ = planted(0.3, 0.6, seed=seed, n=2000)
        found = interval(memorisation_corrected(predicted, given, posterior))
        means.append(found.value)
        halves.append(found.high - found.value)
    assert np.mean(halves) / 1.96 == pytest.approx(np.std(means), rel=0.3)


def test_less_memorised_candidate_is_better():
    given, posterior, remembering, _ = planted(0.45, 0.4)
    *_, understanding = planted(0.0, 0.6)
    plain = [(predicted == given).double().mean() for predicted in (remembering, understanding)]
    taken = [memorisation_corrected(p, given, posterior).mean() for p in (remembering, understanding)]
    assert plain[0] > plain[1]
    assert taken[0] < taken[1]


def test_correction_without_memorisation_is_the_identity():
    given, posterior, _, understood = planted(0.0, 0.9)
    wrong = (given + 1) % K  # agrees with nothing: less than no memory
    assert torch.equal(memorisation_corrected(wrong, given, posterior), torch.zeros(N, dtype=torch.float64))
    assert memorised_share(wrong, given, posterior) == 0
    assert memorised_share(understood, given, posterior) < 0.02


def test_accuracy_of_fully_memorised_predictions_is_unknown():
    given, posterior, _, _ = planted(0.0, 0.9)
    assert memorised_share(given, given, posterior) == pytest.approx(1)
    corrected = memorisation_corrected(given, given, posterior)
    assert corrected.isnan().all()
    assert interval(corrected)[1:] == (0, 1)
    assert interval(corrected, difference=True)[1:] == (-1, 1)


def test_uninformative_posterior_does_not_change_the_accuracy():
    given, _, predicted, _ = planted(0.3, 0.6)
    nothing = torch.full((N, K), 0.4 / (K - 1), dtype=torch.float64)
    nothing[torch.arange(N), given] = 0.6
    assert torch.equal(memorisation_corrected(predicted, given, nothing), (predicted == given).double())


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.98, 1.0])
def test_intervals_of_shares_hold(share):
    """Coverage over all samples of 80 rows, by the binomial distribution."""
    counts = np.arange(81)
    limits = [interval((torch.arange(80) < k).double()) for k in counts]
    holds = np.array([one.low <= share <= one.high for one in limits])
    assert (holds * binom.pmf(counts, 80, share)).sum() > 0.93
    assert all(one.low <= one.value <= one.high and one.high - one.low > 0.03 for one in limits)


def test_intervals_of_paired_differences_hold():
    """Coverage over samples of 60 rows: 5 % are right by the first predictor only, 2 % by the second."""
    random = np.random.default_rng(0)
    values = torch.from_numpy(random.choice([-1.0, 0.0, 1.0], (4000, 60), p=[0.02, 0.93, 0.05]))
    found = [interval(one, difference=True) for one in values]
    assert np.mean([one.low <= 0.03 <= one.high for one in found]) > 0.93
    equal = interval(torch.zeros(60), difference=True)
    assert equal == pytest.approx((0, -0.0316, 0.0316), abs=1e-4)
