"""The picture data sets that need no download: a part of Fashion-MNIST, and scikit-learn's digits."""

from importlib.resources import as_file, files

import numpy as np

from celo_tasks.datasets.arrays import ImageData, read_prepared
from celo_tasks.datasets.resize import area_average

_DIGITS_TEST_PER_CLASS = 34  # about a fifth of the 174 to 183 digits of each class


def _fashion_mnist_small(size: int) -> ImageData:
    with as_file(files("celo_tasks.datasets") / "embedded" / "fashion_mnist_small_28.npz") as path:
        data = read_prepared(path, (28, 28))
    if size == 28:
        return data
    return data._replace(x_train=area_average(data.x_train, size), x_test=area_average(data.x_test, size))


def _digits() -> ImageData:
    """scikit-learn's 1,797 handwritten digits; of each class the last 34 are for testing (340), the rest to train."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    # 17 levels, 0..16; 255/16 is no whole number, and rounding keeps the levels distinct and within 0..255.
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    labels = digits.target.astype(np.uint8)
    test = np.zeros(len(labels), bool)
    for label in range(10):
        test[np.flatnonzero(labels == label)[-_DIGITS_TEST_PER_CLASS:]] = True
    return ImageData(images[~test], labels[~test], images[test], labels[test])


def load_embedded(name: str) -> ImageData:
    """Loads a set that comes with the package or with scikit-learn.

    Args:
        name: "fashion_mnist_small_8x8", "fashion_mnist_small_28" (2,000 pictures to train and 500 to test, as many
            of each class) or "digits_8x8" (1,457 and 340, classes as good as equal in size).

    Returns:
        The pictures, uint8 (N, 8, 8) or (N, 28, 28), and the labels, uint8 (N,).

    Raises:
        ValueError: for another name.
    """
    if name == "digits_8x8":
        return _digits()
    if name in ("fashion_mnist_small_8x8", "fashion_mnist_small_28"):
        return _fashion_mnist_small(28 if name.endswith("28") else 8)
    raise ValueError(
        f"No embedded data set {name!r}: use digits_8x8, fashion_mnist_small_8x8 or fashion_mnist_small_28."
    )
