"""Bad and borderline input: each has its clear error or its documented answer."""

import math

import numpy as np
import pytest
import torch

from layerprobe.core.moments import ClassMoments
from layerprobe.core.subspaces import choose_rank, fit_subspaces
from layerprobe.errors import DegenerateWarning, InputError
from layerprobe.probes import MASC

K, d = 3, 4


@pytest.fixture
def X():  # (9, 4): class k lies in the plane of axes 0 and k + 1
    rows = torch.zeros(9, d, dtype=torch.float64)
    for k in range(K):
        rows[3 * k : 3 * k + 3, 0] = torch.tensor([1.0, 2.0, 3.0])
        rows[3 * k : 3 * k + 3, k + 1] = torch.tensor([5.0, -4.0, 6.0])
    return rows


@pytest.fixture
def codes():
    return torch.arange(K).repeat_interleave(3)


# Rows that cannot be used.


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_value_that_is_not_finite_is_refused(X, codes, value, dtype):
    subspaces = fit_subspaces(X.to(dtype), codes, K, variance=0.99)
    X = X.to(dtype)
    X[4, 2] = value
    with pytest.raises(InputError, match=r"(?i)finite|nan|infinit"):
        fit_subspaces(X, codes, K, variance=0.99)
    with pytest.raises(InputError, match=r"(?i)finite|nan|infinit"):
        ClassMoments(K, d, dtype=dtype).update(X, codes)
    with pytest.raises(InputError, match=r"(?i)finite|nan|infinit"):
        subspaces.predict(X)
    with pytest.raises(ValueError, match=r"(?i)finite|nan|infinit"):
        MASC().fit(X, codes)


def test_refused_batch_does_not_change_the_moments(X, codes):
    moments = ClassMoments(K, d, dtype=torch.float64)
    moments.update(X, codes)
    before = moments.subspaces(variance=0.99)
    with pytest.raises(InputError):
        moments.update(X * math.nan, codes)
    assert moments.counts.tolist() == [3, 3, 3]
    assert torch.equal(moments.subspaces(variance=0.99).squared_cosines(X), before.squared_cosines(X))


@pytest.mark.parametrize("shape", [(0, d), (5, 0), (0, 0)])
def test_empty_data_are_refused(shape):
    X, codes = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape[0], dtype=torch.int64)
    with pytest.raises(InputError, match=r"(?i)row|empty|column|feature|at least"):
        fit_subspaces(X, codes, K, variance=0.99)
    with pytest.raises(ValueError, match=r"(?i)row|empty|sample|column|feature"):
        MASC().fit(X, codes)


def test_moments_without_rows_have_no_subspaces():
    with pytest.raises(InputError, match=r"(?i)row"):
        ClassMoments(K, d).subspaces(variance=0.99)


@pytest.mark.parametrize("shape", [(9,), (9, 2, 2), ()])
def test_rows_must_be_a_matrix(codes, shape):
    with pytest.raises(InputError, match=r"\(n, d\)"):
        fit_subspaces(torch.ones(shape, dtype=torch.float64), codes, K, variance=0.99)


def test_lengths_must_match(X, codes):
    with pytest.raises(InputError, match=r"(?s)9.*8|8.*9"):
        fit_subspaces(X, codes[:8], K, variance=0.99)
    with pytest.raises(InputError, match=r"(?s)9.*8|8.*9"):
        ClassMoments(K, d, dtype=torch.float64).update(X, codes[:8])
    with pytest.raises(ValueError, match=r"(?s)9.*8|8.*9"):
        MASC().fit(X, codes[:8])


def test_dimensions_must_match(X, codes):
    subspaces = fit_subspaces(X, codes, K, variance=0.99)
    for answer in (subspaces.squared_cosines, subspaces.angles, subspaces.predict):
        with pytest.raises(InputError, match=r"(?s)4.*3|3.*4"):
            answer(X[:, :3])
    with pytest.raises(InputError, match=r"(?s)4.*3|3.*4"):
        ClassMoments(K, d, dtype=torch.float64).update(X[:, :3], codes)
    with pytest.raises(InputError, match=r"(?s)4.*5|5.*4"):
        ClassMoments(K, d).merge(ClassMoments(K, 5))
    with pytest.raises(InputError, match=r"(?s)3.*2|2.*3"):
        ClassMoments(K, d).merge(ClassMoments(2, d))
    with pytest.raises(ValueError, match=r"(?s)4.*3|3.*4"):
        MASC().fit(X, codes).predict(X[:, :3])


