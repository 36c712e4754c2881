"""One contract over every probe: arrays or tensors in, the same kind out, errors that help."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from layerprobe.errors import InputError
from layerprobe.probes import LDA, QDA, REGISTRY, Probe, available, create

rng = np.random.default_rng(0)
MEANS = 2 * np.eye(3, 8)
CODES = np.repeat([0, 1, 2], 40)
X = (MEANS[CODES] + 0.3 * rng.standard_normal((120, 8))).astype(np.float32)
QUERY = (MEANS + 0.1 * rng.standard_normal((3, 8))).astype(np.float32)


@pytest.fixture(params=available())
def probe(request):
    return create(request.param)


def quick(probe):
    """Logistic regression by the paper's 20 epochs hardly moves on 120 rows."""
    return probe.set_params(epochs=300, learning_rate=0.01) if "epochs" in probe.get_params() else probe


def test_registry_starts_with_the_probes_of_the_paper():
    assert available()[:6] == ["masc", "ncm", "logistic", "lda", "qda", "knn"]


def test_an_unknown_probe_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match=r"'svm'.*masc.*knn"):
        create("svm")


def test_parameters_reach_the_probe():
    assert create("knn", n_neighbors=7).get_params()["n_neighbors"] == 7


def test_planted_classes_are_found(probe):
    assert quick(probe).fit(X, CODES).predict(QUERY).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "names",
    [
        np.array([3, 7, 11]),
        np.array(["cat", "dog", "eel"]),
        [("a", 1), ("b", 2), ("c", 3)],
        [False, "x", 3.5],
        ["1", 1, "one"],
        [frozenset({1}), frozenset({2}), frozenset()],
    ],
    ids=["ints", "strings", "tuples", "mixed", "strings and ints", "sets"],
)
def test_classes_may_be_any_hashables(probe, names):
    fitted = quick(probe).fit(X, [names[k] for k in CODES])
    assert list(fitted.predict(QUERY)) == list(names)
    assert list(fitted.classes_) == list(names)
    assert fitted.score(QUERY, list(names)) == 1.0
    assert fitted.score(QUERY, [names[0]] * 3) == pytest.approx(1 / 3)


def test_tensors_give_tensors_and_equal_predictions(probe):
    by_array = clone(probe).fit(X, CODES)
    by_tensor = clone(probe).fit(torch.from_numpy(X), torch.from_numpy(CODES))
    predicted = by_tensor.predict(torch.from_numpy(X))
    assert isinstance(predicted, torch.Tensor)
    assert predicted.dtype == torch.int64
    assert predicted.tolist() == by_array.predict(X).tolist()
    scores = by_tensor.decision_function(torch.from_numpy(X))
    assert isinstance(scores, torch.Tensor)
    np.testing.assert_allclose(scores, by_array.decision_function(X), rtol=1e-6)
    assert by_tensor.score(torch.from_numpy(X), torch.from_numpy(CODES)) == by_array.score(X, CODES)


def test_scores_have_one_column_per_class_and_agree_with_the_prediction(probe):
    fitted = probe.fit(X, CODES)
    scores = fitted.decision_function(X)
    assert scores.shape == (120, 3)
    assert (scores.argmax(1) == fitted.predict(X)).all()


@pytest.mark.parametrize("shape", [(120, 4), (120,), (3, 120)])
def test_scores_of_another_shape_are_refused(shape):
    class Wrong(Probe):
        def _fit(self, X, y, num_classes):
            pass

        def _scores(self, X):
            return torch.zeros(shape)

    with pytest.raises(InputError, match=r"Wrong\._scores must return .* of shape \(120, 3\); got"):
        Wrong().fit(X, CODES).predict(X)


def test_scores_that_are_nan_name_the_probe():
    class Wrong(Probe):
        def _fit(self, X, y, num_classes):
            pass

        def _scores(self, X):
            return X.new_full((len(X), 3), torch.nan)

    with pytest.raises(InputError, match="the scores of Wrong are NaN"):
        Wrong().fit(X, CODES).predict(X)


