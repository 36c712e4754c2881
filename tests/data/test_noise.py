import json

import numpy as np
import pytest
import torch

from layerprobe.data import noise
from layerprobe.errors import InputError

K = 10
N = 60_000
KINDS = {
    "uniform": lambda labels: noise.uniform(labels, 0.4, K, seed=3),
    "published": lambda labels: noise.published(labels, 0.4, K),
    "transition": lambda labels: noise.transition(labels, flip_matrix(0.4), seed=3),
    "pair_flip": lambda labels: noise.pair_flip(labels, 0.4, K, seed=3),
}
each_kind = pytest.mark.parametrize("kind", KINDS)


def flip_matrix(degree):
    return (1 - degree) * np.eye(K) + degree * np.roll(np.eye(K), 1, axis=1)


def some_labels(n=N, seed=0):
    return np.random.default_rng(seed).integers(K, size=n)


def redrawn(degree, draw):
    """Return which labels were redrawn, and the drawn classes: these do not depend on the true label."""
    zeros, ones = np.zeros(N, dtype=int), np.ones(N, dtype=int)
    from_zeros = draw(zeros, degree).labels
    return from_zeros == draw(ones, degree).labels, from_zeros


@each_kind
def test_record_is_consistent_reproducible_and_read_only(kind):
    true = some_labels()
    before = true.copy()
    made = KINDS[kind](true)
    assert np.array_equal(true, before)
    assert made.labels.shape == made.changed.shape == true.shape
    assert made.labels.dtype == np.int64
    assert np.array_equal(made.changed, made.labels != true)
    assert made.changed.any()
    assert set(made.labels) <= set(range(K))
    assert not made.labels.flags.writeable
    assert not made.changed.flags.writeable
    assert np.array_equal(made.labels, KINDS[kind](true).labels)


@each_kind
def test_recipe_read_from_json_makes_the_same_noise(kind):
    true = some_labels(500)
    made = KINDS[kind](true)
    recipe = json.loads(json.dumps(made.recipe))
    again = getattr(noise, recipe.pop("kind"))(true, **recipe)
    assert np.array_equal(again.labels, made.labels)
    assert again.recipe == made.recipe


@each_kind
@pytest.mark.parametrize("convert", [list, tuple, torch.tensor, lambda a: a.astype(np.uint8)])
def test_every_kind_of_integer_labels_gives_the_same(kind, convert):
    true = some_labels(200)
    assert np.array_equal(KINDS[kind](convert(true)).labels, KINDS[kind](true).labels)


def test_numpy_scalars_are_accepted():
    made = noise.uniform([0, 1, 2], np.float64(0.5), np.int64(3), np.uint8(7))
    assert np.array_equal(made.labels, noise.uniform([0, 1, 2], 0.5, 3, 7).labels)
    assert json.loads(json.dumps(made.recipe)) == {
        "kind": "uniform",
        "degree": 0.5,
        "num_classes": 3,
        "seed": 7,
    }


@pytest.mark.parametrize("kind", ["uniform", "pair_flip"])
def test_another_seed_gives_other_noise(kind):
    true = some_labels(1000)
    first, second = (getattr(noise, kind)(true, 0.5, K, seed).labels for seed in (0, 1))
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("kind", [noise.uniform, noise.published, noise.pair_flip])
def test_degree_zero_changes_no_label(kind):
    seed = {} if kind is noise.published else {"seed": 0}
    true = some_labels()
    made = kind(true, 0.0, K, **seed)
    assert not made.changed.any()
    assert np.array_equal(made.labels, true)
    assert not np.shares_memory(made.labels, true)


@pytest.mark.parametrize("kind", [noise.uniform, noise.published])
@pytest.mark.parametrize("degree", [0.2, 0.6, 1.0])
def test_uniform_rule_has_its_expected_share_and_spreads_evenly(kind, degree):
    seed = {} if kind is noise.published else {"seed": 1}
    true = some_labels()
    made = kind(true, degree, K, **seed)
    share = degree - degree / K
    assert made.changed.mean() == pytest.approx(share, abs=5 * np.sqrt(share * (1 - share) / N))
    shift = np.bincount((made.labels - true) % K, minlength=K)[1:] / N  # each wrong class: degree / K
    assert shift == pytest.approx(degree / K, abs=5 * np.sqrt(degree / K / N))


def test_uniform_noise_is_nested_over_degrees_labels_included():
    small, large = (redrawn(degree, lambda y, p: noise.uniform(y, p, K, seed=5)) for degree in (0.2, 0.6))
    assert small[0].sum() < large[0].sum()
    assert large[0][small[0]].all()
    assert np.array_equal(small[1][small[0]], large[1][small[0]])


@pytest.mark.parametrize(
    ("degree", "count"), [(0.0, 0), (0.2, 11968), (0.4, 24011), (0.6, 35982), (0.8, 48061), (1.0, 60000)]
)
def test_published_draw_redraws_as_many_labels_as_published(degree, count):
    mask, _ = redrawn(degree, lambda y, p: noise.published(y, p, K))
    assert mask.sum() == count


def test_published_draw_begins_as_published():
    mask, drawn = redrawn(0.2, lambda y, p: noise.published(y, p, K))
    assert np.flatnonzero(mask)[:6].tolist() == [4, 5, 6, 10, 14, 15]
    assert drawn[mask][:6].tolist() == [3, 2, 3, 5, 2, 0]
    larger, _ = redrawn(0.4, lambda y, p: noise.published(y, p, K))
    assert larger[mask].all()


