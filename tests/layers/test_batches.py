"""Everything a user may call batches."""

from collections import UserDict

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from layerprobe import probe
from layerprobe.errors import InputError
from layerprobe.layers import capture

X = torch.arange(20, dtype=torch.float32).reshape(5, 4)
Y = torch.tensor([2, 0, 1, 0, 2])


class Same(nn.Module):
    def forward(self, x, flag=True):
        assert flag
        return torch.relu(x)


class Rows(Dataset):
    def __len__(self):
        return 5

    def __getitem__(self, i):
        return X[i], int(Y[i]), i


class Stream(IterableDataset):
    def __iter__(self):
        return ((X[i], int(Y[i]), i) for i in range(5))


@pytest.mark.parametrize(
    "batches",
    [
        (X, Y, torch.arange(5)),
        (X.numpy(), Y.numpy().astype(np.uint8), np.arange(5, dtype=np.int32)),
        (X.double(), Y.tolist(), list(range(5))),
        (pd.DataFrame(X.numpy()), pd.Series(Y.numpy(), index=list("abcde")), pd.RangeIndex(5)),
        {"x": X, "labels": Y, "index": torch.arange(5), "flag": True},
        [{"x": X[:2], "label": Y[:2], "index": [0, 1]}, {"x": X[2:], "label": Y[2:], "index": [2, 3, 4]}],
        [UserDict(x=X, labels=Y, index=np.arange(5))],
        [(X[:3], Y[:3], [0, 1, 2]), [X[3:], Y[3:], [3, 4]]],
        ((x, y, i) for x, y, i in zip(X.split(2), Y.split(2), torch.arange(5).split(2), strict=True)),
        Rows(),
        Stream(),
        DataLoader(Rows(), batch_size=2),
        DataLoader([(X[:3], Y[:3], [0, 1, 2]), (X[3:], Y[3:], [3, 4])], batch_size=None),
        DataLoader(Stream(), batch_size=2),
        DataLoader(TensorDataset(X, Y, torch.arange(5)), batch_sampler=[[0, 1], [2, 3, 4]]),
    ],
)
def test_every_form_of_data_gives_the_same_outputs(batches):
    captured = capture(Same(), batches, "input", batch_size=2)
    torch.testing.assert_close(captured.outputs["input"].float(), X)
    assert captured.labels.dtype is torch.int64
    assert captured.labels.tolist() == Y.tolist()
    assert captured.indices.tolist() == [0, 1, 2, 3, 4]


def test_inputs_alone():
    for batches in (X, X.numpy(), (X,), (X, None), [X[:2], X[2:]], TensorDataset(X)):
        captured = capture(Same(), batches, batch_size=2)
        torch.testing.assert_close(captured.outputs["input"], X)
        assert captured.labels is None


def test_string_labels_are_returned_as_an_array():
    names = ["cat", "elephant", "dog", "cat", "dog"]
    for labels in (names, np.array(names), pd.Series(names)):
        captured = capture(Same(), (X, labels), batch_size=2)
        assert isinstance(captured.labels, np.ndarray)
        assert captured.labels.tolist() == names


class Two(nn.Module):
    def forward(self, left, right):
        return torch.relu(left).sum(1, keepdim=True) + right


class Pairs(Dataset):
    """Rows as dicts."""

    def __len__(self):
        return 5

    def __getitem__(self, i):
        return {"left": X[i], "right": Z[i], "target": int(Y[i]), "idx": i, "text": "words"}


Z = torch.tensor([[-1.0], [2.0], [0.5], [-3.0], [4.0]])
PAIRS = {
    "tuple beside y": ((X, Z), Y),
    "arrays beside y": ((X.numpy(), Z.numpy()), Y.numpy()),
    "frames beside y": ((pd.DataFrame(X.numpy()), pd.DataFrame(Z.numpy())), pd.Series(Y.numpy())),
    "mapping beside y": ({"left": X, "right": Z}, Y),
    "tokenizer output beside y": (UserDict(left=X, right=Z), Y),
    "mapping with y": {"left": X, "right": Z, "y": Y},
    "three arrays": (X, Z, Y),
    "TensorDataset": TensorDataset(X, Z, Y),
    "TensorDataset, group": TensorDataset(X, Z, Y, torch.tensor([0.5, 1, 1, 0, 1])),
    "loader": DataLoader(TensorDataset(X, Z, Y), 2),
    "loader of single rows": DataLoader(TensorDataset(X, Z, Y), batch_size=None),
    "dicts": Pairs(),
    "list of dicts": [Pairs()[i] for i in range(5)],
    "loader of dicts": DataLoader(Pairs(), 2),
    "list of rows": [(X[i], Z[i], int(Y[i])) for i in range(5)],
    "list of nested rows": [((X[i], Z[i]), int(Y[i])) for i in range(5)],
    "batches": [((X[:2], Z[:2]), Y[:2]), ((X[2:], Z[2:]), Y[2:])],
}


@pytest.mark.parametrize("data", PAIRS.values(), ids=PAIRS)
def test_every_form_of_two_inputs(data):
    captured = capture(Two(), data, "output", batch_size=2)
    torch.testing.assert_close(captured.outputs["output"], X.clamp(min=0).sum(1, keepdim=True) + Z)
    assert captured.labels.tolist() == Y.tolist()


