"""MASC is argmax_k x^T P_k x: changes of the data that leave it alone leave every answer alone."""

import numpy as np
import pytest

from layerprobe.probes import MASC

K, d = 4, 12
ROWS = (7, 12, 13, 40)  # rows of each class: below, at and above d


def draw():
    rng = np.random.default_rng(7)
    spectrum = 0.7 ** np.arange(d)
    X = np.concatenate([rng.normal(size=(n_k, d)) * spectrum @ rng.normal(size=(d, d)) for n_k in ROWS])
    y = np.repeat(np.arange(K), ROWS)
    return X, y, rng.normal(size=(50, d))


def scale_queries(X, y, queries, rng):
    return X, y, queries * (10.0 ** rng.uniform(-3, 3, size=(len(queries), 1)))


def negate_queries(X, y, queries, rng):
    return X, y, -queries


def flip_training_rows(X, y, queries, rng):
    return X * rng.choice([-1, 1], size=(len(X), 1)), y, queries


def duplicate_rows(X, y, queries, rng):
    return np.tile(X, (3, 1)), np.tile(y, 3), queries


def change_basis(X, y, queries, rng):
    Q, _ = np.linalg.qr(rng.normal(size=(d, d)))
    return X @ Q, y, queries @ Q


def permute_rows(X, y, queries, rng):
    order = rng.permutation(len(X))
    return X[order], y[order], queries


def scale_training_rows_together(X, y, queries, rng):
    return 1e4 * X, y, queries


def append_zero_columns(X, y, queries, rng):
    def pad(rows):
        return np.pad(rows, ((0, 0), (0, 60)))

    return pad(X), y, pad(queries)


@pytest.mark.parametrize("rule", [{"variance": 0.9}, {"variance": None, "components": 3}], ids=str)
@pytest.mark.parametrize(
    "change",
    [
        scale_queries,
        negate_queries,
        flip_training_rows,
        duplicate_rows,
        change_basis,
        permute_rows,
        scale_training_rows_together,
        append_zero_columns,
    ],
)
def test_symmetries_do_not_change_ranks_and_cosines(change, rule):
    X, y, queries = draw()
    before = MASC(**rule).fit(X, y)
    changed_X, changed_y, changed_queries = change(X, y, queries, np.random.default_rng(11))
    after = MASC(**rule).fit(changed_X, changed_y)
    assert after.subspaces_.ranks == before.subspaces_.ranks
    expected = before.squared_cosines(queries)
    np.testing.assert_allclose(after.squared_cosines(changed_queries), expected, rtol=0, atol=1e-10)
    np.testing.assert_array_equal(after.predict(changed_queries), before.predict(queries))
    assert len(np.unique(before.predict(queries))) > 1


def test_renaming_classes_renames_the_predictions():
    X, y, queries = draw()
    names = np.array(["whale", "ant", "zebra", "bee"])  # their sorted order is not 0 1 2 3
    before, after = MASC().fit(X, y), MASC().fit(X, names[y])
    assert after.classes_.tolist() == sorted(names)
    np.testing.assert_array_equal(after.predict(queries), names[before.predict(queries)])
    expected = before.squared_cosines(queries)[:, np.argsort(names)]
    np.testing.assert_allclose(after.squared_cosines(queries), expected, rtol=0, atol=1e-10)


def test_shifted_rows_change_the_cosines():
    """Shifting the rows is no symmetry: the subspaces go through the origin."""
    X, y, queries = draw()
    before, after = MASC().fit(X, y), MASC().fit(X + 5, y)
    assert np.abs(before.squared_cosines(queries) - after.squared_cosines(queries)).max() > 0.01