@pytest.mark.parametrize("code", [-1, K, 99])
def test_class_indices_must_be_in_range(X, codes, code):
    codes[5] = code
    with pytest.raises(InputError, match=str(code)):
        fit_subspaces(X, codes, K, variance=0.99)
    with pytest.raises(InputError, match=str(code)):
        ClassMoments(K, d, dtype=torch.float64).update(X, codes)


@pytest.mark.parametrize(
    ("dtype", "computed"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.int64, torch.float64),
        (torch.uint8, torch.float64),
    ],
)
def test_half_precision_and_integers_are_computed_wider(X, codes, dtype, computed):
    X = X.abs()  # small whole numbers: the same in every dtype
    subspaces = fit_subspaces(X.to(dtype), codes, K, variance=0.99)
    assert all(U.dtype == computed for U in subspaces.bases)
    expected = fit_subspaces(X.to(computed), codes, K, variance=0.99).squared_cosines(X.to(computed))
    assert torch.equal(subspaces.squared_cosines(X.to(dtype)), expected)
    moments = ClassMoments(K, d, dtype=computed).update(X.to(dtype), codes)
    assert torch.equal(moments.subspaces(variance=0.99).squared_cosines(X.to(computed)), expected)


def test_complex_numbers_are_refused(X, codes):
    with pytest.raises(InputError, match=r"(?i)complex"):
        fit_subspaces(X.to(torch.complex128), codes, K, variance=0.99)


@pytest.mark.parametrize("dtype", [np.float16, np.int64, np.uint8, bool])
def test_masc_takes_any_real_numbers(dtype):
    rng = np.random.default_rng(0)
    rows, y = rng.integers(0, 2, size=(40, 6)).astype(dtype), np.arange(40) % 3
    narrow, wide = MASC().fit(rows, y), MASC().fit(rows.astype(np.float64), y)
    np.testing.assert_array_equal(narrow.predict(rows), wide.predict(rows.astype(np.float64)))
    expected = wide.squared_cosines(rows.astype(np.float64))
    np.testing.assert_allclose(narrow.squared_cosines(rows), expected, rtol=0, atol=1e-5)


# How much to keep.


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"variance": 0}, r"components|\(0, 1\]|above 0"),
        ({"variance": 0.0}, r"\(0, 1\]|above 0"),
        ({"variance": -0.5}, r"\(0, 1\]|above 0"),
        ({"variance": 1.5}, r"\(0, 1\]|at most 1"),
        ({"variance": math.nan}, r"\(0, 1\]"),
        ({"variance": "1"}, r"'1'"),
        ({"variance": True}, r"True"),
        ({"variance": 1}, r"(?s)variance=1\.0.*components=1|components=1.*variance=1\.0"),
        ({"variance": 2}, r"components=2"),
        ({"components": 0}, r"components.*0|at least 1"),
        ({"components": -1}, r"components.*-1|at least 1"),
        ({"components": 1.0}, r"1\.0"),
        ({"components": True}, r"True"),
        ({"components": d + 1}, r"(?s)5.*4|4.*5"),
        ({"variance": 0.9, "components": 2}, r"(?s)variance.*components"),
        ({}, r"(?s)variance.*components"),
    ],
    ids=str,
)
def test_invalid_variance_or_components_are_refused(X, codes, rule, message):
    with pytest.raises(InputError, match=message):
        fit_subspaces(X, codes, K, **rule)
    moments = ClassMoments(K, d, dtype=torch.float64)
    moments.update(X, codes)
    with pytest.raises(InputError, match=message):
        moments.subspaces(**rule)
    with pytest.raises(InputError, match=message):
        MASC(**{"variance": None} | rule).fit(X, codes)


@pytest.mark.parametrize(
    "rule",
    [
        {"variance": 1},
        {"variance": [0.5, 1]},
        {"components": 0},
        {"variance": 0.5, "components": 1},
        {"variance": [0.5, 0.9], "components": 1},
        {},
    ],
    ids=str,
)
def test_rank_rule_checks_its_arguments(rule):
    with pytest.raises(InputError, match="components"):
        choose_rank(torch.tensor([2.0, 1.0]), **rule)


