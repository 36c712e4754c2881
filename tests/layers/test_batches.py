"""Everything a user may call batches."""

from collections import UserDict

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

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
        (["text"], "expected a batch x, .* got a str"),
        ([("text", Y)], "expected an array of n rows as input, got str"),
        ([torch.tensor(1.0)], "expected an array of n rows"),
        (np.array(["a", "b"]), "expected an input of numbers"),
        ([{"labels": Y}], "expected an array of n rows as input, got dict"),
    ],
)
def test_invalid_batches_are_refused(batches, message):
    with pytest.raises(InputError, match=message):
        capture(Same(), batches)
