"""How many bytes a process may take for probing."""

import os

from layerprobe.utils.distributed import world_size
from layerprobe.utils.memory_limit import SHARE, as_bytes, free_memory, require_memory

__all__ = ["budget", "require_held"]


def budget(memory: int | float | str | None) -> int:
    """Bytes that this process may take: what is free is shared with the others of this machine."""
    if memory is not None:
        return as_bytes(memory)
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if world_size() > 1 else 1
    return int(SHARE * free_memory()) // here


def require_held(needed: int, rows: int, memory: int | float | str | None) -> None:
    """Refuse more rows than fit, where nobody knew how many would come."""
    if needed > budget(memory):
        require_memory(
            needed,
            f"the layers' outputs for the first {rows:,} rows",
            "give a loader that knows its length, choose fewer layers by layers=, or pool them by pool=",
            budget(memory),
        )
