"""Calibration and noise estimates recover planted noise."""

import numpy as np
import pytest
import torch

from auditing.planted import clusters, corrupted, noise_matrix, scored_rows
from layerprobe.auditing.method.calibration import (
    PRIOR_BETA,
    PSEUDO_ROWS,
    Calibration,
    calibrate,
    calibrate_clean,
    with_wrong_share,
)
from layerprobe.auditing.method.noise import LabelFreeScorer, estimate_noise
from layerprobe.auditing.method.policies import SelectionSet, interval
from layerprobe.errors import InputError
from layerprobe.probes import Ridge


def hard(n=1500, K=5, d=60, rate=0.3, seed=0):
    """Classes that overlap, in so many dimensions that a probe fits noise: its errors look decided."""
    X, y = clusters(n, K, d, seed=seed, apart=2.0)
    return X, y, corrupted(y, K, rate, seed=seed + 1)


def measurement(scores, labels, *, of_training_rows=False, clean=False):
    return SelectionSet({}, [{}], labels, clean, [], None, of_training_rows)


def test_layer_with_the_highest_agreement_is_selected():
    X, _, given = hard()
    found = LabelFreeScorer.select({"nothing": torch.randn(X.shape), "the raw input": X}, given, seed=0)
    assert found.source == "the raw input, which does not depend on the labels"
    assert torch.allclose(found.posterior.sum(1), torch.ones(len(X), dtype=torch.float64))
    assert LabelFreeScorer.select({}, given, seed=0) is None


def test_relabelled_is_the_fit_to_the_other_labels():
    X, y, given = hard()
    first, other = Ridge(0.3).fit(X, y), Ridge(0.3).fit(X, given)
    again = first.relabelled(X, given)
    assert torch.allclose(again.coef_, other.coef_, atol=1e-6)
    assert torch.allclose(again.loo_scores(X, given), other.loo_scores(X, given), atol=1e-5)
    assert torch.equal(first.codes_, y)  # the first fit is as it was


def test_bias_correction_reduces_the_error():
    plain_errors, errors, covered = [], [], 0
    for seed in range(4):
        X, y, given = hard(seed=10 * seed)
        truth = float((given != y).double().mean())
        scorer = LabelFreeScorer.select({"the raw input": X}, given, seed=0)
        _, found = estimate_noise(
            [scorer.scores],
            measurement(scorer.scores, given, of_training_rows=True),
            scorer.scores,
            given,
            scorer,
            seed=0,
        )
        plain = scorer.calibration.noise_rate(scorer.scores, given)
        plain_errors.append(plain - truth)
        errors.append(found.rate - truth)
        covered += found.low <= truth <= found.high
    assert sum(plain_errors) / 4 > 0.01
    assert abs(sum(errors)) < abs(sum(plain_errors)) / 2
    assert covered >= 3


def test_interval_of_the_held_out_rows_spans_all_estimators():
    _, _, given = hard(rate=0.2)
    scores, _, labels = scored_rows(3000, 5, 8.0, noise_matrix(5, 0.2), seed=3)
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(len(given), 6, generator=generator), given  # neighbours of different classes
    train = scored_rows(1500, 5, 8.0, noise_matrix(5, 0.2), seed=4)
    found = [
        estimate_noise(
            [scores], measurement(scores, labels), train[0], train[2], None, neighbours=pair, seed=0
        )[1]
        for pair in (None, mixed)
    ]
    assert found[0].rate == found[1].rate == found[0].estimates["mixture, training rows"]
    assert found[0].rate == pytest.approx(0.2, abs=0.03)
    assert found[1].estimates["neighbours, HOC"] > 0.4
    agreement = interval(scores.argmax(1) == labels)  # of 3,000 rows; the rate is that of 1,500 others
    margin = (agreement.value - agreement.low) * (1 + 3000 / 1500) ** 0.5
    assert found[0].high == pytest.approx(1 - agreement.value + margin, abs=0.001)
    assert found[0].high < found[1].high == found[1].estimates["neighbours, HOC"]
    assert found[0].low == found[1].low


def test_trusted_rows_beside_the_hold_out_give_the_rate():
    """A decoder with 60 % accuracy: its errors look like noise, and trusted rows count them."""
    generator = torch.Generator().manual_seed(0)
    true = torch.randint(5, (4000,), generator=generator)
    predicted = corrupted(true, 5, 0.5, seed=2)
    scores = 3.0 * torch.nn.functional.one_hot(predicted, 5) + torch.rand(4000, 5, generator=generator)
    given = corrupted(true, 5, 0.25, seed=1)
    rate = float((given != true).double().mean())
    rows = measurement(scores, given)
    trusted = (predicted == true)[:300]
    _, found = estimate_noise([scores], rows, scores, given, None, trusted=trusted, seed=0)
    assert found.rate == found.estimates["trusted rows"]
    assert found.low <= rate <= found.high
    assert found.rate == pytest.approx(rate, abs=0.06)
    _, alone = estimate_noise([scores], rows, scores, given, None, seed=0)
    assert alone.low == 0
    assert abs(alone.rate - rate) > 0.1


