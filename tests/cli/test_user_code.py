"""Code and weights named on the command line."""

import pytest
import safetensors.torch
import torch
from torch import nn

from layerprobe.cli.user_code import is_reference, load_model, load_object
from layerprobe.errors import DataError, InputError
from layerprobe.networks import MLP
from layerprobe.training.checkpoints import save_weights


def test_references_differ_from_paths():
    assert is_reference("models:build")
    assert is_reference("pkg.mod:Class.build")
    for path in ("data", "data/rows.csv", "C:\\data", "a b:c", "pkg.mod:", "x/y:z", "./a:b"):
        assert not is_reference(path)


@pytest.mark.parametrize("name", ["build", "made", "Tied", "Box.factory"])
def test_model_from_instance_class_or_function(here, name):
    assert isinstance(load_model(f"users_models:{name}", None, None), nn.Module)


@pytest.mark.parametrize("name", ["build", "Tied"])
def test_weights_are_loaded(here, name):
    torch.manual_seed(0)
    trained = load_model(f"users_models:{name}", None, None)
    for tensor in trained.state_dict().values():
        tensor.copy_(torch.rand(tensor.shape) * 10)
    safetensors.torch.save_model(trained, here / "w.safetensors")
    loaded = load_model(f"users_models:{name}", here / "w.safetensors", "cpu")
    assert loaded is not trained
    for key, tensor in trained.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], tensor)


def test_weights_of_a_run_are_loaded(here):
    (here / "users_mlp.py").write_text("from layerprobe.networks import MLP\nbuild = lambda: MLP(4, (5,))\n")
    model = MLP(4, (5,))
    save_weights("w.safetensors", model.state_dict(), {"of": "a test"})
    loaded = load_model("users_mlp:build", here / "w.safetensors", None)
    assert all(map(torch.equal, loaded.parameters(), model.parameters()))


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("users_models.build", "expected pkg.mod:name"),
        ("users_modles:build", "no module 'users_modles' in .* or among the installed packages"),
        ("users_models.deep:build", "no module 'users_models.deep'"),
        ("users_models:biuld", "users_models has no 'biuld'; did you mean 'build'"),
        ("users_models:Box.zzz", "has no 'zzz'$"),
        ("users_models:nothing", "expected a torch.nn.Module, got NoneType"),
        ("users_models:number", "expected a torch.nn.Module, got int"),
    ],
)
def test_invalid_reference_raises(here, reference, message):
    with pytest.raises(InputError, match=message):
        load_model(reference, None, None)


@pytest.mark.parametrize(("name", "error"), [("broken", ModuleNotFoundError), ("faulty", ZeroDivisionError)])
def test_error_in_user_code_keeps_its_traceback(here, name, error):
    with pytest.raises(error):
        load_object(f"users_{name}:build")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: None, "cannot be read as a safetensors file"),
        (lambda path: path.write_bytes(b"not one"), "cannot be read as a safetensors file"),
        (
            lambda path: safetensors.torch.save_file({"weight": torch.zeros(2, 3)}, path),
            r"does not fit the network: .*Missing key.*bias",
        ),
        (
            lambda path: safetensors.torch.save_file(
                {"weight": torch.zeros(2, 3), "bias": torch.zeros(2), "more": torch.zeros(1)}, path
            ),
            r"does not fit the network: .*Unexpected key.*more",
        ),
        (
            lambda path: safetensors.torch.save_file(
                {"weight": torch.zeros(2, 4), "bias": torch.zeros(2)}, path
            ),
            "does not fit the network: .*size mismatch for weight",
        ),
    ],
)
def test_wrong_weights_raise_one_line(here, write, message):
    write(here / "w.safetensors")
    with pytest.raises(DataError, match=message) as caught:
        load_model("users_models:Box.factory", here / "w.safetensors", None)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_unavailable_device_raises(here, device):
    with pytest.raises(InputError, match=f"--device {device} cannot be used: "):
        load_model("users_models:build", None, device)
