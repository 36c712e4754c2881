"""The folders of data sets and caches."""

import os
from pathlib import Path


def data_folder(root: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder of all sets: `root`, else LAYERPROBE_DATA, else `cache_folder`."""
    if root is None:
        root = os.environ.get("LAYERPROBE_DATA") or cache_folder()
    return Path(root).expanduser()


def cache_folder() -> Path:
    """Return ``layerprobe`` in the user's cache folder: as in torch.hub, ~/.cache on every platform."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "layerprobe").expanduser()
