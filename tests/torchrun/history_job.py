"""A history in every process of a job, written to one file per process."""

import sys
from pathlib import Path

import torch
from torch import nn

from layerprobe import History
from layerprobe.utils.distributed import group, rank, shard

N, K, D = 31, 3, 5


def draw(n, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, D, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, K, (n,), generator=generator)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(D, 9), nn.ReLU(), nn.Linear(9, K)).double()


def histories():
    """Return a history of training steps, and one of passes over the data."""
    x, y = draw(N, 0)
    options = {"holdout": draw(21, 1), "data": x, "layer": "1", "progress": False, "full": True}
    steps, passes = History(y, **options), History(y, **options)
    model = network()
    for _ in range(2):
        for batch in torch.arange(N).split(8):
            own = batch[shard(len(batch))]
            steps.update(own, model(x[own]))
        steps.epoch(model)
        passes.epoch(model)
        with torch.no_grad():
            model[0].weight.mul_(1.1)
    return {"steps": steps, "passes": passes}


if __name__ == "__main__":
    with group("gloo"):
        for name, history in histories().items():
            history.save(Path(sys.argv[1], f"{name}.{rank()}"))
