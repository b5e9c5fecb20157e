"""Language models of the suite ood-17, in configurations of the public task library (arXiv 2211.09760, section 4).

Each function takes the task's name, a text and a folder with texts, and reads nothing. The vocabulary follows from the
text: 32,000 subwords for those named ``*_32k``, else 256 bytes. In the library, batches are the beginnings of documents, its
subwords are SentencePiece's, and its transformer of five layers has dropout of 0.1; here they are stretches from anywhere
in a text, a byte-level BPE's, and there is no dropout.
Families are imported within the functions, so that a list of tasks waits for no JAX.
"""

import functools
from typing import TYPE_CHECKING

from celo_tasks.tasks.entries import task

if TYPE_CHECKING:
    from celo_core import TaskFamily

_LM1B = ("lm1b_32k", "lm1b", "shakespeare")
_WIKIPEDIA = ("wikipedia_en_32k", "wikipedia_en", "shakespeare")

_ood = functools.partial(task, suite="ood-17")
_transformer_task = functools.partial(_ood, kind="transformer LM", datasets=_LM1B)
_recurrent_task = functools.partial(_ood, kind="recurrent LM")


def _transformer(
    name: str, text: str, data_dir: str | None, layers: int, width: int, heads: int, batch_size: int, length: int
) -> "TaskFamily":
    from celo_tasks.datasets import text_vocabulary
    from celo_tasks.families import LanguageModel, TransformerLM

    vocabulary = text_vocabulary(text)
    network = TransformerLM(layers, width, heads, length, vocabulary)
    return LanguageModel(name, network, text, batch_size, length, vocabulary, data_dir=data_dir)


def _recurrent(name: str, text: str, data_dir: str | None, cell: str) -> "TaskFamily":
    """256 units, embeddings of 128 numbers, batch 128, length 32: the library's "patch"."""
    from celo_tasks.datasets import text_vocabulary
    from celo_tasks.families import LanguageModel, RecurrentLM

    vocabulary = text_vocabulary(text)
    network = RecurrentLM(cell, 256, 128, vocabulary)
    return LanguageModel(name, network, text, 128, 32, vocabulary, data_dir=data_dir)


@_transformer_task(published="TransformerLM_LM1B_MultiRuntime_2")
def transformer_lm1b_2layer_32width(name: str, dataset: str, data_dir: str | None) -> "TaskFamily":
    """2 layers, width 32, 4 heads, batch 8, length 8."""
    return _transformer(name, dataset, data_dir, layers=2, width=32, heads=4, batch_size=8, length=8)


@_transformer_task(published="TransformerLM_LM1B_MultiRuntime_7")
def transformer_lm1b_3layer_112width(name: str, dataset: str, data_dir: str | None) -> "TaskFamily":
    """3 layers, width 112, 7 heads, batch 16, length 32."""
    return _transformer(name, dataset, data_dir, layers=3, width=112, heads=7, batch_size=16, length=32)


@_transformer_task(published="TransformerLM_LM1B_5layer_128width")
def transformer_lm1b_5layer_128width(name: str, dataset: str, data_dir: str | None) -> "TaskFamily":
    """5 layers, width 128, 8 heads, batch 32, length 128."""
    return _transformer(name, dataset, data_dir, layers=5, width=128, heads=8, batch_size=32, length=128)


@_recurrent_task(datasets=_LM1B, published="RNNLM_lm1b32k_Patch32_LSTM256_Embed128")
def rnn_lm1b_lstm256(name: str, dataset: str, data_dir: str | None) -> "TaskFamily":
    """LSTM."""
    return _recurrent(name, dataset, data_dir, "lstm")


@_recurrent_task(datasets=_LM1B, published="RNNLM_lm1b32k_Patch32_IRNN256_Embed128")
def rnn_lm1b_irnn256(name: str, dataset: str, data_dir: str | None) -> "TaskFamily":
    """A ReLU network whose recurrent matrix begins as the identity."""
    return _recurrent(name, dataset, data_dir, "irnn")


@_recurrent_task(datasets=_WIKIPEDIA, published="RNNLM_wikipediaen32k_Patch32_GRU256_Embed128")
def rnn_wikipedia_gru256(name: str, dataset: str, data_dir: str | None) -> "TaskFamily":
    """GRU."""
    return _recurrent(name, dataset, data_dir, "gru")
