"""Image tasks of the suite ood-17, with the configurations of the public task library (arXiv 2211.09760, section 4).

Each function takes the task's name, a data set of the right shape and a folder with prepared arrays, and reads nothing.
Families are imported within the functions, so that a list of tasks waits for no JAX.
"""

import functools
from typing import TYPE_CHECKING

from celo_tasks.tasks.entries import task

if TYPE_CHECKING:
    from celo_core import TaskFamily

_FASHION_28 = ("fashion_mnist_28", "fashion_mnist_small_28")
_CIFAR10 = ("cifar10_32rgb", "cifar10_32rgb_sub")
_CIFAR10_16 = ("cifar10_16rgb", "cifar10_16rgb_sub")
_CIFAR100 = ("cifar100_32rgb", "cifar100_32rgb_sub")

_GREY_28 = 28 * 28
_COLOUR_32 = (32, 32, 3)
_COLOUR_32_FLAT = 32 * 32 * 3

_ood = functools.partial(task, suite="ood-17")


@_ood(kind="MLP", datasets=_CIFAR100, published="ImageMLP_Cifar100_128x128x128_Relu")
def image_mlp_cifar100_relu_128x128x128(name: str, dataset: str, data_dir: str | None) -> "TaskFamily":
    """3072-128-128-128-100 with ReLU."""
    from celo_tasks.families import MLP, ImageClassifier

    network = MLP((128, 128, 128), 100)
    return ImageClassifier(name, network, dataset, (_COLOUR_32_FLAT,), num_classes=100, data_dir=data_dir)


@_ood(kind="autoencoder", datasets=_CIFAR10, published="ImageMLPAE_Cifar10_32x32x32_bs128")
def mlp_autoencoder_cifar10_32x32x32(name: str, dataset: str, data_dir: str | None) -> "TaskFamily":
    """3072-32-32-32-3072 with ReLU."""
    from celo_tasks.families import ImageAutoencoder

    return ImageAutoencoder(name, dataset, _COLOUR_32_FLAT, data_dir=data_dir, hidden_sizes=(32, 32, 32))


@_ood(kind="VAE", datasets=_FASHION_28, published="the VAE family of its sampled tasks")
def vae_fashion_mnist(name: str, dataset: str, data_dir: str | None) -> "TaskFamily":
    """The library has no fixed variational autoencoder: its family's default sizes, its loss per pixel, ReLU."""
    from celo_tasks.families import ImageVAE

    return ImageVAE(
        name, dataset, _GREY_28, data_dir=data_dir, encoder_sizes=(32, 32), num_latents=32, decoder_sizes=(32, 32)
    )


@_ood(kind="convnet", datasets=_CIFAR10, published="Conv_Cifar10_32x64x64")
def conv_cifar10_32x64x64(name: str, dataset: str, data_dir: str | None) -> "TaskFamily":
    """3x3 convolutions with 32, 64 and 64 channels, ReLU, no normalisation."""
    from celo_tasks.families import ConvNet, ImageClassifier

    return ImageClassifier(name, ConvNet((32, 64, 64), (2, 1, 1), 10), dataset, _COLOUR_32, data_dir=data_dir)


@_ood(kind="convnet", datasets=_CIFAR10, published="Conv_Cifar10_32x64x64_batchnorm")
def conv_cifar10_32x64x64_batchnorm(name: str, dataset: str, data_dir: str | None) -> "TaskFamily":
    """As conv_cifar10_32x64x64, with batch normalisation after ReLU."""
    from celo_tasks.families import ConvNet, ImageClassifier

    network = ConvNet((32, 64, 64), (2, 1, 1), 10, normalization="batch", normalize_after="relu")
    return ImageClassifier(name, network, dataset, _COLOUR_32, data_dir=data_dir)


@_ood(kind="residual network", datasets=_CIFAR10_16, published="Resnet, one block per group (ImageNet there)")
def resnet_cifar10_16x16(name: str, dataset: str, data_dir: str | None) -> "TaskFamily":
    """``Resnet_MultiRuntime_0``, which has the 1,000 classes of ImageNet at 16x16, on CIFAR-10."""
    from celo_tasks.families import ImageClassifier, ResNet

    network = ResNet((8, 16, 16, 16), 10)
    return ImageClassifier(name, network, dataset, (16, 16, 3), batch_size=64, data_dir=data_dir)


@_ood(kind="vision transformer", datasets=_CIFAR100, published="VIT_Cifar100_wideshallow")
def vit_cifar100_wide_shallow(name: str, dataset: str, data_dir: str | None) -> "TaskFamily":
    """4 patches of 16x16, width 384, 6 layers, 6 heads, MLP of 1536."""
    from celo_tasks.families import ImageClassifier, VisionTransformer

    network = VisionTransformer(patch_size=16, width=384, mlp_width=1536, num_heads=6, num_layers=6, num_outputs=100)
    return ImageClassifier(name, network, dataset, _COLOUR_32, num_classes=100, data_dir=data_dir)


@_ood(kind="vision transformer", datasets=_CIFAR100, published="VIT_Cifar100_skinnydeep")
def vit_cifar100_skinny_deep(name: str, dataset: str, data_dir: str | None) -> "TaskFamily":
    """4 patches of 16x16, width 128, 10 layers, 4 heads, MLP of 512."""
    from celo_tasks.families import ImageClassifier, VisionTransformer

    network = VisionTransformer(patch_size=16, width=128, mlp_width=512, num_heads=4, num_layers=10, num_outputs=100)
    return ImageClassifier(name, network, dataset, _COLOUR_32, num_classes=100, data_dir=data_dir)


@_ood(kind="MLP-mixer", datasets=_CIFAR100, published="MLPMixer_Cifar100_tiny16")
def mixer_cifar100_tiny16(name: str, dataset: str, data_dir: str | None) -> "TaskFamily":
    """4 patches of 16x16, width 512, 5 blocks, MLPs of 384 over tokens and 2048 over channels."""
    from celo_tasks.families import ImageClassifier, MLPMixer

    network = MLPMixer(
        patch_size=16, width=512, num_blocks=5, token_mlp_width=384, channel_mlp_width=2048, num_outputs=100
    )
    return ImageClassifier(name, network, dataset, _COLOUR_32, num_classes=100, data_dir=data_dir)
