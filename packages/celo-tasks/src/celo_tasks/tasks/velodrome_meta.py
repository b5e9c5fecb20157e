"""Meta-learning tasks in configurations of the public task library (arXiv 2211.09760, section 4).

Each function takes the task's name, a set of 8x8 grey images and a folder with prepared arrays, and reads nothing.
"""

from celo_tasks.families.es_wrapped import ESWrapped
from celo_tasks.families.image_classifier import ImageClassifier
from celo_tasks.families.image_mlp import MLP
from celo_tasks.families.learned_optimizer_training import LearnedOptimizerTraining


def _mlp(name: str, dataset: str, data_dir: str | None) -> ImageClassifier:
    """ImageMLP_FashionMnist8_Relu32: 64-32-10 with ReLU, batch 128."""
    return ImageClassifier(name, MLP((32,), 10), dataset, (64,), batch_size=128, data_dir=data_dir)


def lopt_fashion_mnist_20(name: str, dataset: str, data_dir: str | None) -> LearnedOptimizerTraining:
    """LOpt_AdafacMLPLOpt_FashionMnist_20: trainings of 20 steps."""
    return LearnedOptimizerTraining(name, _mlp("mlp_32", dataset, data_dir), num_steps=20)


def es_wrapped_fashion_mnist_8x8_relu32(name: str, dataset: str, data_dir: str | None) -> ESWrapped:
    """ESWrapped_1pair_ImageMLP_FashionMnist8_Relu32: one pair, sigma 0.01."""
    return ESWrapped(_mlp(name, dataset, data_dir), num_pairs=1, sigma=0.01)
