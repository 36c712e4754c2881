"""Write the results of `layerprobe.utils.distributed` in each process of a job, one JSON file per process."""

import json
import sys
import time
from pathlib import Path

import torch

from layerprobe.utils.distributed import group, rank, shard, sum_over_processes, world_size

before = (rank(), world_size())
with group(timeout_s=30):
    rows = torch.arange(7, dtype=torch.float64)
    mine = rows[list(shard(7))]
    seen = {
        "before": before,
        "rank": rank(),
        "world": world_size(),
        "shards": [list(shard(n)) for n in (0, 1, 5)],
        "sum": sum_over_processes(mine.sum()).item(),
        "counts": sum_over_processes(torch.tensor([len(mine), 2**53 + rank()])).tolist(),
        "transposed": sum_over_processes(torch.arange(6.0).view(2, 3).T + rank()).tolist(),
        "empty": list(sum_over_processes(torch.zeros(0, 3)).shape),
        "argument": mine.tolist(),
    }
    with group():  # one that exists is used
        seen["nested"] = world_size()
seen["after"] = (rank(), world_size())
time.sleep(seen["rank"])  # the first may come back before the second has left
with group(timeout_s=30):
    seen["again"] = sum_over_processes(torch.ones(1)).item()
Path(sys.argv[1], f"{seen['rank']}.json").write_text(json.dumps(seen))
