"""A small network that has memorised 40 % wrong labels of the digits, and its audit."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from layerprobe import audit
from layerprobe.data import noise
from layerprobe.networks import MLP
from layerprobe.training import seeded


def fit(model, x, y, *, steps, rate=3e-3, size=128, seed=0):
    """Train with Adam on x, a tensor or a dict of them; the model is in evaluation mode afterwards."""
    optimizer = torch.optim.Adam(model.parameters(), rate)
    generator = torch.Generator().manual_seed(seed)
    model.train()
    for _ in range(steps):
        rows = torch.randint(len(y), (size,), generator=generator)
        out = model(**{k: v[rows] for k, v in x.items()}) if isinstance(x, dict) else model(x[rows])
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(getattr(out, "logits", out), y[rows]).backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="session")
def train():
    """Train a network in a few steps."""
    return fit


@pytest.fixture(scope="session")
def digits():
    """600 rows to train on and 400 held out, both with 40 % wrong labels; `test` has right ones."""
    bunch = load_digits()
    order = np.random.default_rng(0).permutation(len(bunch.target))[:1400]
    x = torch.tensor(bunch.images[order] / 8 - 1, dtype=torch.float32)[:, None]
    true = torch.from_numpy(bunch.target[order])
    given = torch.from_numpy(noise.uniform(true, 0.44, 10, seed=0).labels.copy())
    return SimpleNamespace(
        x=x[:600],
        true=true[:600],
        given=given[:600],
        holdout=(x[600:1000], given[600:1000]),
        test=(x[1000:], true[1000:]),
    )


@pytest.fixture(scope="session")
def memorised(digits):
    with seeded(0):
        model = MLP(64, (96, 48))
    return fit(model, digits.x, digits.given, steps=900)


@pytest.fixture(scope="session")
def audited(memorised, digits):
    return audit(
        memorised,
        (digits.x, digits.given),
        policy="noisy_holdout",
        holdout=digits.holdout,
        history=[0.2, 0.35, 0.3],
    )
