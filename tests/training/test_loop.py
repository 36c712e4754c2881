import math
from dataclasses import astuple, replace

import pytest
import torch
from torch import nn

from layerprobe.errors import InputError
from layerprobe.networks import MLP
from layerprobe.training import Recipe, accuracy, seeded, train

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


def test_a_network_memorises_its_noisy_labels_and_generalises_worse(planted):
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


def test_a_run_repeats_bit_for_bit_whatever_the_global_generator_holds(planted):
    torch.manual_seed(0)
    a, history_a = run(planted)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    b, history_b = run(planted)
    assert torch.equal(torch.get_rng_state(), before)
    assert without_seconds(history_a) == without_seconds(history_b)
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        assert torch.equal(p, q)


def test_the_order_seed_alone_changes_the_run(planted):
    recipe = replace(RECIPE, max_epochs=1)
    a, _ = run(planted, recipe, order_seed=0)
    b, _ = run(planted, recipe, order_seed=1)
    assert not torch.equal(a.head.weight, b.head.weight)


def test_an_epochs_order_does_not_repeat(planted):
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
def test_one_epoch_is_the_plain_loop_that_everybody_writes(planted, recipe, build_plain):
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


def test_it_stops_at_the_first_epoch_that_reaches_the_target_and_calls_back_for_each(planted):
    calls = []
    _, history = run(planted, replace(RECIPE, target=0.5), on_epoch=calls.append)
    assert calls == history
    assert history[-1].train_accuracy >= 0.5
    assert all(epoch.train_accuracy < 0.5 for epoch in history[:-1])


def test_what_is_not_given_is_nan_and_a_diverging_run_ends(planted):
    x, noisy, *_ = planted
    history = train(build(), x, noisy, replace(RECIPE, max_epochs=2), order_seed=0)
    assert math.isnan(history[0].true_accuracy)
    assert math.isnan(history[0].test_accuracy)
    diverged = train(build(), x * math.inf, noisy, RECIPE, order_seed=0)
    assert len(diverged) == 1
    assert not math.isfinite(diverged[0].loss)


def test_dropout_is_on_in_training_off_in_testing_and_repeats(planted):
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


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.zeros(3, 20), torch.zeros(2, dtype=torch.int64), r"y needs shape \(3,\).*got \(2,\)"),
        (torch.zeros(0, 20), torch.zeros(0, dtype=torch.int64), "at least one sample"),
    ],
)
def test_bad_input_is_named(x, y, message):
    with pytest.raises(InputError, match=message):
        train(build(), x, y, RECIPE, order_seed=0)
