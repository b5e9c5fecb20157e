"""Meta-learning tasks of the suite ood-17, in configurations of the public task library (arXiv 2211.09760, section 4).

Each function takes the task's name, a set of 8x8 grey images and a folder with prepared arrays, and reads nothing.
Families are imported within the functions, so that a list of tasks waits for no JAX.
"""

import functools
from typing import TYPE_CHECKING

from celo_tasks.tasks.entries import task

if TYPE_CHECKING:
    from celo_core import TaskFamily
    from celo_tasks.families import ImageClassifier

_FASHION_8 = ("fashion_mnist_8x8", "fashion_mnist_small_8x8")

_ood = functools.partial(task, suite="ood-17")


def _mlp(name: str, dataset: str, data_dir: str | None) -> "ImageClassifier":
    """ImageMLP_FashionMnist8_Relu32: 64-32-10 with ReLU, batch 128."""
    from celo_tasks.families import MLP, ImageClassifier

    return ImageClassifier(name, MLP((32,), 10), dataset, (64,), batch_size=128, data_dir=data_dir)


@_ood(kind="learned optimizer", datasets=_FASHION_8, published="LOpt_AdafacMLPLOpt_FashionMnist_20")
def lopt_fashion_mnist_20(name: str, dataset: str, data_dir: str | None) -> "TaskFamily":
    """Trainings of 20 steps by an AdaFac-MLP."""
    from celo_tasks.families import LearnedOptimizerTraining

    return LearnedOptimizerTraining(name, _mlp("mlp_32", dataset, data_dir), num_steps=20)


@_ood(kind="MLP by ES", datasets=_FASHION_8, published="ESWrapped_1pair_ImageMLP_FashionMnist8_Relu32")
def es_wrapped_fashion_mnist_8x8_relu32(name: str, dataset: str, data_dir: str | None) -> "TaskFamily":
    """Gradients of one antithetic pair, sigma 0.01."""
    from celo_tasks.families import ESWrapped

    return ESWrapped(_mlp(name, dataset, data_dir), num_pairs=1, sigma=0.01)
