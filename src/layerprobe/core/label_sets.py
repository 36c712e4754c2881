"""Subspaces of several sets of labels of the same rows, fitted in one pass and scored in one pass.

What two sets of labels agree on is multiplied once: with 40 % of the labels changed, the moments of the
second set cost 0.4 of those of the first, and every row is projected on all sets' subspaces while at hand.
"""

from collections.abc import Hashable, Sequence

from torch import Tensor

from layerprobe.core.checks import (
    check_codes,
    check_finite,
    check_magnitude,
    check_rows,
    check_strength,
)
from layerprobe.core.fitting import fit_classes
from layerprobe.core.products import plan_products
from layerprobe.core.scoring import codes_by_stage
from layerprobe.core.subspaces import Subspaces
from layerprobe.errors import InputError

__all__ = ["fit_label_sets", "predict_label_sets"]


def fit_label_sets(
    X: Tensor,
    label_sets: Sequence[Tensor],
    num_classes: int,
    *,
    variance: float | None = None,
    components: int | None = None,
    classes: Sequence[Hashable] | None = None,
    exact: bool = False,
) -> list[Subspaces]:
    """Fit one subspace a class for each of several sets of labels.

    Parameters
    ----------
    X : Tensor of shape (n, d)
    label_sets : sequence of J Tensors of shape (n,)
        Class of each row, 0..K-1, in each set.
    num_classes, variance, components, classes, exact
        As for :func:`layerprobe.core.subspaces.fit_subspaces`.

    Returns
    -------
    list of J Subspaces
        Those that `fit_subspaces` gives for each set, but for the order in which float64 sums are taken.

    Raises
    ------
    InputError
        As `fit_subspaces`, and for no set of labels.
    """
    check_strength(variance, components)
    X = check_rows(X)
    codes = [check_codes(labels, len(X), num_classes).to(X.device) for labels in label_sets]
    if not codes:
        raise InputError("expected at least one set of labels, got none")
    check_finite(X)
    check_magnitude(X)
    fitted = fit_classes(X, codes, num_classes, variance=variance, components=components, exact=exact)
    return [Subspaces.build(parts, classes, components) for parts in fitted]


def predict_label_sets(
    X: Tensor, fitted: Sequence[Subspaces], stages: Sequence[Sequence[Sequence[int]]] | None = None
) -> list[Tensor]:
    """Predict with several subspaces from one pass over the rows.

    Parameters
    ----------
    X : Tensor of shape (n, d)
    fitted : sequence of J Subspaces
        On the same features, of one dtype and device.
    stages : sequence of J sequences of S choices of K ranks, optional
        As ``Subspaces.ranks_at`` gives them; default the fitted ranks alone. S may differ.

    Returns
    -------
    list of J Tensors of shape (S, n), int64
        Codes, as :meth:`Subspaces.predict` gives them.

    Raises
    ------
    InputError
        If there are no subspaces, or they are not alike.
    """
    kinds = {(subspaces.dim, subspaces.columns.dtype, subspaces.columns.device) for subspaces in fitted}
    if len(kinds) != 1:
        found = sorted(map(str, kinds)) or "none"
        raise InputError(f"expected subspaces of one number of features, dtype and device, got {found}")
    chosen = [[subspaces.ranks] for subspaces in fitted] if stages is None else stages
    X = check_rows(X, fitted[0].dim).to(fitted[0].columns)
    requests = [subspaces.request(ranks) for subspaces, ranks in zip(fitted, chosen, strict=True)]
    return codes_by_stage(X, plan_products(requests))
