"""One image, from a file or in memory, as uint8 pixels: (h, w) grey or (h, w, 3) RGB. Pillow loads late."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from layerprobe.errors import DataError, InputError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["as_pixels", "read_pixels", "rgb", "stack"]


def read_pixels(path: Path, *, resize: tuple[int, int] | None = None) -> np.ndarray:
    """Decode an image file, resized to (h, w) where asked; a DataError names one that cannot be decoded."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return _from_pillow(image, resize)
    # SyntaxError: what Pillow raises for damaged PNG files.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(
            f"{path} cannot be read as an image: {str(error).rstrip('.')}. Replace or remove it."
        ) from error


def as_pixels(image: Any) -> np.ndarray:
    """Convert a Pillow image, uint8 array (h, w[, 1 or 3]) or tensor ([1 or 3,] h, w), or floats of k/255."""
    if hasattr(image, "convert") and hasattr(image, "mode"):
        return _from_pillow(image, None)
    if isinstance(image, torch.Tensor):
        array = image.detach().cpu().numpy()
        array = np.moveaxis(array, 0, -1) if array.ndim == 3 else array  # channels first in torch
    else:
        array = np.asarray(image)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or array.shape[2:] not in ((), (3,)):
        raise InputError(
            "expected a Pillow image, an array (h, w) or (h, w, 3), or a tensor (h, w), (1, h, w) or "
            f"(3, h, w), got {type(image).__name__} of shape {np.shape(image)}."
        )
    if array.dtype.kind == "f":
        levels = array * 255.0
        array = np.rint(levels)
        if not (np.abs(levels - array).max() < 0.1 and array.min() >= 0 and array.max() <= 255):
            raise InputError(
                "expected float pixels k/255, as ToTensor makes them, got values from "
                f"{levels.min() / 255:g} to {levels.max() / 255:g}. Leave out normalisation and augmentation."
            )
    elif array.dtype != np.uint8:
        raise InputError(f"expected uint8 or float pixels, got {array.dtype}.")
    return array.astype(np.uint8)


def stack(images: Sequence[np.ndarray]) -> np.ndarray:
    """Stack images of one size: grey (n, h, w) if all are grey, else RGB (n, h, w, 3)."""
    if any(image.ndim == 3 for image in images):
        images = [rgb(image) for image in images]
    return np.stack(images)


def rgb(pixels: np.ndarray) -> np.ndarray:
    """Give a grey image (h, w) three equal channels; (h, w, 3) stays as it is."""
    return pixels if pixels.ndim == 3 else np.broadcast_to(pixels[:, :, None], (*pixels.shape, 3))


def _from_pillow(image: "Image", resize: tuple[int, int] | None) -> np.ndarray:
    from PIL import Image

    if image.mode[0] in "IF":
        raise InputError(f"expected an image of 8 bits a channel, got Pillow's mode {image.mode!r}.")
    image = image.convert("L" if image.mode in ("1", "L", "LA") else "RGB")
    if resize is not None and (image.height, image.width) != resize:
        image = image.resize((resize[1], resize[0]), Image.Resampling.BILINEAR)
    return np.asarray(image)