@pytest.mark.real_data
def test_published_draw_on_the_true_mnist_labels(real_data):
    from layerprobe.data import load

    true = load("mnist", real_data).train_labels
    made = noise.published(true, 0.2, K)
    assert made.labels[[4, 5, 6, 10, 14, 15]].tolist() == [3, 2, 3, 5, 2, 0]
    assert np.array_equal(np.flatnonzero(made.changed)[:3], [4, 6, 10])  # label 5 was a 2 and was redrawn a 2
    assert made.changed.mean() == pytest.approx(0.18, abs=0.005)


def test_pair_flip_moves_labels_to_the_next_class_only():
    true = some_labels()
    made = noise.pair_flip(true, 0.3, K, seed=2)
    assert np.array_equal(made.labels[made.changed], (true[made.changed] + 1) % K)
    assert made.changed.mean() == pytest.approx(0.3, abs=5 * np.sqrt(0.21 / N))
    assert set(true[made.changed]) == set(range(K))
    assert noise.pair_flip(true, 1.0, K, seed=2).changed.all()


def test_transition_draws_from_the_row_of_the_true_class():
    rng = np.random.default_rng(0)
    matrix = rng.dirichlet(np.ones(K), size=K)
    matrix[3] = np.roll(np.eye(K)[3], 4)  # 3 always becomes 7
    matrix[5, [0, 9]] = 0  # zero at either end of a row
    matrix[5] /= matrix[5].sum()
    true = some_labels(200_000)
    made = noise.transition(true, matrix, seed=1)
    counts = np.zeros((K, K))
    np.add.at(counts, (true, made.labels), 1)
    observed = counts / counts.sum(axis=1, keepdims=True)
    assert observed == pytest.approx(matrix, abs=5 * np.sqrt(0.25 / 19_000))
    assert (counts[matrix == 0] == 0).all()
    assert (made.labels[true == 3] == 7).all()


def test_transition_by_the_identity_changes_nothing_and_accepts_float32_rounding():
    true = some_labels(1000)
    assert not noise.transition(true, torch.eye(K), seed=0).changed.any()
    thirds = np.full((3, 3), 1 / 3, dtype=np.float32)
    assert noise.transition(true % 3, thirds, seed=0).changed.any()


@each_kind
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([], "not empty"),
        (np.zeros((3, 1), dtype=int), r"one-dimensional.*\(3, 1\)"),
        (np.int64(3), "one-dimensional"),
        ([[0], [1, 2]], "different lengths"),
        ([0.0, 1.0], "integers, got float64"),
        ([True, False], "integers, got bool"),
        (["cat", "dog"], "integers"),
        ([0, 10], r"0\.\.9, got 0\.\.10"),
        ([-1, 3], r"0\.\.9, got -1\.\.3"),
        (np.array([2**64 - 1, 0], dtype=np.uint64), r"0\.\.9"),
    ],
)
def test_invalid_labels_are_refused(kind, labels, message):
    with pytest.raises(InputError, match=message):
        KINDS[kind](labels)


@pytest.mark.parametrize("degree", [-0.1, 1.1, float("nan"), "0.2", None])
@pytest.mark.parametrize(
    "corrupt",
    [
        lambda p: noise.uniform([0, 1], p, 2, 0),
        lambda p: noise.published([0, 1], p, 2),
        lambda p: noise.pair_flip([0, 1], p, 2, 0),
    ],
)
def test_an_invalid_degree_is_refused(corrupt, degree):
    with pytest.raises(InputError, match=r"degree must be a probability in \[0, 1\]"):
        corrupt(degree)


@pytest.mark.parametrize("seed", [None, -1, 0.5])
def test_an_invalid_seed_is_refused(seed):
    for corrupt in (
        lambda: noise.uniform([0, 1], 0.5, 2, seed),
        lambda: noise.pair_flip([0, 1], 0.5, 2, seed),
        lambda: noise.transition([0, 1], np.eye(2), seed),
    ):
        with pytest.raises(InputError, match="seed must be an integer"):
            corrupt()


@pytest.mark.parametrize("num_classes", [1, 0, 2.0, None])
def test_an_invalid_number_of_classes_is_refused(num_classes):
    with pytest.raises(InputError, match="num_classes must be an integer of at least 2"):
        noise.uniform([0, 0], 0.5, num_classes, seed=0)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.ones((2, 3)) / 3, r"square.*\(2, 3\)"),
        ([0.5, 0.5], "square"),
        ([[1], [0.5, 0.5]], "different lengths"),
        ([["a", "b"], ["c", "d"]], "probabilities"),
        ([[1.0, 0.0], [1.5, -0.5]], "Row 1 has the smallest entry -0.5 and the sum 1"),
        ([[0.5, 0.4], [0.0, 1.0]], r"Row 0 .* the sum 0\.9"),
        ([[1.0, 0.0], [float("nan"), 1.0]], "Row 1"),
        ([[float("inf"), 0.0], [0.0, 1.0]], "Row 0"),
        ([[1.0]], "at least 2"),
    ],
)
def test_an_invalid_matrix_is_refused(matrix, message):
    with pytest.raises(InputError, match=message):
        noise.transition([0, 1], matrix, seed=0)


def test_labels_beyond_the_matrix_are_refused():
    with pytest.raises(InputError, match=r"0\.\.1, got 0\.\.2"):
        noise.transition([0, 2], np.eye(2), seed=0)
