"""Small tasks of our own: on one CPU core a step costs one to three milliseconds, and the data need no download.

Each function takes the task's name, a data set of the right shape and a folder with prepared arrays, and reads nothing.
Families are imported within the functions, so that a list of tasks waits for no JAX.
"""

import functools
from typing import TYPE_CHECKING

from celo_tasks.tasks.entries import task

if TYPE_CHECKING:
    from celo_core import TaskFamily

_FASHION = ("fashion_mnist_small_28",)
_DIGITS = ("digits_8x8",)
_SHAKESPEARE = ("shakespeare",)
_GREY_28 = 28 * 28

_small = functools.partial(task, suite="small-8")


@_small(kind="MLP", datasets=_FASHION)
def small_mlp(name: str, dataset: str, data_dir: str | None) -> "TaskFamily":
    """784-64-64-10 with ReLU, batch 64."""
    from celo_tasks.families import MLP, ImageClassifier

    return ImageClassifier(name, MLP((64, 64), 10), dataset, (_GREY_28,), batch_size=64, data_dir=data_dir)


@_small(kind="autoencoder", datasets=_FASHION)
def small_autoencoder(name: str, dataset: str, data_dir: str | None) -> "TaskFamily":
    """784-64-16-64-784 with ReLU, batch 64."""
    from celo_tasks.families import ImageAutoencoder

    return ImageAutoencoder(name, dataset, _GREY_28, batch_size=64, data_dir=data_dir, hidden_sizes=(64, 16, 64))


@_small(kind="VAE", datasets=_DIGITS)
def small_vae(name: str, dataset: str, data_dir: str | None) -> "TaskFamily":
    """8x8 images, 64-64, codes of 8 numbers, 64-64, batch 64."""
    from celo_tasks.families import ImageVAE

    return ImageVAE(
        name,
        dataset,
        8 * 8,
        batch_size=64,
        data_dir=data_dir,
        encoder_sizes=(64, 64),
        num_latents=8,
        decoder_sizes=(64, 64),
    )


@_small(kind="convnet", datasets=_FASHION)
def small_conv(name: str, dataset: str, data_dir: str | None) -> "TaskFamily":
    """3x3 convolutions with 8 and 16 channels, stride 2, batch normalisation before ReLU, batch 32."""
    from celo_tasks.families import ConvNet, ImageClassifier

    network = ConvNet((8, 16), (2, 2), 10, normalization="batch")
    return ImageClassifier(name, network, dataset, (28, 28, 1), batch_size=32, data_dir=data_dir)


@_small(kind="vision transformer", datasets=_FASHION)
def small_vit(name: str, dataset: str, data_dir: str | None) -> "TaskFamily":
    """16 patches of 7x7 and a class token, width 32, 2 layers, 4 heads, MLP of 64, batch 16."""
    from celo_tasks.families import ImageClassifier, VisionTransformer

    network = VisionTransformer(patch_size=7, width=32, mlp_width=64, num_heads=4, num_layers=2, num_outputs=10)
    return ImageClassifier(name, network, dataset, (28, 28, 1), batch_size=16, data_dir=data_dir)


@_small(kind="transformer LM", datasets=_SHAKESPEARE)
def small_transformer(name: str, dataset: str, data_dir: str | None) -> "TaskFamily":
    """2 layers, width 32, 4 heads, batch 8, length 24."""
    from celo_tasks.datasets import text_vocabulary
    from celo_tasks.families import LanguageModel, TransformerLM

    vocabulary = text_vocabulary(dataset)
    return LanguageModel(name, TransformerLM(2, 32, 4, 24, vocabulary), dataset, 8, 24, vocabulary, data_dir=data_dir)


@_small(kind="recurrent LM", datasets=_SHAKESPEARE)
def small_gru(name: str, dataset: str, data_dir: str | None) -> "TaskFamily":
    """Embedding 16, GRU of 32, batch 16, length 24."""
    from celo_tasks.datasets import text_vocabulary
    from celo_tasks.families import LanguageModel, RecurrentLM

    vocabulary = text_vocabulary(dataset)
    return LanguageModel(name, RecurrentLM("gru", 32, 16, vocabulary), dataset, 16, 24, vocabulary, data_dir=data_dir)


@_small(kind="learned optimizer", datasets=_DIGITS)
def small_lopt(name: str, dataset: str, data_dir: str | None) -> "TaskFamily":
    """Trainings of 10 steps of 64-8-10 on 8x8 images, batch 16."""
    from celo_tasks.families import MLP, ImageClassifier, LearnedOptimizerTraining

    inner = ImageClassifier("mlp_8", MLP((8,), 10), dataset, (64,), batch_size=16, data_dir=data_dir)
    return LearnedOptimizerTraining(name, inner, num_steps=10)
