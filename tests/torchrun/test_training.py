import json

import pytest
import torch
from safetensors.torch import load_file

from .training_job import TRAININGS


@pytest.fixture(scope="module")
def job(torchrun, tmp_path_factory):
    """What each of two processes ended with."""
    folder = tmp_path_factory.mktemp("job")
    result = torchrun("training_job.py", folder)
    assert result.returncode == 0, result.stderr
    told = [json.loads((folder / f"{k}.json").read_text()) for k in (0, 1)]
    return told, [load_file(folder / f"{k}.safetensors") for k in (0, 1)]


@pytest.mark.parametrize("name", TRAININGS)
def test_two_processes_train_as_one_does(job, name):
    """In float64 to 1e-12; in float32 to the rounding that a dozen steps of Adam carry on."""
    told, weights = job
    model, history = TRAININGS[name]()
    assert len(history) == len(told[0][name])
    loose = next(model.parameters()).dtype == torch.float32
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if loose else {"rtol": 1e-12, "atol": 1e-14}
    for key, value in model.state_dict().items():
        torch.testing.assert_close(weights[0][f"{name}/{key}"], value, **tolerance)
        assert torch.equal(weights[0][f"{name}/{key}"], weights[1][f"{name}/{key}"])
    for epoch, (number, loss, *shares, _) in zip(history, told[0][name], strict=True):
        assert (epoch.epoch, loss) == (number, pytest.approx(epoch.loss, rel=tolerance["rtol"]))
        alone = [epoch.train_accuracy, epoch.true_accuracy, epoch.test_accuracy]
        torch.testing.assert_close(torch.tensor(shares), torch.tensor(alone), rtol=0, atol=0, equal_nan=True)
    assert str(told[0][name]) == str(told[1][name])  # NaN is NaN; the seconds too are those of the first


def test_a_resumed_job_ends_with_the_same_bits(job):
    _, (weights, _) = job
    keys = [key.removeprefix("adam/") for key in weights if key.startswith("adam/")]
    assert keys
    for key in keys:
        assert torch.equal(weights[f"resumed/{key}"], weights[f"adam/{key}"])


def test_only_the_first_process_saves(job):
    (first, second), _ = job
    assert (first["saves"], second["saves"]) == ([1, 2, 3], [])


def test_dropout_draws_other_masks_for_other_rows_and_repeats(job):
    (first, second), (mine, yours) = job
    assert first["dropout repeats"] is second["dropout repeats"] is True
    assert mine["masks"].shape == yours["masks"].shape == (8, 50)
    assert not (mine["masks"] == yours["masks"]).all(1).any()
    for masks in (mine["masks"], yours["masks"]):
        assert len(masks.unique(dim=0)) == 8


def test_what_would_not_equal_one_process_is_refused_everywhere(job):
    for told in job[0]:
        assert "layer '1' normalises over batches" in told["batch normalisation"]
        assert "expected the same network in every process" in told["another network"]
        assert "expected the same data to train and test on" in told["other data"]
        assert "expected the same recipe, order_seed" in told["another order"]


def test_nothing_is_left_of_a_group_that_was_left(job):
    assert not [name for told in job[0] for name in told["threads"] if "gloo" in name]
