"""One fit serves every value of one argument, for each probe that says so."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from layerprobe.errors import InputError
from layerprobe.probes import REGISTRY, StagedProbe, create

VALUES = {
    "strength": [1e-3, 0.1, 1.0, 30.0],
    "shrinkage": [1.0, 0.3, 0.02],
    "n_neighbors": [1, 5, 12],
    "variance": [0.6, 0.9, 0.99],
}
NONSENSE = {
    "strength": [0, -1.0, np.nan, np.inf, "1", True, None],
    "shrinkage": [-0.1, 1.01, np.nan, "auto", False],
    "n_neighbors": [0, 2.0, True, None],
    "variance": [0.0, 1.5, 1, True, None],
}
STAGED = [name for name, kind in REGISTRY.items() if issubclass(kind, StagedProbe)]
rng = np.random.default_rng(3)


def data(n, d, K, dtype=np.float64):
    codes = np.arange(n) % K
    rows = rng.standard_normal((n, d)) * np.logspace(0, -1, d) + 2 + 0.5 * rng.standard_normal((K, d))[codes]
    return rows.astype(dtype), codes


@pytest.fixture(params=STAGED)
def probe(request):
    return create(request.param)


@pytest.mark.parametrize("K", [2, 3])
@pytest.mark.parametrize("d", [5, 60])
def test_stage_equals_a_separate_fit(probe, d, K):
    X, codes = data(40, d, K)
    values = VALUES[probe.stage]
    fitted = clone(probe).set_params(**{probe.stage: values[-1]}).fit(X, codes)
    alone = [clone(probe).set_params(**{probe.stage: value}).fit(X, codes) for value in values]
    query = X[::3] + 0.1
    for value, scores, refit in zip(values, fitted.staged_scores(query, values), alone, strict=True):
        expected = refit.decision_function(query)
        assert scores.shape == (14, K)
        np.testing.assert_allclose(scores[:, 1] - scores[:, 0] if K == 2 else scores, expected, atol=1e-9)
        stage = fitted.at(value)
        assert getattr(stage, probe.stage) == value
        np.testing.assert_allclose(stage.decision_function(query), expected, atol=1e-9)
    first, last = alone[0].decision_function(query), alone[-1].decision_function(query)
    assert not np.allclose(first, last)  # the stages do differ


def test_stage_does_not_change_the_probe(probe):
    X, codes = data(40, 5, 3)
    value = VALUES[probe.stage][-1]
    fitted = clone(probe).set_params(**{probe.stage: value}).fit(X, codes)
    before = fitted.decision_function(X)
    fitted.at(VALUES[probe.stage][0])
    list(fitted.staged_scores(X, VALUES[probe.stage]))
    assert getattr(fitted, probe.stage) == value
    assert (fitted.decision_function(X) == before).all()


def test_stages_are_of_the_kind_of_the_rows(probe):
    X, codes = data(40, 5, 3, np.float32)
    fitted, values = probe.fit(X, codes), VALUES[probe.stage][:1]
    (by_array,) = fitted.staged_scores(X, np.array(values))
    (by_tensor,) = fitted.staged_scores(torch.from_numpy(X), values)
    assert isinstance(by_array, np.ndarray)
    assert isinstance(by_tensor, torch.Tensor)
    np.testing.assert_array_equal(by_array, by_tensor)


def test_invalid_values_are_refused_at_once(probe):
    X, codes = data(40, 5, 3)
    fitted = clone(probe).fit(X, codes)
    for value in NONSENSE[probe.stage]:
        with pytest.raises(InputError, match=probe.stage):
            fitted.at(value)
        with pytest.raises(InputError, match=probe.stage):
            fitted.staged_scores(X, [VALUES[probe.stage][0], value])
        with pytest.raises(InputError, match=probe.stage):
            clone(probe).set_params(**{probe.stage: value}).fit(X, codes)
    for values in ([], 0.5, "abc"):
        with pytest.raises(InputError, match="at least one"):
            fitted.staged_scores(X, values)


def test_unfitted_probe_refuses_stages(probe):
    with pytest.raises(NotFittedError):
        probe.at(VALUES[probe.stage][0])
    with pytest.raises(NotFittedError):
        probe.staged_scores(np.eye(3), VALUES[probe.stage])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("d", [5, 60])
def test_stages_and_leave_one_out_on_another_device(probe, d):
    X, codes = data(40, d, 3)
    there, here = (clone(probe).fit(rows, codes) for rows in (torch.from_numpy(X).cuda(), X))
    for rows in (torch.from_numpy(X).cuda(), X):  # queries from either side
        on_cuda = isinstance(rows, torch.Tensor)
        for scores, expected in zip(
            there.staged_scores(rows, VALUES[probe.stage]),
            here.staged_scores(X, VALUES[probe.stage]),
            strict=True,
        ):
            assert isinstance(scores, torch.Tensor) == on_cuda
            np.testing.assert_allclose(scores.cpu() if on_cuda else scores, expected, atol=1e-8)
        if hasattr(probe, "loo_scores"):
            scores = there.loo_scores(rows, codes)
            scores = scores.cpu() if on_cuda else scores
            np.testing.assert_allclose(scores, here.loo_scores(X, codes), atol=1e-8)
