"""The families that meta-training may draw its problems from, by name: small networks of many kinds.

None is in a suite, nor among the tasks of `celo_tasks.meta_training.validation`; the networks of two, the paper's MLP and
varied_large_batch_mlp, are in tasks of suites that see them through gradients by evolution strategies. All are of 8x8 images
or of bytes, so that one step of one network costs some hundred microseconds of a CPU core at most; of the largest, which are
named so, a millisecond.
"""

import dataclasses
import importlib.metadata
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from celo_core import TaskFamily
from celo_core.checks import nearest
from celo_tasks.families import (
    MLP,
    AdafacMLP,
    AdafacMLPConfig,
    ConvNet,
    EstimatedImageMLP,
    ImageClassifier,
    ImageMLP,
    ImageRegression,
    ImageRestoration,
    ImageVAEs,
    LanguageModel,
    LearnedOptimizerTraining,
    SameBatch,
    SampledImageMLP,
    Varied,
    VisionTransformer,
)
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


def _vit_network(width: int, layers: int) -> VisionTransformer:
    return VisionTransformer(
        patch_size=2, width=width, mlp_width=2 * width, num_heads=2, num_layers=layers, num_outputs=10
    )


def _vit(sources: Sources) -> TaskFamily:
    return _networks("vit", _vit_network(16, 1), sources, 8)


def _convnet(sources: Sources) -> TaskFamily:
    return _networks("convnet", ConvNet((6, 12), (2, 2), 10, normalization="batch"), sources, 16)


def _transformer(sources: Sources) -> TaskFamily:
    network = TransformerLM(1, 12, 2, 12)
    return LanguageModel("transformer_1x12", network, sources.text, 6, 12, data_dir=sources.data_dir)


def _gru(sources: Sources) -> TaskFamily:
    return LanguageModel("gru_16", RecurrentLM("gru", 16, 8), sources.text, 8, 12, data_dir=sources.data_dir)


def _learned(sources: Sources) -> TaskFamily:
    inner = ImageClassifier("mlp_5", MLP((5,), 10), sources.datasets[0], (64,), batch_size=8, data_dir=sources.data_dir)
    return LearnedOptimizerTraining("learned_optimizer_5", inner, 8, AdafacMLP(AdafacMLPConfig((6,))))


def _varied(
    make: Callable[[Sources], TaskFamily], of: type | None = None, **changes: Any
) -> Callable[[Sources], TaskFamily]:
    """Makes a `Varied` of the family that ``make`` makes, with some of its fields changed, or as another class ``of`` images."""

    def varied(sources: Sources) -> TaskFamily:
        base: Any = make(sources)
        if of is None:
            return Varied(dataclasses.replace(base, **changes))
        fields = {field.name: getattr(base, field.name) for field in dataclasses.fields(base)}
        return Varied(of(**{**fields, **changes}))

    return varied


