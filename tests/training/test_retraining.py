import copy
import math
from dataclasses import replace

import pytest
import torch

from layerprobe.errors import InputError
from layerprobe.networks import MLP
from layerprobe.training import Epoch, Recipe, accuracy, early_stopping, retrain, seeded, train

RECIPE = Recipe("adam", learning_rate=3e-3, batch_size=32, max_epochs=300)


@pytest.fixture(scope="module")
def planted():
    """Three Gaussian classes far apart in 20 dimensions; 60 % of the training labels redrawn."""
    generator = torch.Generator().manual_seed(0)
    means = 3 * torch.randn(3, 20, generator=generator)
    true = torch.randint(0, 3, (600,), generator=generator)
    x = means[true] + torch.randn(600, 20, generator=generator)
    redrawn = torch.rand(200, generator=generator) < 0.6
    noisy = torch.where(redrawn, torch.randint(0, 3, (200,), generator=generator), true[:200])
    return {
        "x": x[:200],
        "noisy": noisy,
        "true": true[:200],
        "validation": (x[200:300], true[200:300]),
        "evaluation": (x[300:], true[300:]),
    }


@pytest.fixture(scope="module")
def memorised(planted):
    with seeded(11):
        model = MLP(20, (64, 64), num_classes=3)
    train(model, planted["x"], planted["noisy"], RECIPE, order_seed=5)
    return model


def again(model, planted, recipe=RECIPE, labels="true", **kwargs):
    return retrain(
        model,
        planted["x"],
        planted[labels],
        recipe,
        order_seed=7,
        validation=planted["validation"],
        evaluation=planted["evaluation"],
        true_labels=planted["true"],
        **kwargs,
    )


