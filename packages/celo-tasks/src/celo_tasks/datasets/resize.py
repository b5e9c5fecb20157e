"""From pictures to smaller and to grey ones, such as those of the meta-training tasks."""

import numpy as np
from numpy.typing import NDArray

Uint8 = NDArray[np.uint8]

# Rec. ITU-R BT.601 luma, 0.299 R + 0.587 G + 0.114 B, as fixed-point numbers that sum to 2**16: whole-number
# arithmetic gives the same picture on every machine.
LUMA_WEIGHTS = (19595, 38470, 7471)

_CHUNK = 4096  # pictures converted at a time: keeps the float64 copy below 30 MB for 28x28


def _overlaps(size: int, out: int) -> NDArray[np.float64]:
    """Length, in units of 1/out of a source pixel, that source pixel j shares with target pixel i; whole numbers."""
    target = np.arange(out)[:, None] * size
    source = np.arange(size)[None, :] * out
    shared = np.minimum(target + size, source + out) - np.maximum(target, source)
    overlaps: NDArray[np.float64] = np.maximum(shared, 0).astype(np.float64)
    return overlaps


def area_matrix(size: int, out: int = 8) -> NDArray[np.float64]:
    """The weights of exact area averaging along one axis.

    Args:
        size: number of source pixels.
        out: number of target pixels, at most ``size``.

    Returns:
        float64 (out, size): the share of source pixel j in the mean that is target pixel i. Rows sum to one.

    Raises:
        ValueError: where ``out`` is not in 1..size (averaging makes pictures smaller only).
    """
    if not 1 <= out <= size:
        raise ValueError(f"Area averaging needs 1 <= out <= size, got size={size} and out={out}.")
    return _overlaps(size, out) / size


def to_grey(images: Uint8) -> Uint8:
    """Grey level of RGB pictures, by the ITU-R BT.601 luma.

    Args:
        images: uint8 (N, H, W, 3), (N, H, W, 1) or (N, H, W); the last two are grey already.

    Returns:
        uint8 (N, H, W), rounded to the nearest level.

    Raises:
        ValueError: for another shape or dtype.
    """
    images = np.asarray(images)
    if images.dtype != np.uint8:
        raise ValueError(f"Pictures must be uint8 (0..255), got {images.dtype}.")
    if images.ndim == 3:
        return images
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise ValueError(f"Pictures must be (N, H, W), (N, H, W, 1) or (N, H, W, 3), got {images.shape}.")
    if images.shape[-1] == 1:
        return images[..., 0]
    red, green, blue = (images[..., c].astype(np.uint32) * weight for c, weight in enumerate(LUMA_WEIGHTS))
    return ((red + green + blue + 2**15) >> 16).astype(np.uint8)


def area_average(images: Uint8, out: int = 8) -> Uint8:
    """Shrinks pictures to ``out`` x ``out`` by exact area averaging, each colour by itself.

    A target pixel is the mean of the part of the picture that it covers; source pixels on a border count with the
    fraction that lies inside. Sums are whole numbers that float64 holds exactly, and halves are rounded up, so the
    result does not depend on the order of summation.

    Args:
        images: uint8 (N, H, W) or (N, H, W, 3), with H and W at least ``out``.
        out: height and width of the result.

    Returns:
        uint8 (N, out, out) or (N, out, out, 3).

    Raises:
        ValueError: for pictures smaller than ``out``.
    """
    if images.ndim == 4:
        return np.stack([area_average(images[..., colour], out) for colour in range(images.shape[-1])], axis=-1)
    _, height, width = images.shape
    if min(height, width) < out:
        raise ValueError(f"Area averaging makes pictures smaller: cannot make {height}x{width} into {out}x{out}.")
    rows, columns = _overlaps(height, out), _overlaps(width, out).T
    area = height * width  # of a target pixel, in the units of the overlaps
    small = np.empty((len(images), out, out), np.uint8)
    for start in range(0, len(images), _CHUNK):
        sums = rows @ images[start : start + _CHUNK].astype(np.float64) @ columns
        small[start : start + _CHUNK] = (2 * sums.astype(np.int64) + area) // (2 * area)
    return small


def to_grey_8x8(images: Uint8) -> Uint8:
    """Grey 8x8 pictures: the ITU-R BT.601 luma, then exact area averaging.

    Args:
        images: uint8 (N, H, W), (N, H, W, 1) or (N, H, W, 3); H and W at least 8.

    Returns:
        uint8 (N, 8, 8).

    Raises:
        ValueError: for another shape or dtype.
    """
    return area_average(to_grey(images), 8)
