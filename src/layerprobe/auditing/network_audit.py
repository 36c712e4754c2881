"""audit(): from a trained network and its labels to all that its layers say of them, in one call."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from types import EllipsisType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from layerprobe.auditing.assembling import Clock, assemble, canonical, judging_rows
from layerprobe.auditing.broadcast import check_sendable, send_audit, take_audit
from layerprobe.auditing.dataset.fingerprints import hash_network
from layerprobe.auditing.dataset.inputs import dummy_input
from layerprobe.auditing.dataset.labelled import LabelledDataset
from layerprobe.auditing.dataset.labels import Classes
from layerprobe.auditing.dataset.leakage import check_disjoint
from layerprobe.auditing.dataset.readers import read_rows
from layerprobe.auditing.features import Features, Reader, memory_needed
from layerprobe.auditing.method.candidates import DEFAULT_PROBES, families
from layerprobe.auditing.method.controls import untrained_copy
from layerprobe.auditing.method.policies import Jury, check_policy, juries_of_rows, jury_of_views
from layerprobe.auditing.result import Audit
from layerprobe.layers.pooling import Pool
from layerprobe.layers.views import View, resolve_views
from layerprobe.utils.distributed import rank, require_same, world_size
from layerprobe.utils.memory_limit import require_memory

__all__ = ["audit"]


def audit(
    model: nn.Module,
    data: Any,
    labels: Any = None,
    *,
    policy: str,
    holdout: Any = None,
    trusted: Any = None,
    test: Any = None,
    views: str | View | Iterable[str | View] | Mapping[str, View] = (),
    layers: str | Iterable[str | EllipsisType] | None = None,
    pool: Pool = None,
    probes: Any = DEFAULT_PROBES,
    inputs: Callable[[Any], Any] | None = None,
    class_names: Sequence[Any] | None = None,
    history: Sequence[float] | None = None,
    controls: bool = True,
    batch_size: int = 512,
    device: torch.device | str | None = None,
    seed: int = 0,
    progress: Callable[[str], object] | None = None,
) -> Audit:
    """Find out what a network that was trained on partly wrong labels knows about them.

    Every probe is tried on every layer, judged by the policy; the best become a decoder; its scores of each
    training row by the fit without it say which labels are wrong. Neither the order of the rows, nor their
    batches, nor the names of the classes matter.

    In a job of several processes (`layerprobe.distributed.group`) all of them call this with equal arguments.
    Each reads the data and runs the network over its share of the batches; the first alone holds the layers'
    outputs and decides, while the others wait; all return the same result, that of one process.

    Parameters
    ----------
    model : nn.Module
        Trained on `data`; it is left as it was.
    data : arrays, (x, y), Dataset, DataLoader, iterable of batches, path, Hugging Face data set
        The rows that it was trained on, as for :func:`layerprobe.auditing.read_rows`.
    labels : sequence of n labels, optional
        Where they are not part of the data, or others.
    policy : {"noisy_holdout", "unseen_views", "trusted", "test_split"}
        By what layer, probe and strength are chosen. "noisy_holdout": rows with labels as noisy as the rest
        that were set aside before training, `holdout`. "unseen_views": views of the training rows against
        their own noisy labels; needs `views` and nothing else. "trusted": rows with right labels, `trusted`.
        "test_split": the paper's; of a test set with right labels, `test`, a fifth chooses and the rest
        measures.
    holdout, trusted, test : as `data`, optional
        What the policy needs, with labels.
    views : names, callables or mapping, optional
        That keep the label: "flip", "left", "right", "up", "down" (by two pixels) for images (n, c, h, w), or
        callables over a batch of inputs. Outputs are averaged over them.
    layers, pool, batch_size, device : optional
        As for :func:`layerprobe.probe`. Without `pool`, feature maps of more than 1,024 numbers are averaged
        over neighbouring positions, and tokens over the text.
    probes : names, probes, or a mapping of names to them
        Of ``layerprobe.probes.available()``. "whitened_knn" costs more than all others together.
    inputs : callable, optional
        From texts or images as they are stored to what the model takes.
    class_names : sequence of K labels, optional
        Names of the network's outputs in their order. Without it labels are whole numbers 0..K-1, or, if they
        are names, the outputs are theirs in sorted order.
    history : sequence of float, optional
        The network's accuracy on a noisy hold-out after every epoch: early stopping as one more control.
    controls : bool
        Also decode an untrained copy of the network, which takes as many passes again.
    seed : int
        Of the untrained copy and of the bootstrap.
    progress : callable, optional
        Told the name of each step as it begins.

    Returns
    -------
    Audit

    Raises
    ------
    InputError
        For labels, rows or views that do not fit; a policy that is refused or lacks its argument; a network
        without one output a class; rows held out that are among the training rows. In a job of several
        processes, other networks or rows in some of them, or probes that cannot be sent.
    ProcessError
        If another process of the job ended.
    """
    clock = Clock(None if rank() else progress)
    given_rows = {"holdout": holdout, "trusted": trusted, "test": test}
    named_views = resolve_views(views)
    check_policy(policy, given_rows, views=bool(named_views))
    named_probes = families(probes)
    check_sendable(named_probes)
    clock("reading")
    rows = read_rows(data, labels, inputs=inputs)
    what = next((name for name, value in given_rows.items() if value is not None), None)
    held = None if what is None else read_rows(given_rows[what], inputs=inputs)
    if held is not None and what is not None:
        check_disjoint(rows, held, what)
    if not (layers is None or isinstance(layers, str)):
        layers = tuple(layers)  # which is asked for in every pass
    first, positions = next(rows.batches(min(batch_size, 2)))
    empty = dummy_input(first, len(positions))
    reader = Reader(model, layers, pool, named_views, batch_size, device, blank=empty)
    dimensions, outputs = reader.dimensions(rows)
    size = rows.n + (held.n if held else 0)
    require_memory(
        memory_needed(dimensions, size, views=bool(named_views)),
        "the layers' outputs",
        "choose fewer layers by layers=, pool them by pool=, or audit fewer rows at a time",
    )
    names = rows.class_names if class_names is None else class_names
    classes = Classes.from_labels(rows.labels, outputs, names)
    codes = classes.indices(rows.labels, "labels")
    classes.check_counts(codes)
    held_codes = None if held is None else classes.indices(held.labels, f"labels of {what}=")
    order = canonical(rows.fingerprints(), codes)
    keep = judging_rows(rows.n) if policy == "unseen_views" else None

    _require_same(model, [rows, held] if held else [rows], codes)

    def fresh() -> Reader:
        return replace(reader, model=untrained_copy(model, seed))

    if rank():  # the first process decides, the others run the network for it
        for each in [reader, fresh()] if controls else [reader]:
            for part in [rows, held] if held else [rows]:
                each.share(part)
        return take_audit(reader, rows, held, inputs)
    shared = world_size() > 1

    def juries(model_reader: Reader) -> tuple[Features, Jury, Jury]:
        train = model_reader.read(rows, order, keep, shared=shared)
        if held is None or held_codes is None:
            jury = jury_of_views(train, codes[torch.from_numpy(order)])
            return train, jury, jury
        place = canonical(held.fingerprints(), held_codes)  # of the bootstrap's draws
        judges = model_reader.read(held, place, shared=shared)
        theirs = held_codes[torch.from_numpy(place)]
        return train, *juries_of_rows(policy, train, judges, theirs, held.fingerprints()[place])

    clock("outputs of the layers")
    train, jury, measure = juries(reader)

    def untrained() -> tuple[Features, Jury] | None:
        if not controls:
            return None
        features, _, fresh_measure = juries(fresh())
        return features, fresh_measure

    result = assemble(
        clock,
        train,
        codes,
        order,
        jury,
        measure,
        named_probes,
        rows.fingerprints(),
        untrained,
        history=history,
        index=rows.index,
        classes=classes,
        policy=policy,
        seed=seed,
        reader=reader,
        rows=rows,
        jury_rows=held,
        settings={
            "views": list(named_views),
            "inputs": inputs,
            "layers": dimensions,
            "batch_size": batch_size,
            "weights": hash_network(model),
        },
    )
    send_audit(result)
    return result


def _require_same(model: nn.Module, parts: Sequence[LabelledDataset], codes: Tensor) -> None:
    """Demand one network, and the same rows in the same order, in all processes."""
    if world_size() > 1:
        prints = [torch.from_numpy(rows.fingerprints().view(np.int64)) for rows in parts]
        require_same("network", *model.parameters(), *model.buffers())
        require_same("rows and labels", *prints, codes)
