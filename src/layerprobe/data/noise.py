"""Label noise: each function corrupts true labels and returns a frozen record of the result."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch

from layerprobe.errors import InputError
from layerprobe.utils.registry import Registry, calling_module, takes

Labels = Sequence[int] | np.ndarray | torch.Tensor
Matrix = Sequence[Sequence[float]] | np.ndarray | torch.Tensor

_PUBLISHED_SEED = 42


@dataclass(frozen=True, eq=False)
class Noise:
    """Corrupted labels and their recipe.

    Attributes
    ----------
    labels : ndarray of shape (n,), int64, read-only
        The corrupted labels, class indices in 0..K-1.
    changed : ndarray of shape (n,), bool, read-only
        Where `labels` differ from the true labels. A label that was redrawn to its own class is not changed.
    recipe : dict
        In JSON types: ``kind``, the function's name, and its arguments without the labels;
        ``getattr(noise, kind)(true_labels, **arguments)`` repeats the noise. Labels by human annotators have
        the kind "human_labels" and are repeated by ``data.human_labels(**arguments)``.
    """

    labels: np.ndarray
    changed: np.ndarray
    recipe: dict[str, Any]


def uniform(labels: Labels, degree: float, num_classes: int, seed: int) -> Noise:
    """Redraw each label with probability `degree` uniformly from all K classes (the paper's rule).

    A redrawn label may stay the same: the expected changed share is ``degree - degree / K``. For a fixed seed
    the noise is nested: labels redrawn at a smaller degree are redrawn to the same class at a larger one.

    Parameters
    ----------
    labels : array-like of int, shape (n,)
        True labels, class indices in 0..K-1.
    degree : float
        Probability p in [0, 1] that a label is redrawn.
    num_classes : int
        K, at least 2.
    seed : int
        Seed of NumPy's default generator, not negative.

    Returns
    -------
    Noise

    Raises
    ------
    InputError
        If the labels are not n >= 1 integers in 0..K-1, or another argument is out of its range.
    """
    true = _class_indices(labels, num_classes)
    rng = _generator(seed)
    redrawn = rng.random(len(true)) < _as_degree(degree)  # (n,)
    noisy = np.where(redrawn, rng.integers(num_classes, size=len(true)), true)  # (n,)
    return _record(true, noisy, kind="uniform", degree=degree, num_classes=num_classes, seed=seed)


def published(labels: Labels, degree: float, num_classes: int) -> Noise:
    """Corrupt labels as in the published study, with its rule, generator and seed.

    The rule is that of `uniform`. The result depends on the order of the labels, which must be that of the
    published files. Masks of redrawn labels are nested over the degrees; the drawn classes are not.

    Parameters
    ----------
    labels, degree, num_classes
        As for `uniform`.

    Returns
    -------
    Noise
    """
    true = _class_indices(labels, num_classes)
    rng = np.random.RandomState(_PUBLISHED_SEED)
    redrawn = rng.rand(len(true)) <= _as_degree(degree)  # (n,), "<=" and not "<" as published
    noisy = true.copy()
    noisy[redrawn] = rng.choice(num_classes, redrawn.sum())
    return _record(true, noisy, kind="published", degree=degree, num_classes=num_classes)


def transition(labels: Labels, matrix: Matrix, seed: int) -> Noise:
    """Draw each label from the row of its true class in a transition matrix.

    This is class-dependent noise, as in Patrini et al. (2017), "Making deep neural networks robust to label
    noise: a loss correction approach".

    Parameters
    ----------
    labels, seed
        As for `uniform`.
    matrix : array-like of float, shape (K, K)
        Entry (i, j) is the probability that true class i is given label j. Every row sums to 1.

    Returns
    -------
    Noise

    Raises
    ------
    InputError
        If the labels are not n >= 1 integers in 0..K-1, the matrix is not row-stochastic, or the seed is
        negative.
    """
    probabilities = _as_array(matrix, "matrix")  # (K, K)
    if probabilities.ndim != 2 or probabilities.shape[0] != probabilities.shape[1]:
        raise InputError(
            f"matrix must be square, one row and column per class, got shape {probabilities.shape}."
        )
    if probabilities.dtype.kind not in "iuf":
        raise InputError(f"matrix must contain probabilities, got {probabilities.dtype}.")
    probabilities = probabilities.astype(np.float64)
    row_sums = probabilities.sum(axis=1)  # (K,)
    bad = ~((probabilities >= 0).all(axis=1) & np.isclose(row_sums, 1, rtol=0, atol=1e-6))  # false for NaN
    if bad.any():
        row = int(bad.argmax())
        raise InputError(
            f"matrix must be row-stochastic: entries not negative, every row summing to 1. "
            f"Row {row} has the smallest entry {probabilities[row].min():g} and the sum {row_sums[row]:g}."
        )
    true = _class_indices(labels, len(probabilities))
    draws = _generator(seed).random(len(true))  # (n,)
    cumulative = probabilities.cumsum(axis=1)
    cumulative /= cumulative[:, -1:]  # exactly 1 at the end, above every draw
    noisy = np.empty_like(true)
    for k, row_cumulative in enumerate(cumulative):
        rows = true == k
        noisy[rows] = row_cumulative.searchsorted(draws[rows], side="right")
    return _record(true, noisy, kind="transition", matrix=probabilities.tolist(), seed=seed)


def pair_flip(labels: Labels, degree: float, num_classes: int, seed: int) -> Noise:
    """Replace each label k with probability `degree` by the next class, (k + 1) mod K.

    For a fixed seed the noise is nested over the degrees.

    Parameters
    ----------
    labels, num_classes, seed
        As for `uniform`.
    degree : float
        Probability in [0, 1] that a label is flipped; the expected changed share.

    Returns
    -------
    Noise
    """
    true = _class_indices(labels, num_classes)
    flipped = _generator(seed).random(len(true)) < _as_degree(degree)  # (n,)
    noisy = (true + flipped) % num_classes
    return _record(true, noisy, kind="pair_flip", degree=degree, num_classes=num_classes, seed=seed)


def _class_indices(labels: Labels, num_classes: int) -> np.ndarray:
    """Check labels and return them as int64, possibly in the caller's own memory."""
    if not isinstance(num_classes, Integral) or num_classes < 2:
        raise InputError(f"num_classes must be an integer of at least 2, got {num_classes!r}.")
    y = _as_array(labels, "labels")
    if y.ndim != 1 or y.size == 0:
        raise InputError(f"labels must be one-dimensional and not empty, got shape {y.shape}.")
    if y.dtype.kind not in "iu":
        raise InputError(f"labels must be integers, got {y.dtype}. Encode them as 0..{num_classes - 1}.")
    if y.min() < 0 or y.max() >= num_classes:
        raise InputError(f"labels must lie in 0..{num_classes - 1}, got {y.min()}..{y.max()}.")
    return y.astype(np.int64, copy=False)  # (n,)


def _as_array(values: Any, what: str) -> np.ndarray:
    try:
        return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
    except ValueError as error:
        raise InputError(f"{what} must be an array, got rows of different lengths: {error}") from error


def _as_degree(degree: float) -> float:
    if not isinstance(degree, Real) or not 0 <= degree <= 1:
        raise InputError(f"degree must be a probability in [0, 1], got {degree!r}.")
    return float(degree)


def _generator(seed: int) -> np.random.Generator:
    if not isinstance(seed, Integral) or seed < 0:  # None would give other noise in every call
        raise InputError(f"seed must be an integer that is not negative, got {seed!r}.")
    return np.random.default_rng(int(seed))


def _record(true: np.ndarray, noisy: np.ndarray, *, kind: str, **arguments: Any) -> Noise:
    changed = noisy != true  # (n,)
    for array in (noisy, changed):
        array.flags.writeable = False
    plain = {
        key: value.item() if isinstance(value, np.generic) else value for key, value in arguments.items()
    }
    return Noise(noisy, changed, {"kind": kind, **plain})


def _check(name: str, noise: Any) -> Callable[..., Any]:
    if not takes(noise, 4):
        raise InputError(
            f"expected a function of labels, degree, num_classes and seed as the noise {name!r}, "
            f"got {noise!r:.80}"
        )
    return noise


REGISTRY: Registry[Callable[..., Any]] = Registry("noise", "layerprobe.noises", _check)
REGISTRY.own({"uniform": uniform, "pair_flip": pair_flip})


def register_noise(name: str, noise: Callable[..., Any]) -> None:
    """Register label noise of your own, for runs (``RunSpec.of(noise=name)``) and the option --noise.

    Installed packages register theirs by the entry points "layerprobe.noises".

    Parameters
    ----------
    name : str
    noise : callable
        ``noise(labels, degree, num_classes, seed)`` returns corrupted labels (n,), integers in 0..K-1, or a
        `Noise`. It must return the same labels for the same arguments.

    Raises
    ------
    InputError
        If the name is one of layerprobe's own noises, or `noise` is not callable.
    """
    if name == "published":
        raise InputError("layerprobe has a noise 'published' of its own; choose another name")
    REGISTRY.register(name, noise, calling_module())


def drawn(name: str, labels: np.ndarray, degree: float, num_classes: int, seed: int) -> np.ndarray:
    """Return labels (n,), int64, corrupted by the noise of a name.

    Parameters
    ----------
    name : str
        A name in `REGISTRY`.
    labels : ndarray of shape (n,)
        True labels.
    degree, num_classes, seed
        As for `uniform`.

    Raises
    ------
    InputError
        If the noise returns anything else than one class index per label, or a noise from outside returns
        other labels at a second call.
    """

    def draw() -> np.ndarray:
        given = REGISTRY[name](labels.copy(), degree, num_classes, seed)
        return np.asarray(given.labels if isinstance(given, Noise) else given)

    noisy = draw()
    if noisy.dtype.kind not in "iu" or noisy.shape != labels.shape:
        raise InputError(
            f"the noise {name!r} must return one integer for each of the {len(labels)} labels, got "
            f"{noisy.dtype} of shape {noisy.shape}"
        )
    # A run on labels that cannot be drawn again could be neither resumed nor measured.
    if REGISTRY.origin(name) and not np.array_equal(noisy, draw()):
        raise InputError(
            f"the noise {name!r} must return the same labels for the same arguments: draw its random numbers "
            "from numpy.random.default_rng(seed)"
        )
    try:
        return _class_indices(noisy, num_classes)
    except InputError as error:
        raise InputError(f"the noise {name!r}: {error}") from error
