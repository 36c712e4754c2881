import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from layerprobe.errors import DataError, InputError
from layerprobe.paper import Run, RunSpec, execute
from layerprobe.paper.experiments.network_similarity import (
    chance_cosine,
    linear_cka,
    principal_cosines,
    similarity,
)
from layerprobe.paper.run_outputs import FinishedRun

LAYERS = ["input", "fc1", "fc2", "fc3"]


def gaussian(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(d, seed):
    return torch.linalg.qr(gaussian(d, d, seed=seed)).Q


def column(*values):
    return torch.tensor(values, dtype=torch.float64)[:, None]


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [  # in one dimension it is the squared correlation
        (column(0, 1, 2), column(0, 1, 0), 0.0),
        (column(0, 1, 2), column(0, 2, 1), 0.25),
        (column(0, 1, 2), column(7, 5, 3), 1.0),
    ],
)
def test_cka_by_hand(x, y, expected):
    assert linear_cka(x, y) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("shape", [(300, 12), (30, 200)])  # by features, by inputs
def test_cka_is_invariant_to_rotation_scale_and_shift(shape):
    X = gaussian(*shape, seed=0)
    assert linear_cka(X, -3 * X @ rotation(shape[1], 1) + 5) == pytest.approx(1, abs=1e-12)
    stretched = X * torch.arange(1, shape[1] + 1)
    assert linear_cka(X, stretched) < 0.999


@pytest.mark.parametrize(("m", "d", "e"), [(200, 3, 7), (20, 90, 40), (20, 90, 1)])
def test_cka_is_its_definition_by_centred_kernels(m, d, e):
    X, Y = gaussian(m, d, seed=0) + 1, gaussian(m, e, seed=1).exp()
    H = np.eye(m) - 1 / m
    K, L = (H @ (Z @ Z.T).numpy() @ H for Z in (X, Y))
    expected = np.sum(K * L) / np.sqrt(np.sum(K * K) * np.sum(L * L))
    assert linear_cka(X, Y) == pytest.approx(expected, rel=1e-12)
    assert linear_cka(X.float(), Y.float()) == pytest.approx(expected, rel=1e-5)


def test_cka_of_independent_gaussians_is_small_as_expected():
    """About sqrt(d e / ((m + d) (m + e))).

    With M = m - 1, E|Y'X|^2 = d e M and E|X'X|^2 = d M (M + d + 1). |Y'X|^2 is nearly chi-squared with d e
    degrees of freedom: 4 relative standard deviations are 4 sqrt(2 / (d e)) = 0.17.
    """
    m, d, e = 400, 30, 40
    expected = math.sqrt(d * e / ((m + d) * (m + e)))
    assert expected < 0.09
    assert linear_cka(gaussian(m, d, seed=0), gaussian(m, e, seed=1)) == pytest.approx(expected, rel=0.17)


def test_cka_of_outputs_that_do_not_vary_is_not_a_number():
    assert math.isnan(linear_cka(torch.ones(5, 3), gaussian(5, 3, seed=0)))


def orthonormal(A):
    return torch.linalg.qr(A).Q


@pytest.mark.parametrize("angle", [0.0, 0.3, math.pi / 2])
def test_principal_cosines_of_a_known_angle(angle):
    """Planes in R^6 that share one line and are apart by the angle elsewhere, in any basis of theirs."""
    axes = rotation(6, 2)
    turned = math.cos(angle) * axes[:, 0] + math.sin(angle) * axes[:, 2]
    A = axes[:, :2] @ gaussian(2, 2, seed=5)
    B = torch.stack([turned, axes[:, 1]], dim=1) @ gaussian(2, 2, seed=6)
    expected = torch.tensor([1.0, math.cos(angle)], dtype=torch.float64)
    cosines = principal_cosines(orthonormal(A), orthonormal(B))
    torch.testing.assert_close(cosines, expected, rtol=0, atol=1e-12)


