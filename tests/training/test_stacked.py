from dataclasses import astuple, replace
from functools import partial

import pytest
import torch
from torch import nn

from layerprobe.errors import InputError, LayerprobeWarning
from layerprobe.networks import CNN, MLP
from layerprobe.training import (
    Recipe,
    Scale,
    TrainingState,
    seeded,
    train,
    train_stacked,
)

R, N, K = 3, 90, 3
SGD = Recipe("sgd", 1e-2, 16, momentum=0.9, max_epochs=3)
ADAM = Recipe("adam", 1e-3, 16, max_epochs=3)


class Normalised(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(True), nn.Flatten(), nn.Linear(144, K)
        )


class Tempered(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(64, K))
        self.temperature = nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        return super().forward(x) / self.temperature


class Frozen(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, K))
        self[1].requires_grad_(False)


class Tied(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, K))
        self[2].weight = self[1].weight


class Hidden(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(64, K))
        self.register_buffer("factor", torch.ones(K), persistent=False)

    def forward(self, x):
        return super().forward(x) * self.factor


NETWORKS = {
    "mlp": lambda: MLP(64, (32, 16), K),
    "cnn": lambda: CNN(1, 8, num_classes=K),
    "bn": Normalised,
    "frozen": Frozen,
}


def build(make, dtype=torch.float64):
    models = []
    for seed in range(R):
        with seeded(seed):
            models.append(make().to(dtype))
    return models


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N, 1, 8, 8, generator=generator, dtype=torch.float64)
    true = torch.randint(K, (N,), generator=generator)
    ys = torch.randint(K, (R, N), generator=generator)
    return x, ys, true, (x[:40] + 0.3, true[:40])


def both(make, x, ys, recipe, dtype=torch.float64, **kwargs):
    """Train separately and stacked from the same weights; return both lots of models and of histories."""
    separate, stacked = build(make, dtype), build(make, dtype)
    histories = [
        train(model, x, y, recipe, order_seed=10 + r, **kwargs)
        for r, (model, y) in enumerate(zip(separate, ys, strict=True))
    ]
    return (
        separate,
        stacked,
        histories,
        train_stacked(stacked, x, ys, recipe, order_seeds=range(10, 10 + R), **kwargs),
    )


def assert_equal_runs(separate, stacked, histories, histories_stacked, tolerance):
    for a, b in zip(separate, stacked, strict=True):
        for name, value in a.state_dict().items():
            error = (value - b.state_dict()[name]).abs().max() / value.abs().max()
            assert error <= tolerance, name
    for a, b in zip(histories, histories_stacked, strict=True):
        assert len(a) == len(b)
        for p, q in zip(a, b, strict=True):
            assert astuple(replace(p, seconds=0, loss=0)) == pytest.approx(
                astuple(replace(q, seconds=0, loss=0)), abs=0, nan_ok=True
            )
            assert p.loss == pytest.approx(q.loss, rel=tolerance)


@pytest.mark.parametrize("recipe", [SGD, ADAM, replace(ADAM, shuffle=False)], ids=["sgd", "adam", "in order"])
@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_stacked_runs_equal_separate_runs(data, make, recipe):
    x, ys, true, test = data
    assert_equal_runs(*both(make, x, ys, recipe, true_labels=true, test=test), tolerance=1e-10)


@pytest.mark.parametrize("recipe", [SGD, ADAM], ids=["sgd", "adam"])
def test_stacked_float32_runs_equal_within_rounding(data, recipe):
    x, ys, _, _ = data
    assert_equal_runs(*both(NETWORKS["mlp"], x.float(), ys, recipe, torch.float32), tolerance=1e-5)


def test_each_run_stops_at_own_epoch(data):
    x, ys, true, test = data
    ys = ys.clone()
    ys[0] = (x[:, 0, 0, 0] > 0).long()  # easy, hence soon over; the others are noise
    recipe = replace(ADAM, learning_rate=1e-2, target=0.9, max_epochs=60)
    separate, stacked, histories, histories_stacked = both(
        NETWORKS["mlp"], x, ys, recipe, true_labels=true, test=test
    )
    lengths = [len(history) for history in histories_stacked]
    assert lengths[0] < min(lengths[1:])
    assert max(lengths) < 60
    assert_equal_runs(separate, stacked, histories, histories_stacked, tolerance=1e-8)


def test_diverging_run_ends_and_others_continue(data):
    x, ys, _, _ = data
    models = build(NETWORKS["mlp"])
    with torch.no_grad():
        models[1].head.weight.fill_(float("inf"))
    with pytest.warns(LayerprobeWarning, match="after epoch 1, since its loss is nan"):
        histories = train_stacked(models, x, ys, SGD, order_seeds=range(R))
    assert [len(history) for history in histories] == [3, 1, 3]
    assert all(torch.isfinite(models[r].head.weight).all() for r in (0, 2))


def copy_of(state):
    return TrainingState(
        {name: value.clone() for name, value in state.model.items()},
        {name: value.clone() for name, value in state.optimizer.items()},
        state.history,
    )


