"""Weights are read from the files that people have, and no code of a file runs."""

import argparse

import pytest
import safetensors.torch
import torch
from torch import nn

from layerprobe.errors import DataError, InputError
from layerprobe.networks import load_state, read_state_dict


def network():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))


@pytest.fixture
def trained():
    model = network()
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor += 3
    return model


def same(one, other):
    return all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())


@pytest.mark.parametrize("key", [None, "state_dict", "model_state_dict", "model"])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".bin"])
def test_state_dicts_and_checkpoints(tmp_path, trained, key, suffix):
    path = tmp_path / f"weights{suffix}"
    state = trained.state_dict()
    torch.save(state if key is None else {"epoch": 3, key: state, "optimizer": {"lr": 0.1}}, path)
    assert same(load_state(network(), path), trained)


def test_safetensors_by_content(tmp_path, trained):
    for name in ("weights.safetensors", "weights.bin"):
        safetensors.torch.save_file(trained.state_dict(), tmp_path / name)
        assert same(load_state(network(), tmp_path / name), trained)


@pytest.mark.parametrize(
    "prefix", ["model.", "module.", "net.", "_orig_mod.", "model._orig_mod.", "backbone."]
)
def test_prefixes_are_named_and_removed(tmp_path, trained, prefix):
    path = tmp_path / "a.ckpt"
    state = {prefix + name: value for name, value in trained.state_dict().items()}
    torch.save({"state_dict": state | {"metric.total": torch.zeros(1)}}, path)
    with pytest.raises(InputError, match=f"strip_prefix='{prefix}'"):
        load_state(network(), path)
    assert same(load_state(network(), path, strip_prefix=prefix), trained)


def test_files_that_would_run_code_are_refused(tmp_path, trained):
    for saved in (trained, {"state_dict": trained.state_dict(), "args": argparse.Namespace(lr=1)}):
        torch.save(saved, tmp_path / "a.pt")
        with pytest.raises(DataError, match=r"run code.*python -c .*weights_only=False.*torch\.save"):
            read_state_dict(tmp_path / "a.pt")


def test_other_weights_change_nothing(tmp_path, trained):
    model, before = network(), network()
    before.load_state_dict(model.state_dict())
    other = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5))
    with pytest.raises(InputError, match=r"missing: 3\.weight, 3\.bias; .*0\.weight \(5, 3\) for \(4, 3\)"):
        load_state(model, other.state_dict())
    assert same(model, before)


def test_unusable_files(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read_state_dict(tmp_path / "none.pt")
    for name, content in {"a.pt": b"", "b.pt": b"no weights at all", "c.safetensors": b"{}"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match="cannot be read"):
            read_state_dict(tmp_path / name)
    (tmp_path / "b.pt").write_bytes(b"hello world")
    with pytest.raises(DataError, match=r"damaged or of another kind .*Error: .*; get it again"):
        read_state_dict(tmp_path / "b.pt")
    (tmp_path / "b.pt").write_bytes(b"")
    with pytest.raises(DataError, match=r"\(EOFError\); get it again"):
        read_state_dict(tmp_path / "b.pt")
    for saved, got in (({"epoch": 3}, "the keys 'epoch'"), ({}, "an empty mapping")):
        torch.save(saved, tmp_path / "d.pt")
        with pytest.raises(DataError, match=rf"expected a state dict.*got {got}\."):
            read_state_dict(tmp_path / "d.pt")
