"""audit(): from a trained network and its labels to all that its layers say of them, in one call."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import EllipsisType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from layerprobe.auditing.candidates import DEFAULT_PROBES, families
from layerprobe.auditing.controls import (
    Control,
    best_of_history,
    controls_of,
    untrained_control,
    untrained_copy,
)
from layerprobe.auditing.deciding import decide
from layerprobe.auditing.features import Features, Reader, memory_needed, require_memory
from layerprobe.auditing.fingerprints import hash_inputs
from layerprobe.auditing.intervals import interval
from layerprobe.auditing.labels import Classes
from layerprobe.auditing.overlap import check_disjoint
from layerprobe.auditing.policies import (
    MOST_ROWS,
    Jury,
    check_policy,
    halves_for_testing,
    jury_of_rows,
    jury_of_views,
)
from layerprobe.auditing.relabelling import relabel
from layerprobe.auditing.result import Audit
from layerprobe.auditing.rows import Rows, read_rows
from layerprobe.auditing.verdict import judge
from layerprobe.errors import InputError
from layerprobe.layers.pooling import Pool
from layerprobe.layers.views import View, resolve_views
from layerprobe.probes.base import label_array

__all__ = ["audit", "audit_features"]


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
        "test_split": the paper's, a fifth of a test set with right labels chooses and the rest measures, `test`.
    holdout, trusted, test : as `data`, optional
        What the policy needs, with labels.
    views : names, callables or mapping, optional
        That keep the label: "flip", "shift", "shift_back", "flip_shift" for images (n, c, h, w), or callables
        over a batch of inputs. Outputs are averaged over them.
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
        without one output a class; rows held out that are among the training rows.
    """
    clock = _Clock(progress)
    given_rows = {"holdout": holdout, "trusted": trusted, "test": test}
    named_views = resolve_views(views)
    check_policy(policy, given_rows, views=bool(named_views))
    named_probes = families(probes)
    clock("reading")
    rows = read_rows(data, labels, inputs=inputs)
    what = next((name for name, value in given_rows.items() if value is not None), None)
    held = None if what is None else read_rows(given_rows[what], inputs=inputs)
    if held is not None and what is not None:
        check_disjoint(rows, held, what)
    reader = Reader(model, layers, pool, named_views, batch_size, device)
    dimensions, outputs = reader.dimensions(rows)
    size = rows.n + (held.n if held else 0)
    require_memory(memory_needed(dimensions, size, views=bool(named_views)))
    classes = Classes.of(rows.labels, outputs, class_names or rows.class_names)
    codes = classes.codes(rows.labels, "labels")
    classes.check_counts(codes)
    held_codes = None if held is None else classes.codes(held.labels, f"labels of {what}=")
    order = _canonical(rows.fingerprints(), codes)
    keep = _judging(rows.n) if policy == "unseen_views" else None

    def juries(model_reader: Reader) -> tuple[Features, Jury, Jury]:
        train = model_reader.read(rows, order, keep)
        if held is None or held_codes is None:
            jury = jury_of_views(train, codes[torch.from_numpy(order)])
            return train, jury, jury
        jury = jury_of_rows(train, model_reader.read(held), held_codes, clean=policy != "noisy_holdout")
        if policy != "test_split":
            return train, jury, jury
        chooses, measures = halves_for_testing(held_codes, held.fingerprints())
        return train, jury.part(chooses), jury.part(measures)

    clock("outputs of the layers")
    train, jury, measure = juries(reader)

    def all_controls(inputs_right: Tensor | None) -> list[Control]:
        found = controls_of(measure, inputs_right)
        if controls:
            fresh = Reader(untrained_copy(model, seed), layers, pool, named_views, batch_size, device)
            found.append(untrained_control(juries(fresh)[2], codes[torch.from_numpy(order)]))
        if history is not None:
            found.append(best_of_history(history, held.n if held else rows.n))
        return found

    return _assemble(
        clock,
        train,
        codes,
        order,
        jury,
        measure,
        named_probes,
        rows.fingerprints(),
        all_controls,
        index=rows.index,
        classes=classes,
        policy=policy,
        seed=seed,
        reader=reader,
        rows=rows,
        jury_rows=held,
        settings={"views": list(named_views), "inputs": inputs, "layers": dimensions, "batch_size": batch_size},
    )


