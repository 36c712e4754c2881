import warnings

import numpy as np
import pytest
import torch

from layerprobe.probes import REGISTRY, LinearProbe, VeLPIC, create

ROWS = np.array([[3.0, 4.0], [6.0, 8.0], [-4.0, 3.0], [-8.0, 6.0]])  # two lines through the origin
CODES = [0, 0, 1, 1]


def test_the_directions_are_the_lines_that_the_classes_lie_on():
    probe = VeLPIC().fit(ROWS, CODES)
    # The mean is (-0.75, 5.25): its products with both are positive.
    np.testing.assert_allclose(probe.directions_, [[0.6, 0.8], [-0.8, 0.6]], atol=1e-15)
    assert probe.predict([[1.0, 1.0], [-1.0, 0.1], [1.0, -3.0]]).tolist() == [0, 1, 0]


def test_the_sign_is_that_of_all_training_points_not_of_the_class():
    rows = np.array([[1.0, 0.0], [2.0, 0.0], [-9.0, 1.0], [-9.0, -1.0]])
    probe = VeLPIC().fit(rows, [0, 0, 1, 1])
    # Class 0 lies on +x, but the mean of all points is at x = -3.75.
    np.testing.assert_allclose(probe.directions_, [[-1.0, 0.0], [-1.0, 0.0]], atol=1e-15)


def test_the_component_is_uncentred():
    generator = np.random.default_rng(0)
    rows = np.array([10.0, 0.0]) + generator.standard_normal((200, 2)) * [0.1, 2.0]  # wide across its mean
    (direction,) = VeLPIC().fit(rows, [0] * 200).directions_
    assert direction[0] > 0.99


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_directions_are_unit_vectors_of_the_rows_dtype_at_any_width(dtype):
    generator = torch.Generator().manual_seed(0)
    for d in (1, 2, 5, 300):  # more and fewer features than rows
        rows = torch.randn(60, d, generator=generator, dtype=dtype)
        with warnings.catch_warnings(action="error"):
            directions = VeLPIC().fit(rows, torch.arange(60) % 3).directions_
        assert directions.dtype == dtype
        assert directions.shape == (3, d)
        assert directions.norm(dim=1) == pytest.approx(1, abs=1e-6)
        assert (directions.double() @ rows.double().mean(0) >= 0).all()


def test_an_all_zero_class_has_the_score_zero():
    probe = VeLPIC().fit([[0.0, 0.0], [0.0, 0.0], [1.0, 2.0], [2.0, 4.0], [1.0, 0.0]], [0, 0, 1, 1, 2])
    assert probe.directions_[0].tolist() == [0, 0]
    assert probe.decision_function([[5.0, 5.0]])[0, 0] == 0
    assert probe.predict([[1.0, 2.0]]).tolist() == [1]


@pytest.mark.parametrize("K", [2, 3])
@pytest.mark.parametrize("name", [name for name, kind in REGISTRY.items() if issubclass(kind, LinearProbe)])
def test_weights_of_a_linear_probe_give_its_predictions(name, K):
    generator = torch.Generator().manual_seed(1)
    codes = torch.arange(90) % K
    rows = torch.randn(90, 6, generator=generator, dtype=torch.float64) + 2 * torch.eye(6)[codes]
    probe = create(name).fit(rows, codes)
    weight, bias = probe.linear_
    assert weight.shape == (K, 6)
    assert bias.shape == (K,)
    assert torch.equal((rows @ weight.T + bias).argmax(1), probe.predict(rows))
