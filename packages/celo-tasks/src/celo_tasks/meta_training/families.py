"""The families that meta-training may draw its problems from, by name: small networks of many kinds.

None is in a suite, nor among the tasks of `celo_tasks.meta_training.validation`. All are of 8x8 images or of bytes, so
that one step of one network costs some hundred microseconds of a CPU core at most.
"""

import dataclasses
import importlib.metadata
from collections.abc import Callable, Mapping
from types import MappingProxyType

from celo_core import TaskFamily
from celo_core.checks import nearest
from celo_tasks.families import ConvNet, ImageMLP, LanguageModel, SampledImageMLP, VisionTransformer
from celo_tasks.families.image_sets import ImageAutoencoders, ImageNetworks
from celo_tasks.families.recurrent import RecurrentLM
from celo_tasks.families.text_transformer import TransformerLM


@dataclasses.dataclass(frozen=True)
class Sources:
    """Where the families' data come from.

    Attributes:
      datasets: image sets of 8x8 grey pixels and ten classes.
      text: a name known to `celo_tasks.datasets.load_text`.
      data_dir: folder with prepared arrays and texts, or ``None``.
      held_out: whether test images are loaded as well; the families of images alone have them.
    """

    datasets: tuple[str, ...]
    text: str = "shakespeare"
    data_dir: str | None = None
    held_out: bool = False


def _mlp(sources: Sources) -> TaskFamily:
    return ImageMLP(sources.datasets, data_dir=sources.data_dir, held_out=sources.held_out)


def _small_batch_mlp(sources: Sources) -> TaskFamily:
    return ImageMLP(sources.datasets, (32, 16), batch_size=8, data_dir=sources.data_dir, held_out=sources.held_out)


def _few_images_mlp(sources: Sources) -> TaskFamily:
    return ImageMLP(
        sources.datasets, (40, 40), 32, data_dir=sources.data_dir, held_out=sources.held_out, num_images=512
    )


def _sampled_mlp(sources: Sources) -> TaskFamily:
    return SampledImageMLP(sources.datasets, max_width=32, max_batch_size=32, data_dir=sources.data_dir)


def _autoencoder(sources: Sources) -> TaskFamily:
    return ImageAutoencoders(sources.datasets, (24, 6, 24), 32, data_dir=sources.data_dir, held_out=sources.held_out)


def _networks(label: str, network: object, sources: Sources, batch_size: int) -> TaskFamily:
    return ImageNetworks(
        sources.datasets,
        batch_size=batch_size,
        data_dir=sources.data_dir,
        held_out=sources.held_out,
        network=network,  # type: ignore[arg-type]
        label=label,
    )


def _vit(sources: Sources) -> TaskFamily:
    network = VisionTransformer(patch_size=2, width=16, mlp_width=32, num_heads=2, num_layers=1, num_outputs=10)
    return _networks("vit", network, sources, 8)


def _convnet(sources: Sources) -> TaskFamily:
    return _networks("convnet", ConvNet((6, 12), (2, 2), 10, normalization="batch"), sources, 16)


def _transformer(sources: Sources) -> TaskFamily:
    network = TransformerLM(1, 12, 2, 12)
    return LanguageModel("transformer_1x12", network, sources.text, 6, 12, data_dir=sources.data_dir)


def _gru(sources: Sources) -> TaskFamily:
    return LanguageModel("gru_16", RecurrentLM("gru", 16, 8), sources.text, 8, 12, data_dir=sources.data_dir)


META_FAMILIES: Mapping[str, tuple[str, Callable[[Sources], TaskFamily]]] = MappingProxyType(
    {
        "mlp": ("MLP 64-32-10, ReLU, batch 64: the paper's", _mlp),
        "small_batch_mlp": ("MLP 64-32-16-10, ReLU, batch 8", _small_batch_mlp),
        "few_images_mlp": ("MLP 64-40-40-10, ReLU, batch 32, of 512 images, which it memorises", _few_images_mlp),
        "sampled_mlp": (
            "MLPs of 1 to 3 layers of 4 to 32 units, six activations, two losses, batches to 32",
            _sampled_mlp,
        ),
        "autoencoder": ("autoencoder 64-24-6-24-64, batch 32", _autoencoder),
        "vit": (
            "vision transformer of one layer of width 16 over 2x2 patches, last layer zero at first, batch 8",
            _vit,
        ),
        "convnet": ("convnet of 6 and 12 channels with batch normalisation, batch 16", _convnet),
        "transformer": ("byte-level transformer of one layer of width 12, batch 6 x 12", _transformer),
        "gru": ("byte-level GRU of width 16, batch 8 x 12", _gru),
    }
)
"""By name, what it is and how it is made."""

GROUP = "celo.families"
"""Entry-point group in which other packages name theirs: a callable that makes a `celo_core.TaskFamily` of `Sources`."""


def make_family(name: str, sources: Sources) -> TaskFamily:
    """The family ``name`` of `META_FAMILIES`, or of another package.

    Raises:
      ValueError: there is none, or it cannot be imported.
    """
    return _maker(name)(sources)


def check_family_name(name: str) -> None:
    """As `make_family`, without making it."""
    _maker(name)


def _maker(name: str) -> Callable[[Sources], TaskFamily]:
    if name in META_FAMILIES:
        return META_FAMILIES[name][1]
    points = {point.name: point for point in importlib.metadata.entry_points(group=GROUP)}
    if name not in points:
        known = [*META_FAMILIES, *points]
        raise ValueError(f"there is no family {name!r}{nearest(name, known)}: choose from {', '.join(known)}.")
    try:
        return points[name].load()
    except (ImportError, AttributeError) as error:
        raise ValueError(f"the family {name!r} cannot be imported ({error}): reinstall its package.") from error


def describe_family(name: str) -> str:
    """What a family is, in a line."""
    return META_FAMILIES[name][0] if name in META_FAMILIES else f"{name}, of another package"
