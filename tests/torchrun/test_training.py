import json

import pytest
import torch
from safetensors.torch import load_file

from .training_job import TRAININGS


@pytest.fixture(scope="module")
def job(torchrun, tmp_path_factory):
    """Return the results and the weights of two processes."""
    folder = tmp_path_factory.mktemp("job")
    result = torchrun("training_job.py", folder)
    assert result.returncode == 0, result.stderr
    results = [json.loads((folder / f"{k}.json").read_text()) for k in (0, 1)]
    return results, [load_file(folder / f"{k}.safetensors") for k in (0, 1)]


@pytest.mark.parametrize("name", TRAININGS)
def test_two_processes_train_as_one_does(job, name):
    """In float64 to 1e-12; in float32 to the rounding that a dozen steps of Adam carry on."""
    results, weights = job
    model, history = TRAININGS[name]()
    assert len(history) == len(results[0][name])
    loose = next(model.parameters()).dtype == torch.float32
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if loose else {"rtol": 1e-12, "atol": 1e-14}
    for key, value in model.state_dict().items():
        torch.testing.assert_close(weights[0][f"{name}/{key}"], value, **tolerance)
        assert torch.equal(weights[0][f"{name}/{key}"], weights[1][f"{name}/{key}"])
    for epoch, (number, loss, *shares, _) in zip(history, results[0][name], strict=True):
        assert (epoch.epoch, loss) == (number, pytest.approx(epoch.loss, rel=tolerance["rtol"]))
        alone = [epoch.train_accuracy, epoch.true_accuracy, epoch.test_accuracy]
        torch.testing.assert_close(torch.tensor(shares), torch.tensor(alone), rtol=0, atol=0, equal_nan=True)
    assert str(results[0][name]) == str(
        results[1][name]
    )  # NaN is NaN; the seconds too are those of the first


def test_resumed_job_has_the_same_bits(job):
    _, (weights, _) = job
    keys = [key.removeprefix("adam/") for key in weights if key.startswith("adam/")]
    assert keys
    for key in keys:
        assert torch.equal(weights[f"resumed/{key}"], weights[f"adam/{key}"])


def test_only_the_first_process_saves(job):
    (first, second), _ = job
    assert (first["saves"], second["saves"]) == ([1, 2, 3], [])


def test_dropout_masks_differ_between_processes_and_repeat(job):
    (first, second), (mine, yours) = job
    assert first["dropout repeats"] is second["dropout repeats"] is True
    assert mine["masks"].shape == yours["masks"].shape == (8, 50)
    assert not (mine["masks"] == yours["masks"]).all(1).any()
    for masks in (mine["masks"], yours["masks"]):
        assert len(masks.unique(dim=0)) == 8


def test_unsupported_training_is_refused_in_every_process(job):
    for results in job[0]:
        assert "layer '1' normalises over batches" in results["batch normalisation"]
        assert "expected the same network in every process" in results["another network"]
        assert "expected the same data to train and test on" in results["other data"]
        assert "expected the same recipe, order_seed" in results["another order"]


def test_left_process_group_leaves_no_threads(job):
    assert not [name for results in job[0] for name in results["threads"] if "gloo" in name]
