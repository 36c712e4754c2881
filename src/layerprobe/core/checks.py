"""Checks of arguments, shared by every entry to the package."""

from math import inf, isfinite
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from layerprobe.errors import DegenerateWarning, InputError, warn

SAFE = (1e-15, 1e15)  # magnitudes whose squares, summed over a block, neither overflow nor vanish in float32
SAMPLE = 2**18  # numbers from which `widen` estimates the spread: 64 rows of 4096 features
DIGITS = 100  # times the error of a squared cosine that the spread must exceed: two digits are left
LARGEST_COUNT = 10**9
MAGNITUDES = (1e-140, 1e140)  # of float64 rows, so that sums of squares stay normal numbers


def check_strength(variance: object, components: object) -> None:
    """Raise unless exactly one is given: `variance`, a float in (0, 1], or `components`, a positive integer.

    The published code reads a whole number given as the variance as a number of components ("1" is ONE
    component there, not 100 %). Here each argument refuses the type of the other.

    Parameters
    ----------
    variance, components : object
    """
    if (variance is None) == (components is None):
        given = "neither" if variance is None else f"variance={variance!r} and components={components!r}"
        raise InputError(
            f"Expected exactly one of variance= (a share, say 0.99) and components= (a count), got {given}."
        )
    if components is not None:
        return check_count("components", components)
    if isinstance(variance, Integral) and not isinstance(variance, bool):
        hint = f"components={variance} for a count" + ", variance=1.0 for all of it" * (variance == 1)
        raise InputError(
            f"variance is a share given as a float in (0, 1], got the int {variance}: use {hint}."
        )
    if isinstance(variance, bool) or not isinstance(variance, Real) or not 0 < float(variance) <= 1:
        raise InputError(
            f"variance must be a float in (0, 1], the share of the second moment to keep, got {variance!r}."
        )
    return None


def check_dense(values: Tensor, name: str) -> Tensor:
    """Return a tensor detached from its graph; raise for one whose numbers cannot be read in place.

    Parameters
    ----------
    values : Tensor
    name : str
        Name of the argument, for the message.
    """
    if values.is_complex():
        raise InputError(f"Complex data not supported: {name} must be real.")
    require_dense(values, name)
    return values.detach()


def require_dense(values: Tensor, name: str) -> None:
    """Raise for a tensor that does not have one number in each place.

    Parameters
    ----------
    values : Tensor
    name : str
        Name of the argument, for the message.
    """
    kinds = {
        "on the meta device, which has no values": values.is_meta,
        "nested: pad it by torch.nested.to_padded_tensor": values.is_nested,
        "quantised: convert it by dequantize()": values.is_quantized,
        "sparse: convert it by to_dense()": values.layout != torch.strided,
    }
    for kind, found in kinds.items():
        if found:
            raise InputError(f"{name} must be a dense tensor of numbers, got one that is {kind}.")


def check_rows(X: Tensor, dim: int | None = None) -> Tensor:
    """Return X as an (n, d) float32 or float64 tensor without gradient; raise if it is no such matrix.

    float16 and bfloat16 become float32; integers and booleans become float64.

    Parameters
    ----------
    X : Tensor of shape (n, d)
    dim : int, optional
        Number of features that is expected.
    """
    if not isinstance(X, Tensor):
        raise InputError(f"X must be a torch tensor of shape (n, d), got {type(X).__name__}.")
    X = check_dense(X, "X")
    if X.ndim != 2:
        raise InputError(f"X must have the shape (n, d), got {tuple(X.shape)}: flatten each row first.")
    if X.shape[1] == 0:
        raise InputError(f"X must have at least one feature (column), got the shape {tuple(X.shape)}.")
    if dim is not None and X.shape[1] != dim:
        raise InputError(f"X has {X.shape[1]} features, but {dim} features were expected as in fitting.")
    if X.dtype not in (torch.float32, torch.float64):
        X = X.to(torch.float32 if X.is_floating_point() else torch.float64)
    return X


def check_y(y: Tensor, n_rows: int, num_classes: int) -> Tensor:
    """Return class indices as an (n,) int64 tensor with values in 0..K-1; raise if they are not.

    Parameters
    ----------
    y : Tensor of shape (n,)
    n_rows, num_classes : int
        n and K.
    """
    if not isinstance(y, Tensor) or y.is_floating_point() or y.is_complex():
        kind = y.dtype if isinstance(y, Tensor) else type(y).__name__
        raise InputError(
            f"y must be a tensor of whole numbers, the classes 0..{num_classes - 1}, got {kind}."
        )
    if y.shape != (n_rows,):
        raise InputError(f"y must have one entry per row of X, ({n_rows},), got {tuple(y.shape)}.")
    y = y.to(torch.int64)
    low, high = map(int, y.aminmax()) if n_rows else (0, 0)
    if n_rows and not 0 <= low <= high < num_classes:
        raise InputError(
            f"y must lie in 0..{num_classes - 1}, got {low}..{high}: "
            "encode the labels, or give the right number of classes."
        )
    return y


