"""Image tasks with the configurations of the public task library (arXiv 2211.09760, section 4).

Each function takes the task's name, a data set of the right shape and a folder with prepared arrays, and reads nothing.
"""

import flax.linen as nn

from celo_tasks.families.image_autoencoder import ImageAutoencoder, ImageVAE
from celo_tasks.families.image_classifier import ImageClassifier
from celo_tasks.families.image_conv import ConvNet
from celo_tasks.families.image_mlp import MLP
from celo_tasks.families.image_resnet import ResNet
from celo_tasks.families.mlp_mixer import MLPMixer
from celo_tasks.families.vision_transformer import VisionTransformer

_GREY_28 = 28 * 28
_COLOUR_32 = (32, 32, 3)
_COLOUR_32_FLAT = 32 * 32 * 3


def image_mlp_cifar100_relu_128x128x128(name: str, dataset: str, data_dir: str | None) -> ImageClassifier:
    """``ImageMLP_Cifar100_128x128x128_Relu``."""
    return ImageClassifier(
        name, MLP((128, 128, 128), 100), dataset, (_COLOUR_32_FLAT,), num_classes=100, data_dir=data_dir
    )


def image_mlp_fashion_mnist_relu_128x128(name: str, dataset: str, data_dir: str | None) -> ImageClassifier:
    """``ImageMLP_FashionMnist_Relu128x128``."""
    return ImageClassifier(name, MLP((128, 128), 10), dataset, (_GREY_28,), data_dir=data_dir)


def image_mlp_cifar10_tanh_128x128x128(name: str, dataset: str, data_dir: str | None) -> ImageClassifier:
    """``ImageMLP_Cifar10_128x128x128_Tanh_bs128``."""
    network = MLP((128, 128, 128), 10, activation="tanh")
    return ImageClassifier(name, network, dataset, (_COLOUR_32_FLAT,), data_dir=data_dir)


def mlp_autoencoder_cifar10_32x32x32(name: str, dataset: str, data_dir: str | None) -> ImageAutoencoder:
    """``ImageMLPAE_Cifar10_32x32x32_bs128``."""
    return ImageAutoencoder(name, dataset, _COLOUR_32_FLAT, data_dir=data_dir, hidden_sizes=(32, 32, 32))


def mlp_autoencoder_fashion_mnist_128x32x128(name: str, dataset: str, data_dir: str | None) -> ImageAutoencoder:
    """``ImageMLPAE_FashionMnist_128x32x128_bs128``."""
    return ImageAutoencoder(name, dataset, _GREY_28, data_dir=data_dir, hidden_sizes=(128, 32, 128))


def vae_fashion_mnist(name: str, dataset: str, data_dir: str | None) -> ImageVAE:
    """The library has no fixed variational autoencoder: its family's default sizes, its loss per pixel, ReLU."""
    return ImageVAE(
        name, dataset, _GREY_28, data_dir=data_dir, encoder_sizes=(32, 32), num_latents=32, decoder_sizes=(32, 32)
    )


def conv_cifar10_32x64x64(name: str, dataset: str, data_dir: str | None) -> ImageClassifier:
    """``Conv_Cifar10_32x64x64``."""
    return _cifar10_classifier(name, ConvNet((32, 64, 64), (2, 1, 1), 10), dataset, data_dir)


def conv_cifar10_32x64x64_batchnorm(name: str, dataset: str, data_dir: str | None) -> ImageClassifier:
    """``Conv_Cifar10_32x64x64_batchnorm``: batch normalisation after ReLU."""
    network = ConvNet((32, 64, 64), (2, 1, 1), 10, normalization="batch", normalize_after="relu")
    return _cifar10_classifier(name, network, dataset, data_dir)


def conv_cifar10_32x64x64_layernorm(name: str, dataset: str, data_dir: str | None) -> ImageClassifier:
    """``Conv_Cifar10_32x64x64_layernorm``: layer normalisation after ReLU."""
    network = ConvNet((32, 64, 64), (2, 1, 1), 10, normalization="layer", normalize_after="relu")
    return _cifar10_classifier(name, network, dataset, data_dir)


def resnet_cifar10_16x16(name: str, dataset: str, data_dir: str | None) -> ImageClassifier:
    """``Resnet_MultiRuntime_0``, which has the 1,000 classes of ImageNet at 16x16, on CIFAR-10."""
    network = ResNet((8, 16, 16, 16), 10)
    return ImageClassifier(name, network, dataset, (16, 16, 3), batch_size=64, data_dir=data_dir)


def vit_cifar100_wide_shallow(name: str, dataset: str, data_dir: str | None) -> ImageClassifier:
    """``VIT_Cifar100_wideshallow``."""
    network = VisionTransformer(patch_size=16, width=384, mlp_width=1536, num_heads=6, num_layers=6, num_outputs=100)
    return _cifar100_classifier(name, network, dataset, data_dir)


def vit_cifar100_skinny_deep(name: str, dataset: str, data_dir: str | None) -> ImageClassifier:
    """``VIT_Cifar100_skinnydeep``."""
    network = VisionTransformer(patch_size=16, width=128, mlp_width=512, num_heads=4, num_layers=10, num_outputs=100)
    return _cifar100_classifier(name, network, dataset, data_dir)


def mixer_cifar100_tiny16(name: str, dataset: str, data_dir: str | None) -> ImageClassifier:
    """``MLPMixer_Cifar100_tiny16``."""
    network = MLPMixer(
        patch_size=16, width=512, num_blocks=5, token_mlp_width=384, channel_mlp_width=2048, num_outputs=100
    )
    return _cifar100_classifier(name, network, dataset, data_dir)


def _cifar10_classifier(name: str, network: nn.Module, dataset: str, data_dir: str | None) -> ImageClassifier:
    return ImageClassifier(name, network, dataset, _COLOUR_32, data_dir=data_dir)


def _cifar100_classifier(name: str, network: nn.Module, dataset: str, data_dir: str | None) -> ImageClassifier:
    return ImageClassifier(name, network, dataset, _COLOUR_32, num_classes=100, data_dir=data_dir)
