"""Noise with many classes: the sparse route of the calibration, and an audit of 150 classes."""

import pytest
import torch

from auditing.planted import noise_matrix, scored_rows
from layerprobe import audit_features
from layerprobe.auditing.method.calibration import MANY, calibrate


@pytest.mark.parametrize("kind", ["uniform", "pair"])
@pytest.mark.parametrize(("K", "m"), [(MANY + 1, 2000), (300, 6000)])
def test_noise_is_recovered(K, m, kind):
    T = noise_matrix(K, 0.3, kind)
    scores, true, given = scored_rows(m, K, 6.0, T, seed=0)
    found = calibrate(scores, given, draws=4)
    posterior = found.posterior(scores, given)
    rate = float(1 - posterior.gather(1, given[:, None]).mean())
    assert rate == pytest.approx(float((true != given).double().mean()), abs=0.03)
    assert float(found.matrix.diagonal().mean()) == pytest.approx(0.7, abs=0.03)
    assert (found.matrix.sum(1) - 1).abs().max() < 1e-9
    neighbours = float(found.matrix.roll(-1, 1).diagonal().mean())
    assert neighbours > 0.15 if kind == "pair" else neighbours < 0.03
    assert found.rates.std() < 0.05


def test_flags_among_many_classes_are_right():
    K, n, held = 150, 3000, 1200
    generator = torch.Generator().manual_seed(0)
    true = torch.arange(n + held) % K
    x = 2 * torch.randn(K, 24, generator=generator)[true] + torch.randn(n + held, 24, generator=generator)
    wrong = torch.rand(n + held, generator=generator) < 0.2
    given = torch.where(wrong, torch.randint(K, (n + held,), generator=generator), true)
    found = audit_features(
        {"fc": x[:n]},
        given[:n],
        policy="noisy_holdout",
        holdout=({"fc": x[n:]}, given[n:]),
        probes=["ridge", "ncm"],
    )
    wrong = (given != true)[:n].numpy()
    flags = found.issues["is_label_issue"].to_numpy()
    assert found.noise.rate == pytest.approx(wrong.mean(), abs=0.03)
    assert found.noise.matrix_low.shape == (K, K)
    assert wrong[flags].mean() > 0.95
    assert flags[wrong].mean() > 0.9