ROWS = {
    "list of arrays": [X[i] for i in range(5)],
    "list of numbers": X.tolist(),
    "numbers beside y": (X.tolist(), Y.tolist()),
    "list beside y": ([X[i] for i in range(5)], Y),
    "pairs": [(X[i], int(Y[i])) for i in range(5)],
    "frame with labels": pd.DataFrame(X.numpy()).assign(label=Y.numpy()),
    "frame of columns": pd.DataFrame(X.numpy(), columns=list("abcd")).assign(e=0).drop(columns="e"),
    "mapping of another name": {"image": X, "y": Y, "idx": torch.arange(5)},
    "big-endian": (X.numpy().astype(">f4"), Y.numpy().astype(">i8")),
    "Fortran order": (np.asfortranarray(X.numpy()), Y),
    "metadata": TensorDataset(X, Y, Z.expand(5, 2)),
    "metadata in a dict": [(X[i], int(Y[i]), {"file": i}) for i in range(5)],
    "objects": (X.numpy().astype(object), Y),
    "collated lists": DataLoader([{"x": X[i].tolist(), "label": int(Y[i])} for i in range(5)], 2),
    "tuple of batches": ((X[:2], Y[:2]), (X[2:], Y[2:])),
    "workers": DataLoader(Stream(), 2, num_workers=2),
}


@pytest.mark.parametrize("data", ROWS.values(), ids=ROWS)
def test_rows_are_not_taken_for_batches(data):
    captured = capture(Same(), data, "input", batch_size=2)
    torch.testing.assert_close(captured.outputs["input"].float(), X)
    assert captured.labels is None or captured.labels.tolist() == Y.tolist()


def test_a_list_of_images_holds_rows():
    model = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU())
    images = torch.randn(5, 3, 8, 8)
    expected = model(images).detach().flatten(1)
    torch.testing.assert_close(capture(model, list(images), "1").outputs["1"], expected)
    torch.testing.assert_close(capture(model, [images[:3], images[3:]], "1").outputs["1"], expected)


@pytest.mark.parametrize("claimed", [2, 50])
def test_sampler_of_wrong_length(claimed):
    class Liar(list):
        def __len__(self):
            return claimed

    loader = DataLoader(TensorDataset(X, Y), batch_size=2, sampler=Liar([4, 3, 2, 1, 0]))
    captured = capture(Same(), loader, "input")
    torch.testing.assert_close(captured.outputs["input"], X.flip(0))


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        (3, "expected arrays .* got int"),
        ([], "at least one batch, got none"),
        (X[:0], "at least one batch, got none"),
        ((X, Y[:3]), r"one and the same length, got the lengths \{'0': 5, '1': 3\}"),
        ([(X, Y[:3])], "expected 5 labels for a batch of 5, got the shape"),
        ([(X, Y, 7)], "expected 5 indices"),
        ([(X, Y), (X, None)], "with every batch or with none"),
        ([(X, Y, Y, Y)], "expected a batch x, .* got a tuple of 4 items"),
        (["text"], "expected an array of n rows as input"),
        ([("text", Y)], "expected an array of n rows as input, got str"),
        ([torch.zeros(3, 8, 8)] * 5, "may hold rows or batches: join rows by"),
        ([[1.0, 2.0], [1.0]], "have different shapes: pad them"),
        ((X.to_sparse(), Y), r"dense tensors? of numbers, got .*sparse"),
        ((X.to("meta"), Y), "the (device meta|meta device)"),
        (pd.DataFrame({"a": [1.0], "b": ["x"]}), "column 'b' holds .* values: encode"),
        (
            (pd.DataFrame({"a": [1, 2]}), pd.Series([0, 1], index=[1, 0])),
            "the same index in different orders",
        ),
        ([torch.tensor(1.0)], "expected an array of n rows"),
        (np.array(["a", "b"]), "expected an input of numbers"),
        ([{"labels": Y}], "expected an array of n rows as input, got dict"),
    ],
)
def test_invalid_batches_are_refused(batches, message):
    with pytest.raises(InputError, match=message):
        capture(Same(), batches)


class Broken(Dataset):
    """Rows of which one cannot be read."""

    def __len__(self):
        return 12

    def __getitem__(self, i):
        if i == 7:
            raise OSError("image file is truncated")
        return torch.ones(3), i % 2


def broken_collate(rows):
    raise KeyError("label")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (Broken(), r"OSError: image file is truncated \(.*test_batches.py, line \d+, in __getitem__\)"),
        (DataLoader(Broken(), 4), r"truncated \(.*test_batches.py, line \d+, in __getitem__\)"),
        (
            DataLoader(Broken(), 4, num_workers=1),
            r"OSError: image file is truncated \(.*test_batches.py, line \d+, in __getitem__\)",
        ),
        (
            DataLoader(range(9), 3, collate_fn=broken_collate),
            r"KeyError: 'label' \(.*test_batches.py, line \d+, in broken_collate\)",
        ),
        (
            DataLoader([torch.ones(2), torch.ones(3)], 2),
            "the data cannot be read: RuntimeError: stack expects each tensor to be equal size",
        ),
    ],
)
def test_an_error_of_the_users_data_names_its_line(data, said):
    for use in (lambda: capture(nn.Linear(3, 2), data), lambda: probe(nn.Linear(3, 2), data, probes="ncm")):
        with pytest.raises(InputError, match=said) as raised:
            use()
        assert raised.value.__cause__ is not None