_VARIED: Mapping[str, tuple[str, Callable[[Sources], TaskFamily]]] = {
    "varied_mlp": ("as mlp, varied", _varied(_mlp)),
    "varied_large_batch_mlp": (
        "MLP 64-16-10, batches to 128, varied",
        _varied(_mlp, hidden_sizes=(16,), batch_size=128),
    ),
    "varied_small_batch_mlp": ("as small_batch_mlp, varied", _varied(_small_batch_mlp)),
    "varied_few_images_mlp": ("as few_images_mlp, varied", _varied(_few_images_mlp)),
    "varied_wide_mlp": (
        "MLP 64-128-10, batches to 32, varied",
        _varied(_mlp, hidden_sizes=(128,), batch_size=32),
    ),
    "varied_deep_mlp": (
        "MLP 64-64-64-64-10, batches to 16, varied",
        _varied(_mlp, hidden_sizes=(64, 64, 64), batch_size=16),
    ),
    "varied_sampled_mlp": ("as sampled_mlp, varied", _varied(_sampled_mlp)),
    "varied_wide_sampled_mlp": (
        "as sampled_mlp of 4 to 64 units and batches to 64, varied",
        _varied(_sampled_mlp, max_width=64, max_batch_size=64),
    ),
    "varied_regression": (
        "regression of one-hot labels, MLP 64-32-10, batches to 32, varied",
        _varied(_mlp, ImageRegression, batch_size=32),
    ),
    "varied_wide_regression": (
        "the same, MLP 64-96-48-10, batches to 16, varied",
        _varied(_mlp, ImageRegression, hidden_sizes=(96, 48), batch_size=16),
    ),
    "varied_autoencoder": ("as autoencoder, of which the inputs alone vary", _varied(_autoencoder, ImageRestoration)),
    "varied_vit": ("as vit, varied", _varied(_vit)),
    "varied_convnet": ("as convnet, varied", _varied(_convnet)),
    "varied_plain_convnet": (
        "as convnet without normalisation, varied",
        _varied(_convnet, network=ConvNet((6, 12), (2, 2), 10)),
    ),
    "varied_wide_convnet": (
        "as convnet of 16 and 32 channels, batches to 8, varied",
        _varied(_convnet, network=ConvNet((16, 32), (2, 2), 10, normalization="batch"), batch_size=8),
    ),
    "varied_transformer": ("as transformer, batches to 8 x 12, varied", _varied(_transformer, batch_size=8)),
    "varied_gru": ("as gru, varied", _varied(_gru)),
    "varied_very_deep_mlp": (
        "MLP of eight layers of 16, batches to 16, varied",
        _varied(_mlp, hidden_sizes=(16,) * 8, batch_size=16),
    ),
    "varied_vae": (
        "variational autoencoder 64-24-4-24-64, batches to 32, varied but for its pixels",
        _varied(_autoencoder, ImageVAEs, hidden_sizes=(24,), latents=4),
    ),
    "varied_deep_vae": (
        "variational autoencoder 64-40-28-6-40-28-64, batches to 16, varied but for its pixels",
        _varied(_autoencoder, ImageVAEs, hidden_sizes=(40, 28), latents=6, batch_size=16),
    ),
    "varied_es_mlp": (
        "MLP 64-18-10, gradients by evolution strategies of four pairs, batches to 64, varied",
        _varied(_mlp, EstimatedImageMLP, hidden_sizes=(18,), batch_size=64, num_pairs=4),
    ),
    "varied_es_deep_mlp": (
        "MLP 64-24-16-10, gradients by evolution strategies of six pairs, batches to 16, varied",
        _varied(_mlp, EstimatedImageMLP, hidden_sizes=(24, 16), batch_size=16, num_pairs=6),
    ),
    "same_batch_regression": (
        "regression, MLP 64-24-24-10, of one batch of up to 64 images, varied",
        lambda sources: SameBatch(_varied(_mlp, ImageRegression, hidden_sizes=(24, 24), batch_size=64)(sources)),
    ),
}


_LARGE: Mapping[str, tuple[str, Callable[[Sources], TaskFamily]]] = {
    "varied_large_mlp": (
        "MLP 64-256-128-10, batches to 32, varied",
        _varied(_mlp, hidden_sizes=(256, 128), batch_size=32),
    ),
    "varied_large_few_images_mlp": (
        "MLP 64-160-160-10, batches to 32, of 512 images, varied",
        _varied(_few_images_mlp, hidden_sizes=(160, 160)),
    ),
    "varied_large_autoencoder": (
        "autoencoder 64-96-24-96-64, batches to 16, of which the inputs alone vary",
        _varied(_autoencoder, ImageRestoration, hidden_sizes=(96, 24, 96), batch_size=16),
    ),
    "varied_large_vit": ("as vit of two layers of width 32, varied", _varied(_vit, network=_vit_network(32, 2))),
    "varied_large_transformer": (
        "as transformer of two layers of width 32, batches of 4 x 12, varied",
        _varied(_transformer, network=TransformerLM(2, 32, 2, 12), batch_size=4),
    ),
    "varied_large_gru": ("as gru of width 48, varied", _varied(_gru, network=RecurrentLM("gru", 48, 24))),
}
"""Of 17,000 to 51,000 parameters, where the others have fewer than 14,000."""

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
        **_VARIED,
        **_LARGE,
        "learned_optimizer": ("training of 8 steps of an MLP 64-5-10 by a learned optimizer of 252 numbers", _learned),
    }
)
"""By name, what it is and how it is made. "Varied": see `celo_tasks.families.Varied`."""

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
