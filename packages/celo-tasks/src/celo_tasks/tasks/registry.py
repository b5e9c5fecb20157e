"""Every evaluation task by name. Nothing is built, and no data set is looked for, before it is asked for."""

import dataclasses
import functools
import importlib
import json
from collections.abc import Mapping
from importlib.resources import files
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from celo_tasks.cli.console import nearest

if TYPE_CHECKING:  # with celo_core comes JAX, which a list of tasks need not wait for
    from celo_core import TaskFamily


class Cost(NamedTuple):
    """What a task costs, see `celo_tasks.evaluation.task_costs`.

    Attributes:
      parameters: trained numbers.
      gflop: floating-point operations of a loss and its gradient, in 10^9, as XLA counts them: the
        body of a loop once, however often it runs.
      milliseconds: time of a training step with Adam on one core of the machine that ``costs.json`` names; ``None`` where
        it was not measured.
    """

    parameters: int
    gflop: float
    milliseconds: float | None


@dataclasses.dataclass(frozen=True)
class TaskEntry:
    """A task that can be made.

    Attributes:
      name: its name.
      kind: what is trained, in a few words.
      module: the module of `celo_tasks.tasks` with a function of the task's name; called with the name, the data set and
        the data folder, it returns the `celo_core.TaskFamily`.
      datasets: data sets that it can be trained on; the first that is on this machine is taken.
      published: its name in the public task library, and what differs here; ``None`` for a task of our own.
    """

    name: str
    kind: str
    module: str
    datasets: tuple[str, ...]
    published: str | None = None

    def dataset(self, data_dir: str | None = None) -> str | None:
        """The data set that `make` would take; ``None`` if none of them is on this machine."""
        return next((name for name in self.datasets if _is_available(name, data_dir)), None)

    def make(self, data_dir: str | None = None) -> "TaskFamily":
        """The task's family, on the first of its data sets that is on this machine.

        Raises:
          FileNotFoundError: none of them is; the message names the command that fetches one.
        """
        dataset = self.dataset(data_dir)
        if dataset is None:
            raise FileNotFoundError(
                f"task {self.name} needs the data set {self.datasets[0]}, which is not on this machine: run `celo-tasks "
                f"prepare {self.datasets[0]}`, or give a --data-dir that has one of {', '.join(self.datasets)}."
            )
        return self.make_with(dataset, data_dir)

    def make_with(self, dataset: str, data_dir: str | None = None) -> "TaskFamily":
        """The task's family on a data set, whether or not that is on this machine: for its shapes, say."""
        module = importlib.import_module(f"celo_tasks.tasks.{self.module}")
        return getattr(module, self.name)(self.name, dataset, data_dir)

    def cost(self) -> Cost | None:
        """What it costs; ``None`` if that was not measured."""
        found = _costs()["tasks"].get(self.name)
        return Cost(found["parameters"], found["gflop"], found["milliseconds"]) if found else None


def _is_available(name: str, data_dir: str | None) -> bool:
    from celo_tasks import datasets  # with it comes the reading of data sets

    if name in datasets.TEXT_SPECS:
        return datasets.is_text_available(name, data_dir=data_dir)
    return datasets.is_available(name, data_dir=data_dir)


@functools.cache
def _costs() -> dict:
    return json.loads((files("celo_tasks.tasks") / "costs.json").read_text())


def measured_on() -> str:
    """The machine on which `Cost.milliseconds` was measured."""
    return str(_costs()["machine"])


_FASHION_28 = ("fashion_mnist_28", "fashion_mnist_small_28")
_FASHION_8 = ("fashion_mnist_8x8", "fashion_mnist_small_8x8")
_CIFAR10 = ("cifar10_32rgb", "cifar10_32rgb_sub")
_CIFAR10_16 = ("cifar10_16rgb", "cifar10_16rgb_sub")
_CIFAR100 = ("cifar100_32rgb", "cifar100_32rgb_sub")
_LM1B = ("lm1b_32k", "lm1b", "shakespeare")
_WIKIPEDIA = ("wikipedia_en_32k", "wikipedia_en", "shakespeare")
_SMALL_28 = ("fashion_mnist_small_28",)
_DIGITS = ("digits_8x8",)
_SHAKESPEARE = ("shakespeare",)

