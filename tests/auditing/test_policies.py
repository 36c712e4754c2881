"""By what layers are chosen, and by what they are not."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from auditing.planted import clusters, prints
from layerprobe.auditing.features import Features
from layerprobe.auditing.method.policies import (
    FEWEST,
    POLICIES,
    REFUSED,
    Jury,
    check_policy,
    halves_for_testing,
    juries_of_rows,
    jury_of_rows,
    jury_of_views,
)
from layerprobe.errors import InputError

NOTHING = {"holdout": None, "trusted": None, "test": None}
NEEDS = [("noisy_holdout", "holdout"), ("trusted", "trusted"), ("test_split", "test")]
A, B, C = ({"fc": clusters(6, seed=seed)[0]} for seed in range(3))
LOGITS = torch.eye(3).repeat(2, 1)
Y = torch.arange(6) % 3


@pytest.mark.parametrize("policy", ["in_sample", "loo", "leave_one_out", "cross_validation", "out_of_fold"])
def test_scores_of_rows_that_the_network_has_seen_cannot_choose(policy):
    with pytest.raises(InputError, match="already contain its label") as caught:
        check_policy(policy, {**NOTHING, "holdout": object()}, views=True)
    assert all(name in str(caught.value) for name in POLICIES)
    assert policy in REFUSED


def test_a_policy_that_does_not_exist():
    with pytest.raises(InputError, match=r"'best'.*noisy_holdout needs holdout="):
        check_policy("best", NOTHING, views=True)


@pytest.mark.parametrize(("policy", "argument"), NEEDS)
def test_each_policy_has_what_it_needs_and_nothing_else(policy, argument):
    check_policy(policy, {**NOTHING, argument: object()}, views=False)
    with pytest.raises(InputError, match=f"pass {argument}="):
        check_policy(policy, NOTHING, views=True)
    other = next(name for name in NOTHING if name != argument)
    with pytest.raises(InputError, match=f"does not look at {other}="):
        check_policy(policy, {**NOTHING, argument: object(), other: object()}, views=True)


def test_unseen_views_need_views():
    check_policy("unseen_views", NOTHING, views=True)
    with pytest.raises(InputError, match="which keep the label"):
        check_policy("unseen_views", NOTHING, views=False)
    with pytest.raises(InputError, match="does not look at trusted="):
        check_policy("unseen_views", {**NOTHING, "trusted": object()}, views=True)


def test_rows_judge_by_their_mean_over_views():
    train, held = Features(A, B), Features(B, C, LOGITS, LOGITS.softmax(1))
    jury = jury_of_rows(train, held, Y, clean=True)
    assert jury.fitted_on is B
    assert list(jury.copies) == [C]
    assert jury.clean
    assert jury.correct(jury.logits).tolist() == [1] * 6
    assert torch.equal(jury.averaged, held.probabilities)
    assert not jury.of_views
    assert jury_of_rows(train, Features(B, C), Y, clean=False).averaged is None
    once = Features(C, C, LOGITS, LOGITS.softmax(1))  # without views that is the head again
    assert jury_of_rows(train, once, Y, clean=False).averaged is None


@pytest.mark.parametrize("policy", ["noisy_holdout", "trusted", "test_split"])
def test_a_few_rows_cannot_judge(policy):
    with pytest.raises(InputError, match=rf"at least {FEWEST} rows as {POLICIES[policy]}=.*got 6"):
        juries_of_rows(policy, Features(A, A), Features(B, B), Y, prints(6))


def views_of(known, n=2000, K=3):
    """A jury of two views, of which the head remembers such shares; and what never saw a label says."""
    rng = np.random.default_rng(0)
    true, given = (torch.from_numpy(rng.integers(K, size=n)) for _ in range(2))
    given = torch.where(torch.from_numpy(rng.random(n) < 0.6), true, given)
    posterior = 0.1 + 0.7 * torch.eye(K, dtype=torch.float64)[true]
    said = [torch.where(torch.from_numpy(rng.random(n) < share), given, true) for share in known]
    logits = [torch.eye(K)[labels] for labels in said]
    return Jury({}, [{"fc": one} for one in logits], given, False, logits, None, of_views=True), posterior


def test_views_that_the_head_remembers_do_not_judge():
    jury, posterior = views_of([0.4, 0.02])
    assert jury.least_remembered(posterior) == [1]
    forgetting = jury.forgetting(posterior, [1])
    assert forgetting.copies == [jury.copies[1]]
    assert forgetting.logits == [jury.logits[1]]
    alike, posterior = views_of([0.05, 0.1])
    assert alike.least_remembered(posterior) == [0, 1]
    assert replace(alike, logits=[]).least_remembered(posterior) == [0, 1]  # nobody knows


def test_what_is_remembered_counts_for_nothing():
    jury, posterior = views_of([0.4, 0.02])
    places = [0, 1]
    plain = [float(jury.correct([scores]).mean()) for scores in jury.logits]
    taken = [float(jury.forgetting(posterior, places).correct([scores]).mean()) for scores in jury.logits]
    assert plain[0] > plain[1] + 0.05
    assert taken[0] == pytest.approx(taken[1], abs=0.04)


def test_views_judge_what_was_fitted_on_the_rows_as_they_are():
    kept = np.array([1, 4, 5])
    of = [Features({"fc": x["fc"][kept]}, {}, LOGITS[kept].roll(k, 0)) for k, x in enumerate((B, C))]
    jury = jury_of_views(Features(A, B, copies={"flip": of[0], "up": of[1]}, kept=kept), Y)
    assert jury.fitted_on is A
    assert [copy["fc"].shape for copy in jury.copies] == [(3, 6), (3, 6)]
    assert jury.labels.tolist() == Y[kept].tolist()
    assert not jury.clean
    assert jury.of_views
    expected = [
        (int(a == y) + int(b == y)) / 2 for a, b, y in zip((1, 1, 2), (2, 1, 1), (1, 1, 2), strict=True)
    ]
    assert jury.correct(jury.logits).tolist() == expected
    torch.testing.assert_close(jury.averaged, (of[0].logits.softmax(1) + of[1].logits.softmax(1)) / 2)


def test_a_part_of_a_jury_takes_its_rows_everywhere():
    jury = jury_of_rows(Features(A, B), Features(B, C, LOGITS, LOGITS), Y, clean=True).part(
        torch.tensor([4, 0])
    )
    assert torch.equal(jury.copies[0]["fc"], C["fc"][[4, 0]])
    assert jury.labels.tolist() == [1, 0]
    assert torch.equal(jury.logits[0], LOGITS[[4, 0]])
    assert torch.equal(jury.averaged, LOGITS[[4, 0]])
    assert jury.fitted_on is B


def test_a_fifth_of_the_test_rows_chooses():
    labels, fingerprints = torch.arange(300) % 3, prints(300)
    chooses, measures = halves_for_testing(labels, fingerprints)
    assert torch.cat([chooses, measures]).sort().values.tolist() == list(range(300))
    assert labels[chooses].bincount().tolist() == [20, 20, 20]
    order = np.random.default_rng(0).permutation(300)
    again, _ = halves_for_testing(labels[order], fingerprints[order])
    assert set(order[again.numpy()]) == set(chooses.tolist())
