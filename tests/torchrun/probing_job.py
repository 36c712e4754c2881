"""Results of `probe` and `ClassMoments` in every process of a job, written to one file per process."""

import json
import sys
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from layerprobe import ClassMoments, probe
from layerprobe.errors import InputError
from layerprobe.utils.distributed import group, rank, shard

N, K, d = 8001, 3, 12  # uneven shards, and a batch in which only the first process has a row

SMALL = 200_000  # bytes: below the outputs of either process, above the sums
small_buffer = staticmethod(lambda num_classes, dim, expected=None: 50)


def draw(n=N):
    generator = torch.Generator().manual_seed(0)
    true = torch.arange(n) % K
    X = (3 * torch.randn(K, d, generator=generator))[true] + torch.randn(n, d, generator=generator)
    return X * 0.8 ** torch.arange(d), true, torch.where(torch.rand(n, generator=generator) < 0.3, 0, true)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(d, 9), nn.ReLU(), nn.Linear(9, K))


def tables():
    X, true, noisy = draw()
    test = (X[:1] + 0.1, true[:1])  # no row for the second process
    options = {
        "probes": ["masc", "velpic", "ncm", "lda", "ridge"],
        "variances": [0.6, 0.9],
        "batch_size": 200,
    }
    sets = {"noisy": noisy, "true": true}
    data = TensorDataset(X, noisy)
    indexed = TensorDataset(X, noisy, torch.arange(N))
    return {
        "held": probe(network(), (X, noisy), test, train_labels=sets, **options),
        "streamed": probe(network(), (X, noisy), test, train_labels=sets, **options, memory=SMALL),
        "dataset": probe(network(), data, test, **options, memory=SMALL),
        "loader": probe(network(), DataLoader(data, batch_size=100), test, **options, memory=SMALL),
        "shuffled": probe(
            network(),
            DataLoader(indexed, 200, shuffle=True, generator=torch.Generator().manual_seed(rank())),
            test,
            train_labels=sets,
            **options,
        ),
        "one row": probe(network(), (X[:1], noisy[:1]), test, probes="ncm"),  # none for the second process
    }


def refused():
    """Yield the errors where the processes differ in their network, or in their labels."""
    X, true, _ = draw(20)
    with torch.random.fork_rng():
        torch.manual_seed(rank())
        other = nn.Linear(d, K)
    for model, labels in ((other, true), (network(), true + rank())):
        try:
            probe(model, (X, labels))
            yield ""
        except InputError as error:
            yield str(error)


def moments():
    """Classes of more rows than features, of fewer in each process and more in all, and of fewer in all."""
    X, codes, _ = draw(60)
    codes = torch.cat([torch.zeros(36), torch.ones(16), torch.full((7,), 2), torch.full((1,), 3)]).long()
    mine = list(shard(60))
    whole = ClassMoments(5, d, dtype=torch.float64).update(X[mine], codes[mine]).all_reduce()
    empty = ClassMoments(1, d)
    if rank() == 0:
        empty.update(X[:4], codes[:4])
    empty.all_reduce()
    return {
        "counts": whole.counts,
        "moments": torch.stack([whole.moment(k).matrix() for k in range(5)]),
        "empty": empty.moment(0).matrix(),
    }


if __name__ == "__main__":
    ClassMoments.buffer_rows = small_buffer
    with group(timeout_s=60):
        out = Path(sys.argv[1])
        torch.save(moments(), out / f"{rank()}.pt")
        (out / f"refused.{rank()}.json").write_text(json.dumps(list(refused())))
        for name, table in tables().items():
            table.drop(columns="seconds").to_csv(out / f"{name}.{rank()}.csv", index=False)
