"""What the data sets known by name are, and where each can be had. Nothing is read here."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

BYTES = 256
"""Vocabulary of a text whose tokens are its bytes."""


class ImageSpec(NamedTuple):
    """What a named picture data set is, and where it can be had."""

    shape: tuple[int, ...]
    """One picture."""
    num_classes: int
    tfds_name: str | None = None
    """The tensorflow-datasets set that it is made from."""
    every_tenth_class: bool = False
    """Keeps the classes 0, 10, ..., 90 only, as 0..9."""
    embedded: bool = False
    """Comes with the package or its dependencies, with no download."""
    made_from: str | None = None
    """The larger set from whose prepared arrays it is averaged when they are there and its own are not."""


def _colour(tfds_name: str, num_classes: int) -> dict[str, ImageSpec]:
    """CIFAR in colour: NAME_16rgb is made from NAME_32rgb; NAME_*_sub, a part of it, is only ever read as arrays."""
    specs = {}
    for suffix, source in (("", tfds_name), ("_sub", None)):
        large = f"{tfds_name}_32rgb{suffix}"
        specs[large] = ImageSpec((32, 32, 3), num_classes, source)
        specs[f"{tfds_name}_16rgb{suffix}"] = ImageSpec((16, 16, 3), num_classes, source, made_from=large)
    return specs


IMAGE_SPECS: Mapping[str, ImageSpec] = MappingProxyType(
    {
        "mnist_8x8": ImageSpec((8, 8), 10, "mnist"),
        "fashion_mnist_8x8": ImageSpec((8, 8), 10, "fashion_mnist"),
        "cifar10_8x8": ImageSpec((8, 8), 10, "cifar10"),
        "svhn_cropped_8x8": ImageSpec((8, 8), 10, "svhn_cropped"),
        "cifar100_8x8": ImageSpec((8, 8), 100, "cifar100"),
        "cifar100_10of100_8x8": ImageSpec((8, 8), 10, "cifar100", every_tenth_class=True),
        "mnist_28": ImageSpec((28, 28), 10, "mnist"),
        "fashion_mnist_28": ImageSpec((28, 28), 10, "fashion_mnist"),
        **_colour("cifar10", 10),
        **_colour("cifar100", 100),
        "digits_8x8": ImageSpec((8, 8), 10, embedded=True),
        "fashion_mnist_small_8x8": ImageSpec((8, 8), 10, embedded=True),
        "fashion_mnist_small_28": ImageSpec((28, 28), 10, embedded=True),
    }
)
"""The picture data sets known by name."""


class TextSpec(NamedTuple):
    """What a named text is, and where it can be had."""

    vocabulary: int = BYTES
    """256 for bytes; more for subwords, which `celo-tasks prepare` makes."""
    tfds_name: str | None = None
    """The tensorflow-datasets set that it is made from."""
    embedded: bool = False
    """Comes with the package."""


TEXT_SPECS: Mapping[str, TextSpec] = MappingProxyType(
    {
        "shakespeare": TextSpec(embedded=True),
        "lm1b": TextSpec(tfds_name="lm1b"),
        "wikipedia_en": TextSpec(tfds_name="wikipedia/20230601.en"),
        "lm1b_32k": TextSpec(32_000, "lm1b"),
        "wikipedia_en_32k": TextSpec(32_000, "wikipedia/20230601.en"),
    }
)
"""The texts known by name."""

EMBEDDED_TEXTS = tuple(name for name, spec in TEXT_SPECS.items() if spec.embedded)
"""The texts that come with the package."""


def text_vocabulary(name: str) -> int:
    """Number of tokens of a text by its name, without reading it: that of `TEXT_SPECS`, else 256."""
    return TEXT_SPECS.get(name, TextSpec()).vocabulary