def check_finite(X: Tensor) -> float:
    """Return the largest magnitude in X; raise if X has NaN or infinity, and name the first such row."""
    if not X.numel():
        return 0.0
    low, high = map(float, X.aminmax())  # one pass; NaN propagates
    if isfinite(low) and isfinite(high):
        return max(-low, high)
    bad = ~torch.isfinite(X).all(1)
    raise InputError(
        f"X has NaN or infinity in {int(bad.sum())} of {len(X)} rows, the first is row "
        f"{int(bad.nonzero()[0])}: drop these rows or repair the layer that made them."
    )


def check_magnitude(X: Tensor) -> float:
    """Return the largest magnitude; raise if squares of float64 rows overflow or vanish, as for NaN."""
    largest, (low, high) = check_finite(X), MAGNITUDES
    if X.dtype == torch.float64 and largest and not low < largest < high:
        raise InputError(
            f"X has the largest magnitude {largest:.1e}, whose square float64 cannot hold: expected it "
            f"between {low:.0e} and {high:.0e}. Rescale X; no answer changes."
        )
    return largest


def widen(X: Tensor) -> Tensor:
    """Return X, (n, d), in float64 where float32 does not resolve the angles between its rows, else X itself.

    Raises
    ------
    InputError
        As :func:`check_magnitude`.

    Notes
    -----
    Squared cosines have an error of 8 u sqrt(d), u the unit roundoff (`Subspaces.predict`). Rows around a
    mean far from the origin differ in squared cosines by less than s, the share of the variance about the
    mean in the second moment. Float64 is used where s is below 100 times the error, so that two digits are
    left otherwise, and for magnitudes outside `SAFE`. A warning says where float64 does not resolve them.
    """
    largest, (low, high) = check_magnitude(X), SAFE
    if not largest:
        return X
    sample = X[:: max(1, len(X) // max(64, SAMPLE // X.shape[1]))].double()
    sample = sample[:1] if (sample == sample[0]).all() else sample  # equal rows differ from a rounded mean
    total = float(sample.square().sum())
    spread = float((sample - sample.mean(0)).square().sum())

    def resolved(dtype: torch.dtype) -> bool:
        return spread == 0 or spread >= DIGITS * angle_error(X.shape[1], dtype) * total

    if not resolved(torch.float64):
        warn(
            f"The features spread over only {(spread / total) ** 0.5:.0e} of their magnitude, and float64 "
            "does not resolve angles between such rows: subtract the mean of the features first.",
            DegenerateWarning,
        )
    return X if low < largest < high and resolved(X.dtype) else X.double()


def angle_error(dim: int, dtype: torch.dtype) -> float:
    """Return four standard deviations of the rounding error of a difference of squared cosines.

    Parameters
    ----------
    dim : int
        Number of features d.
    dtype : torch.dtype
    """
    return 4 * torch.finfo(dtype).eps * dim**0.5


def check_number(
    name: str, value: object, *, above: float = -inf, least: float = -inf, most: float = inf
) -> None:
    """Raise unless the value is a finite number above `above`, at least `least` and at most `most`.

    Parameters
    ----------
    name, value : str and object
        The argument.
    above, least, most : float, optional
    """
    if isinstance(value, Real) and not isinstance(value, bool):
        number = float(value)
        if isfinite(number) and above < number and least <= number <= most:
            return
    bounds = [f"above {above:g}"] * (above > -inf)
    bounds += [f"of at least {least:g}"] * (least > -inf) + [f"at most {most:g}"] * (most < inf)
    raise InputError(f"{name} must be a number {' and '.join(bounds)}, got {value!r}.")


def check_type(name: str, value: object, kinds: Any, expected: str) -> None:
    """Raise unless the value is of a type.

    Parameters
    ----------
    name, value : str and object
        The argument.
    kinds : type or union of types
    expected : str
        Their description.
    """
    if not isinstance(value, kinds):
        got = f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
        raise InputError(f"expected {name}= as {expected}, got {got}")


def check_count(name: str, value: object, least: int = 1) -> None:
    """Raise unless the value is a whole number of at least `least` and at most a thousand million.

    Parameters
    ----------
    name, value : str and object
        The argument.
    least : int
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < least:
        raise InputError(f"{name} must be a whole number of at least {least}, got {value!r}.")
    if int(value) > LARGEST_COUNT:  # it may be too large to print
        raise InputError(f"{name} must be a whole number of at most {LARGEST_COUNT:,}, got a larger one.")
