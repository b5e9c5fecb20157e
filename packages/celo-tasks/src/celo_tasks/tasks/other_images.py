"""Image tasks with configurations of the public task library (arXiv 2211.09760, section 4) that are in no suite.

Each function takes the task's name, a data set of the right shape and a folder with prepared arrays, and reads nothing.
Families are imported within the functions, so that a list of tasks waits for no JAX.
"""

from typing import TYPE_CHECKING

from celo_tasks.tasks.entries import task

if TYPE_CHECKING:
    from celo_core import TaskFamily

_FASHION_28 = ("fashion_mnist_28", "fashion_mnist_small_28")
_CIFAR10 = ("cifar10_32rgb", "cifar10_32rgb_sub")


@task(kind="MLP", datasets=_FASHION_28, published="ImageMLP_FashionMnist_Relu128x128")
def image_mlp_fashion_mnist_relu_128x128(name: str, dataset: str, data_dir: str | None) -> "TaskFamily":
    """784-128-128-10 with ReLU."""
    from celo_tasks.families import MLP, ImageClassifier

    return ImageClassifier(name, MLP((128, 128), 10), dataset, (28 * 28,), data_dir=data_dir)


@task(kind="MLP", datasets=_CIFAR10, published="ImageMLP_Cifar10_128x128x128_Tanh_bs128")
def image_mlp_cifar10_tanh_128x128x128(name: str, dataset: str, data_dir: str | None) -> "TaskFamily":
    """3072-128-128-128-10 with tanh."""
    from celo_tasks.families import MLP, ImageClassifier

    network = MLP((128, 128, 128), 10, activation="tanh")
    return ImageClassifier(name, network, dataset, (32 * 32 * 3,), data_dir=data_dir)


@task(kind="autoencoder", datasets=_FASHION_28, published="ImageMLPAE_FashionMnist_128x32x128_bs128")
def mlp_autoencoder_fashion_mnist_128x32x128(name: str, dataset: str, data_dir: str | None) -> "TaskFamily":
    """784-128-32-128-784 with ReLU."""
    from celo_tasks.families import ImageAutoencoder

    return ImageAutoencoder(name, dataset, 28 * 28, data_dir=data_dir, hidden_sizes=(128, 32, 128))


@task(kind="convnet", datasets=_CIFAR10, published="Conv_Cifar10_32x64x64_layernorm")
def conv_cifar10_32x64x64_layernorm(name: str, dataset: str, data_dir: str | None) -> "TaskFamily":
    """3x3 convolutions with 32, 64 and 64 channels, layer normalisation after ReLU."""
    from celo_tasks.families import ConvNet, ImageClassifier

    network = ConvNet((32, 64, 64), (2, 1, 1), 10, normalization="layer", normalize_after="relu")
    return ImageClassifier(name, network, dataset, (32, 32, 3), data_dir=data_dir)
