import math
from dataclasses import astuple, replace

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from layerprobe.errors import InputError, LayerprobeWarning
from layerprobe.networks import MLP
from layerprobe.training import Recipe, Scale, TrainingState, accuracy, seeded, train

RECIPE = Recipe("adam", learning_rate=3e-3, batch_size=32, max_epochs=300)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def planted():
    """Three Gaussian classes in 20 dimensions; 40 % of the training labels redrawn."""
    generator = torch.Generator().manual_seed(0)
    means = 3 * torch.randn(3, 20, generator=generator)
    true = torch.randint(0, 3, (400,), generator=generator)
    x = means[true] + torch.randn(400, 20, generator=generator)
    redrawn = torch.rand(200, generator=generator) < 0.4
    noisy = torch.where(redrawn, torch.randint(0, 3, (200,), generator=generator), true[:200])
    return x[:200], noisy, true[:200], (x[200:], true[200:])


def build():
    with seeded(11):
        return MLP(20, (64, 64), num_classes=3)


def run(planted, recipe=RECIPE, order_seed=5, **kwargs):
    x, noisy, true, test = planted
    model = build()
    return model, train(model, x, noisy, recipe, order_seed=order_seed, true_labels=true, test=test, **kwargs)


def without_seconds(history):
    return [astuple(replace(epoch, seconds=0.0)) for epoch in history]


def test_network_memorises_noisy_labels_and_generalises_worse(planted):
    x, noisy, true, test = planted
    model, history = run(planted)
    last = history[-1]
    assert last.train_accuracy >= RECIPE.target
    assert len(history) < RECIPE.max_epochs
    assert accuracy(model, x, noisy) >= 0.99
    # A memoriser is right on the training set exactly where the label is.
    assert last.true_accuracy == pytest.approx((noisy == true).double().mean().item(), abs=0.01)
    assert last.test_accuracy == accuracy(model, *test)
    assert last.test_accuracy < max(epoch.test_accuracy for epoch in history) - 0.05
    assert [epoch.epoch for epoch in history] == list(range(1, len(history) + 1))


def test_run_does_not_depend_on_global_generator(planted):
    torch.manual_seed(0)
    a, history_a = run(planted)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    b, history_b = run(planted)
    assert torch.equal(torch.get_rng_state(), before)
    assert without_seconds(history_a) == without_seconds(history_b)
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        assert torch.equal(p, q)


def test_order_seed_changes_run(planted):
    recipe = replace(RECIPE, max_epochs=1)
    a, _ = run(planted, recipe, order_seed=0)
    b, _ = run(planted, recipe, order_seed=1)
    assert not torch.equal(a.head.weight, b.head.weight)


def test_batch_order_differs_between_epochs(planted):
    x, noisy, *_ = planted
    seen = []

    class Spy(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(20, 3)

        def forward(self, x):
            seen.append(x)
            return self.head(x)

    train(Spy(), x, noisy, replace(RECIPE, batch_size=150, max_epochs=2), order_seed=0)
    assert [len(batch) for batch in seen] == [150, 50, 150, 50]
    for epoch in (seen[:2], seen[2:]):  # every sample once
        assert torch.equal(torch.cat(epoch).sum(1).sort().values, x.sum(1).sort().values)
    assert not torch.equal(seen[0], seen[2])


@pytest.mark.parametrize(
    ("recipe", "build_plain"),
    [
        (RECIPE, lambda p: torch.optim.Adam(p, lr=3e-3)),
        (Recipe("sgd", 1e-2, 32, momentum=0.9), lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9)),
    ],
    ids=["adam", "sgd"],
)
def test_one_epoch_equals_plain_loop(planted, recipe, build_plain):
    x, noisy, true, _ = planted
    model, (epoch,) = run(planted, replace(recipe, max_epochs=1))

    plain = build()
    optimizer = build_plain(plain.parameters())
    with seeded(5, 1):
        order = torch.randperm(len(x))
    loss_sum, right, true_right = 0.0, 0, 0
    for start in range(0, len(x), 32):
        rows = order[start : start + 32]
        logits = plain(x[rows])
        loss = nn.functional.cross_entropy(logits, noisy[rows], reduction="sum")
        loss_sum += loss.item()
        right += (logits.argmax(1) == noisy[rows]).sum().item()
        true_right += (logits.argmax(1) == true[rows]).sum().item()
        optimizer.zero_grad()
        (loss / len(rows)).backward()
        optimizer.step()
    for p, q in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)
    assert epoch.loss == pytest.approx(loss_sum / len(x), rel=1e-5)
    assert epoch.train_accuracy == right / len(x)
    assert epoch.true_accuracy == true_right / len(x)


