"""What users do to optimizers: bad scales, no noise or nothing but noise, depth without normalisation, rare and frozen tensors.

Small tasks of our own: on one CPU core a step costs at most some milliseconds, and the data need no download. Each function takes
the task's name, a data set of the right shape and a folder with prepared arrays, and reads nothing. Families are imported
within the functions, so that a list of tasks waits for no JAX.
"""

import functools
from typing import TYPE_CHECKING

from celo_tasks.tasks.entries import DIABETES, GENERATED, task

if TYPE_CHECKING:
    from celo_core import TaskFamily

_FASHION = ("fashion_mnist_small_28",)
_DIGITS = ("digits_8x8",)
_SHAKESPEARE = ("shakespeare",)
_GREY_28 = (28 * 28,)

_stress = functools.partial(task, suite="stress-8")


@_stress(kind="MLP on raw pixels", datasets=_FASHION)
def stress_raw_pixels(name: str, dataset: str, data_dir: str | None) -> "TaskFamily":
    """784-64-64-10 with ReLU on pixels from 0 to 255, batch 64."""
    from celo_tasks.families import MLP, ImageClassifier

    return ImageClassifier(name, MLP((64, 64), 10), dataset, _GREY_28, batch_size=64, data_dir=data_dir, gain=255.0)


@_stress(kind="regression on raw values", datasets=(DIABETES,))
def stress_raw_targets(name: str, dataset: str, data_dir: str | None) -> "TaskFamily":
    """10-64-64-1 with ReLU, squared error, inputs up to 300 and targets up to 346 as they are, batch 32."""
    from celo_tasks.families import DiabetesRegression

    return DiabetesRegression(name, (64, 64))


@_stress(kind="PINN", datasets=(GENERATED,))
def stress_pinn(name: str, dataset: str, data_dir: str | None) -> "TaskFamily":
    """2-32-32-1 with tanh: Poisson's equation on a grid of 144 points, the same in every step."""
    from celo_tasks.families import PoissonPINN

    return PoissonPINN(name, (32, 32))


@_stress(kind="deep MLP without normalisation", datasets=_FASHION)
def stress_deep(name: str, dataset: str, data_dir: str | None) -> "TaskFamily":
    """784, sixteen layers of 32 with tanh, 10, batch 32."""
    from celo_tasks.families import MLP, ImageClassifier

    network = MLP((32,) * 16, 10, activation="tanh")
    return ImageClassifier(name, network, dataset, _GREY_28, batch_size=32, data_dir=data_dir)


@_stress(kind="convnet, batches of 1 to 4", datasets=_FASHION)
def stress_tiny_batch(name: str, dataset: str, data_dir: str | None) -> "TaskFamily":
    """3x3 convolutions with 8 and 16 channels, stride 2, without normalisation; one to four different images a step."""
    from celo_tasks.families import ConvNet, ImageClassifier

    network = ConvNet((8, 16), (2, 2), 10)
    return ImageClassifier(name, network, dataset, (28, 28, 1), batch_size=4, data_dir=data_dir, smallest_batch=1)


@_stress(kind="embedding with rare tokens", datasets=_SHAKESPEARE)
def stress_rare_tokens(name: str, dataset: str, data_dir: str | None) -> "TaskFamily":
    """4,096 hashed trigrams with embeddings of 16, four of them, 64 with ReLU, bytes; batch 8, length 24."""
    from celo_tasks.datasets import text_vocabulary
    from celo_tasks.families import HashedTrigrams, LanguageModel

    vocabulary = text_vocabulary(dataset)
    return LanguageModel(name, HashedTrigrams(4096, 16, 64, vocabulary), dataset, 8, 24, vocabulary, data_dir=data_dir)


@_stress(kind="fine-tuning, most tensors frozen", datasets=_FASHION)
def stress_frozen(name: str, dataset: str, data_dir: str | None) -> "TaskFamily":
    """The vision transformer of small-8, of which normalisations, biases and the last layer are trained; batch 16."""
    from celo_tasks.families import FineTuned, ImageClassifier, VisionTransformer

    network = VisionTransformer(patch_size=7, width=32, mlp_width=64, num_heads=4, num_layers=2, num_outputs=10)
    inner = ImageClassifier(name, network, dataset, (28, 28, 1), batch_size=16, data_dir=data_dir)
    return FineTuned(inner, r"/bias$|/scale$|logits/", name)


@_stress(kind="gradients by evolution strategies", datasets=_DIGITS)
def stress_es(name: str, dataset: str, data_dir: str | None) -> "TaskFamily":
    """64-16-10 with ReLU on 8x8 images, batch 64, gradients estimated from eight pairs of losses."""
    from celo_tasks.families import MLP, ESWrapped, ImageClassifier

    inner = ImageClassifier(name, MLP((16,), 10), dataset, (64,), batch_size=64, data_dir=data_dir)
    return ESWrapped(inner, num_pairs=8)