def test_one_component_differs_from_the_whole_variance(X, codes):
    assert fit_subspaces(X, codes, K, components=1).ranks == (1, 1, 1)
    assert fit_subspaces(X, codes, K, variance=1.0).ranks == (2, 2, 2)


def test_components_stop_at_the_dimensions_of_the_class(X, codes):
    assert fit_subspaces(X, codes, K, components=d).ranks == (2, 2, 2)


# Classes with little or nothing in them.


def test_a_single_class(X):
    subspaces = fit_subspaces(X, torch.zeros(9, dtype=torch.int64), 1, variance=0.5)
    assert subspaces.squared_cosines(X).shape == (9, 1)
    assert subspaces.predict(X).tolist() == [0] * 9


def test_a_class_of_one_row_is_the_line_through_it():
    X = torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    subspaces = fit_subspaces(X[:2], torch.tensor([0, 1]), 2, variance=0.99)
    assert subspaces.ranks == (1, 1)
    expected = [[1, 0.36], [0.36, 1], [0, 0]]
    torch.testing.assert_close(subspaces.squared_cosines(X), torch.tensor(expected, dtype=torch.float64))


def test_a_class_without_rows_warns_and_is_never_predicted(X, codes):
    with pytest.warns(DegenerateWarning, match=r"(?i)no rows|without rows"):
        subspaces = fit_subspaces(X, codes + 1, K + 1, variance=0.99)
    assert subspaces.ranks == (0, 2, 2, 2)
    assert [tuple(U.shape) for U in subspaces.bases] == [(d, 0), (d, 2), (d, 2), (d, 2)]
    queries = torch.cat([X, torch.zeros(1, d, dtype=torch.float64)])
    assert (subspaces.squared_cosines(queries)[:, 0] == -math.inf).all()
    assert (subspaces.angles(queries)[:, 0] == math.inf).all()
    assert subspaces.predict(queries).tolist() == [1, 1, 1, 2, 2, 2, 3, 3, 3, 1]


def test_class_without_rows_is_saved_and_loaded(X, codes, tmp_path):
    with pytest.warns(DegenerateWarning):
        subspaces = fit_subspaces(X, codes + 1, K + 1, variance=0.99)
    subspaces.save(tmp_path / "subspaces.safetensors")
    loaded = type(subspaces).load(tmp_path / "subspaces.safetensors")
    assert torch.equal(loaded.squared_cosines(X), subspaces.squared_cosines(X))
    assert loaded.predict(X).tolist() == subspaces.predict(X).tolist()


def test_class_may_get_its_first_rows_in_a_later_batch(X, codes):
    masc = MASC().partial_fit(X[:6], codes[:6], classes=[0, 1, 2])
    with pytest.warns(DegenerateWarning, match=r"(?i)no rows|without rows"):
        assert masc.predict(X.numpy())[:6].tolist() == [0, 0, 0, 1, 1, 1]
    masc.partial_fit(X[6:], codes[6:])
    assert masc.predict(X.numpy()).tolist() == codes.tolist()


def test_class_that_is_not_in_classes_is_refused(X, codes):
    masc = MASC().partial_fit(X[:6], codes[:6], classes=[0, 1])
    with pytest.raises(InputError, match=r"2"):
        masc.partial_fit(X[6:], codes[6:])


def test_a_class_of_zeros_has_an_empty_subspace(X, codes):
    X[codes == 1] = 0
    subspaces = fit_subspaces(X, codes, K, variance=0.99)
    assert subspaces.ranks == (2, 0, 2)
    assert (subspaces.squared_cosines(X)[:, 1] == 0).all()
    assert 1 not in subspaces.predict(X)


def test_zero_query_has_squared_cosine_zero_and_the_first_class(X, codes):
    subspaces = fit_subspaces(X, codes, K, variance=0.99)
    zero = torch.zeros(2, d, dtype=torch.float64)
    assert subspaces.squared_cosines(zero).tolist() == [[0, 0, 0]] * 2
    torch.testing.assert_close(subspaces.angles(zero), torch.full((2, K), math.pi / 2, dtype=torch.float64))
    assert subspaces.predict(zero).tolist() == [0, 0]


# Layers that carry no information.


def test_a_constant_layer_is_one_line_for_every_class(codes):
    X = torch.tensor([[2.0, 0.0, -1.0, 0.0]], dtype=torch.float64).repeat(9, 1)
    subspaces = fit_subspaces(X, codes, K, variance=0.99)
    assert subspaces.ranks == (1, 1, 1)
    assert not subspaces.saturated
    torch.testing.assert_close(subspaces.squared_cosines(X), torch.ones(9, K, dtype=torch.float64))