# name, kind, module, data sets, name in the public task library
_Row = tuple[str, str, str, tuple[str, ...], str | None]
_VELODROME_ROWS: tuple[_Row, ...] = (
    ("image_mlp_cifar100_relu_128x128x128", "MLP", "velodrome_images", _CIFAR100, "ImageMLP_Cifar100_128x128x128_Relu"),
    (
        "mlp_autoencoder_cifar10_32x32x32",
        "autoencoder",
        "velodrome_images",
        _CIFAR10,
        "ImageMLPAE_Cifar10_32x32x32_bs128",
    ),
    ("vae_fashion_mnist", "VAE", "velodrome_images", _FASHION_28, "the VAE family of its sampled tasks"),
    ("conv_cifar10_32x64x64", "convnet", "velodrome_images", _CIFAR10, "Conv_Cifar10_32x64x64"),
    ("conv_cifar10_32x64x64_batchnorm", "convnet", "velodrome_images", _CIFAR10, "Conv_Cifar10_32x64x64_batchnorm"),
    (
        "resnet_cifar10_16x16",
        "residual network",
        "velodrome_images",
        _CIFAR10_16,
        "Resnet, one block per group (ImageNet there)",
    ),
    ("vit_cifar100_wide_shallow", "vision transformer", "velodrome_images", _CIFAR100, "VIT_Cifar100_wideshallow"),
    ("vit_cifar100_skinny_deep", "vision transformer", "velodrome_images", _CIFAR100, "VIT_Cifar100_skinnydeep"),
    ("mixer_cifar100_tiny16", "MLP-mixer", "velodrome_images", _CIFAR100, "MLPMixer_Cifar100_tiny16"),
    ("transformer_lm1b_2layer_32width", "transformer LM", "velodrome_text", _LM1B, "TransformerLM_LM1B_MultiRuntime_2"),
    (
        "transformer_lm1b_3layer_112width",
        "transformer LM",
        "velodrome_text",
        _LM1B,
        "TransformerLM_LM1B_MultiRuntime_7",
    ),
    (
        "transformer_lm1b_5layer_128width",
        "transformer LM",
        "velodrome_text",
        _LM1B,
        "TransformerLM_LM1B_5layer_128width",
    ),
    ("rnn_lm1b_lstm256", "recurrent LM", "velodrome_text", _LM1B, "RNNLM_lm1b32k_Patch32_LSTM256_Embed128"),
    ("rnn_lm1b_irnn256", "recurrent LM", "velodrome_text", _LM1B, "RNNLM_lm1b32k_Patch32_IRNN256_Embed128"),
    (
        "rnn_wikipedia_gru256",
        "recurrent LM",
        "velodrome_text",
        _WIKIPEDIA,
        "RNNLM_wikipediaen32k_Patch32_GRU256_Embed128",
    ),
    ("lopt_fashion_mnist_20", "learned optimizer", "velodrome_meta", _FASHION_8, "LOpt_AdafacMLPLOpt_FashionMnist_20"),
    (
        "es_wrapped_fashion_mnist_8x8_relu32",
        "MLP by ES",
        "velodrome_meta",
        _FASHION_8,
        "ESWrapped_1pair_ImageMLP_FashionMnist8_Relu32",
    ),
)
_SMALL_ROWS: tuple[_Row, ...] = (
    ("small_mlp", "MLP", "small_images", _SMALL_28, None),
    ("small_autoencoder", "autoencoder", "small_images", _SMALL_28, None),
    ("small_vae", "VAE", "small_images", _DIGITS, None),
    ("small_conv", "convnet", "small_images", _SMALL_28, None),
    ("small_vit", "vision transformer", "small_images", _SMALL_28, None),
    ("small_transformer", "transformer LM", "small_text", _SHAKESPEARE, None),
    ("small_gru", "recurrent LM", "small_text", _SHAKESPEARE, None),
    ("small_lopt", "learned optimizer", "small_text", _DIGITS, None),
)
_OTHER_ROWS: tuple[_Row, ...] = (
    (
        "image_mlp_fashion_mnist_relu_128x128",
        "MLP",
        "velodrome_images",
        _FASHION_28,
        "ImageMLP_FashionMnist_Relu128x128",
    ),
    (
        "image_mlp_cifar10_tanh_128x128x128",
        "MLP",
        "velodrome_images",
        _CIFAR10,
        "ImageMLP_Cifar10_128x128x128_Tanh_bs128",
    ),
    (
        "mlp_autoencoder_fashion_mnist_128x32x128",
        "autoencoder",
        "velodrome_images",
        _FASHION_28,
        "ImageMLPAE_FashionMnist_128x32x128_bs128",
    ),
    ("conv_cifar10_32x64x64_layernorm", "convnet", "velodrome_images", _CIFAR10, "Conv_Cifar10_32x64x64_layernorm"),
)

TASKS: Mapping[str, TaskEntry] = MappingProxyType(
    {row[0]: TaskEntry(*row) for row in (*_VELODROME_ROWS, *_SMALL_ROWS, *_OTHER_ROWS)}
)
"""Tasks by name."""


@dataclasses.dataclass(frozen=True)
class Suite:
    """A fixed set of tasks with the lengths at which they are run.

    Attributes:
      tasks: names in `TASKS`.
      steps: length of every training.
      seeds: number of seeds.
      learning_rates: "small" or "public", a grid of `celo_tasks.baselines`.
      description: what it is, in a sentence.
    """

    tasks: tuple[str, ...]
    steps: int
    seeds: int
    learning_rates: str
    description: str


SUITES: Mapping[str, Suite] = MappingProxyType(
    {
        "small-8": Suite(
            tuple(row[0] for row in _SMALL_ROWS),
            steps=1000,
            seeds=3,
            learning_rates="small",
            description="eight small tasks for two CPU cores, on data that are in the package or in scikit-learn",
        ),
        "velodrome-17": Suite(
            tuple(row[0] for row in _VELODROME_ROWS),
            steps=2000,
            seeds=3,
            learning_rates="public",
            description="seventeen tasks of the kinds that VeLO and Celo were judged by, with published configurations",
        ),
    }
)
"""Suites by name."""


def find_task(name: str) -> TaskEntry:
    """A task by name.

    Raises:
      ValueError: there is none; the message names those with similar names.
    """
    if name not in TASKS:
        raise ValueError(f"there is no task {name!r}{nearest(name, TASKS)}; `celo-tasks list` shows them all.")
    return TASKS[name]


def find_suite(name: str) -> Suite:
    """A suite by name.

    Raises:
      ValueError: there is none; the message names those that there are.
    """
    if name not in SUITES:
        raise ValueError(f"there is no suite {name!r}{nearest(name, SUITES)}: choose {' or '.join(SUITES)}.")
    return SUITES[name]
