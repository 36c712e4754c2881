from typing import ClassVar

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, Subset

from layerprobe.auditing.dataset.labelled import check_disjoint, read_rows
from layerprobe.errors import InputError

X = torch.rand(20, 3, 4, 4, generator=torch.Generator().manual_seed(0))
Y = np.arange(20) % 2


def test_disjoint_datasets_pass():
    check_disjoint(read_rows((X[:12], Y[:12])), read_rows((X[12:], Y[12:])))
    near = X[:12].clone()
    near[:, 0, 0, 0] += 0.01
    check_disjoint(read_rows((X[:12], Y[:12])), read_rows((near, Y[:12])))


def test_shared_rows_are_reported_for_any_labels_order_and_form():
    rows = read_rows((X[:12], Y[:12]))
    items = [(X[i].double(), "other", i) for i in (15, 3, 17, 11)]
    with pytest.raises(InputError, match=r"^2 of the 4 rows of trusted= .*: 3, 11 \(indices in trusted\)"):
        check_disjoint(rows, read_rows(DataLoader(items, batch_size=2, shuffle=True)), "trusted")
    with pytest.raises(InputError, match=r"^8 of the 10 rows of holdout= .*: 2, 3, 4, 5, 6, \.\.\. \(ind"):
        check_disjoint(rows, read_rows((torch.cat([X[12:14], X[2:10]]), Y[:10])))


def test_repeated_rows_within_a_dataset_are_no_leak():
    twice = read_rows((torch.cat([X[:5], X[4:5]]), Y[:6]))
    check_disjoint(twice, read_rows((X[5:], Y[5:])))
    with pytest.raises(InputError, match="2 of the 6"):
        check_disjoint(read_rows((X[4:], Y[4:])), twice)


class Shifted(Dataset):
    """Items of one folder whose transform depends on the instance, not on chance."""

    samples: ClassVar = [(f"{i}.png", 0) for i in range(len(X))]

    def __init__(self, shift):
        self.shift = shift

    def __len__(self):
        return len(X)

    def __getitem__(self, i):
        return X[i] + self.shift, int(Y[i])


def test_rows_that_a_transform_changes_are_found_by_their_place():
    rows, other = read_rows(Subset(Shifted(0), range(2, 12))), Shifted(0.5)
    for held_out in (Subset(other, [15, 3, 17, 11]), DataLoader(Subset(other, [15, 3, 17, 11]), 3)):
        with pytest.raises(InputError, match=r"^2 of the 4 rows of holdout= .*: 1, 3 \(indices in holdout\)"):
            check_disjoint(rows, read_rows(held_out))
    check_disjoint(rows, read_rows(Subset(other, [0, 1, 15])))
