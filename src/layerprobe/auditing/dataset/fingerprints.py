"""Hashes of rows and networks that depend on their content only, not on form, batch or order."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from layerprobe.layers.batches import named_tensors

__all__ = ["hash_inputs", "hash_network", "hash_texts"]


def hash_network(model: nn.Module) -> str:
    """Return the SHA-256 of a network's weights and buffers in their order, without names and device."""
    digest = hashlib.sha256()
    for tensor in model.state_dict().values():
        if isinstance(tensor, Tensor):
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def hash_inputs(inputs: Any, size: int) -> np.ndarray:
    """Hash the rows of a model's input.

    The hash depends on values only: floats are converted to float32 and integers to int64, and shapes are
    ignored, so an array and a loader of the same rows agree. Tokens that ``attention_mask`` excludes are
    ignored, since padding depends on the batch.

    Parameters
    ----------
    inputs : Tensor, or tuple or dict of them
        Tensors with `size` rows are hashed in the order of their names.
    size : int
        The number of rows.

    Returns
    -------
    ndarray of shape (size,), uint64
    """
    named = dict(named_tensors(inputs))
    if len(named) > 1:
        del named[""]  # the main tensor, listed a second time under its own name
    mask = named.get(".attention_mask")
    kept = None if mask is None else mask.cpu().numpy() != 0  # (size, t)
    columns = [_numbers(tensor) for _, tensor in sorted(named.items()) if tensor.shape[:1] == (size,)]
    digests = (_digest(*(_kept(column[i], kept, i).tobytes() for column in columns)) for i in range(size))
    return np.fromiter(digests, np.uint64, size)


def hash_texts(texts: Sequence[str]) -> np.ndarray:
    """Return the hash of each text, (n,) uint64."""
    return np.fromiter(
        (_digest(text.encode("utf-8", "surrogatepass")) for text in texts), np.uint64, len(texts)
    )


def _numbers(tensor: Tensor) -> np.ndarray:
    wide = torch.float32 if tensor.is_floating_point() else torch.int64
    return tensor.detach().cpu().to(wide).numpy() + 0  # -0.0 becomes 0.0


def _kept(row: np.ndarray, kept: np.ndarray | None, i: int) -> np.ndarray:
    return row if kept is None or row.shape[:1] != kept.shape[1:] else row[kept[i]]


def _digest(*parts: bytes) -> int:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return int.from_bytes(digest.digest()[:8], "little")
