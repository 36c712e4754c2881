"""Images as uint8 pixels: (h, w) grey or (h, w, 3) RGB, from files or from objects in memory."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import torch

from layerprobe.data.progress import Progress, reporting
from layerprobe.errors import DataError, InputError

if TYPE_CHECKING:
    from PIL.Image import Image

# Pillow chooses the decoder by content, not by suffix. Formats with an external interpreter stay excluded.
IMAGE_FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")


def as_size(resize: int | tuple[int, int] | None) -> tuple[int, int] | None:
    """Return (height, width) for one or two integers, None for None, or raise InputError."""
    size = (resize, resize) if isinstance(resize, int) else resize
    if size is not None and not (
        isinstance(size, tuple)
        and len(size) == 2
        and all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in size)
    ):
        raise InputError(f"resize must be one or two integers (height, width) above 0, got {resize!r}.")
    return size


def read_pixels(
    path: Path | BinaryIO, *, resize: tuple[int, int] | None = None, name: str | None = None
) -> np.ndarray:
    """Decode an image file of any suffix as uint8 pixels (h, w) or (h, w, 3).

    Parameters
    ----------
    path : Path or binary file
        In one of `IMAGE_FORMATS`.
    resize : (int, int), optional
        Resize to this (height, width).
    name : str, optional
        Of the file, for the error message.

    Raises
    ------
    DataError
        If the file cannot be decoded.
    """
    from PIL import Image

    try:
        with Image.open(path, formats=IMAGE_FORMATS) as image:
            return _from_pillow(image, resize)
    # SyntaxError: Pillow's error for damaged PNG files.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(
            f"{name or path} cannot be read as an image: {str(error).rstrip('.')}. Replace or remove it; the "
            f"supported formats are {', '.join(IMAGE_FORMATS)}."
        ) from error


def _as_pixels(image: Any) -> np.ndarray:
    """Return an image in memory as uint8 pixels (h, w) or (h, w, 3); raise an InputError if it is none.

    Tensors have the channels first. Floats are k/255, as ToTensor makes them.
    """
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


def stack_images(
    items: Iterable[tuple[str, Any]],
    total: int = 0,
    *,
    resize: tuple[int, int] | None = None,
    progress: bool | Progress = False,
    title: str = "reading images",
) -> np.ndarray:
    """Convert images of one size and stack them as (n, h, w) if all are grey, else (n, h, w, 3), uint8.

    Parameters
    ----------
    items : iterable of (str, Path or image)
        The name of each image for messages, and its file or a Pillow image, an array or a tensor.
    total : int
        The number of items; 0 if it is unknown.
    resize : (int, int), optional
        Resize files to this (height, width).
    progress, title
        As for `reporting`.

    Raises
    ------
    DataError
        If a file cannot be decoded, or the sizes of files differ.
    InputError
        If an object is no image, the sizes of objects differ, or there are no items.
    """
    images: list[np.ndarray] = []
    first = ""
    with reporting(progress, title) as report:
        for name, item in items:
            is_file = isinstance(item, Path)
            try:
                pixels = read_pixels(item, resize=resize) if is_file else _as_pixels(item)
            except (TypeError, ValueError) as error:
                raise InputError(f"{name}: {error}") from error
            images.append(pixels)
            first = first or name
            expected, got = images[0].shape[:2], pixels.shape[:2]
            if got != expected:
                advice = "Resize them" + (", or give resize=(height, width)." if is_file else ".")
                raise (DataError if is_file else InputError)(
                    f"expected images of one size, but {name} has {got[0]}x{got[1]} pixels (height x width) "
                    f"and {first} has {expected[0]}x{expected[1]}. {advice}"
                )
            report(len(images), total)
    if not images:
        raise InputError(f"expected at least one image, got none ({title}).")
    if any(pixels.ndim == 3 for pixels in images):
        images = [rgb(pixels) for pixels in images]
    return np.stack(images)


def rgb(pixels: np.ndarray) -> np.ndarray:
    """Repeat a grey image (h, w) over three channels; (h, w, 3) stays unchanged."""
    return pixels if pixels.ndim == 3 else np.broadcast_to(pixels[:, :, None], (*pixels.shape, 3))


def _from_pillow(image: "Image", resize: tuple[int, int] | None) -> np.ndarray:
    from PIL import Image

    if image.mode[0] in "IF":
        raise InputError(f"expected an image of 8 bits per channel, got Pillow's mode {image.mode!r}.")
    image = image.convert("L" if image.mode in ("1", "L", "LA") else "RGB")
    if resize is not None and (image.height, image.width) != resize:
        image = image.resize((resize[1], resize[0]), Image.Resampling.BILINEAR)
    return np.asarray(image)