def test_principal_cosines_of_unequal_dimensions():
    axes = rotation(9, 4)
    inside = principal_cosines(axes[:, :2], axes[:, 1:6])
    torch.testing.assert_close(inside, torch.tensor([1.0, 0.0]).double(), rtol=0, atol=1e-12)
    assert principal_cosines(axes[:, :0], axes).shape == (0,)


def test_chance_cosine_equals_that_of_random_subspaces():
    """40 draws: the mean of r = 5 squared cosines has a deviation below 0.06 each, 4 of its own are 0.04."""
    bases = [orthonormal(gaussian(40, 5 + 3 * (i % 2), seed=i)) for i in range(80)]
    squares = [
        principal_cosines(P, Q).square().mean().item() for P, Q in zip(bases[::2], bases[1::2], strict=True)
    ]
    assert chance_cosine(5, 8, 40) ** 2 == pytest.approx(0.2)
    assert np.mean(squares) == pytest.approx(0.2, abs=0.04)


def test_matrices_of_other_inputs_are_refused():
    with pytest.raises(InputError, match=r"equally many rows.*\(5, 2\) and \(4, 2\)"):
        linear_cka(torch.ones(5, 2), torch.ones(4, 2))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    for corruption in (0.0, 1e-9, 0.6):
        execute(spec(corruption), root)
    return root


def spec(corruption):
    return RunSpec.of("mlp-digits", corruption, 0, subset=200, test_subset=150, max_epochs=8)


def test_networks_of_the_same_labels_are_the_same(root):
    """At p = 1e-9 no label is redrawn: the same run under another name."""
    subject = FinishedRun.of(spec(1e-9), root)
    assert (subject.noisy == subject.true).all()
    rows = similarity(subject)
    values = rows[rows["metric"] != "principal_cosine_chance"]["value"]
    np.testing.assert_allclose(values, 1, rtol=0, atol=1e-9)


def test_a_memorised_network_differs_but_for_the_input(root):
    rows = similarity(FinishedRun.of(spec(0.6), root))
    assert len(rows) == 4 + 2 * (2 * 4 * 10)
    cka = rows[rows["metric"] == "cka"].set_index("layer")["value"]
    assert cka.index.tolist() == LAYERS
    assert cka["input"] == pytest.approx(1, abs=1e-12)
    assert (cka[["fc1", "fc2", "fc3"]] < 0.999).all()
    cosines = rows[rows["metric"] == "principal_cosine"]
    assert cosines["value"].between(0, 1).all()
    assert cosines.groupby(["layer", "fitted_on"])["class"].apply(list).map(lambda k: k == [*range(10)]).all()
    mean = cosines.groupby(["layer", "fitted_on"])["value"].mean()
    assert mean["input", "true"] == pytest.approx(1, abs=1e-9)
    assert mean["input", "noisy"] < 0.99
    assert mean["fc3", "true"] < 0.99
    assert set(rows[["experiment", "split"]].itertuples(index=False, name=None)) == {("similarity", "test")}


def test_rows_repeat_bit_for_bit(root):
    one, other = (similarity(FinishedRun.of(spec(0.6), root)) for _ in range(2))
    pd.testing.assert_frame_equal(one, other, check_exact=True)


def test_missing_clean_run_raises(tmp_path):
    execute(spec(0.6), tmp_path)
    with pytest.raises(DataError, match=r"without noise \(p = 0\).*p0-s0-.*no run here"):
        similarity(FinishedRun.of(spec(0.6), tmp_path))


def test_the_clean_run_of_human_labels_is_that_of_their_seed(tmp_path):
    human = RunSpec.of("cnn-cifar10", None, 3, noise="cifar-10n:worst", subset=500)
    run = Run(Path("here"), human, pd.DataFrame(), True, {})
    clean = RunSpec.of("cnn-cifar10", 0.0, 3, subset=500)
    with pytest.raises(DataError, match=clean.folder_name):
        FinishedRun(run, None, None, tmp_path).generalised()
