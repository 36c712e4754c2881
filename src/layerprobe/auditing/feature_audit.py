"""audit_features(): the same audit of layer outputs that something else has made."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from layerprobe.auditing.assembling import Clock, assemble, canonical, judging_rows
from layerprobe.auditing.dataset.fingerprints import hash_inputs
from layerprobe.auditing.dataset.labels import Classes
from layerprobe.auditing.features import Features
from layerprobe.auditing.method.candidates import DEFAULT_PROBES, families
from layerprobe.auditing.method.policies import check_policy, juries_of_rows, jury_of_views
from layerprobe.auditing.result import Audit
from layerprobe.errors import InputError
from layerprobe.probes.base import label_array

__all__ = ["audit_features"]


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
    clock = Clock(progress)
    given = {"holdout": holdout, "trusted": trusted, "test": test}
    check_policy(policy, given, views=len(views) > 0)
    named_probes = families(probes)
    clock("reading")
    own, logits = _matrices(features, "features")
    label_column = label_array(labels)
    n = len(next(iter(own.values())))
    if len(label_column) != n:
        raise InputError(f"expected a label for each of {n} rows, got {len(label_column)}")
    names = np.arange(n) if index is None else label_array(index)
    if len(names) != n or len(set(names.tolist())) < n:
        raise InputError(
            f"expected a name of its own for each of {n} rows as index=, got {len(names)} names, "
            f"{len(set(names.tolist()))} different ones"
        )
    classes = Classes.from_labels(label_column, None if logits is None else logits.shape[1], class_names)
    codes = classes.indices(label_column, "labels")
    classes.check_counts(codes)
    fingerprints = hash_inputs({layer: own[layer] for layer in sorted(own)}, n)
    order = canonical(fingerprints, codes)
    place = torch.from_numpy(order)
    keep = judging_rows(n)

    def ordered(matrices: Mapping[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
        return {layer: X[rows] for layer, X in matrices.items()}

    copies, mean = {}, {layer: X[place] for layer, X in own.items()}
    averaged = None if logits is None else logits.softmax(1)
    for i, view in enumerate(views):
        seen, seen_logits = _matrices(view, f"views[{i}]", own)
        if (rows := len(next(iter(seen.values())))) != n:
            raise InputError(f"expected the same {n} rows in views[{i}] as in features, got {rows}")
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
        pair = given[what]
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise InputError(f"expected {what}= as (features, labels), got {type(pair).__name__}")
        held, held_logits = _matrices(pair[0], what, own)
        if held_logits is not None and held_logits.shape[1] != len(classes):
            raise InputError(f"expected {len(classes)} outputs a row in {what}=, got {held_logits.shape[1]}")
        held_codes = classes.indices(label_array(pair[1]), f"labels of {what}=")
        m = len(next(iter(held.values())))
        if len(held_codes) != m:
            raise InputError(f"expected a label for each of the {m} rows of {what}=, got {len(held_codes)}")
        held_prints = hash_inputs({layer: held[layer] for layer in sorted(held)}, m)
        if shared := int(np.isin(held_prints, fingerprints).sum()):
            raise InputError(
                f"{shared} of the {m} rows of {what}= are among the training rows; take them out"
            )
        held_order = canonical(held_prints, held_codes)  # of the bootstrap's draws
        spot = torch.from_numpy(held_order)
        held, held_codes = ordered(held, spot), held_codes[spot]
        held_logits = None if held_logits is None else held_logits[spot]
        averaged = None if held_logits is None else held_logits.softmax(1)
        judges = Features(held, held, held_logits, averaged)
        jury, measure = juries_of_rows(policy, train, judges, held_codes, held_prints[held_order])

    return assemble(
        clock,
        train,
        codes,
        order,
        jury,
        measure,
        named_probes,
        fingerprints,
        lambda: None,
        history=history,
        index=names,
        classes=classes,
        policy=policy,
        seed=seed,
        settings={"views": len(views), "layers": {layer: X.shape[1] for layer, X in own.items()}},
    )


def _matrices(
    features: Any, what: str, like: Mapping[str, Tensor] | None = None
) -> tuple[dict[str, Tensor], Tensor | None]:
    """Check features and return the layers (n, d), and the logits if there are such."""
    if not isinstance(features, Mapping) or not features:
        raise InputError(
            f"expected {what} as a mapping of layer to array (n, d), got {type(features).__name__}"
        )
    matrices = {}
    for layer, values in features.items():
        try:
            X = torch.as_tensor(values if isinstance(values, Tensor) else np.asarray(values))
        except (TypeError, ValueError) as error:  # texts, objects, rows of different lengths
            raise InputError(f"expected {what} of layer {layer!r} as numbers (n, d): {error}") from error
        X = X.detach().float().cpu()
        if X.ndim != 2 or not len(X):
            raise InputError(f"expected {what} of layer {layer!r} of shape (n, d), got {tuple(X.shape)}")
        if not torch.isfinite(X).all():
            row = int((~torch.isfinite(X).all(1)).nonzero()[0])
            raise InputError(
                f"{what} of layer {layer!r} have NaN or infinity, first in row {row}: mend or drop it"
            )
        matrices[str(layer)] = X
    sizes = {layer: len(X) for layer, X in matrices.items()}
    if len(set(sizes.values())) > 1:
        raise InputError(f"expected as many rows of every layer in {what}, got {sizes}")
    logits = matrices.pop("output", None)
    if like is not None:
        wrong = [
            f"{k} {tuple(v.shape)}"
            for k, v in matrices.items()
            if k not in like or v.shape[1] != like[k].shape[1]
        ]
        if wrong or len(matrices) < len(like):
            raise InputError(
                f"expected {what} of the layers {', '.join(like)} as in training, "
                f"got {wrong or list(matrices)}"
            )
    if not matrices:
        raise InputError(f"expected at least one layer in {what} besides the output")
    return matrices, logits
