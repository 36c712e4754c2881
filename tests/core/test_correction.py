"""Noise-corrected moments: exact where the noise is the matrix, else the closer the more rows there are."""

import numpy as np
import pytest
import torch

from layerprobe import MASC
from layerprobe.core.correction import noise_weights
from layerprobe.errors import DegenerateWarning, InputError

T = np.array([[7, 2, 1], [0, 9, 1], [3, 1, 6]]) / 10
NAMES = np.array(["ant", "bee", "cat"])


def mixture(d, per_class=4):
    """Rows of three classes, each ten times, their labels dealt out exactly as T says."""
    rng = np.random.default_rng(0)
    true = np.repeat([0, 1, 2], per_class)
    rows = rng.standard_normal((len(true), d)) * np.array([1.0, 3.0, 9.0])[true, None]
    labels = np.concatenate([np.repeat([0, 1, 2], np.rint(10 * T[i]).astype(int)) for i in true])
    return rows, true, np.repeat(rows, 10, axis=0), labels


def projectors(masc):
    return [U.double() @ U.double().T for U in masc.subspaces_.bases]


def assert_same_subspaces(found, expected, atol=1e-9):
    assert found.subspaces_.ranks == expected.subspaces_.ranks
    for ours, theirs in zip(projectors(found), projectors(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=atol)


@pytest.mark.parametrize("d", [20, 119, 120, 121, 400])
@pytest.mark.parametrize("strength", [{}, {"variance": 0.5}, {"variance": 1.0}, {"components": 2}], ids=str)
def test_noise_of_exactly_this_matrix_is_removed_exactly(d, strength):
    rows, true, many, labels = mixture(d)
    found = MASC(**strength, noise=T).fit(many, NAMES[labels])
    expected = MASC(**strength).fit(rows, NAMES[true])
    assert_same_subspaces(found, expected)
    plain = projectors(MASC(**strength).fit(many, NAMES[labels]))
    assert any(abs(p - q).max() > 0.01 for p, q in zip(plain, projectors(expected), strict=True))
    query = np.random.default_rng(1).standard_normal((50, d))
    np.testing.assert_allclose(
        found.decision_function(query), expected.decision_function(query), rtol=1e-6, atol=1e-9
    )
    for ours, theirs in zip(found.subspaces_.eigenvalues, expected.subspaces_.eigenvalues, strict=True):
        np.testing.assert_allclose(ours[:4], 10 * theirs[:4])  # each row came ten times


@pytest.mark.parametrize("d", [20, 400])
@pytest.mark.parametrize("sizes", [[120], [1, 50, 69]])
def test_partial_fit_equals_fit(d, sizes):
    _, _, many, labels = mixture(d)
    masc = MASC(noise=T)
    for rows, y in zip(
        torch.from_numpy(many).split(sizes), torch.from_numpy(labels).split(sizes), strict=True
    ):
        masc.partial_fit(rows, y, classes=[0, 1, 2])
    assert_same_subspaces(masc, MASC(noise=T).fit(many, labels))


def test_float32_rows_are_corrected_too():
    for d in (20, 400):
        rows, true, many, labels = mixture(d)
        found = MASC(noise=T).fit(torch.from_numpy(many).float(), labels)
        assert found.subspaces_.columns.dtype == torch.float32
        assert_same_subspaces(found, MASC().fit(rows, true), atol=1e-4)


def test_a_share_is_the_matrix_of_labels_redrawn_uniformly():
    uniform = 0.7 * np.eye(3) + 0.3 / 3
    np.testing.assert_allclose(noise_weights(0.3, 3), noise_weights(uniform, 3), atol=1e-15)
    weights = noise_weights(0.3, 3).numpy()
    # Proportional to C_k - p mean(C)
    np.testing.assert_allclose(0.7 * weights, np.eye(3) - 0.3 / 3, atol=1e-15)


def test_noise_of_zero_changes_nothing():
    rows, true, _, _ = mixture(20)
    assert_same_subspaces(MASC(noise=0.0).fit(rows, true), MASC().fit(rows, true))
    assert_same_subspaces(MASC(noise=torch.eye(3)).fit(rows, true), MASC().fit(rows, true))


def test_the_matrix_is_in_the_order_of_the_classes():
    _, _, many, labels = mixture(20)
    order = [2, 0, 1]  # class i is now called order[i]
    renamed = MASC(noise=T[np.argsort(order)][:, np.argsort(order)]).fit(many, np.array(order)[labels])
    query = np.random.default_rng(1).standard_normal((50, 20))
    expected = MASC(noise=T).fit(many, labels).squared_cosines(query)
    np.testing.assert_allclose(renamed.squared_cosines(query)[:, order], expected, atol=1e-9)


def planted(n, seed, noise):
    """Rows near three planes of 30 dimensions, of unlike lengths, with drawn labels."""
    rng = np.random.default_rng(0)
    planes = [np.linalg.qr(rng.standard_normal((30, 3)))[0] for _ in range(3)]
    rng = np.random.default_rng(seed)
    true = rng.integers(0, 3, n)
    rows = (
        np.stack([planes[k] @ rng.standard_normal(3) for k in true]) * np.array([1.0, 2.0, 4.0])[true, None]
    )
    rows += 0.05 * rng.standard_normal(rows.shape)
    labels = np.array([rng.choice(3, p=noise[k]) for k in true])
    return rows, true, labels


def distance(masc, other):
    """Largest sine of a principal angle, the worst class."""
    return max(
        float(torch.linalg.matrix_norm(a - b, 2))
        for a, b in zip(projectors(masc), projectors(other), strict=True)
    )


@pytest.mark.parametrize("noise", [0.6, T], ids=["uniform", "matrix"])
def test_corrected_subspaces_approach_those_of_the_true_labels_and_others_do_not(noise):
    matrix = 0.4 * np.eye(3) + 0.2 if isinstance(noise, float) else T
    corrected, plain = [], []
    for n in (400, 40_000):
        rows, true, labels = planted(n, 1, matrix)
        clean = MASC(components=3).fit(rows, true)
        corrected.append(distance(MASC(components=3, noise=noise).fit(rows, labels), clean))
        plain.append(distance(MASC(components=3).fit(rows, labels), clean))
    assert corrected[1] < 0.25
    assert corrected[1] < corrected[0] / 3
    assert min(plain) > 0.9
    queries, truth, _ = planted(2000, 2, matrix)
    better = MASC(components=3, noise=noise).fit(rows, labels)
    assert better.score(queries, truth) > 0.97
    assert better.score(queries, truth) > MASC(components=3).fit(rows, labels).score(queries, truth) + 0.03


def test_class_without_corrected_variance_warns_and_has_an_empty_subspace():
    rows = np.concatenate([np.tile([[0.1, 0.0, 0.0]], (10, 1)), 5 * np.eye(3), 6 * np.eye(3)])
    labels = ["x"] * 10 + ["y"] * 3 + ["z"] * 3
    masc = MASC(variance=0.5, noise=0.9)
    with pytest.warns(DegenerateWarning, match=r"Nothing is left of class 'x'"):
        masc.fit(rows, labels)
    assert masc.subspaces_.ranks[0] == 0
    assert masc.squared_cosines(rows)[:, 0].tolist() == [0.0] * 16


@pytest.mark.parametrize("d", [8, 80])
def test_layer_of_zeros_predicts_the_first_class(d):
    masc = MASC(noise=0.2).fit(np.zeros((9, d)), [0, 1, 2] * 3)
    assert masc.subspaces_.ranks == (0, 0, 0)
    assert masc.predict(np.ones((2, d))).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("noise", "message"),
    [
        (1.0, r"in \[0, 1\)"),
        (-0.1, r"in \[0, 1\)"),
        (float("nan"), r"in \[0, 1\)"),
        (0.99999, "cannot be undone"),
        (np.full((3, 3), 1 / 3), "cannot be undone"),
        (np.eye(2), r"shape \(3, 3\), got \(2, 2\)"),
        (T.T, "rows sum to 1"),
        (2 * np.eye(3) - 1 / 3, "at least 0"),
        (np.full((3, 3), np.nan), "rows sum to"),
        ("uniform", r"got 'uniform'"),
        ([[1.0], [0.5, 0.5]], "got"),
        (True, "got"),
    ],
)
def test_invalid_noise_is_refused_in_fit_and_partial_fit(noise, message):
    rows, true, _, _ = mixture(20)
    with pytest.raises(InputError, match=message):
        MASC(noise=noise).fit(rows, true)
    with pytest.raises(InputError, match=message):
        MASC(noise=noise).partial_fit(rows, true, classes=[0, 1, 2])


def test_stages_of_a_corrected_fit_equal_separate_fits():
    _, _, many, labels = mixture(20)
    masc = MASC(0.99, noise=T).fit(many, labels)
    for variance, scores in zip((0.4, 0.9), masc.staged_scores(many, (0.4, 0.9)), strict=True):
        expected = MASC(variance, noise=T).fit(many, labels).squared_cosines(many)
        np.testing.assert_allclose(scores, expected, atol=1e-9)
        np.testing.assert_allclose(masc.at(variance).squared_cosines(many), expected, atol=1e-9)