@pytest.mark.parametrize("epochs", [(1, 1, 1), (2, 2, 2), (3, 3, 3), (0, 2, 1), (3, 0, 1)])
@pytest.mark.parametrize(
    ("make", "recipe"),
    [
        (NETWORKS["bn"], SGD),
        (NETWORKS["cnn"], ADAM),
        (NETWORKS["mlp"], replace(SGD, momentum=0)),
        (Tempered, ADAM),
    ],
    ids=["sgd", "adam", "no momentum", "scalar parameter"],
)
def test_runs_resume_from_different_epochs(data, make, recipe, epochs):
    x, ys, true, test = data
    given = {"true_labels": true, "test": test}
    before, after = {}, {}

    def keep(states):
        return lambda r, state: states.update({(r, len(state.history)): copy_of(state)})

    separate, stacked, alone = build(make), build(make), build(make)
    histories = [
        train(model, x, y, recipe, order_seed=r, save=partial(keep(before), r), **given)
        for r, (model, y) in enumerate(zip(separate, ys, strict=True))
    ]
    for model in stacked:
        model.to(memory_format=torch.channels_last)
    resume = [before.get((r, epoch)) for r, epoch in enumerate(epochs)]
    resumed = train_stacked(
        stacked, x, ys, recipe, order_seeds=range(R), resume=resume, save=keep(after), **given
    )
    assert_equal_runs(separate, stacked, histories, resumed, tolerance=1e-10)
    assert sorted(after) == [(r, e) for r in range(R) for e in range(epochs[r] + 1, 4)]
    for key, state in after.items():
        assert state.optimizer.keys() == before[key].optimizer.keys()
        for name, value in before[key].optimizer.items():
            torch.testing.assert_close(state.optimizer[name], value, rtol=1e-9, atol=1e-12)
    resumed = [
        train(model, x, y, recipe, order_seed=r, resume=after.get((r, 2)), **given)
        for r, (model, y) in enumerate(zip(alone, ys, strict=True))
    ]
    assert_equal_runs(separate, alone, histories, resumed, tolerance=1e-10)


def test_network_has_final_weights_at_last_save(data):
    x, ys, _, _ = data
    models, equal = build(NETWORKS["mlp"]), []

    def save(r, state):
        equal.append(all(torch.equal(v, state.model[k]) for k, v in models[r].state_dict().items()))

    train_stacked(models, x, ys, SGD, order_seeds=range(R), save=save)
    assert equal == [False] * 2 * R + [True] * R


def test_scaling_per_batch_and_on_epoch():
    images = torch.randint(256, (N, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    ys = torch.randint(K, (R, N), generator=torch.Generator().manual_seed(1))
    scaled = Scale(-1, 1)(images)
    a, b, epochs_seen = build(NETWORKS["cnn"], torch.float32), build(NETWORKS["cnn"], torch.float32), []
    train_stacked(a, scaled, ys, SGD, order_seeds=range(R), test=(scaled, ys[0]))
    histories = train_stacked(
        b,
        images,
        list(ys),
        SGD,
        order_seeds=range(R),
        test=(images, ys[0]),
        inputs=Scale(-1, 1),
        on_epoch=lambda r, epoch: epochs_seen.append((r, epoch)),
    )
    assert epochs_seen == [(r, histories[r][e]) for e in range(3) for r in range(R)]
    for p, q in zip(a, b, strict=True):
        torch.testing.assert_close(p.state_dict(), q.state_dict())


def test_global_generators_are_restored(data):
    x, ys, _, _ = data
    before = torch.get_rng_state()
    train_stacked(build(NETWORKS["mlp"]), x, ys, replace(SGD, max_epochs=1), order_seeds=range(R))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"models": []}, "got 0 models, 3 sets of labels, 3 seeds"),
        ({"order_seeds": [1, 2]}, "3 models, 3 sets of labels, 2 seeds"),
        ({"ys": torch.zeros(R, 5, dtype=torch.int64)}, r"y needs shape \(90,\), .* got \(5,\)"),
        (
            {"ys": [torch.zeros(n, dtype=torch.int64) for n in (N, N, 5)]},
            r"y needs shape \(90,\), .* got \(5,\)",
        ),
        ({"ys": [[0] * N] * R}, "y must be a tensor of n rows, got list"),
        ({"x": torch.zeros(0, 64), "ys": torch.zeros(R, 0)}, "at least one sample"),
        ({"true_labels": torch.zeros(5)}, r"true_labels needs shape \(90,\).*got \(5,\)"),
        ({"models": [MLP(64), MLP(64), MLP(64, (32,))]}, "networks of one architecture"),
        ({"models": [MLP(64), MLP(64), MLP(64).requires_grad_(False)]}, "networks of one architecture"),
        ({"resume": [None]}, "3 seeds, 1 states"),
        ({"resume": [None, TrainingState({}, {}, ()), None]}, "same optimiser, which keeps"),
        ({"models": [CNN(1, 8, dropout=0.1) for _ in range(R)]}, "do not support dropout"),
        ({"models": [Tied() for _ in range(R)]}, "parameters with two names"),
        ({"models": [Hidden() for _ in range(R)]}, "buffers outside the state_dict"),
        (
            {"models": [MLP(64, (32,), K - 1).double() for _ in range(R)]},
            rf"return logits \(\d+, K\) with K of at least {K}",
        ),
    ],
)
def test_arguments_that_do_not_match_raise(data, change, message):
    x, ys, _, _ = data
    arguments = {"models": build(NETWORKS["mlp"]), "x": x, "ys": ys, "order_seeds": range(R)} | change
    with pytest.raises(InputError, match=message):
        train_stacked(**arguments, recipe=SGD)