def test_first_class_wins_where_rounding_separates_equal_angles():
    rng = torch.Generator().manual_seed(0)
    for row in torch.randn(30, 37, generator=rng, dtype=torch.float64):
        X, y = row.repeat(40, 1), torch.randint(K, (40,), generator=rng)
        assert fit_subspaces(X, y, K, variance=0.99).predict(X).tolist() == [0] * 40


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_saturated_subspaces_warn_and_tie_exactly(dtype):
    rng = torch.Generator().manual_seed(0)
    X = torch.randn(60, d, generator=rng, dtype=dtype)
    with pytest.warns(DegenerateWarning, match=r"(?i)saturated"):
        subspaces = fit_subspaces(X, torch.arange(60) % K, K, variance=1.0)
    assert subspaces.saturated
    assert subspaces.ranks == (d,) * K
    assert (subspaces.squared_cosines(X) == 1).all()
    assert (subspaces.angles(X) == 0).all()
    assert subspaces.predict(X).tolist() == [0] * 60
    assert subspaces.squared_cosines(torch.zeros(1, d, dtype=dtype)).tolist() == [[0] * K]


# Labels as people have them.


@pytest.mark.parametrize(
    "names",
    [[-1, 0, 7], ["cat", "dog", "emu"], [False, True], [0.0, 1.0, 2.0]],
    ids=["negative", "strings", "booleans", "whole floats"],
)
def test_masc_takes_any_class_names(X, codes, names):
    names = np.array(names)
    rows = X[codes < len(names)].numpy()
    y = names[codes[codes < len(names)].numpy()]
    masc = MASC().fit(rows, y)
    assert masc.classes_.tolist() == names.tolist()
    predicted = masc.predict(rows)
    assert predicted.dtype == y.dtype
    assert predicted.tolist() == y.tolist()
    assert masc.score(rows, y) == 1


def test_masc_refuses_continuous_targets(X):
    with pytest.raises(ValueError, match=r"(?i)continuous|class"):
        MASC().fit(X.numpy(), np.linspace(0, 1, 9))


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [(torch.float32, 1e-30), (torch.float32, 1e30), (torch.float64, 1e-100), (torch.float64, 1e100)],
)
def test_extreme_scales_neither_overflow_nor_vanish(X, codes, dtype, scale):
    X = X.to(dtype)
    plain = fit_subspaces(X, codes, K, variance=0.99)
    scaled = fit_subspaces(scale * X, codes, K, variance=0.99)
    assert scaled.ranks == plain.ranks
    torch.testing.assert_close(scaled.squared_cosines(scale * X), plain.squared_cosines(X), check_dtype=False)
    torch.testing.assert_close(plain.angles(scale * X), plain.angles(X), rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [(torch.float32, 1e-37), (torch.float32, 1e37), (torch.float64, 1e-300), (torch.float64, 1e300)],
)
def test_a_query_of_any_finite_size_has_its_angle(X, codes, dtype, scale):
    subspaces = fit_subspaces(X.to(dtype), codes, K, variance=0.99)
    queries = torch.tensor([[1, 2, 3, 4], [1, 5, 0, 0]], dtype=dtype)
    torch.testing.assert_close(subspaces.squared_cosines(scale * queries), subspaces.squared_cosines(queries))


def test_table_of_subspaces_states_rows_components_and_share():
    X = torch.tensor([[3.0, 0.0, 0.0], [0.0, 4.0, 0.0], [0.0, 0.0, 2.0]], dtype=torch.float64)
    y = torch.tensor([0, 0, 1])
    with pytest.warns(DegenerateWarning):
        subspaces = fit_subspaces(X, y, 3, components=1, classes=["a", "<b>", "none"])
    table = subspaces.to_frame()
    assert table["class"].tolist() == ["a", "<b>", "none"]
    assert table["rows"].tolist() == [2, 1, 0]
    assert table["components"].tolist() == [1, 1, 0]
    assert table["share"].tolist() == pytest.approx([16 / 25, 1, float("nan")], nan_ok=True)
    html = subspaces._repr_html_()
    assert "0.6400" in html
    assert "&lt;b&gt;" in html
    assert repr(subspaces) == "Subspaces of 3 classes in 3 dimensions, 0 to 1 components per class"
