"""Each detector equals its formula, written out row by row, and finds planted wrong labels."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from sklearn.mixture import GaussianMixture

from layerprobe import MASC, baselines
from layerprobe.baselines import HOC, Detector, available, create, named_detectors
from layerprobe.errors import InputError

N, K, D, EPOCHS = 240, 3, 6, 7
rng = np.random.default_rng(0)
TRUE = np.arange(N) % K
WRONG = rng.random(N) < 0.25
Y = np.where(WRONG, (TRUE + rng.integers(1, K, N)) % K, TRUE)
FEATURES = 3 * np.eye(K, D)[TRUE] + rng.standard_normal((N, D))
LOGITS = np.stack([2 * np.eye(K)[TRUE] + rng.standard_normal((N, K)) for _ in range(EPOCHS)])
HISTORY = np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)
PROBS = HISTORY.mean(0)
INPUTS = {"features": FEATURES, "pred_probs": PROBS, "history": HISTORY}


def inputs_of(name):
    return INPUTS[create(name).reads]


def nearest(i, k, metric):
    """Indices of the k nearest other rows."""
    if metric == "cosine":
        unit = FEATURES / np.linalg.norm(FEATURES, axis=1, keepdims=True)
        distance = 1 - unit @ unit[i]
    else:
        distance = np.linalg.norm(FEATURES - FEATURES[i], axis=1)
    distance[i] = np.inf
    return distance.argsort()[:k]


def shares(i, k, metric):
    labels = Y[nearest(i, k, metric)]
    return np.array([np.mean(labels == c) for c in range(K)])


# --- the formulas -----------------------------------------------------------------------------------------


def test_self_confidence_is_the_probability_of_the_label():
    expected = [PROBS[i, Y[i]] for i in range(N)]
    np.testing.assert_allclose(create("self_confidence").score(PROBS, Y), expected)


def test_normalized_margin_is_the_lead_over_the_best_other_class():
    expected = [PROBS[i, Y[i]] - max(PROBS[i, k] for k in range(K) if k != Y[i]) for i in range(N)]
    np.testing.assert_allclose(create("normalized_margin").score(PROBS, Y), expected)


@pytest.mark.parametrize("name", ["self_confidence", "normalized_margin"])
def test_flags_are_off_the_diagonal_of_the_confident_joint(name):
    thresholds = [PROBS[k == Y, k].mean() for k in range(K)]
    expected = []
    for i in range(N):
        confident = [k for k in range(K) if PROBS[i, k] >= thresholds[k]]
        expected.append(bool(confident) and max(confident, key=lambda k: PROBS[i, k]) != Y[i])
    flags = create(name).detect(PROBS, Y).flags
    assert 0 < sum(expected) < N
    assert flags.tolist() == expected


def test_loss_gmm_is_the_probability_of_the_component_of_small_losses():
    losses = np.array([-np.log(PROBS[i, Y[i]]) for i in range(N)])
    losses = ((losses - losses.min()) / (losses.max() - losses.min()))[:, None]
    mixture = GaussianMixture(2, max_iter=10, tol=1e-2, reg_covar=5e-4, random_state=0).fit(losses)
    expected = mixture.predict_proba(losses)[:, mixture.means_.argmin()]
    found = create("loss_gmm").detect(PROBS, Y)
    np.testing.assert_allclose(found.scores, expected, atol=0.02)  # the start of the mixture may differ
    assert found.flags.tolist() == (found.scores < 0.5).tolist()


def alignments():
    expected = np.empty(N)
    for k in range(K):
        gram = sum(np.outer(x, x) for x in FEATURES[k == Y])
        u = np.linalg.eigh(gram)[1][:, -1]
        for i in np.flatnonzero(k == Y):
            expected[i] = (u @ FEATURES[i]) ** 2 / (FEATURES[i] @ FEATURES[i])
    return expected


def test_fine_aligns_rows_with_the_first_eigenvector_of_their_label():
    np.testing.assert_allclose(create("fine", mixture=False).score(FEATURES, Y), alignments(), rtol=1e-9)


def test_alignment_of_fine_is_masc_with_one_component_at_the_given_label():
    scores = MASC(variance=None, components=1).fit(FEATURES, Y).class_scores(FEATURES)
    given = scores[np.arange(N), Y]
    np.testing.assert_allclose(create("fine", mixture=False).score(FEATURES, Y), given, rtol=1e-6)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_fine_fits_a_mixture_per_class():
    expected, alignment = np.empty(N), alignments()[:, None]
    for k in range(K):
        rows = k == Y
        mixture = GaussianMixture(2, max_iter=10, tol=1e-6, random_state=0).fit(alignment[rows])
        expected[rows] = mixture.predict_proba(alignment[rows])[:, mixture.means_.argmax()]
    found = create("fine").detect(FEATURES, Y)
    np.testing.assert_allclose(found.scores, expected, atol=1e-6)
    assert found.flags.tolist() == (expected < 0.5).tolist()


def test_fine_with_more_features_than_rows_per_class():
    wide = np.hstack([FEATURES, rng.standard_normal((N, 300))])
    u = np.linalg.svd(wide[Y == 1])[2][0]
    expected = (wide[Y == 1] @ u) ** 2 / (wide[Y == 1] ** 2).sum(1)
    np.testing.assert_allclose(create("fine", mixture=False).score(wide, Y)[Y == 1], expected, rtol=1e-9)


@pytest.mark.parametrize(("name", "metric"), [("deep_knn", "euclidean"), ("simifeat_vote", "cosine")])
def test_votes_of_the_nearest_rows(name, metric):
    votes = np.array([shares(i, 7, metric) for i in range(N)])
    found = create(name, k=7).detect(FEATURES, Y)
    np.testing.assert_allclose(found.scores, votes[np.arange(N), Y])
    assert found.flags.tolist() == (votes.argmax(1) != Y).tolist()


def test_deep_knn_takes_one_percent_of_the_rows_and_at_least_ten():
    np.testing.assert_array_equal(
        create("deep_knn").score(FEATURES, Y), create("deep_knn", k=10).score(FEATURES, Y)
    )


def test_simifeat_rank_is_the_cosine_with_the_labels_of_the_nearest_rows():
    votes = np.array([shares(i, 10, "cosine") for i in range(N)])
    expected = [votes[i] @ np.eye(K)[Y[i]] / np.sqrt(votes[i] @ votes[i]) for i in range(N)]
    np.testing.assert_allclose(create("simifeat_rank").score(FEATURES, Y), expected)


def test_simifeat_rank_flags_the_lowest_scores_of_each_label_by_the_rates_of_hoc():
    found, right = create("simifeat_rank").detect(FEATURES, Y), HOC().estimate(FEATURES, Y).right_given_label
    for k in range(K):
        scores, flags = found.scores[k == Y], found.flags[k == Y]
        assert flags.sum() == round((1 - right[k]) * len(scores))
        assert scores[flags].max() <= scores[~flags].min()


def test_hoc_score_is_the_posterior_given_three_labels():
    rates = HOC().estimate(FEATURES, Y)
    p, T = rates.prior, rates.transition
    expected = []
    for i in range(N):
        b, c = Y[nearest(i, 2, "cosine")]
        likelihood = [p[k] * T[k, Y[i]] * T[k, b] * T[k, c] for k in range(K)]
        expected.append(likelihood[Y[i]] / sum(likelihood))
    np.testing.assert_allclose(create("hoc").score(FEATURES, Y), expected)


def test_aum_is_the_mean_margin_of_the_logits():
    margins = [[z[i, Y[i]] - max(z[i, k] for k in range(K) if k != Y[i]) for i in range(N)] for z in LOGITS]
    expected = np.mean(margins, axis=0)
    for history in (LOGITS, HISTORY, np.array(margins)):  # probabilities have the margins of their logits
        np.testing.assert_allclose(create("aum").score(history, Y), expected, rtol=1e-9)
    assert create("aum").detect(LOGITS, Y).flags is None
    assert create("aum", threshold=0.5).detect(LOGITS, Y).flags.tolist() == (expected < 0.5).tolist()


def test_data_maps_has_the_mean_and_deviation_of_the_probability_of_the_label():
    own = np.array([[p[i, Y[i]] for i in range(N)] for p in HISTORY])
    for history in (HISTORY, LOGITS, own):
        np.testing.assert_allclose(create("data_maps").score(history, Y), own.mean(0), rtol=1e-9)
    confidence, variability = create("data_maps").coordinates(LOGITS, Y)
    np.testing.assert_allclose(confidence, own.mean(0), rtol=1e-9)
    np.testing.assert_allclose(variability, np.sqrt(((own - own.mean(0)) ** 2).mean(0)), rtol=1e-6)


def test_mean_margin_is_the_margin_of_the_mean_probabilities():
    mean = sum(HISTORY) / EPOCHS
    expected = np.array([mean[i, Y[i]] - max(mean[i, k] for k in range(K) if k != Y[i]) for i in range(N)])
    found = create("mean_margin").detect(LOGITS, Y)
    np.testing.assert_allclose(found.scores, expected, rtol=1e-9)
    assert found.flags.tolist() == (mean.argmax(1) != Y).tolist()


# --- planted truth ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", available())
def test_planted_wrong_labels_have_lower_scores(name):
    found = create(name).detect(inputs_of(name), Y)
    assert roc_auc_score(WRONG, -found.scores) > 0.85
    if found.flags is not None:
        assert (found.flags == WRONG).mean() > 0.75


def test_hoc_finds_planted_rates():
    generator = np.random.default_rng(1)
    prior, n = np.array([0.5, 0.3, 0.2]), 6000
    transition = np.array([[0.8, 0.1, 0.1], [0.0, 0.7, 0.3], [0.2, 0.0, 0.8]])
    true = generator.choice(3, n, p=prior)
    given = np.array([generator.choice(3, p=transition[k]) for k in true])
    X = 20 * np.eye(3, 5)[true] + generator.standard_normal((n, 5))
    rates = HOC().estimate(X, given)
    np.testing.assert_allclose(rates.prior, prior, atol=0.03)
    np.testing.assert_allclose(rates.transition, transition, atol=0.04)
    assert rates.rate == pytest.approx((given != true).mean(), abs=0.02)
    right = [np.mean(true[given == k] == k) for k in range(3)]
    np.testing.assert_allclose(rates.right_given_label, right, atol=0.04)


# --- arguments --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", available())
def test_tensors_give_tensors_with_equal_numbers(name):
    values = inputs_of(name)
    expected = create(name).detect(values, Y)
    found = create(name).detect(torch.from_numpy(values), torch.from_numpy(Y))
    assert isinstance(found.scores, torch.Tensor)
    np.testing.assert_array_equal(found.scores.numpy(), expected.scores)
    assert (found.flags is None) == (expected.flags is None)
    np.testing.assert_array_equal(create(name).score(values, Y), expected.scores)


@pytest.mark.parametrize("name", available())
def test_scores_are_finite_for_equal_rows(name):
    values = inputs_of(name)
    same = np.repeat(values[:, :1], 12, axis=1) if values.ndim == 3 else np.repeat(values[:1], 12, axis=0)
    assert np.isfinite(create(name).score(same, np.arange(12) % 3)).all()


@pytest.mark.parametrize("scale", [2.0**-70, 2.0**70])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["fine", "deep_knn", "simifeat_vote", "simifeat_rank", "hoc"])
def test_the_scale_of_the_features_does_not_change_the_scores(name, dtype, scale):
    rows = FEATURES.astype(dtype)
    scaled = create(name).score(rows * dtype(scale), Y)
    np.testing.assert_allclose(scaled, create(name).score(rows, Y), rtol=1e-4)


@pytest.mark.parametrize("name", ["fine", "deep_knn", "simifeat_vote", "simifeat_rank", "hoc"])
def test_labels_of_features_may_be_names(name):
    names = np.array(["cat", "dog", "eel"])
    np.testing.assert_array_equal(create(name).score(FEATURES, names[Y]), create(name).score(FEATURES, Y))


BAD = FEATURES.copy()
BAD[3, 1] = np.nan


@pytest.mark.parametrize(
    ("name", "values", "labels", "message"),
    [
        ("fine", FEATURES[0], Y, r"expected features of shape \(n, d\)"),
        ("fine", BAD, Y, "features contain NaN or infinity"),
        ("fine", [["a", "b"]], ["x"], r"expected features as numbers \(n, d\)"),
        ("fine", FEATURES, Y[:-1], "expected a label for each of 240 rows, got 239"),
        ("hoc", FEATURES, np.zeros(N, int), "at least two classes, got only"),
        ("self_confidence", LOGITS[0], Y, "sum to 1.*apply a softmax to logits"),
        ("self_confidence", PROBS, Y + 1, r"class indices 0\.\.2, got 1\.\.3"),
        ("self_confidence", PROBS, np.array(["a", "b", "c"])[Y], r"class indices 0\.\.2, got"),
        ("aum", PROBS[0], Y, r"expected history of shape \(epochs, n, K\) or \(epochs, n\)"),
        ("data_maps", LOGITS[..., 0], Y, "probability of the given label"),
        ("mean_margin", HISTORY[..., 0], Y, "probabilities of all classes"),
    ],
)
def test_invalid_inputs_raise_one_clear_error(name, values, labels, message):
    with pytest.raises(InputError, match=message):
        create(name).score(values, labels)


def test_unknown_names_and_values_are_refused():
    with pytest.raises(InputError, match=r"no detector 'cleanlab'. Available: self_confidence.*mean_margin"):
        create("cleanlab")
    with pytest.raises(InputError, match="k must be a whole number of at least 1"):
        create("deep_knn", k=0)
    for wrong in ([], ["fine", "fine"], [3], [create("hoc"), HOC()]):
        with pytest.raises(InputError, match="expected detectors of different names"):
            named_detectors(wrong)


def test_detectors_get_names():
    assert list(named_detectors()) == available()
    assert list(named_detectors("fine")) == ["fine"]
    assert list(named_detectors([HOC(), "aum"])) == ["hoc", "aum"]
    assert list(named_detectors({"k = 3": create("deep_knn", k=3)})) == ["k = 3"]


@pytest.mark.parametrize("name", available())
def test_docstrings_cite_the_source_and_state_the_formula(name):
    text = type(create(name)).__doc__
    assert "References\n" in text
    assert any(venue in text for venue in ("ICML", "NeurIPS", "ICLR", "EMNLP", "Journal"))
    assert "s_i" in text or "a_i" in text


def test_a_detector_of_the_user_has_the_same_methods():
    class Norm(Detector):
        reads = "features"

        def _detect(self, values, y, num_classes):
            return -np.linalg.norm(values, axis=1), None

    np.testing.assert_allclose(Norm().score(FEATURES, Y), -np.linalg.norm(FEATURES, axis=1))
    assert set(baselines.REGISTRY) == set(available())