def audit_features(
    features: Mapping[str, Any],
    labels: Any,
    *,
    policy: str,
    holdout: tuple[Mapping[str, Any], Any] | None = None,
    trusted: tuple[Mapping[str, Any], Any] | None = None,
    test: tuple[Mapping[str, Any], Any] | None = None,
    views: Sequence[Mapping[str, Any]] = (),
    index: Any = None,
    probes: Any = DEFAULT_PROBES,
    class_names: Sequence[Any] | None = None,
    history: Sequence[float] | None = None,
    seed: int = 0,
    progress: Callable[[str], object] | None = None,
) -> Audit:
    """Audit labels by features alone, of whatever made them.

    Parameters
    ----------
    features : mapping of str to array (n, d)
        Outputs of each layer; "input" for what came in, which then is a control, and "output" for the
        network's logits, which are the head.
    labels : sequence of n labels
    policy, history, probes, class_names, seed, progress
        As for :func:`audit`.
    holdout, trusted, test : (features, labels), optional
        With the same layers.
    views : sequence of features, optional
        The outputs for views of the same rows, which keep the label.
    index : sequence of n names, optional

    Returns
    -------
    Audit

    Raises
    ------
    InputError
        For features that are no finite (n, d), labels that do not fit, or as for :func:`audit`.
    """
    clock = _Clock(progress)
    given = {"holdout": holdout, "trusted": trusted, "test": test}
    check_policy(policy, given, views=len(views) > 0)
    named_probes = families(probes)
    clock("reading")
    own, logits = _matrices(features, "features")
    label_column = label_array(labels)
    n = len(next(iter(own.values())))
    if len(label_column) != n:
        raise InputError(f"expected a label for each of {n} rows, got {len(label_column)}")
    classes = Classes.of(label_column, None if logits is None else logits.shape[1], class_names)
    codes = classes.codes(label_column, "labels")
    classes.check_counts(codes)
    fingerprints = hash_inputs({layer: own[layer] for layer in sorted(own)}, n)
    order = _canonical(fingerprints, codes)
    place = torch.from_numpy(order)
    keep = _judging(n)

    def ordered(matrices: Mapping[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
        return {layer: X[rows] for layer, X in matrices.items()}

    copies, mean = {}, {layer: X[place] for layer, X in own.items()}
    averaged = None if logits is None else logits.softmax(1)
    for i, view in enumerate(views):
        seen, seen_logits = _matrices(view, f"views[{i}]", own)
        for layer, X in seen.items():
            mean[layer] = mean[layer] + X[place]
        kept = ordered(seen, place[torch.from_numpy(keep)])
        copies[str(i)] = Features(
            kept, kept, None if seen_logits is None else seen_logits[place][torch.from_numpy(keep)]
        )
        if averaged is not None and seen_logits is not None:
            averaged = averaged + seen_logits.softmax(1)
    if views:
        mean = {layer: X / (1 + len(views)) for layer, X in mean.items()}
    sorted_own = ordered(own, place)
    train = Features(
        sorted_own,
        mean if views else sorted_own,
        None if logits is None else logits[place],
        None if averaged is None else averaged[place] / (1 + len(views)),
        copies,
        keep,
    )
    what = next((name for name, value in given.items() if value is not None), None)
    if what is None:
        jury = measure = jury_of_views(train, codes[place])
    else:
        held, held_logits = _matrices(given[what][0], what, own)  # type: ignore[index]
        held_codes = classes.codes(label_array(given[what][1]), f"labels of {what}=")  # type: ignore[index]
        m = len(next(iter(held.values())))
        if len(held_codes) != m:
            raise InputError(f"expected a label for each of the {m} rows of {what}=, got {len(held_codes)}")
        held_prints = hash_inputs({layer: held[layer] for layer in sorted(held)}, m)
        if shared := int(np.isin(held_prints, fingerprints).sum()):
            raise InputError(f"{shared} of the {m} rows of {what}= are among the training rows; take them out")
        seen = Features(held, held, held_logits, None if held_logits is None else held_logits.softmax(1))
        jury = measure = jury_of_rows(train, seen, held_codes, clean=policy != "noisy_holdout")
        if policy == "test_split":
            chooses, measures = halves_for_testing(held_codes, held_prints)
            jury, measure = jury.part(chooses), jury.part(measures)

    def all_controls(inputs_right: Tensor | None) -> list[Control]:
        found = controls_of(measure, inputs_right)
        return found if history is None else [*found, best_of_history(history, len(measure.labels))]

    return _assemble(
        clock,
        train,
        codes,
        order,
        jury,
        measure,
        named_probes,
        fingerprints,
        all_controls,
        index=np.arange(n) if index is None else label_array(index),
        classes=classes,
        policy=policy,
        seed=seed,
        settings={"views": len(views), "layers": {layer: X.shape[1] for layer, X in own.items()}},
    )


def _assemble(
    clock: "_Clock",
    train: Features,
    codes: Tensor,
    order: np.ndarray,
    jury: Jury,
    measure: Jury,
    probes: Mapping[str, Any],
    fingerprints: np.ndarray,
    controls: Callable[[Tensor | None], list[Control]],
    *,
    classes: Classes,
    policy: str,
    seed: int,
    settings: dict[str, Any],
    **fields: Any,
) -> Audit:
    """Decide, and put what was decided into the user's terms."""
    decided = decide(
        train,
        codes[torch.from_numpy(order)],
        len(classes),
        jury,
        measure,
        probes,
        fingerprints[order],
        controls,
        seed=seed,
        timer=clock,
    )
    clock("verdict")
    posterior = decided.calibration.posterior(decided.scores, codes[torch.from_numpy(order)])
    nothing = torch.zeros(len(codes), dtype=torch.bool)
    repaired = relabel(
        "confident", posterior, posterior, codes[torch.from_numpy(order)], nothing, classes.names
    )
    verdict = judge(decided, repaired.wrong_after, repaired.wrong_before)
    clock(None)
    settings = {"policy": policy, "probes": list(probes), "seed": seed, **settings}
    return Audit(
        decided,
        order,
        codes,
        named=classes,
        policy=policy,
        verdict_=verdict,
        settings=settings,
        cost=clock.seconds,
        **fields,
    )


class _Clock:
    """Tells the user what is being done, and keeps the time of each step."""

    def __init__(self, progress: Callable[[str], object] | None) -> None:
        self.progress = progress
        self.seconds: dict[str, float] = {}
        self._step: str | None = None
        self._since = time.perf_counter()

    def __call__(self, step: str | None) -> None:
        now = time.perf_counter()
        if self._step is not None:
            self.seconds[self._step] = self.seconds.get(self._step, 0.0) + now - self._since
        self._step, self._since = step, now
        if step is not None and self.progress is not None:
            self.progress(step)


def _canonical(fingerprints: np.ndarray, codes: Tensor) -> np.ndarray:
    """Return an order of the rows that depends on their content and labels alone."""
    return np.lexsort((codes.numpy(), fingerprints))


def _judging(n: int) -> np.ndarray:
    """Return the positions, in that order, of the rows whose views judge: all, or an even choice."""
    return np.arange(n) if n <= MOST_ROWS else np.linspace(0, n - 1, MOST_ROWS).round().astype(np.int64)


def _matrices(
    features: Any, what: str, like: Mapping[str, Tensor] | None = None
) -> tuple[dict[str, Tensor], Tensor | None]:
    """Check features and return the layers (n, d), and the logits if there are such."""
    if not isinstance(features, Mapping) or not features:
        raise InputError(f"expected {what} as a mapping of layer to array (n, d), got {type(features).__name__}")
    matrices = {}
    for layer, values in features.items():
        X = torch.as_tensor(values if isinstance(values, Tensor) else np.asarray(values)).detach().float().cpu()
        if X.ndim != 2 or not len(X):
            raise InputError(f"expected {what} of layer {layer!r} of shape (n, d), got {tuple(X.shape)}")
        if not torch.isfinite(X).all():
            row = int((~torch.isfinite(X).all(1)).nonzero()[0])
            raise InputError(f"{what} of layer {layer!r} have NaN or infinity, first in row {row}: mend or drop it")
        matrices[str(layer)] = X
    sizes = {layer: len(X) for layer, X in matrices.items()}
    if len(set(sizes.values())) > 1:
        raise InputError(f"expected as many rows of every layer in {what}, got {sizes}")
    logits = matrices.pop("output", None)
    if like is not None:
        wrong = [f"{k} {tuple(v.shape)}" for k, v in matrices.items() if k not in like or v.shape[1] != like[k].shape[1]]
        if wrong or len(matrices) < len(like):
            raise InputError(f"expected {what} of the layers {', '.join(like)} as in training, got {wrong or list(matrices)}")
    if not matrices:
        raise InputError(f"expected at least one layer in {what} besides the output")
    return matrices, logits


