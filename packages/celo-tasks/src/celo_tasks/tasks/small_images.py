"""Small image tasks of our own: on one CPU core a step costs about a millisecond, and the data need no download.

Each function takes the task's name, a data set of the right shape and a folder with prepared arrays, and reads nothing.
"""

from celo_tasks.families.image_autoencoder import ImageAutoencoder, ImageVAE
from celo_tasks.families.image_classifier import ImageClassifier
from celo_tasks.families.image_conv import ConvNet
from celo_tasks.families.image_mlp import MLP
from celo_tasks.families.vision_transformer import VisionTransformer

_GREY_28 = 28 * 28


def small_mlp(name: str, dataset: str, data_dir: str | None) -> ImageClassifier:
    """784-64-64-10 with ReLU, batch 64."""
    return ImageClassifier(name, MLP((64, 64), 10), dataset, (_GREY_28,), batch_size=64, data_dir=data_dir)


def small_autoencoder(name: str, dataset: str, data_dir: str | None) -> ImageAutoencoder:
    """784-64-16-64-784 with ReLU, batch 64."""
    return ImageAutoencoder(name, dataset, _GREY_28, batch_size=64, data_dir=data_dir, hidden_sizes=(64, 16, 64))


def small_vae(name: str, dataset: str, data_dir: str | None) -> ImageVAE:
    """8x8 images, 64-64, codes of 8 numbers, 64-64, batch 64."""
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


def small_conv(name: str, dataset: str, data_dir: str | None) -> ImageClassifier:
    """3x3 convolutions with 8 and 16 channels, stride 2, batch normalisation before ReLU, batch 32."""
    network = ConvNet((8, 16), (2, 2), 10, normalization="batch")
    return ImageClassifier(name, network, dataset, (28, 28, 1), batch_size=32, data_dir=data_dir)


def small_vit(name: str, dataset: str, data_dir: str | None) -> ImageClassifier:
    """16 patches of 7x7 and a class token, width 32, 2 layers, 4 heads, MLP of 64, batch 16."""
    network = VisionTransformer(patch_size=7, width=32, mlp_width=64, num_heads=4, num_layers=2, num_outputs=10)
    return ImageClassifier(name, network, dataset, (28, 28, 1), batch_size=16, data_dir=data_dir)
