import math
from dataclasses import replace

import pytest
import torch

from layerprobe.errors import DataError
from layerprobe.networks import MLP
from layerprobe.training import (
    Recipe,
    bytes_needed,
    chosen_epochs,
    load_checkpoint,
    load_weights,
    save_checkpoint,
    save_weights,
    seeded,
    train,
)

ADAM = Recipe("adam", 1e-3, 16, max_epochs=2)
SGD = Recipe("sgd", 1e-3, 16, momentum=0.9, max_epochs=2)


def trained(recipe, **kwargs):
    with seeded(0):
        model = MLP(6, (5, 4), 3)
        x, y = torch.randn(40, 6), torch.randint(0, 3, (40,))
    return model, train(model, x, y, recipe, order_seed=0, **kwargs)


@pytest.mark.parametrize("recipe", [ADAM, SGD, replace(SGD, momentum=0.0)])
def test_checkpoint_round_trip_is_exact(tmp_path, recipe):
    path = tmp_path / "state.safetensors"
    states = []

    def save(state):
        save_checkpoint(path, state)
        states.append(state)

    trained(recipe, save=save)
    back, last = load_checkpoint(path), states[-1]
    for found, expected in ((back.model, last.model), (back.optimizer, last.optimizer)):
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert {key.rsplit(".", 1)[1] for key in back.optimizer} == recipe.slots
    assert [e.loss for e in back.history] == [e.loss for e in last.history]
    assert [e.seconds for e in back.history] == [e.seconds for e in last.history]
    assert math.isnan(back.history[0].test_accuracy)  # nothing was given to test on


def test_resume_from_checkpoint_is_exact(tmp_path):
    path = tmp_path / "state.safetensors"
    undisturbed, _ = trained(ADAM)
    trained(replace(ADAM, max_epochs=1), save=lambda state: save_checkpoint(path, state))
    resumed, history = trained(ADAM, resume=load_checkpoint(path))
    assert len(history) == 2
    for p, q in zip(undisturbed.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(p, q)


def test_damaged_or_other_file_raises(tmp_path):
    path = tmp_path / "state.safetensors"
    trained(ADAM, save=lambda state: save_checkpoint(path, state))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match="cut short"):
        load_checkpoint(path)
    save_weights(path, MLP(6, (5,), 3).state_dict(), {"epoch": 3})
    with pytest.raises(DataError, match="expected a file of kind 'training state', got 'weights'"):
        load_checkpoint(path)
    with pytest.raises(DataError, match="No such file"):
        load_checkpoint(tmp_path / "missing")


def test_weights_round_trip_with_header(tmp_path):
    model = MLP(6, (5,), 3)
    save_weights(tmp_path / "w", model.state_dict(), {"epoch": 3})
    weights, header = load_weights(tmp_path / "w")
    assert header["epoch"] == 3
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())


def test_chosen_epochs():
    assert chosen_epochs(1) == [0, 1]
    assert chosen_epochs(31) == [0, 1, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 25, 30]
    assert chosen_epochs(500)[-2:] == [495, 500]


@pytest.mark.parametrize("recipe", [ADAM, SGD, replace(SGD, momentum=0.0)])
def test_bytes_needed_equals_size_of_files(tmp_path, recipe):
    recipe = replace(recipe, max_epochs=7)
    path = tmp_path / "state"
    with seeded(0):
        model, x = MLP(64, (128, 128), 3), torch.randn(40, 64)  # 100 kB, much more than the headers
    y = torch.randint(0, 3, (40,), generator=torch.Generator().manual_seed(0))
    train(model, x, y, recipe, order_seed=0, save=lambda state: save_checkpoint(path, state))
    save_weights(tmp_path / "w", model.state_dict(), {})
    state, weights = path.stat().st_size, (tmp_path / "w").stat().st_size
    headers = 4096  # a file
    assert bytes_needed(model, recipe) == pytest.approx(2 * state, abs=2 * headers)
    assert chosen_epochs(7) == [0, 1, 2, 4, 6]
    assert bytes_needed(model, recipe, keep_chosen=True) == pytest.approx(
        2 * state + 5 * weights, abs=(2 + 5) * headers
    )
