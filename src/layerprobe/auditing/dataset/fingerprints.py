"""Sixty-four bits of each row's content, the same whatever form or batch the row comes in."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from layerprobe.layers.batches import named_tensors

__all__ = ["hash_inputs", "hash_network", "hash_texts"]


def hash_network(model: nn.Module) -> str:
    """Hash all weights and buffers of a network in their order, whatever their names and device."""
    digest = hashlib.sha256()
    for tensor in model.state_dict().values():
        if isinstance(tensor, Tensor):
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def hash_inputs(inputs: Any, size: int) -> np.ndarray:
    """Hash the rows of a model's input.

    Numbers count, shapes and types do not: floats are taken as float32 and whole numbers as int64, so that
    an array and a loader of the same rows agree. Of tokens that come with an ``attention_mask``, those that
    it leaves out do not count either: how far a row is padded depends on its batch.

    Parameters
    ----------
    inputs : Tensor, or tuple or dict of them
        What runs along the `size` rows is hashed, item by item in the order of their names.
    size : int

    Returns
    -------
    ndarray of shape (size,), uint64
    """
    named = dict(named_tensors(inputs))
    if len(named) > 1:
        del named[""]  # the main tensor, which has a name of its own too
    mask = named.get(".attention_mask")
    kept = None if mask is None else mask.cpu().numpy() != 0  # (size, t)
    columns = [_numbers(tensor) for _, tensor in sorted(named.items()) if tensor.shape[:1] == (size,)]
    digests = (_digest(*(_kept(column[i], kept, i).tobytes() for column in columns)) for i in range(size))
    return np.fromiter(digests, np.uint64, size)


def hash_texts(texts: Sequence[str]) -> np.ndarray:
    """Hash texts, (n,) uint64."""
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
