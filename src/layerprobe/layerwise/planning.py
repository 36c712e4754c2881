"""plan(): what probing would take, in bytes and operations, before anything is allocated."""

from collections.abc import Iterable, Mapping, Sequence
from types import EllipsisType
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from layerprobe.core.checks import check_count, check_number, check_strength
from layerprobe.errors import InputError
from layerprobe.layers import capture
from layerprobe.layers.batches import count_rows, is_whole, read_batches
from layerprobe.layers.pooling import Pool
from layerprobe.layers.selecting import Maybe
from layerprobe.layerwise.plans import Plan, plan_of, reads_of
from layerprobe.probes.naming import Probes, named_probes

__all__ = ["plan"]


def plan(
    model: nn.Module | Mapping[str, int],
    train: Any = None,
    *,
    rows: int | None = None,
    test_rows: int = 0,
    classes: int | None = None,
    label_sets: int = 1,
    changed: float = 1.0,
    variances: Sequence[float] | None = None,
    components: int | None = None,
    probes: Probes = "masc",
    layers: str | Iterable[str | EllipsisType] | None = None,
    pool: Pool = None,
    device: torch.device | str | None = None,
    memory: int | float | str | None = None,
) -> Plan:
    """Count the bytes and operations that :func:`layerprobe.probe` would take; nothing is allocated.

    Parameters
    ----------
    model : nn.Module, or mapping of str to int
        A network, run over two of the training rows; or the number of features d of each layer.
    train : optional
        Training data as for :func:`layerprobe.probe`, for a network.
    rows, classes : int, optional
        n and K, where `train` does not tell.
    test_rows : int
    label_sets : int
        Sets of training labels.
    changed : float
        Share of the rows whose label is not the same in all sets.
    variances : sequence of float, optional
        As for :func:`layerprobe.probe`: all of them share one fit and one projection.
    components : int, optional
        Components that a class is expected to need, default as many as it can have.
    probes, layers, pool, device
        As for :func:`layerprobe.probe`.
    memory : int or str, optional
        A budget, bytes or text such as "8GiB".

    Returns
    -------
    Plan

    Raises
    ------
    InputError
        For numbers that no data can have. If the budget would be exceeded; the message names what would fit.

    Notes
    -----
    Bytes are upper bounds, whatever the labels are, for the probes that sums over rows serve; of others the
    outputs that they read are counted and not what they do with them. Neither the data nor what the network
    itself takes for a batch is in them. Operations are those of K classes of n / K rows. float64 ones count
    twice, an eigendecomposition of m x m as 10 m^3: that many operations of a product take as long.

    Examples
    --------
    >>> found = plan({"penultimate": 2048}, rows=1_280_000, classes=1000)
    >>> round(found.layers[0].sums / 2**30)
    14
    """
    forward = None
    if isinstance(model, nn.Module):
        dims, forward = _look(model, train, layers, pool, device)
        rows = _count(train) if rows is None else rows
        classes = _classes(train) if classes is None else classes
    else:
        if train is not None or layers is not None or pool is not None:
            raise InputError(
                "train=, layers= and pool= are for a network; here the layers are named with their sizes"
            )
        dims = dict(model)
    if not rows or not classes or not dims:
        raise InputError(
            f"expected at least one layer, row and class, got {len(dims)} layers, rows={rows} and "
            f"classes={classes}; give rows= and classes= where the data do not tell"
        )
    for name, dim in dims.items():
        check_count(f"the number of features of {name!r}", dim)
    for name, value, least in [
        ("rows", rows, 1),
        ("classes", classes, 1),
        ("test_rows", test_rows, 0),
        ("label_sets", label_sets, 1),
    ]:
        check_count(name, value, least)
    check_number("changed", changed, least=0, most=1)
    if components is not None:
        check_strength(None, components)
        if components > max(dims.values()):
            raise InputError(
                f"components must be at most the number of features, {max(dims.values())}, got {components}."
            )
    made = named_probes(probes, variances)
    found = plan_of(
        dims,
        rows,
        test_rows,
        classes,
        label_sets,
        reads_of(made.values()),
        forward,
        changed=changed,
        components=components,
    )
    if memory is not None:
        found.require(memory)
    return found


def _look(
    model: nn.Module,
    train: Any,
    layers: str | Iterable[str | EllipsisType] | None,
    pool: Pool,
    device: torch.device | str | None,
) -> tuple[dict[str, int], float]:
    """Run the model on the first rows: each layer's number of features, and operations a row."""
    from torch.utils.flop_counter import FlopCounterMode  # loads much of torch's compiler

    names: dict[str, str] = {}
    if layers is None:
        names = {layer: name for name, layer in getattr(model, "probed_layers", {}).items()}
        layers = list(names) or None
    first = next(read_batches(train, 2))
    with FlopCounterMode(display=False) as counter:
        pools = pool if isinstance(pool, Mapping) else {"*": pool}
        pools = {Maybe("output"): _flat, **pools}  # the model's own answer is probed as it is
        found = capture(model, iter([(first.inputs, None)]), layers, pool=pools, device=device)
    dims = {names.get(layer, layer): outputs.shape[1] for layer, outputs in found.outputs.items()}
    return dims, counter.get_total_flops() / first.size


def _flat(output: torch.Tensor) -> torch.Tensor:
    return output[:, None] if output.ndim == 1 else output.flatten(1)


def _count(train: Any) -> int | None:
    return len(train) if isinstance(train, Dataset) and hasattr(train, "__len__") else count_rows(train)


def _classes(train: Any) -> int | None:
    """Count the classes of whole arrays; a loader would have to be read."""
    if not is_whole(train):
        return None
    labels = next(read_batches(train, count_rows(train) or 1)).labels
    return None if labels is None else len(set(labels.tolist()))
