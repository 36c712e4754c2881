from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

import reference
from layerprobe import MASC
from layerprobe.errors import DegenerateWarning, InputError, LayerprobeWarning

rng = np.random.default_rng(1)
CODES = rng.integers(0, 4, 400)
X = rng.standard_normal((400, 4)) @ rng.standard_normal((4, 4, 20))[0] * (1 + CODES[:, None])
X += rng.standard_normal((4, 20))[CODES]


def test_decision_function_is_the_squared_cosine_of_the_angles():
    masc = MASC(variance=0.9).fit(X, CODES)
    np.testing.assert_allclose(masc.decision_function(X), np.cos(masc.angles(X)) ** 2, atol=1e-12)
    np.testing.assert_allclose(masc.squared_cosines(X), masc.decision_function(X))


@pytest.mark.parametrize("weight", range(2, 8))
def test_shares_of_weighted_rows_that_equal_the_variance_are_not_above_it(weight):
    X, y = np.eye(1 + weight, dtype=np.float32), np.zeros(1 + weight, int)
    masc = MASC(0.5).fit(X, y, sample_weight=[weight] + weight * [1])
    assert masc.subspaces_.ranks == (2,)
    assert masc.decision_function(X).dtype == np.float32


def test_squared_cosines_of_two_classes_have_two_columns():
    two = CODES < 2
    masc = MASC().fit(X[two], CODES[two])
    cosines = masc.squared_cosines(X)
    assert cosines.shape == (400, 2)
    np.testing.assert_allclose(masc.decision_function(X), cosines[:, 1] - cosines[:, 0])


def test_components_replace_the_default_variance_only():
    assert MASC(components=3).fit(X, CODES).subspaces_.ranks == (3, 3, 3, 3)
    assert MASC(variance=None, components=2).fit(X, CODES).subspaces_.ranks == (2, 2, 2, 2)
    with pytest.raises(InputError, match="exactly one"):
        MASC(variance=0.9, components=3).fit(X, CODES)
    with pytest.raises(InputError, match="exactly one"):
        MASC(variance=None).fit(X, CODES)


def test_one_component_differs_from_variance_one():
    assert MASC(components=1).fit(X, CODES).subspaces_.ranks == (1, 1, 1, 1)
    assert MASC(variance=1.0).fit(X, CODES).subspaces_.ranks == (5, 5, 5, 5)  # four directions and the mean
    noise = rng.standard_normal(X.shape)
    with pytest.warns(DegenerateWarning, match="Saturated"):
        assert MASC(variance=1.0).fit(noise, CODES).predict(noise).tolist() == [0] * 400
    with pytest.raises(InputError, match=r"components=1.*variance=1.0"):
        MASC(variance=1).fit(X, CODES)


def test_stages_equal_separate_fits():
    variances, components = [0.25, 0.5, 0.99, 0.75, 0.5], [1, 3]
    masc = MASC(variance=0.99).fit(X, CODES)
    staged = list(masc.staged_predict(X, variances, components))
    alone = [MASC(variance=v).fit(X, CODES).predict(X) for v in variances]
    alone += [MASC(components=c).fit(X, CODES).predict(X) for c in components]
    for one, other in zip(staged, alone, strict=True):
        np.testing.assert_array_equal(one, other)
    assert any((a != b).any() for a, b in pairwise(alone))  # the stages do differ


def test_a_stage_above_the_fitted_variance_is_refused():
    with pytest.raises(InputError, match="fit with the largest"):
        list(MASC(variance=0.5).fit(X, CODES).staged_predict(X, [0.9]))


@pytest.mark.parametrize("sizes", [[400], [1, 399], [100] * 4, [7] * 57 + [1]])
def test_partial_fit_equals_fit_for_any_batches(sizes):
    masc = MASC()
    for rows, codes in zip(
        torch.from_numpy(X).split(sizes), torch.from_numpy(CODES).split(sizes), strict=True
    ):
        masc.partial_fit(rows, codes, classes=[0, 1, 2, 3])
    whole = MASC().fit(X, CODES)
    assert masc.subspaces_.ranks == whole.subspaces_.ranks
    np.testing.assert_allclose(masc.decision_function(X), whole.decision_function(X), atol=1e-12)


def test_partial_fit_continues_after_predicting():
    masc = MASC().partial_fit(X[:200], CODES[:200], classes=range(4))
    before = masc.decision_function(X)
    masc.partial_fit(X[200:], CODES[200:])
    assert not np.allclose(before, masc.decision_function(X))
    np.testing.assert_allclose(
        masc.decision_function(X), MASC().fit(X, CODES).decision_function(X), atol=1e-12
    )


def test_partial_fit_requires_the_classes_first_and_refuses_others_later():
    with pytest.raises(InputError, match="classes="):
        MASC().partial_fit(X, CODES)
    masc = MASC().partial_fit(X[:10], ["a"] * 10, classes=["a", "b"])
    with pytest.raises(InputError, match="'c'"):
        masc.partial_fit(X[:10], ["c"] * 10)