def test_stops_at_target_and_calls_on_epoch(planted):
    calls = []
    _, history = run(planted, replace(RECIPE, target=0.5), on_epoch=calls.append)
    assert calls == history
    assert history[-1].train_accuracy >= 0.5
    assert all(epoch.train_accuracy < 0.5 for epoch in history[:-1])


def test_missing_accuracies_are_nan_and_diverging_run_ends(planted):
    x, noisy, *_ = planted
    history = train(build(), x, noisy, replace(RECIPE, max_epochs=2), order_seed=0)
    assert math.isnan(history[0].true_accuracy)
    assert math.isnan(history[0].test_accuracy)
    with pytest.warns(LayerprobeWarning, match="after epoch 1, since its loss is nan: use a lower"):
        diverged = train(build(), x * math.inf, noisy, RECIPE, order_seed=0)
    assert len(diverged) == 1
    assert not math.isfinite(diverged[0].loss)


def test_one_hot_probabilities_equal_labels(planted):
    x, noisy, true, test = planted
    recipe = replace(RECIPE, max_epochs=3)
    certain = nn.functional.one_hot(noisy, 3).float()
    model, history = run(planted, recipe)
    softly, soft_history = run((x, certain, true, test), recipe)
    torch.testing.assert_close(softly.head.weight, model.head.weight)
    assert [e.train_accuracy for e in soft_history] == [e.train_accuracy for e in history]
    # A target of the mean of all classes is another loss, whose least is the logarithm of their number.
    _, flat = run((x, torch.full((200, 3), 1 / 3), true, test), replace(RECIPE, max_epochs=60))
    assert flat[-1].loss == pytest.approx(math.log(3), abs=1e-3)


def test_accuracy_keeps_the_mode_of_each_module(planted):
    x, noisy, _, _ = planted
    network = nn.Sequential(nn.Linear(20, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    network[1].eval()
    accuracy(network, x, noisy)
    with pytest.raises(RuntimeError):
        accuracy(network, x[:, :3], noisy)
    assert [module.training for module in network.modules()] == [True, True, False, True]


def test_dropout_only_in_training_and_repeatable(planted):
    x, noisy, _, test = planted

    def once():
        with seeded(0):
            model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 3))
        history = train(model, x, noisy, replace(RECIPE, max_epochs=3), order_seed=2, test=test)
        assert model.training
        assert accuracy(model, *test) == accuracy(model, *test) == history[-1].test_accuracy
        assert model.training
        return without_seconds(history)[-1][:3]

    torch.manual_seed(0)
    first = once()
    torch.manual_seed(1)
    assert once() == first


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("recipe", [RECIPE, Recipe("sgd", 1e-2, 32, momentum=0.9)], ids=["adam", "sgd"])
def test_random_streams_are_fixed(planted, recipe, dropout):
    """Written out: a run of long ago must be resumable by a loop of today."""
    x, noisy, true, test = planted
    recipe = replace(recipe, max_epochs=3)
    model, plain = with_dropout(dropout), with_dropout(dropout)
    history = train(model, x, noisy, recipe, order_seed=5, true_labels=true, test=test)

    optimizer = recipe.build_optimizer(plain)
    for number in (1, 2, 3):
        total = torch.zeros(())
        with seeded(5, number):
            order = torch.randperm(len(x))
            predicted = []
            for batch in order.split(32):
                logits = plain(x[batch])
                loss = nn.functional.cross_entropy(logits, noisy[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += loss.detach() * len(batch)
                predicted.append(logits.detach().argmax(1))
        epoch = history[number - 1]
        assert epoch.loss == (total / len(x)).item()
        assert epoch.train_accuracy == (torch.cat(predicted) == noisy[order]).double().mean().item()
    assert_equal_weights(model, plain)


def with_dropout(p):
    with seeded(0):
        return nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Dropout(p), nn.Linear(64, 3))


def assert_equal_weights(a, b):
    for (name, p), q in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        assert torch.equal(p, q), name


def test_without_shuffling_epochs_keep_order_of_data(planted):
    x, noisy, *_ = planted
    seen = []

    def spy(batch):
        seen.append(batch)
        return batch

    recipe = replace(RECIPE, shuffle=False, max_epochs=2)
    train(build(), x, noisy, recipe, order_seed=0, inputs=spy)
    assert torch.equal(torch.cat(seen), torch.cat([x, x]))


def convolutional():
    with seeded(3):
        model = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Flatten(),
            nn.Linear(8 * 4 * 4, 3),
        )
    return model.to(memory_format=torch.channels_last)