def test_bias_correction_is_deterministic():
    X, _, given = hard()
    scorer = [LabelFreeScorer.select({"the raw input": X}, given, seed=0) for _ in range(2)]
    first, second = (one.bias_corrected(given, seed=1) for one in scorer)
    assert first[1] == second[1]
    assert torch.equal(first[0].matrices, second[0].matrices)


ENDS = torch.tensor([0.025, 0.975], dtype=torch.float64)


@pytest.mark.parametrize(("K", "kind"), [(2, "uniform"), (3, "uniform"), (4, "pair")])
def test_planted_matrix_and_temperature_are_recovered(K, kind):
    T = noise_matrix(K, 0.25, kind)
    scores, _, given = scored_rows(2500, K, 5.0, T, seed=1)
    found = calibrate(scores, given)
    difference = found.probabilities(scores) - (5.0 * scores).softmax(1)
    assert float(difference.abs().mean()) < 0.03
    torch.testing.assert_close(found.matrix, T, atol=0.06, rtol=0)
    torch.testing.assert_close(found.matrix.sum(1), torch.ones(K).double())


@pytest.mark.parametrize("K", [2, 4])
def test_estimate_maximises_the_penalised_likelihood(K):
    scores, _, given = scored_rows(300, K, 5.0, noise_matrix(K, 0.25), seed=1)
    found = calibrate(scores, given, ranks=False, draws=1)
    log_beta, logits = torch.tensor(found.beta).double().log(), found.matrix.log()
    log_beta.requires_grad_(), logits.requires_grad_()
    logs = logits.log_softmax(1)
    likelihood = ((log_beta.exp() * scores).softmax(1) * logs.exp()[:, given].T).sum(1).log().sum()
    prior = -((log_beta - (PRIOR_BETA / scores.std()).log()) ** 2) / 2
    pseudo_rows = PSEUDO_ROWS / (K - 1) * (logs.sum() - logs.diagonal().sum())
    for gradient in torch.autograd.grad((likelihood + prior + pseudo_rows) / 300, (log_beta, logits)):
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-5, rtol=0)


def test_noise_interval_has_nominal_coverage():
    T = torch.tensor([[0.7, 0.3], [0.2, 0.8]], dtype=torch.float64)
    expected = drawn = width = 0
    for seed in range(20):
        scores, true, given = scored_rows(200, 2, 6.0, T, seed)
        low, high = calibrate(scores, given, seed=seed).rates.quantile(ENDS).tolist()
        expected += low <= float((1 - T.diagonal())[true].mean()) <= high
        drawn += low <= float((true != given).double().mean()) <= high
        width += (high - low) / 20
    assert expected >= 16  # 19 in the long run; fewer than 16 once in a hundred
    assert drawn >= 18  # of the very labels that were drawn
    assert width < 0.2


def test_probabilities_are_calibrated():
    T = noise_matrix(3, 0.3)
    found = calibrate(*scored_rows(5000, 3, 4.0, T, seed=0)[::2])
    scores, true, given = scored_rows(5000, 3, 4.0, T, seed=1)  # other rows
    for chances, what in (
        (found.probabilities(scores), true),
        (found.posterior(scores, given), true),
    ):
        torch.testing.assert_close(chances.sum(1), torch.ones(len(scores)).double())
        best = chances.max(1)
        for low, high in ((0.34, 0.7), (0.7, 0.95), (0.95, 1.01)):
            inside = (best.values >= low) & (best.values < high)
            right = float((best.indices == what)[inside].double().mean())
            assert right == pytest.approx(float(best.values[inside].mean()), abs=0.06)
    wrong = 1 - found.posterior(scores, given).gather(1, given[:, None])
    assert float(wrong.mean()) == pytest.approx(float((given != true).double().mean()), abs=0.04)


def test_a_posterior_is_bayes_rule():
    T = torch.tensor([[0.9, 0.1], [0.4, 0.6]], dtype=torch.float64)
    known = Calibration(1.0, T, torch.ones(1).double(), T[None], torch.zeros(1, dtype=torch.float64))
    scores = torch.tensor([[0.8, 0.2]], dtype=torch.float64).log()
    expected = torch.tensor([[0.8 * 0.1, 0.2 * 0.6]], dtype=torch.float64)
    torch.testing.assert_close(known.posterior(scores, torch.tensor([1])), expected / expected.sum())
    torch.testing.assert_close(known.probabilities(scores), scores.exp())


