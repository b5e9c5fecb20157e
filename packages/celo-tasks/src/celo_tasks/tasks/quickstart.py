"""The tasks of the quickstart: on one CPU core a step costs some milliseconds, and the data come with the package.

Each function takes the task's name, a data set of the right shape and a folder with prepared arrays, and reads nothing.
Families are imported within the functions, so that a list of tasks waits for no JAX.
"""

import functools
from typing import TYPE_CHECKING

from celo_tasks.tasks.entries import task

if TYPE_CHECKING:
    from celo_core import TaskFamily

_FASHION = ("fashion_mnist_small_28",)
_SHAKESPEARE = ("shakespeare",)

_quickstart = functools.partial(task, suite="quickstart")


@_quickstart(kind="MLP", datasets=_FASHION)
def quickstart_mlp(name: str, dataset: str, data_dir: str | None) -> "TaskFamily":
    """784-128-128-10 with ReLU, batch 128."""
    from celo_tasks.families import MLP, ImageClassifier

    return ImageClassifier(name, MLP((128, 128), 10), dataset, (28 * 28,), batch_size=128, data_dir=data_dir)


@_quickstart(kind="convnet", datasets=_FASHION)
def quickstart_convnet(name: str, dataset: str, data_dir: str | None) -> "TaskFamily":
    """3x3 convolutions with 16 and 32 channels, stride 2, batch 64."""
    from celo_tasks.families import ConvNet, ImageClassifier

    network = ConvNet(channels=(16, 32), strides=(2, 2), num_outputs=10)
    return ImageClassifier(name, network, dataset, (28, 28, 1), batch_size=64, data_dir=data_dir)


@_quickstart(kind="transformer LM", datasets=_SHAKESPEARE)
def quickstart_transformer(name: str, dataset: str, data_dir: str | None) -> "TaskFamily":
    """Over bytes: 2 layers, width 32, 4 heads, batch 16, length 32."""
    from celo_tasks.families import TextTransformer

    del name  # the family has one of its own
    return TextTransformer(dataset, 2, 32, num_heads=4, batch_size=16, length=32, data_dir=data_dir)
