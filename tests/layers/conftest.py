"""A small network and its data, shared by the tests of layers."""

import pytest
import torch
from torch import nn

CALLS = []  # rows of each forward pass; outside of the network, whose attributes are restored


class Mlp(nn.Module):
    """4-5-3-2 with a module ReLU, a functional ReLU and a counter of its forward passes."""

    def __init__(self):
        super().__init__()
        self.fc1, self.act, self.fc2, self.fc3 = nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3), nn.Linear(3, 2)
        CALLS.clear()

    @property
    def forwards(self):
        return len(CALLS)

    def forward(self, x):
        CALLS.append(len(x))
        x = self.act(self.fc1(x))
        return self.fc3(torch.relu(self.fc2(x)))


@pytest.fixture
def mlp():
    torch.manual_seed(0)
    return Mlp()


@pytest.fixture
def x():
    return torch.randn(10, 4, generator=torch.Generator().manual_seed(1))
