import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from layerprobe import edit_head
from layerprobe.data import ImageSet
from layerprobe.errors import InputError, LayerprobeWarning
from layerprobe.paper import (
    Edit,
    RunSpec,
    execute,
    execute_together,
    load_model,
    pair,
    read_run,
    run_data,
    run_folder,
)
from layerprobe.runs import data as run_images
from layerprobe.runs import execution
from layerprobe.runs.execution import groups
from layerprobe.runs.states import variant
from layerprobe.training import Recipe, TrainingState, seeded, train
from runs.run_helpers import stop_at

EDIT, EPOCHS = 2, 5
PLAIN = RunSpec.of("mlp-digits", 0.4, 0, subset=100, test_subset=50, max_epochs=EPOCHS)
SPEC = replace(PLAIN, edit=Edit(EDIT))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return execute(SPEC, tmp_path_factory.mktemp("undisturbed"), checkpoints=True)


def assert_same_weights(model, expected):
    for (name, value), other in zip(model.state_dict().items(), expected.state_dict().values(), strict=True):
        assert torch.equal(value, other), name


def test_run_equals_training_edit_and_training_by_hand(tmp_path, undisturbed):
    plain = execute(replace(PLAIN, recipe=replace(PLAIN.recipe, max_epochs=EDIT)), tmp_path, checkpoints=True)
    images, labels = run_data(SPEC)
    scaled = pair("mlp-digits").scale(images.max_value)(torch.tensor(images.train_images))
    y = torch.tensor(labels)
    model = edit_head(load_model(plain.folder), (scaled, y))
    orders = iter(range(EDIT + 1, EPOCHS + 1))  # the batch orders are those of the epochs' own numbers

    optimizer = SPEC.recipe.build_optimizer(model)
    losses = []
    for number in orders:
        with seeded(SPEC.order_seed, number):
            order = torch.randperm(len(y))
        total = 0.0
        for batch in order.split(SPEC.recipe.batch_size):
            loss = nn.functional.cross_entropy(model(scaled[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(batch)
        losses.append(total / len(y))

    assert undisturbed.history["epoch"].tolist() == list(range(1, EPOCHS + 1))
    assert undisturbed.history["loss"].tolist()[:EDIT] == plain.history["loss"].tolist()
    assert undisturbed.history["loss"].tolist()[EDIT:] == pytest.approx(losses)
    for (name, value), other in zip(
        load_model(undisturbed.folder).state_dict().items(), model.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(value, other, msg=name)
    # What is kept of the edit's epoch is the network before it.
    assert_same_weights(load_model(undisturbed.folder, EDIT), load_model(plain.folder))


@pytest.mark.parametrize("epoch", range(1, EPOCHS + 1))
def test_run_stopped_after_any_epoch_resumes_with_the_same_bits(tmp_path, undisturbed, epoch, monkeypatch):
    edits = []
    monkeypatch.setattr(execution, "edit_head", lambda *args: edits.append(1) or edit_head(*args))
    with pytest.raises(KeyboardInterrupt):
        execute(SPEC, tmp_path, checkpoints=True, on_epoch=stop_at(epoch))
    assert len(edits) == (epoch > EDIT)
    resumed = execute(SPEC, tmp_path, checkpoints=True)
    assert len(edits) == 1
    pd.testing.assert_frame_equal(
        resumed.history.drop(columns="seconds"),
        undisturbed.history.drop(columns="seconds"),
        check_exact=True,
    )
    files = sorted(path.relative_to(undisturbed.folder) for path in undisturbed.folder.rglob("*.safetensors"))
    assert len(files) == 5  # epochs 0, 1, 2, 4 and the last
    for file in files:
        assert (resumed.folder / file).read_bytes() == (undisturbed.folder / file).read_bytes(), file


def test_convolutional_network_resumes_with_the_same_bits(tmp_path, monkeypatch):
    """Its weights lie channels-last in memory, and its head has no bias."""
    generator = np.random.default_rng(0)
    pixels, labels = generator.integers(0, 256, (60, 28, 28), dtype=np.uint8), np.arange(60) % 10
    images = ImageSet("noise", pixels, labels, pixels[:20], labels[:20], tuple("0123456789"))
    monkeypatch.setattr(run_images, "load", lambda name, root: images)
    spec = RunSpec.of("cnn-mnist", 0.2, 0, subset=60, batch_size=16, max_epochs=3, edit=Edit(1, "ncm"))
    undisturbed = execute(spec, tmp_path / "undisturbed")
    with pytest.raises(KeyboardInterrupt):
        execute(spec, tmp_path, on_epoch=stop_at(1))
    with pytest.raises(KeyboardInterrupt):
        execute(spec, tmp_path, on_epoch=stop_at(2))
    resumed = execute(spec, tmp_path)
    weights = [(run.folder / "model.safetensors").read_bytes() for run in (undisturbed, resumed)]
    assert weights[0] == weights[1]


def test_target_applies_after_the_edit_only(tmp_path):
    always = replace(PLAIN.recipe, target=1e-9)  # each epoch reaches it
    run = execute(replace(SPEC, recipe=always), tmp_path)
    assert run.history["epoch"].tolist() == [1, 2, 3]
    assert run.memorised
    with pytest.raises(KeyboardInterrupt):
        execute(replace(SPEC, recipe=always), tmp_path / "half", on_epoch=stop_at(EDIT))
    half = read_run(run_folder(tmp_path / "half", replace(SPEC, recipe=always)))
    assert not half.memorised
    assert execute(half.spec, tmp_path / "half").history["epoch"].tolist() == [1, 2, 3]


def test_network_with_infinite_loss_is_not_edited(tmp_path):
    lost = replace(SPEC, recipe=Recipe("sgd", learning_rate=1e30, batch_size=32, max_epochs=EPOCHS))
    with pytest.warns(LayerprobeWarning, match="its loss is"):
        run = execute(lost, tmp_path)
    assert run.done
    assert len(run.history) <= EDIT
    assert not math.isfinite(run.history["loss"].iloc[-1])


def test_train_continues_earlier_epochs_with_a_fresh_optimiser():
    torch.manual_seed(0)  # the first epoch must get a row right
    x, y = torch.eye(4).repeat(4, 1), torch.arange(16) % 4
    recipe = Recipe("sgd", learning_rate=0.1, batch_size=4, momentum=0.9, max_epochs=5, target=1e-9)
    first = train(model := nn.Linear(4, 4), x, y, recipe, order_seed=0)
    assert [epoch.epoch for epoch in first] == [1]  # the target
    states = []
    second = train(model, x, y, recipe, order_seed=0, earlier=first, save=states.append)
    assert [epoch.epoch for epoch in second] == [1, 2]
    assert second[0] == first[0]
    again = train(model, x, y, recipe, order_seed=0, earlier=first, resume=states[0])
    assert again == second
    assert isinstance(states[0], TrainingState)


def test_keys_of_runs_without_an_edit_are_fixed():
    """The key of a spec from before there were edits."""
    spec = RunSpec.of("mlp-mnist", 0.8, 0)
    assert spec.key.startswith("c74a4505ba6d")
    assert "edit" not in spec.to_dict()


def test_spec_with_an_edit_is_another_run_and_equal_after_json():
    others = [Edit(2), Edit(3), Edit(2, "ncm"), Edit(2, bias="keep")]
    edited = [replace(PLAIN, edit=edit) for edit in others]
    assert len({spec.key for spec in [PLAIN, *edited]}) == 5
    for spec in edited:
        assert RunSpec.from_dict(json.loads(spec.canonical_json())) == spec
    assert (
        RunSpec.of("mlp-digits", 0.4, 0, edit=Edit(np.int64(2))).key
        == RunSpec.of("mlp-digits", 0.4, 0, edit=Edit(2)).key
    )
    assert variant(SPEC).endswith("edit velpic after epoch 2")


def test_runs_with_an_edit_are_not_stacked(tmp_path):
    other = replace(SPEC, corruption=0.2, noise_seed=3, seed=None)
    assert groups([PLAIN, SPEC, other]) == [[PLAIN], [SPEC], [other]]
    with pytest.raises(InputError, match="no edit"):
        execute_together([SPEC], tmp_path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Edit(0), "at least 1, got 0"),
        (lambda: Edit(1.5), "whole number"),
        (lambda: Edit(1, "masc"), "linear probe"),
        (lambda: Edit(1, bias="none"), "bias must be"),
        (lambda: replace(PLAIN, edit=Edit(EPOCHS)), "below max_epochs, 5, got 5"),
    ],
)
def test_invalid_edits_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()
