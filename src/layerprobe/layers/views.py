"""Views: small changes of a model's inputs that keep the label."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, TypeAlias

from torch import Tensor
from torch.nn.functional import pad

from layerprobe.core.checks import check_type
from layerprobe.errors import InputError
from layerprobe.layers.batches import named_tensors

View: TypeAlias = Callable[[Any], Any]
"""A function from a batch of the model's inputs to a changed batch of the same form."""

SHIFT = 2  # pixels


def flip(x: Tensor) -> Tensor:
    """Mirror images (n, c, h, w) horizontally."""
    return x.flip(-1)


def _moved(x: Tensor, down: int, right: int) -> Tensor:
    """Shift images by pixels and repeat the edge."""
    padded = pad(x, (SHIFT,) * 4, mode="replicate")
    height, width = x.shape[-2:]
    return padded[..., SHIFT - down :, SHIFT - right :][..., :height, :width]


VIEWS: dict[str, View] = {
    "flip": flip,
    "left": partial(_moved, down=0, right=-SHIFT),
    "right": partial(_moved, down=0, right=SHIFT),
    "up": partial(_moved, down=-SHIFT, right=0),
    "down": partial(_moved, down=SHIFT, right=0),
}
"""Views of images by name: mirrored, or shifted by two pixels. After a shift of one pixel networks still
predict the memorised label of most rows; after two pixels they do so for fewer rows."""


def resolve_views(views: str | View | Iterable[str | View] | Mapping[str, View]) -> dict[str, View]:
    """Return views by name.

    Parameters
    ----------
    views : str, callable, several of them, or a mapping of names to callables
        Names are keys of `VIEWS`, for images (n, c, h, w).

    Raises
    ------
    InputError
        For an unknown name, two views of one name, or a view that is not callable.
    """
    if isinstance(views, Mapping):
        named = [(str(name), view) for name, view in views.items()]
    else:
        check_type("views", views, str | Callable | Iterable, "names or functions")
        listed = [views] if isinstance(views, str) or callable(views) else list(views)
        named = [(v if isinstance(v, str) else getattr(v, "__name__", type(v).__name__), v) for v in listed]
    resolved: dict[str, View] = {}
    for name, view in named:
        if isinstance(view, str):
            if view not in VIEWS:
                raise InputError(f"expected views of {', '.join(VIEWS)}, or callables; got {view!r}")
            view = VIEWS[view]
        if not callable(view) or name in resolved:
            raise InputError(f"expected views of different names, all callable; {name!r} is not, or is twice")
        resolved[name] = view
    return resolved


def apply_view(name: str, view: View, x: Any) -> Any:
    """Apply a view to a batch of inputs.

    Parameters
    ----------
    name : str
        For error messages.
    view : callable
    x : Tensor, tuple or mapping
        Inputs as the model takes them.

    Returns
    -------
    Changed inputs of the same form.

    Raises
    ------
    InputError
        If a view of images gets other inputs, or the view changes shape, type or number of rows.
    """
    if view in VIEWS.values() and not (isinstance(x, Tensor) and x.ndim == 4 and min(x.shape[2:]) > SHIFT):
        got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise InputError(
            f"the view {name!r} is for images (n, c, h, w) of more than {SHIFT} pixels a side, got {got}; "
            "leave it out, or give a callable for these inputs"
        )
    seen = view(x)
    if isinstance(x, Tensor) and (
        not isinstance(seen, Tensor) or seen.shape != x.shape or seen.dtype != x.dtype
    ):
        got = f"{seen.dtype} {tuple(seen.shape)}" if isinstance(seen, Tensor) else type(seen).__name__
        raise InputError(
            f"the view {name!r} must keep shape and type, {x.dtype} {tuple(x.shape)}, but gave {got}"
        )
    sizes = {tensor.shape[:1] for _, tensor in named_tensors(seen) if tensor.ndim}
    if sizes != {tensor.shape[:1] for _, tensor in named_tensors(x) if tensor.ndim}:
        raise InputError(f"the view {name!r} must keep the number of rows and the form of the inputs")
    return seen
