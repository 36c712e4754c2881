"""The library against tests/reference.py, over drawn shapes, scales and degenerate spectra."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

import reference
from layerprobe.core.moments import ClassMoments
from layerprobe.core.subspaces import choose_rank, fit_subspaces

pytestmark = pytest.mark.filterwarnings("ignore::layerprobe.errors.DegenerateWarning")  # drawn on purpose

SPECTRA = ["gaussian", "low rank", "decaying", "steep", "near-equal"]
VARIANCES = [0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999]


@dataclass(frozen=True)
class Tolerance:
    """How far two computations in one precision may be apart, and when they may disagree."""

    share: float  # a cumulative share closer than this to the variance may fall on either side
    gap: float  # an eigengap at the cut below this leaves the subspace open
    value: float  # entries of projectors, squared cosines
    margin: float  # a smaller lead of the best class leaves the label open
    orthonormal: float  # entries of U^T U, whatever the spectrum
    rank: float  # eigenvalues below this share of the largest may be counted as rounding


TOLERANCE = {
    np.float64: Tolerance(share=1e-9, gap=1e-6, value=1e-8, margin=1e-9, orthonormal=1e-8, rank=1e-10),
    np.float32: Tolerance(share=1e-5, gap=1e-2, value=5e-5, margin=1e-4, orthonormal=1e-6, rank=1e-4),
}
DTYPES = pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda dtype: dtype.__name__)


@dataclass(frozen=True)
class Problem:
    X: np.ndarray  # (n, d)
    codes: np.ndarray  # (n,)
    num_classes: int
    queries: np.ndarray  # (q, d)

    def astype(self, dtype):
        return Problem(self.X.astype(dtype), self.codes, self.num_classes, self.queries.astype(dtype))

    def fit(self, **rule):
        return fit_subspaces(torch.tensor(self.X), torch.tensor(self.codes), self.num_classes, **rule)

    def oracle(self, **rule):
        return reference.fit(self.X, self.codes, self.num_classes, **rule)


def orthonormal(rng, rows, columns):
    return np.linalg.qr(rng.normal(size=(rows, columns)))[0]


def draw_rows(rng, n, d, kind):
    """Rows of one class whose spectrum is of the named kind."""
    if kind == "gaussian":
        return rng.normal(size=(n, d))
    if kind == "low rank":
        rank = max(1, min(n, d) // 2)
        return rng.normal(size=(n, rank)) @ rng.normal(size=(rank, d))
    m = min(n, d)
    i = np.arange(m)
    singular = {"decaying": 0.6**i, "steep": 0.25**i, "near-equal": 1 + 1e-10 * i}[kind]
    return (orthonormal(rng, n, m) * singular) @ orthonormal(rng, d, m).T


def few_rows(d):
    """Rows of a class: none, one, below, at and above the number of features."""
    return [0, 1, d - 1, d, d + 1, 3 * d]


def many_rows(d):
    """Enough rows for a stream to hold their moment and no longer the rows themselves."""
    return [0, d, 2047, 2048, 5000]


@st.composite
def problems(draw, sizes=few_rows):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    d, K = draw(st.integers(1, 12)), draw(st.integers(1, 5))
    blocks = []
    for _ in range(K):
        n_k = draw(st.sampled_from(sizes(d)))
        rows = draw_rows(rng, n_k, d, draw(st.sampled_from(SPECTRA)))
        if n_k and draw(st.booleans()):
            rows = rows[rng.integers(n_k, size=n_k)]  # duplicates
        if n_k and draw(st.booleans()):
            rows[0] = 0
        if draw(st.booleans()):
            rows[:, rng.random(d) < 0.4] = 0  # features that are dead for this class
        blocks.append(rows)
    order = rng.permutation(sum(map(len, blocks)))
    assume(len(order))
    X = 10.0 ** draw(st.integers(-6, 6)) * np.concatenate(blocks)[order]
    codes = np.repeat(np.arange(K), [len(rows) for rows in blocks])[order]
    queries = np.concatenate([rng.normal(size=(6, d)), X[:6], np.zeros((1, d))])
    return Problem(X, codes, K, queries)


def is_clear(oracle, variance, share):
    """Whether rounding cannot move the rank: no cumulative share lies at the variance."""
    spectra = [s.eigenvalues for s in oracle if s is not None and s.eigenvalues.any()]
    return all(np.abs(np.cumsum(e) / e.sum() - variance).min() > share for e in spectra)


def gap_at_cut(subspace):
    """Relative eigengap that determines the subspace; infinite where it is empty or everything."""
    if subspace is None or subspace.rank in (0, len(subspace.eigenvalues)):
        return np.inf
    kept, dropped = subspace.eigenvalues[subspace.rank - 1 : subspace.rank + 1]
    return (kept - dropped) / subspace.eigenvalues[0]


def has_clear_ranks(oracle, tolerance):
    """Whether all that is kept stands out of the rounding of a second moment."""
    kept = [s.eigenvalues[: s.rank] for s in oracle if s is not None and s.rank]
    return all(values[-1] > tolerance.rank * values[0] for values in kept)


def ranks_of(oracle):
    return tuple(0 if subspace is None else subspace.rank for subspace in oracle)


def projectors(subspaces):
    return [(U @ U.T).double().numpy() for U in subspaces.bases]


def assert_same_geometry(subspaces, oracle, queries, tolerance):
    """Projectors, squared cosines, angles and labels, each where the data determine it."""
    expected = reference.squared_cosines(queries, oracle)
    cosines = subspaces.squared_cosines(torch.tensor(queries)).double().numpy()
    angles = subspaces.angles(torch.tensor(queries)).double().numpy()
    determined = [gap_at_cut(subspace) > tolerance.gap for subspace in oracle]
    for k, subspace in enumerate(oracle):
        gram = (subspaces.bases[k].T @ subspaces.bases[k]).double().numpy()
        np.testing.assert_allclose(gram, np.eye(len(gram)), rtol=0, atol=tolerance.orthonormal)
        if determined[k]:
            np.testing.assert_allclose(cosines[:, k], expected[:, k], rtol=0, atol=tolerance.value)
            # An angle near 0 or 90 degrees is off by the root of what its squared cosine is off by.
            expected_angles = reference.angles(queries, [subspace])[:, 0]
            np.testing.assert_allclose(angles[:, k], expected_angles, rtol=0, atol=2 * tolerance.value**0.5)
            if subspace is not None:
                np.testing.assert_allclose(
                    projectors(subspaces)[k], subspace.basis @ subspace.basis.T, rtol=0, atol=tolerance.value
                )
    if all(determined):
        ranked = np.sort(expected, axis=1)
        sure = ranked[:, -1] - ranked[:, -2] > tolerance.margin if len(oracle) > 1 else slice(None)
        labels = subspaces.predict(torch.tensor(queries)).numpy()
        np.testing.assert_array_equal(labels[sure], reference.predict(queries, oracle)[sure])


# The oracle itself, on cases worked by hand.


def test_oracle_ranks_by_hand():
    assert reference.choose_rank([3, 1], 0.74) == 1
    assert reference.choose_rank([3, 1], 0.75) == 2  # a share equal to the variance is not above it
    assert reference.choose_rank([1] * 100, 0.99) == 100
    assert reference.choose_rank([2, 1, 1], 1.0) == 3


def test_oracle_subspaces_by_hand():
    X = np.array([[3, 0, 0], [0, 1, 0], [0, 0, 2], [0, 0, -5], [0, 0, 0]])
    first, second, empty, zero = reference.fit(X, np.array([0, 0, 1, 1, 3]), 4, variance=0.89)
    np.testing.assert_allclose(first.eigenvalues, [4.5, 0.5, 0])
    assert (first.rank, second.rank, empty, zero.rank) == (1, 1, None, 0)
    np.testing.assert_allclose(first.basis @ first.basis.T, np.diag([1, 0, 0]), atol=1e-15)
    np.testing.assert_allclose(second.basis @ second.basis.T, np.diag([0, 0, 1]), atol=1e-15)


def test_oracle_angles_and_labels_by_hand():
    X = np.array([[1, 0], [0, 2]])
    subspaces = reference.fit(X, np.array([0, 1]), 3, variance=0.99)
    queries = np.array([[1, 1], [1, -(3**0.5)], [-4, 0], [0, 0]])
    degrees = [[45, 45, np.inf], [60, 30, np.inf], [0, 90, np.inf], [90, 90, np.inf]]
    np.testing.assert_allclose(np.rad2deg(reference.angles(queries, subspaces)), degrees, atol=1e-12)
    np.testing.assert_allclose(
        reference.squared_cosines(queries[1:], subspaces),
        [[0.25, 0.75, -np.inf], [1, 0, -np.inf], [0, 0, -np.inf]],
        atol=1e-15,
    )
    assert reference.predict(queries[1:], subspaces).tolist() == [1, 0, 0]


# The library against the oracle.


@DTYPES
@given(problem=problems(), variance=st.sampled_from(VARIANCES))
def test_variance(problem, variance, dtype):
    problem, tolerance = problem.astype(dtype), TOLERANCE[dtype]
    oracle = problem.oracle(variance=variance)
    assume(is_clear(oracle, variance, tolerance.share))
    subspaces = problem.fit(variance=variance)
    assert subspaces.ranks == ranks_of(oracle)
    assert_same_geometry(subspaces, oracle, problem.queries, tolerance)


@DTYPES
@given(problem=problems(), data=st.data())
def test_components(problem, data, dtype):
    components = data.draw(st.integers(1, problem.X.shape[1]))
    problem = problem.astype(dtype)
    oracle = problem.oracle(components=components)
    assume(has_clear_ranks(oracle, TOLERANCE[dtype]))
    subspaces = problem.fit(components=components)
    assert subspaces.ranks == ranks_of(oracle)
    assert_same_geometry(subspaces, oracle, problem.queries, TOLERANCE[dtype])


@DTYPES
@given(problem=problems())
def test_whole_variance_keeps_the_numerical_rank(problem, dtype):
    problem = problem.astype(dtype)
    oracle = problem.oracle(variance=1.0)
    assume(has_clear_ranks(oracle, TOLERANCE[dtype]))
    subspaces = problem.fit(variance=1.0)
    assert subspaces.ranks == ranks_of(oracle)
    assert_same_geometry(subspaces, oracle, problem.queries, TOLERANCE[dtype])


@given(problem=problems())
def test_eigenvalues_are_those_of_the_second_moment(problem):
    subspaces = problem.fit(variance=0.99)
    for k, subspace in enumerate(problem.oracle(variance=0.99)):
        if subspace is None:
            continue
        eigenvalues = subspaces.eigenvalues[k]
        expected = subspace.eigenvalues * (problem.codes == k).sum()
        assert eigenvalues.dtype == torch.float64
        assert (eigenvalues.diff() <= 0).all()
        assert (eigenvalues >= 0).all()
        largest = expected[0]
        np.testing.assert_allclose(eigenvalues, expected[: len(eigenvalues)], rtol=0, atol=1e-12 * largest)
        assert (expected[len(eigenvalues) :] <= 1e-12 * largest).all()


@given(problem=problems(), variance=st.sampled_from(VARIANCES))
def test_saturated_is_true_if_every_class_fills_the_space(problem, variance):
    oracle = problem.oracle(variance=variance)
    assume(is_clear(oracle, variance, 1e-9))
    d = problem.X.shape[1]
    present = [subspace for subspace in oracle if subspace is not None]
    assert problem.fit(variance=variance).saturated == all(subspace.rank == d for subspace in present)


def wide_problem():
    """ReLU features of a common size: more columns and rows than any block of the computation holds."""
    rng = np.random.default_rng(0)
    d, n_k, K = 600, 2200, 2
    latent = [(rng.normal(size=(n_k, 150)), rng.normal(size=(150, d))) for _ in range(K)]
    X = np.concatenate([np.maximum(rows @ columns, 0) for rows, columns in latent])
    queries = np.concatenate([X[::100], np.maximum(rng.normal(size=(20, d)), 0)])
    return Problem(X, np.repeat(np.arange(K), n_k), K, queries)


@DTYPES
def test_a_wide_layer(dtype):
    problem = wide_problem().astype(dtype)
    oracle = problem.oracle(variance=0.99)
    assert is_clear(oracle, 0.99, 1e-6)
    subspaces = problem.fit(variance=0.99)
    assert subspaces.ranks == ranks_of(oracle)
    for k, subspace in enumerate(oracle):
        expected = subspace.eigenvalues * (problem.codes == k).sum()
        rounding = {np.float64: 1e-13, np.float32: 1e-6}[dtype] * expected[0]
        np.testing.assert_allclose(subspaces.eigenvalues[k], expected, rtol=0, atol=rounding)
    cosines = subspaces.squared_cosines(torch.tensor(problem.queries)).double().numpy()
    expected = reference.squared_cosines(problem.queries, oracle)
    np.testing.assert_allclose(cosines, expected, rtol=0, atol={np.float64: 1e-8, np.float32: 1e-4}[dtype])


def test_a_wide_layer_streamed_and_merged():
    problem = wide_problem()
    X, codes = torch.tensor(problem.X), torch.tensor(problem.codes)
    order = torch.randperm(len(X), generator=torch.Generator().manual_seed(0))
    parts = [ClassMoments(problem.num_classes, X.shape[1], dtype=torch.float64) for _ in range(3)]
    for i, batch in enumerate(order.split(300)):
        parts[i % 3].update(X[batch], codes[batch])
    streamed = parts[2].merge(parts[0]).merge(parts[1]).subspaces(components=5)
    one_shot = problem.fit(components=5)
    for a, b in zip(streamed.eigenvalues, one_shot.eigenvalues, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * b.max())
    queries = torch.tensor(problem.queries)
    np.testing.assert_allclose(
        streamed.squared_cosines(queries), one_shot.squared_cosines(queries), rtol=0, atol=1e-10
    )


@given(seed=st.integers(0, 2**32 - 1), d=st.integers(2, 10), extra=st.integers(0, 2))
def test_gram_matrix_and_moment_give_equal_subspaces(seed, d, extra):
    """The same n_k >= d rows, seen in a space of more than n_k dimensions, span the same subspaces."""
    rng = np.random.default_rng(seed)
    K, n_k = 3, d + extra
    narrow = np.concatenate([draw_rows(rng, n_k, d, "decaying") for _ in range(K)])
    codes, queries = np.repeat(np.arange(K), n_k), rng.normal(size=(8, d))
    embedding = orthonormal(rng, n_k + 1, d).T  # (d, n_k + 1): append zero columns and turn
    moment = Problem(narrow, codes, K, queries).fit(variance=0.9)
    gram = Problem(narrow @ embedding, codes, K, queries).fit(variance=0.9)
    assert gram.ranks == moment.ranks
    for k in range(K):
        np.testing.assert_allclose(gram.eigenvalues[k][:d], moment.eigenvalues[k][:d], rtol=0, atol=1e-13)
        expected = embedding.T @ projectors(moment)[k] @ embedding
        np.testing.assert_allclose(projectors(gram)[k], expected, rtol=0, atol=1e-10)
    np.testing.assert_allclose(
        gram.squared_cosines(torch.tensor(queries @ embedding)),
        moment.squared_cosines(torch.tensor(queries)),
        rtol=0,
        atol=1e-10,
    )


@DTYPES
@pytest.mark.parametrize("n", [20, 40, 3000])
def test_rank_deficient_rows_have_their_rank_by_every_algorithm(n, dtype):
    rng = np.random.default_rng(3)  # whole numbers below 2^24: exactly rank 5 in both precisions
    X = rng.integers(-300, 301, size=(n, 5)) @ rng.integers(-300, 301, size=(5, 30))
    problem = Problem(X, np.zeros(n, dtype=np.int64), 1, X[:5]).astype(dtype)
    assert problem.fit(variance=1.0).ranks == (5,)
    assert problem.fit(components=20).ranks == (5,)


@pytest.mark.parametrize("smallest", [1e-2, 1e-3, 10**-3.9, 1e-5, 1e-6])
def test_gram_bases_stay_orthonormal_over_wide_spectra(smallest):
    rng = np.random.default_rng(4)
    n, d = 40, 60
    axes = orthonormal(rng, d, n)
    X = (orthonormal(rng, n, n) * np.geomspace(1, smallest, n)) @ axes.T
    subspaces = Problem(X, np.zeros(n, dtype=np.int64), 1, X[:1]).fit(variance=1.0)
    assert subspaces.ranks == (n,)
    np.testing.assert_allclose(projectors(subspaces)[0], axes @ axes.T, rtol=0, atol=1e-8)


# Streaming.


@pytest.mark.parametrize("sizes", [few_rows, many_rows])
@given(data=st.data())
def test_any_batches_and_any_merge_order_equal_one_shot(data, sizes):
    problem = data.draw(problems(sizes))
    variance = data.draw(st.sampled_from(VARIANCES))
    n, d = problem.X.shape
    oracle = problem.oracle(variance=variance)
    assume(is_clear(oracle, variance, 1e-9))
    X, codes = torch.tensor(problem.X), torch.tensor(problem.codes)
    cuts = sorted(data.draw(st.lists(st.integers(0, n), max_size=5)))
    parts = []
    for rows in np.split(np.arange(n), cuts):
        if not parts or data.draw(st.booleans(), label="a new worker"):
            parts.append(ClassMoments(problem.num_classes, d, dtype=torch.float64))
        parts[-1].update(X[rows], codes[rows])
    while len(parts) > 1:
        other = parts.pop(data.draw(st.integers(0, len(parts) - 1)))
        parts[data.draw(st.integers(0, len(parts) - 1))].merge(other)
    (moments,) = parts
    assert moments.counts.tolist() == np.bincount(problem.codes, minlength=problem.num_classes).tolist()

    streamed, one_shot = moments.subspaces(variance=variance), problem.fit(variance=variance)
    assert streamed.ranks == one_shot.ranks
    streamed_cosines = streamed.squared_cosines(torch.tensor(problem.queries))
    cosines = one_shot.squared_cosines(torch.tensor(problem.queries))
    for k, subspace in enumerate(oracle):
        if subspace is None:
            continue
        a, b = streamed.eigenvalues[k], one_shot.eigenvalues[k]
        m = min(len(a), len(b))
        np.testing.assert_allclose(a[:m], b[:m], rtol=0, atol=1e-12 * b.max())
        assert not a[m:].any()
        assert not b[m:].any()
        if gap_at_cut(subspace) > 0.01:
            np.testing.assert_allclose(projectors(streamed)[k], projectors(one_shot)[k], rtol=0, atol=1e-12)
            np.testing.assert_allclose(streamed_cosines[:, k], cosines[:, k], rtol=0, atol=1e-12)


def test_adding_no_rows_does_not_change_the_moments():
    X, codes = torch.eye(3, dtype=torch.float64), torch.tensor([0, 1, 1])
    moments = ClassMoments(2, 3, dtype=torch.float64)
    moments.update(X[:0], codes[:0])
    moments.update(X, codes)
    moments.merge(ClassMoments(2, 3, dtype=torch.float64))
    assert moments.counts.tolist() == [1, 2]
    assert moments.subspaces(variance=0.99).ranks == (1, 2)


# The rank rule.


@given(
    eigenvalues=st.lists(st.integers(0, 20), min_size=1, max_size=30),
    percents=st.lists(st.integers(1, 99), min_size=1, max_size=6),
    scale=st.sampled_from([1.0, 1e-12, 1e12, 0.1]),
)
def test_ranks_follow_exact_arithmetic_ties_included(eigenvalues, percents, scale):
    eigenvalues = sorted(eigenvalues, reverse=True)
    dimensions = np.count_nonzero(eigenvalues)
    variances = [percent / 100 for percent in percents]
    expected = [reference.choose_rank(eigenvalues[:dimensions], variance) for variance in variances]
    spectrum = scale * torch.tensor(eigenvalues, dtype=torch.float64)
    assert choose_rank(spectrum, variance=variances) == expected
    assert [choose_rank(spectrum, variance=variance) for variance in variances] == expected


@pytest.mark.parametrize(
    ("eigenvalues", "variance", "rank"),
    [
        ([1, 1, 1, 1], 0.75, 4),
        ([1, 1, 1, 1], 0.74, 3),
        ([1] * 100, 0.99, 100),
        ([1] * 1000, 0.999, 1000),
        ([0.1] * 10, 0.3, 4),  # 0.1 + 0.1 + 0.1 rounds to above 0.3
        ([3, 1], 0.75, 2),
        ([1], 0.99, 1),
        ([1, 0, 0], 0.99, 1),
        ([4, 2, 1, 0, 0], 1.0, 3),
        ([4, 2, 1, 1e-16, 0], 1.0, 3),  # rounding noise is no direction
        ([0, 0], 0.99, 0),
        ([0, 0], 1.0, 0),
    ],
)
def test_rank_by_hand(eigenvalues, variance, rank):
    assert choose_rank(torch.tensor(eigenvalues, dtype=torch.float64), variance=variance) == rank


@pytest.mark.parametrize(("components", "rank"), [(1, 1), (2, 2), (3, 3), (4, 3)])
def test_components_stop_where_the_class_has_no_more_dimensions(components, rank):
    spectrum = torch.tensor([4, 2, 1, 0], dtype=torch.float64)
    assert choose_rank(spectrum, components=components) == rank