@pytest.fixture(scope="module")
def images():
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (100, 6, 6, 3), generator=generator, dtype=torch.uint8)
    return x, torch.randint(0, 3, (100,), generator=generator)


def test_scaling_per_batch_equals_scaling_beforehand(images):
    x, y = images
    recipe = replace(RECIPE, max_epochs=2)
    a, b = convolutional(), convolutional()
    on_the_fly = train(a, x, y, recipe, order_seed=1, test=(x, y), inputs=Scale(-1, 1))
    scaled = x.permute(0, 3, 1, 2) / 255 * 2 - 1
    beforehand = train(b, scaled, y, recipe, order_seed=1, test=(scaled, y))
    assert without_seconds(on_the_fly) == without_seconds(beforehand)
    assert_equal_weights(a, b)


@pytest.mark.parametrize(
    "recipe",
    [
        replace(RECIPE, max_epochs=4),
        Recipe("sgd", 1e-2, 32, momentum=0.9, max_epochs=4),
        Recipe("sgd", 1e-2, 32, max_epochs=4, shuffle=False),
    ],
    ids=["adam", "momentum", "plain"],
)
def test_resume_after_any_epoch_is_exact(images, recipe):
    """Batch normalisation, dropout and channels-last convolutions included."""
    x, y = images

    def go(model, **kwargs):
        return train(model, x, y, recipe, order_seed=1, test=(x, y), inputs=Scale(-1, 1), **kwargs)

    states = []
    undisturbed = convolutional()

    def keep(state):
        def copied(part):  # laid out as files lay them out
            return {k: v.clone(memory_format=torch.contiguous_format) for k, v in part.items()}

        states.append(TrainingState(copied(state.model), copied(state.optimizer), state.history))

    history = go(undisturbed, save=keep)
    assert [len(state.history) for state in states] == [1, 2, 3, 4]
    for state in states * 2:  # twice: resuming must not change the state
        with seeded(99):
            model = nn.Sequential(*convolutional())  # the weights that it starts with do not matter
            for parameter in model.parameters():
                nn.init.normal_(parameter)
        calls = []
        resumed = go(model, resume=state, on_epoch=calls.append)
        assert without_seconds(resumed) == without_seconds(history)
        assert calls == resumed[len(state.history) :]
        assert_equal_weights(model, undisturbed)


def test_resumed_finished_run_trains_no_epoch(planted):
    states = []
    model, history = run(planted, replace(RECIPE, target=0.5), save=states.append)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    calls = []
    _, again = run(planted, replace(RECIPE, target=0.5), resume=states[-1], on_epoch=calls.append)
    assert again == history
    assert calls == []
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_resume_from_other_network_or_optimiser_raises(planted):
    x, noisy, *_ = planted
    states = []
    train(with_dropout(0.5), x, noisy, replace(RECIPE, max_epochs=1), order_seed=0, save=states.append)
    with pytest.raises(InputError, match="state of the same network"):
        run(planted, resume=states[0])
    with pytest.raises(InputError, match=r"same optimiser.*momentum_buffer.*exp_avg"):
        train(
            with_dropout(0.5),
            x,
            noisy,
            Recipe("sgd", 1e-2, 32, momentum=0.9),
            order_seed=0,
            resume=states[0],
        )