def assert_equal_weights(one, other):
    for p, q in zip(one.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize(
    ("accuracies", "ends"),
    [
        ([0.5], False),
        ([0.5, 0.4, 0.4], False),
        ([0.5, 0.4, 0.4, 0.4], True),
        ([0.5, 0.5, 0.5, 0.5], True),  # equal is not better
        ([0.5, 0.4, 0.6, 0.4, 0.5], False),
        ([0.5, 0.4, 0.6, 0.4, 0.5, 0.6], True),
    ],
)
def test_early_stopping_counts_from_first_best_epoch(accuracies, ends):
    history = [Epoch(i, 1.0, 1.0, 1.0, value, 1.0) for i, value in enumerate(accuracies, start=1)]
    assert early_stopping(3)(history) is ends


def test_early_stopping_needs_test_data():
    with pytest.raises(InputError, match="test="):
        early_stopping(3)([Epoch(1, 1.0, 1.0, 1.0, math.nan, 1.0)])


def test_true_labels_repair_memorised_network(planted, memorised):
    """The classes are about 3 * sqrt(2 * 20) = 19 standard deviations apart: 1 can be reached."""
    retrained = again(memorised, planted)
    before, last = retrained.history[0], retrained.history[-1]
    assert before.epoch == 0
    assert before.evaluation_accuracy == accuracy(memorised, *planted["evaluation"]) < 0.8
    assert before.validation_accuracy == accuracy(memorised, *planted["validation"])
    assert before.train_accuracy == before.true_accuracy == accuracy(memorised, planted["x"], planted["true"])
    assert last.evaluation_accuracy > 0.97
    assert [measured.epoch for measured in retrained.history] == list(range(len(retrained.history)))


def test_train_and_true_accuracy_differ(planted, memorised):
    last = again(memorised, planted, labels="noisy", patience=None, max_epochs=1).history[-1]
    model = again(memorised, planted, labels="noisy", patience=None, max_epochs=1).last
    assert last.train_accuracy == accuracy(model, planted["x"], planted["noisy"]) > 0.9
    assert last.true_accuracy == accuracy(model, planted["x"], planted["true"]) < 0.8


def test_given_network_is_unchanged(planted, memorised):
    before = copy.deepcopy(memorised)
    before.train(memorised.training)
    retrained = again(memorised, planted)
    assert_equal_weights(memorised, before)
    assert memorised.training == before.training
    assert all(p.grad is None or torch.equal(p.grad, q.grad) for p, q in _pairs(memorised, before))
    assert not torch.equal(retrained.last.head.weight, memorised.head.weight)


def _pairs(one, other):
    return [(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True) if q.grad is not None]


@pytest.mark.parametrize("labels", ["true", "noisy"])
def test_last_and_best_match_history(planted, memorised, labels):
    retrained = again(memorised, planted, labels=labels)
    history = retrained.history
    best = history[retrained.best_epoch]
    assert best.validation_accuracy == max(measured.validation_accuracy for measured in history[1:])
    assert all(m.validation_accuracy < best.validation_accuracy for m in history[1 : best.epoch])
    for model, measured in ((retrained.best, best), (retrained.last, history[-1])):
        assert not model.training
        assert accuracy(model, *planted["validation"]) == measured.validation_accuracy
        assert accuracy(model, *planted["evaluation"]) == measured.evaluation_accuracy
        assert accuracy(model, planted["x"], planted[labels]) == measured.train_accuracy
    short = again(memorised, planted, labels=labels, patience=None, max_epochs=retrained.best_epoch)
    assert_equal_weights(retrained.best, short.last)


@pytest.mark.parametrize("patience", [1, 4])
def test_ends_patience_epochs_after_best(planted, memorised, patience):
    retrained = again(memorised, planted, patience=patience)
    assert retrained.history[-1].epoch == retrained.best_epoch + patience < 30


def test_without_change_first_epoch_is_best(planted, memorised):
    still = replace(RECIPE, learning_rate=1e-12)
    retrained = again(memorised, planted, still, patience=3)
    assert retrained.best_epoch == 1  # not 0, which is before
    assert retrained.history[-1].epoch == 4


def test_without_patience_trains_max_epochs(planted, memorised):
    recipe = replace(RECIPE, target=0.01, max_epochs=1)
    assert len(again(memorised, planted, recipe, patience=None, max_epochs=6).history) == 7
    still = replace(recipe, learning_rate=1e-12)
    assert len(again(memorised, planted, still, patience=3, max_epochs=2).history) == 3


def test_equals_train_on_copy_with_fresh_optimiser(planted, memorised):
    copied = copy.deepcopy(memorised)
    train(copied, planted["x"], planted["true"], replace(RECIPE, max_epochs=2, target=2), order_seed=7)
    assert_equal_weights(again(memorised, planted, patience=None, max_epochs=2).last, copied)


def test_repeatable_and_depends_on_seed(planted, memorised):
    one, other = again(memorised, planted), again(memorised, planted)
    assert one.history == other.history
    assert_equal_weights(one.last, other.last)
    assert_equal_weights(one.best, other.best)
    reordered = retrain(
        memorised,
        planted["x"],
        planted["true"],
        RECIPE,
        order_seed=8,
        validation=planted["validation"],
        patience=None,
        max_epochs=1,
    )
    first = again(memorised, planted, patience=None, max_epochs=1)
    assert not torch.equal(reordered.last.head.weight, first.last.head.weight)
    assert math.isnan(reordered.history[0].evaluation_accuracy)
    assert math.isnan(reordered.history[0].true_accuracy)


def test_resumed_run_ended_by_stop_rule_trains_no_epoch(planted, memorised):
    states, epochs = [], []
    arguments = (planted["x"], planted["true"], replace(RECIPE, target=2))
    history = train(
        copy.deepcopy(memorised), *arguments, order_seed=0, save=states.append, stop=lambda h: len(h) >= 3
    )
    assert [epoch.epoch for epoch in history] == [1, 2, 3]
    resumed = train(
        copy.deepcopy(memorised),
        *arguments,
        order_seed=0,
        resume=states[-1],
        on_epoch=epochs.append,
        stop=lambda h: len(h) >= 3,
    )
    assert resumed == history
    assert epochs == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patience": 0}, "patience must be a whole number of at least 1"),
        ({"max_epochs": 0}, "max_epochs must be a whole number of at least 1"),
        (
            {"validation": (torch.zeros(0, 20), torch.zeros(0, dtype=torch.int64))},
            "validation needs at least",
        ),
        ({"y": torch.zeros(3, dtype=torch.int64)}, r"y needs shape \(200,\)"),
        ({"y": torch.zeros(200, 3)}, r"y needs shape \(200,\)"),
        ({"true_labels": torch.zeros(3, dtype=torch.int64)}, r"true_labels needs shape \(200,\)"),
    ],
)
def test_invalid_input_raises(planted, memorised, changes, message):
    arguments = {"x": planted["x"], "y": planted["true"], "validation": planted["validation"]} | changes
    with pytest.raises(InputError, match=message):
        retrain(memorised, recipe=RECIPE, order_seed=0, **arguments)
