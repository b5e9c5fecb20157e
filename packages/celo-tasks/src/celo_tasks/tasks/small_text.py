"""Small tasks of our own on text and on learned optimizers: on one CPU core a step costs one to three milliseconds.

Each function takes the task's name, a data set and a folder with data, and reads nothing.
"""

from celo_tasks.datasets import text_vocabulary
from celo_tasks.families.image_classifier import ImageClassifier
from celo_tasks.families.image_mlp import MLP
from celo_tasks.families.language_model import LanguageModel
from celo_tasks.families.learned_optimizer_training import LearnedOptimizerTraining
from celo_tasks.families.recurrent import RecurrentLM
from celo_tasks.families.text_transformer import TransformerLM


def small_transformer(name: str, dataset: str, data_dir: str | None) -> LanguageModel:
    """2 layers, width 32, 4 heads, batch 8, length 24."""
    vocabulary = text_vocabulary(dataset)
    return LanguageModel(name, TransformerLM(2, 32, 4, 24, vocabulary), dataset, 8, 24, vocabulary, data_dir=data_dir)


def small_gru(name: str, dataset: str, data_dir: str | None) -> LanguageModel:
    """Embedding 16, GRU of 32, batch 16, length 24."""
    vocabulary = text_vocabulary(dataset)
    return LanguageModel(name, RecurrentLM("gru", 32, 16, vocabulary), dataset, 16, 24, vocabulary, data_dir=data_dir)


def small_lopt(name: str, dataset: str, data_dir: str | None) -> LearnedOptimizerTraining:
    """Trainings of 10 steps of 64-8-10 on 8x8 images, batch 16."""
    inner = ImageClassifier("mlp_8", MLP((8,), 10), dataset, (64,), batch_size=16, data_dir=data_dir)
    return LearnedOptimizerTraining(name, inner, num_steps=10)
