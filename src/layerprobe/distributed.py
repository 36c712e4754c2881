"""Jobs of several processes: the public names of :mod:`layerprobe.utils.distributed`."""

from layerprobe.utils.distributed import group, rank, require_same, shard, sum_over_processes, world_size

__all__ = ["group", "rank", "require_same", "shard", "sum_over_processes", "world_size"]
