"""Code and weights named on the command line."""

import pytest
import safetensors.torch
import torch
from torch import nn

from layerprobe import capture
from layerprobe.cli.options import NetworkOptions
from layerprobe.cli.user_code import is_reference, load_object, user_error, user_line
from layerprobe.errors import InputError, LayerError
from layerprobe.networks import MLP
from layerprobe.training.checkpoints import save_weights


def load_model(reference, weights=None, device=None, prefix=""):
    return NetworkOptions(weights=weights, device=device, strip_prefix=prefix).load_model(reference)


def test_references_differ_from_paths():
    assert is_reference("models:build")
    assert is_reference("pkg.mod:Class.build")
    for path in ("data", "data/rows.csv", "C:\\data", "a b:c", "pkg.mod:", "x/y:z", "./a:b"):
        assert not is_reference(path)


@pytest.mark.parametrize("name", ["build", "made", "Tied", "Box.factory"])
def test_model_from_instance_class_or_function(here, name):
    assert isinstance(load_model(f"users_models:{name}"), nn.Module)


@pytest.mark.parametrize("name", ["build", "Tied"])
def test_weights_are_loaded(here, name):
    torch.manual_seed(0)
    trained = load_model(f"users_models:{name}")
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
    loaded = load_model("users_mlp:build", here / "w.safetensors")
    assert all(map(torch.equal, loaded.parameters(), model.parameters()))


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("users_models.build", "expected pkg.mod:name"),
        ("users_modles:build", "no module 'users_modles' in .* or among the installed packages"),
        ("users_models.deep:build", "no module 'users_models.deep'"),
        ("users_models:biuld", r"users_models has no 'biuld'\. Did you mean build\?"),
        ("users_models:Box.zzz", r"has no 'zzz'\.$"),
        ("users_models:nothing", "expected a torch.nn.Module, got NoneType"),
        ("users_models:number", "expected a torch.nn.Module, got int"),
    ],
)
def test_invalid_reference_raises(here, reference, message):
    with pytest.raises(InputError, match=message):
        load_model(reference)


@pytest.mark.parametrize(
    ("name", "error", "place"),
    [
        ("broken", ModuleNotFoundError, "(users_broken.py, line 1, in <module>: import no_such_package)"),
        (
            "faulty",
            ZeroDivisionError,
            "division by zero (users_faulty.py, line 1, in <module>: 1 / 0)",
        ),
        ("typo", SyntaxError, "(users_typo.py, line 2)"),
    ],
)
def test_error_in_user_code_is_named_with_its_place(here, name, error, place):
    (here / "users_typo.py").write_text("x = 1\ndef f(:\n")
    with pytest.raises(error) as caught:
        load_object(f"users_{name}:build")
    assert place in user_error(caught.value)


def test_errors_of_the_package_are_no_errors_of_user_code(here):
    load_object("users_models:number")
    with pytest.raises(InputError) as caught:
        load_object("users_models:nmber")
    assert user_error(caught.value) == ""
    with pytest.raises(InputError) as caught:
        load_object("no_such_module:number")  # an error of importlib, whose frames have no file
    assert user_line(caught.value.__cause__) == ""


def test_failing_forward_pass_names_the_layer_or_the_line(here):
    (here / "users_net.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, width):\n"
        "        super().__init__()\n"
        "        self.body = nn.Sequential(nn.Linear(3, width))\n"
        "    def forward(self, x):\n"
        "        return self.body(x)[5]\n"
        "chain = nn.Sequential(nn.ReLU(), nn.Linear(3, 2))\n"
    )
    model, chain = load_model("users_net:Net(4)"), load_model("users_net:chain")
    with pytest.raises(LayerError) as caught:
        capture(model, torch.zeros(2, 3))
    line = "(users_net.py, line 7, in forward: return self.body(x)[5])"
    assert user_line(caught.value.__cause__) == line
    with pytest.raises(Exception, match="shapes cannot be multiplied") as caught:
        chain(torch.zeros(2, 4))
    assert user_error(caught.value).endswith("(in the forward pass of the model, in 1 Linear)")


@pytest.mark.parametrize(
    ("call", "found"),
    [
        ("Made()", ((), {})),
        ("Made(1, 'a')", ((1, "a"), {})),
        (
            "Made(width=64, sizes=(1, 2), names={'a': None})",
            ((), {"width": 64, "sizes": (1, 2), "names": {"a": None}}),
        ),
        ("Made( -1.5e-3, deep=[[True]] )", ((-1.5e-3,), {"deep": [[True]]})),
    ],
)
def test_literal_arguments_reach_the_class(here, call, found):
    (here / "users_made.py").write_text(
        "class Made:\n    def __init__(self, *args, **kwargs):\n        self.found = args, kwargs\n"
    )
    assert load_object(f"users_made:{call}").found == found
    assert is_reference(f"users_made:{call}")


@pytest.mark.parametrize(
    "call",
    [
        "Made(open('x'))",
        "Made(1 + y)",
        "Made(*[1])",
        "Made(**{})",
        "Made(1)(2)",
        "Made(1",
        "Made((" + "[" * 500,
    ],
)
def test_arguments_that_are_no_literals_raise(here, call):
    (here / "users_made.py").write_text("def Made(*args, **kwargs):\n    raise RuntimeError('called')\n")
    with pytest.raises(InputError, match=r"expected (literals|pkg\.mod:name)"):
        load_object(f"users_made:{call}")


def test_arguments_that_do_not_fit_and_exits_raise(here):
    (here / "users_exit.py").write_text("raise SystemExit(0)\n")
    with pytest.raises(InputError, match=r"cannot be called: .*unexpected keyword argument 'wdth'"):
        load_object("users_models:build(wdth=3)")
    with pytest.raises(InputError, match="made takes no arguments, it is a Linear"):
        load_object("users_models:made(3)")
    with pytest.raises(InputError, match="the code ended the program"):
        load_object("users_exit:build")


def test_checkpoint_of_lightning_needs_its_prefix(here):
    trained = load_model("users_models:build")
    state = {f"model.{name}": value + 1 for name, value in trained.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, here / "last.ckpt")
    with pytest.raises(InputError, match=r"strip_prefix='model\.'"):
        load_model("users_models:build", here / "last.ckpt")
    loaded = load_model("users_models:build", here / "last.ckpt", prefix="model.")
    assert torch.equal(loaded[0].weight, state["model.0.weight"])
    with pytest.raises(InputError, match="add --weights"):
        load_model("users_models:build", prefix="model.")


def test_weights_of_another_network_raise_one_line(here):
    state = {"weight": torch.zeros(2, 3), "more": torch.zeros(1)}
    safetensors.torch.save_file(state, here / "w.safetensors")
    with pytest.raises(InputError, match="do not fit Linear; missing: bias; unexpected: more") as caught:
        load_model("users_models:Box.factory", here / "w.safetensors")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_unavailable_device_raises(here, device):
    with pytest.raises(InputError, match=f"--device {device} cannot be used: "):
        load_model("users_models:build", device=device)
