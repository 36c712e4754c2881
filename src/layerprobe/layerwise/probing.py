"""probe(): from a model and data to a tidy table of what every layer knows, in one call."""

from collections.abc import Iterable, Mapping, Sequence
from types import EllipsisType
from typing import Any

import torch
from torch import nn

from layerprobe.layerwise.engine import Job
from layerprobe.layerwise.shards import rows_in
from layerprobe.layerwise.table import ProbeTable
from layerprobe.probes.naming import Probes, named_probes

__all__ = ["probe"]


def probe(
    model: nn.Module,
    train: Any,
    test: Any = None,
    *,
    train_labels: Mapping[str, Any] | None = None,
    layers: str | Iterable[str | EllipsisType] | None = None,
    probes: Probes = "masc",
    pool: Any = None,
    batch_size: int = 512,
    device: torch.device | str | None = None,
    variances: Sequence[float] | None = None,
    memory: int | float | str | None = None,
) -> ProbeTable:
    """Ask every layer of a network what it knows.

    Fits each probe on each layer's outputs for the training data, once for each set of training labels, and
    measures its accuracy on the training data against every set of labels, and on the test data. One
    forward pass over the training data and one over the test data serve all of it, while the training
    outputs of the chosen layers are held in memory. Where they would not fit, and no probe needs rows, sums
    over batches take their place: one forward pass gathers those of all layers, probes and sets of labels,
    and a second one predicts; the answers are the same but for rounding. Data without named labels that are
    no whole arrays are then read once more before, for their labels alone. MASC, VeLPIC, nearest class mean,
    LDA, ridge and ShrinkageLDA need no rows.

    In a job of several processes (``torchrun``; see :mod:`layerprobe.distributed`) each of them runs the
    model over every world_size-th row, sums are added over processes, and all get the same table. Probes
    that need rows are refused there.

    Parameters
    ----------
    model : nn.Module
        Any; it is left as it was.
    train, test : (x, y), DataLoader, Dataset or iterable of batches
        As for :func:`layerprobe.capture`; each with labels.
    train_labels : mapping of str to n labels, optional
        Named sets of training labels in the order of the rows, say ``{"noisy": noisy, "true": clean}``.
        Default: ``{"given": y}``, the labels that come with the training data. A shuffling loader must then
        give each row's index, as batches (x, y, index); other iterables are taken to keep the order. The
        labels that come with the data are then not used.
    layers : str or iterable of str, optional
        Names or glob patterns. Default: the model's own ``probed_layers``, a mapping of names in the table
        to layers, which the paper's networks have; else as for :func:`layerprobe.capture`.
    probes : str, estimator, several of them, or a mapping of names to them
        Names of ``layerprobe.probes.available()``, or classifiers with scikit-learn's contract, which are
        cloned.
    pool : optional
        As for :func:`layerprobe.capture`.
    batch_size : int
        Rows of a batch cut from whole arrays.
    device : torch.device or str, optional
        For a model without parameters.
    variances : sequence of float, optional
        Every MASC is measured at each of them, as "masc 0.99" and so on, from one fit and one projection;
        so are MASC probes that are given one by one and differ in their variance alone.
    memory : int or str, optional
        What may be taken, bytes or text such as "8GiB"; :func:`layerprobe.plan` tells what would be. Default:
        80 % of what is free.

    Returns
    -------
    ProbeTable
        A pandas DataFrame. Test accuracy is against labels called "true" if there are training labels of
        that name, else "given". The model's own accuracies are the rows of the probe "network", where its
        output is (n, K) and the labels are integers in 0..K-1.

    Raises
    ------
    InputError
        If labels are missing or of another length, a probe cannot be fitted, or the memory is too small; the
        message then names what would fit.
    LayerError
        If a layer pattern matches nothing.
    """
    job = Job(model, train, train_labels, named_probes(probes, variances), layers, pool, batch_size, device)
    job.memory, job.test_rows = memory, rows_in(test) or 0 if test is not None else 0
    job.gather()
    job.fit()
    if test is not None:
        job.score("test", test)
    return job.table()