def test_partial_fit_keeps_its_classes():
    masc = MASC().partial_fit(X, CODES, classes=range(4))
    with pytest.raises(InputError, match="those of the first call"):
        masc.partial_fit(X, CODES, classes=range(5))


@pytest.mark.parametrize("stages", [{}, {"variances": 0.5}, {"components": [21]}])
def test_invalid_stages_are_refused(stages):
    with pytest.raises(InputError, match=r"at least one|sequences|at most the number of features, 20"):
        list(MASC(variance=1.0).fit(X, CODES).staged_predict(X, **stages))


@pytest.mark.parametrize("n", [99, 100, 101])
def test_float32_keeps_the_requested_components_by_moments_and_gram_matrices(n):
    spectrum = torch.logspace(0, -3, 100)  # of standard deviations: the weakest hold 1e-6 of the variance
    rows = torch.randn(n, 100, generator=torch.Generator().manual_seed(0)) * spectrum
    assert MASC(components=98).fit(rows, [0] * n).subspaces_.ranks == (98,)


def test_a_scale_whose_squares_float64_cannot_hold_is_refused():
    for scale in (1e-170, 1e155):
        with pytest.raises(InputError, match="Rescale X"):
            MASC().fit(X * scale, CODES)


def test_partial_fit_after_fit_warns_that_it_starts_anew():
    masc = MASC().fit(X, CODES)
    with pytest.warns(LayerprobeWarning, match="starts anew"):
        masc.partial_fit(X[:200], CODES[:200])
    reference = MASC().fit(X[:200], CODES[:200])
    np.testing.assert_allclose(masc.decision_function(X), reference.decision_function(X), atol=1e-12)


def test_a_class_without_rows_is_never_predicted():
    masc = MASC().partial_fit(X[CODES > 0], CODES[CODES > 0], classes=range(4))
    with pytest.warns(DegenerateWarning, match="No rows of class 0"):
        predicted = masc.predict(X)
    assert set(predicted) <= {1, 2, 3}
    assert masc.predict(np.zeros((1, 20))).tolist() == [1]


def test_masc_works_in_a_grid_search():
    search = GridSearchCV(MASC(), {"variance": [0.3, 0.9]}, cv=3).fit(X, CODES)
    assert search.best_params_["variance"] in (0.3, 0.9)
    assert clone(search.best_estimator_).variance == search.best_params_["variance"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_fit_on_another_device_predicts_there():
    masc = MASC().fit(torch.from_numpy(X).cuda(), CODES)
    predicted = masc.predict(torch.from_numpy(X).cuda())
    assert predicted.is_cuda
    assert (predicted.cpu().numpy() == MASC().fit(X, CODES).predict(X)).all()


def test_stage_has_no_components_and_no_moments():
    by_components = MASC(components=5).fit(X, CODES)
    assert by_components.at(0.5).subspaces_.ranks == MASC(0.5).fit(X, CODES).subspaces_.ranks
    with pytest.raises(InputError, match="fit with the largest"):
        MASC(0.5).fit(X, CODES).at(0.99)
    masc = MASC().partial_fit(X[:200], CODES[:200], classes=range(4))
    stage = masc.at(0.5)
    np.testing.assert_allclose(
        stage.squared_cosines(X), MASC(0.5).fit(X[:200], CODES[:200]).squared_cosines(X), atol=1e-12
    )
    with pytest.warns(LayerprobeWarning, match="starts anew"):
        stage.partial_fit(X[200:], CODES[200:])
    masc.partial_fit(X[200:], CODES[200:])
    np.testing.assert_allclose(masc.squared_cosines(X), MASC().fit(X, CODES).squared_cosines(X), atol=1e-12)


def test_exact_decides_labels_that_bases_of_float32_products_cannot():
    """Queries between two classes, by bisection: the two squared cosines differ by 1e-8 at most."""
    rng = np.random.default_rng(0)
    n, d = 400, 64
    rotations = [np.linalg.qr(rng.normal(size=(d, d)))[0] for _ in range(2)]
    X = np.concatenate([rng.normal(size=(n, d)) * 0.9 ** np.arange(d) @ Q for Q in rotations])
    X, y = X.astype(np.float32), np.repeat([0, 1], n)
    first, second = (subspace.basis for subspace in reference.fit(X, y, 2, variance=0.9))

    def gap(rows):
        rows = rows.astype(np.float64)
        squares = [((rows @ U) ** 2).sum(1) for U in (first, second)]
        return (squares[0] - squares[1]) / (rows**2).sum(1)

    low, high = np.zeros((n, 1)), np.ones((n, 1))
    for _ in range(60):
        middle = (low + high) / 2
        nearer = gap(((1 - middle) * X[:n] + middle * X[n:]).astype(np.float32))[:, None] > 0
        low, high = np.where(nearer, middle, low), np.where(nearer, high, middle)
    queries = ((1 - high) * X[:n] + high * X[n:]).astype(np.float32)
    expected = (gap(queries) < 0).astype(int)
    assert np.abs(gap(queries)).max() < 2e-8
    default, exact = (MASC(variance=0.9, exact=e).fit(X, y).predict(queries) for e in (False, True))
    assert (default != expected).sum() > n / 10
    assert (exact == expected).all()