class CountReads(TorchDispatchMode):
    """Counts how often the host waits for a value."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        return func(*args, **(kwargs or {}))


def test_number_of_device_reads_does_not_depend_on_batches(planted):
    counts = []
    for batch_size in (200, 5):
        with CountReads() as reads:
            run(planted, replace(RECIPE, batch_size=batch_size, max_epochs=1))
        counts.append(reads.count)
    assert counts[0] == counts[1] > 0


def test_memorised_network_is_wrong_near_wrong_labels():
    """Isolated points in 32 dimensions, each label redrawn with p = 0.4 from K = 10 classes.

    Test points lie so near to training points (0.05 of their distance from each other) that a network which
    has learnt the labels answers with the label of the neighbour: right with probability 1 - p + p/K = 0.64.
    Tolerances: 4 standard deviations of the share among 400 draws, 4 sqrt(.64 * .36 / 400) = 0.096, for the
    draw; and 0.02 between the test accuracy and the share that was drawn, 0.01 for the labels that
    the network may have missed and 0.01 for neighbours beyond its decision boundary.
    """
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(400, 32, generator=generator)  # distance of two points about 8
    true = torch.randint(0, 10, (400,), generator=generator)
    redrawn = torch.rand(400, generator=generator) < 0.4
    noisy = torch.where(redrawn, torch.randint(0, 10, (400,), generator=generator), true)
    near = x + 0.4 / 32**0.5 * torch.randn(400, 32, generator=generator)
    with seeded(0):
        model = MLP(32, (256, 256))
    last = train(model, x, noisy, RECIPE, order_seed=0, test=(near, true))[-1]
    assert last.train_accuracy >= RECIPE.target
    assert accuracy(model, x, noisy) >= 0.99
    share = (noisy == true).double().mean().item()
    assert share == pytest.approx(0.64, abs=0.096)
    assert last.test_accuracy == pytest.approx(share, abs=0.02)


def test_memorised_random_labels_give_chance_accuracy():
    """At p = 1 labels do not depend on the inputs: a new test label is predicted with probability 1/K = 0.1.

    Tolerance: 4 standard deviations among 2000 test points, 4 sqrt(.1 * .9 / 2000) = 0.027.
    """
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(300, 32, generator=generator)
    noisy = torch.randint(0, 10, (300,), generator=generator)
    test = torch.randn(2000, 32, generator=generator), torch.randint(0, 10, (2000,), generator=generator)
    with seeded(0):
        model = MLP(32, (256, 256))
    last = train(model, x, noisy, RECIPE, order_seed=0, test=test)[-1]
    assert accuracy(model, x, noisy) >= 0.99
    assert last.test_accuracy == pytest.approx(0.1, abs=0.027)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.zeros(3, 20), torch.zeros(2, dtype=torch.int64), r"y needs shape \(3,\).*got \(2,\)"),
        (torch.zeros(3, 20), torch.zeros(2, 4), r"y needs shape \(3,\).*got \(2,\)"),
        (torch.zeros(3, 20), torch.zeros(3, 4, dtype=torch.int64), r"y needs shape \(3,\).*got \(3, 4\)"),
        (torch.zeros(0, 20), torch.zeros(0, dtype=torch.int64), "at least one sample"),
        (torch.zeros(3, 20), torch.tensor([0, -100, 1]), "classes 0..K-1, got -100"),
        (
            torch.zeros(3, 20),
            torch.tensor([0, 99, 1]),
            "labels have 100 classes.*with K of at least",
        ),
        (torch.zeros(3, 20), torch.zeros(3), "whole numbers.*float32: y.long"),
        (torch.zeros(3, 20), torch.tensor([[0.5, 0.5], [torch.nan, 1], [1, 0]]), "finite.*row 1"),
        (torch.zeros(3, 20), torch.tensor([[0.5, 0.5], [-1, 2], [1, 0]]), "not negative; row 1"),
        (torch.zeros(3, 20).numpy(), torch.zeros(3), "x must be a tensor.*ndarray: torch.as_tensor"),
        (torch.zeros(3, 20), [0, 1, 0], "y must be a tensor of n rows, got list"),
    ],
)
def test_invalid_input_raises(x, y, message):
    with pytest.raises(InputError, match=message):
        train(build(), x, y, RECIPE, order_seed=0)


def test_arguments_of_another_type_raise():
    x, y = torch.zeros(4, 20), torch.zeros(4, dtype=torch.int64)
    for changes, message in (
        ({"recipe": {"optimizer": "sgd"}}, "a Recipe, got .* dict"),
        ({"model": build}, "an nn.Module .* got function"),
        ({"test": (x, y[:2])}, r"the labels of test needs shape \(4,\)"),
        ({"test": x}, r"test must be a pair \(x, y\)"),
        ({"test": (x.numpy(), y)}, r"test\[0\] must be a tensor"),
        ({"true_labels": y - 1}, "true_labels must be the classes"),
    ):
        arguments = {"model": build(), "x": x, "y": y, "recipe": RECIPE, "order_seed": 0} | changes
        with pytest.raises(InputError, match=message):
            train(**arguments)