def test_two_classes_have_one_column_as_scikit_learn_requires(probe):
    two = CODES < 2
    fitted = probe.fit(X[two], CODES[two])
    scores = fitted.decision_function(X)
    assert scores.shape == (120,)
    assert ((scores > 0).astype(int) == fitted.predict(X)).all()


def test_constant_layer_is_predicted_or_raises_a_clear_error(probe):
    dead = np.zeros_like(X)
    if isinstance(probe, LDA | QDA):
        with pytest.raises(InputError, match="all rows are the same"):
            probe.fit(dead, CODES)
    else:
        assert len(set(probe.fit(dead, CODES).predict(dead))) == 1


def test_one_class_is_predicted_or_named_in_an_error(probe):
    if isinstance(probe, QDA):
        with pytest.raises(InputError, match="class"):
            probe.fit(X[:40], ["only"] * 40)
    else:
        assert set(probe.fit(X[:40], ["only"] * 40).predict(X)) == {"only"}
        assert probe.class_scores(X).shape == (120, 1)


def test_class_with_one_row_is_predicted_or_named_in_an_error(probe):
    names = ["cat"] * 40 + ["dog"] * 40 + ["emu"] * 1
    if isinstance(probe, QDA):
        with pytest.raises(InputError, match="'emu'"):
            probe.fit(X[:81], names)
    else:
        assert set(probe.fit(X[:81], names).predict(X)) <= set(names)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_nan_and_infinity_are_refused_in_fit_and_predict(probe, bad, kind):
    spoiled = X.copy()
    spoiled[5, 2] = bad
    with pytest.raises(ValueError, match=r"(?i)nan|infinity"):
        clone(probe).fit(kind(spoiled), CODES)
    fitted = probe.fit(kind(X), CODES)
    with pytest.raises(ValueError, match=r"(?i)nan|infinity"):
        fitted.predict(kind(spoiled))


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_wrong_shapes_are_refused(probe, kind):
    with pytest.raises(ValueError, match=r"(?i)length|inconsistent"):
        clone(probe).fit(kind(X), CODES[:-1])
    with pytest.raises(ValueError, match="0 sample"):
        clone(probe).fit(kind(X[:0]), CODES[:0])
    with pytest.raises(ValueError, match=r"(?i)flatten|array"):
        clone(probe).fit(kind(X.reshape(30, 4, 8)), CODES[:30])
    fitted = probe.fit(kind(X), CODES)
    with pytest.raises(ValueError, match=r"X has 7 features, but .* is expecting 8 features"):
        fitted.predict(kind(X[:, :7]))


def test_unfitted_probe_raises(probe):
    with pytest.raises(NotFittedError):
        probe.predict(torch.from_numpy(X))


def test_integers_and_half_precision_are_accepted(probe):
    whole = np.rint(10 * X).astype(np.int16)
    assert clone(probe).fit(whole, CODES).predict(whole).shape == (120,)
    half = torch.from_numpy(X).half()
    assert clone(probe).fit(half, CODES).predict(half).shape == (120,)


def test_fitting_does_not_change_data_or_generators(probe):
    rows, labels = torch.from_numpy(X.copy()), torch.from_numpy(CODES.copy())
    state = torch.get_rng_state()
    probe.fit(rows, labels).predict(rows)
    assert torch.equal(rows, torch.from_numpy(X))
    assert torch.equal(labels, torch.from_numpy(CODES))
    assert torch.equal(torch.get_rng_state(), state)


def test_repeated_fit_has_the_same_bits(probe):
    first, second = (clone(probe).fit(X, CODES).decision_function(X) for _ in range(2))
    assert (first == second).all()


def test_every_registered_probe_has_a_docstring():
    for name, kind in REGISTRY.items():
        assert kind.__doc__, name
        for parameter in kind().get_params():
            assert f"{parameter} :" in kind.__doc__, (name, parameter)