def test_class_order_does_not_change_the_result():
    scores, _, given = scored_rows(600, 3, 5.0, noise_matrix(3, 0.2, "pair"), seed=2)
    order = torch.tensor([2, 0, 1])  # new class k is old class order[k]
    plain = calibrate(scores, given)
    renamed = calibrate(scores[:, order], order.argsort()[given])
    assert renamed.beta == pytest.approx(plain.beta, rel=0.01)
    torch.testing.assert_close(renamed.matrix, plain.matrix[order][:, order], atol=0.01, rtol=0)
    torch.testing.assert_close(renamed.rates, plain.rates, atol=0.01, rtol=0)


@pytest.mark.parametrize(
    "change", [torch.exp, torch.atan, lambda s: 1000 * s**3 - 5], ids=["exp", "atan", "cube"]
)
def test_increasing_change_of_the_scores_does_not_change_the_result(change):
    scores, true, given = scored_rows(600, 3, 5.0, noise_matrix(3, 0.3), seed=2)
    plain, changed = calibrate(scores, given), calibrate(change(scores), given)
    assert changed.beta == plain.beta
    assert torch.equal(changed.matrices, plain.matrices)
    assert torch.equal(changed.rates, plain.rates)
    assert torch.equal(changed.posterior(change(scores), given), plain.posterior(scores, given))
    others, _, labels = scored_rows(600, 3, 5.0, noise_matrix(3, 0.3), seed=3)
    before, after = plain.posterior(others, labels), changed.posterior(change(others), labels)
    torch.testing.assert_close(after, before, atol=0.02, rtol=0)  # their ranks are interpolated
    assert calibrate_clean(scores, true)[0] == calibrate_clean(change(scores), true)[0]


def test_probabilities_from_clean_labels():
    scores, true, _ = scored_rows(4000, 4, 3.0, noise_matrix(4, 0), seed=0)
    beta, scale = calibrate_clean(scores, true)
    difference = (beta * scale.log_odds(scores)).softmax(1) - (3.0 * scores).softmax(1)
    assert float(difference.abs().mean()) < 0.02
    _, _, given = scored_rows(4000, 4, 3.0, noise_matrix(4, 0.4), seed=0)
    found = calibrate(scores, given, known=(beta, scale.gap))
    assert found.beta == pytest.approx(beta)
    assert np.allclose(found.betas, beta)
    torch.testing.assert_close(found.matrix, noise_matrix(4, 0.4), atol=0.06, rtol=0)


@pytest.mark.parametrize("K", [2, 10])
def test_perfect_scores_stay_finite(K):
    y = torch.arange(60) % K
    scores = 20.0 * torch.nn.functional.one_hot(y, K) + torch.randn(60, K).sigmoid()
    found = calibrate(scores, y)
    other = (y + 1) % K
    assert np.isfinite(calibrate_clean(scores, y)[0])
    assert found.rates.max() < 0.01
    assert found.posterior(scores, other).isfinite().all()
    assert (found.posterior(scores, other).argmax(1) == y).all()


def test_same_seed_gives_the_same_result():
    scores, _, given = scored_rows(100, 2, 5.0, noise_matrix(2, 0.2), seed=3)
    first, again, other = (calibrate(scores, given, seed=seed).rates for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("scores", "given"),
    [
        (torch.ones(3), torch.ones(3).long()),
        (torch.ones(3, 2), torch.ones(2).long()),
        (torch.ones(0, 2),) * 2,
    ],
    ids=["no matrix", "labels missing", "no rows"],
)
@pytest.mark.parametrize("function", [calibrate, calibrate_clean])
def test_scores_and_labels_of_different_length_are_refused(function, scores, given):
    with pytest.raises(InputError, match="a label for each of"):
        function(scores, given)


@pytest.mark.parametrize("share", [0.001, 0.2, 0.5, 0.9])
def test_posterior_can_be_moved_to_a_share_of_wrong_labels(share):
    generator = torch.Generator().manual_seed(0)
    posterior = torch.rand(300, 4, generator=generator).double().softmax(1) ** 3
    posterior /= posterior.sum(1, keepdim=True)
    y = torch.randint(4, (300,), generator=generator)
    moved = with_wrong_share(posterior, y, share)
    own, before = (p.gather(1, y[:, None]).squeeze(1) for p in (moved, posterior))
    assert float(1 - own.mean()) == pytest.approx(share, abs=1e-9)
    assert torch.allclose(moved.sum(1), torch.ones(300).double())
    assert torch.equal(own.argsort(stable=True), before.argsort(stable=True))


def test_very_small_probabilities_keep_their_order():
    own = torch.tensor([1e-30, 1e-22, 1e-12, 1e-10, 1e-4, 0.6, 1.0]).double()
    moved = with_wrong_share(torch.stack([own, 1 - own], 1), torch.zeros(7, dtype=torch.int64), 0.5)
    assert (moved[:, 0].diff() > 0).all()
    assert torch.allclose(moved.sum(1), torch.ones(7).double())
