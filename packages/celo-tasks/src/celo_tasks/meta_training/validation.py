"""Validation during meta-training: how a theta trains small networks that meta-training does not see, against tuned Adam.

The tasks are in no evaluation suite, so that theta, settings and the time to stop may be chosen by what is found here. Their
data come with the package; some are those of meta-training too, but none of the networks is.
"""

import json
import math
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from celo_core import LearnedOptimizer, TaskFamily, files
from celo_core.meta_training.unroll import InnerProblem, train
from celo_core.progress import ProgressLine
from celo_tasks import baselines
from celo_tasks.evaluation import curves
from celo_tasks.evaluation.loading import identity
from celo_tasks.evaluation.scores import SMALLEST_LOSS
from celo_tasks.evaluation.statistics import iqm
from celo_tasks.families import (
    MLP,
    ConvNet,
    DiabetesRegression,
    ESWrapped,
    ImageAutoencoder,
    ImageClassifier,
    ImageVAE,
    LanguageModel,
)
from celo_tasks.families.hashed_trigrams import HashedTrigrams
from celo_tasks.families.mlp_mixer import MLPMixer
from celo_tasks.families.recurrent import RecurrentLM
from celo_tasks.families.text_transformer import TransformerLM
from celo_tasks.families.vision_transformer import VisionTransformer
from celo_tasks.meta_training.optimizers import Adam, Recorded

Array = jax.Array

CURVE_POINTS = 100
"""Points to which a curve is thinned out."""


def _mlp() -> TaskFamily:
    # Layers of unequal width: `celo_tasks.families.SampledImageMLP`, which may be meta-trained on, has none.
    network = MLP((48, 24), 10, "tanh")
    return ImageClassifier("mlp_tanh_48x24", network, "fashion_mnist_small_8x8", (64,), batch_size=32)


def _convnet() -> TaskFamily:
    network = ConvNet((8, 16), (1, 2), 10, normalization="layer")
    return ImageClassifier("convnet_layernorm", network, "digits_8x8", (8, 8, 1), batch_size=32)


def _autoencoder() -> TaskFamily:
    return ImageAutoencoder("autoencoder_32x8x32", "digits_8x8", 64, batch_size=32, hidden_sizes=(32, 8, 32))


def _transformer() -> TaskFamily:
    return LanguageModel("transformer_1x16", TransformerLM(1, 16, 2, 16), batch_size=8, length=16)


def _lstm() -> TaskFamily:
    return LanguageModel("lstm_24", RecurrentLM("lstm", 24, 12), batch_size=8, length=16)


def _raw_pixels() -> TaskFamily:
    network = MLP((40,), 10)
    return ImageClassifier("mlp_raw_pixels", network, "fashion_mnist_small_8x8", (64,), batch_size=16, gain=255.0)


def _large() -> TaskFamily:
    return ImageClassifier("mlp_784x48x48", MLP((48, 48), 10), "fashion_mnist_small_28", (784,), batch_size=64)


def _vae() -> TaskFamily:
    return ImageVAE("vae_48_6", "fashion_mnist_small_8x8", 64, 32, None, (48,), 6, (48,))


def _estimated() -> TaskFamily:
    return ESWrapped(ImageClassifier("mlp_20", MLP((20,), 10), "digits_8x8", (64,), batch_size=32), num_pairs=3)


def _tiny_batch() -> TaskFamily:
    return ImageClassifier("convnet_batch_2", ConvNet((6, 6), (2, 2), 10), "digits_8x8", (8, 8, 1), batch_size=2)


def _vit() -> TaskFamily:
    network = VisionTransformer(patch_size=2, width=24, mlp_width=48, num_heads=4, num_layers=2, num_outputs=10)
    return ImageClassifier("vit_2x24", network, "fashion_mnist_small_8x8", (8, 8, 1), batch_size=16)


def _mixer() -> TaskFamily:
    network = MLPMixer(2, 16, 2, token_mlp_width=24, channel_mlp_width=32, num_outputs=10)
    return ImageClassifier("mixer_2x16", network, "digits_8x8", (8, 8, 1), batch_size=32)


def _deep() -> TaskFamily:
    return ImageClassifier("mlp_8x32", MLP((32,) * 8, 10), "fashion_mnist_small_8x8", (64,), batch_size=32)


def _batch_norm() -> TaskFamily:
    network = ConvNet((12, 24), (1, 2), 10, normalization="batch")
    return ImageClassifier("convnet_batchnorm", network, "fashion_mnist_small_8x8", (8, 8, 1), batch_size=64)


def _large_small_batch() -> TaskFamily:
    network = MLP((96, 64, 48), 10)
    return ImageClassifier("mlp_784x96x64x48", network, "fashion_mnist_small_28", (784,), batch_size=8)


def _gru() -> TaskFamily:
    return LanguageModel("gru_40", RecurrentLM("gru", 40, 16), batch_size=8, length=24)


def _trigrams() -> TaskFamily:
    return LanguageModel("trigrams_1024", HashedTrigrams(1024, 12, 32), batch_size=8, length=32)


VALIDATION_TASKS: Mapping[str, tuple[str, Callable[[], TaskFamily]]] = MappingProxyType(
    {
        "mlp_tanh_48x24": ("MLP 64-48-24-10 with tanh on Fashion-MNIST at 8x8, batch 32", _mlp),
        "convnet_layernorm": (
            "convnet, 3x3 with 8 and 16 channels and layer normalisation, on 8x8 digits, batch 32",
            _convnet,
        ),
        "autoencoder_32x8x32": ("autoencoder 64-32-8-32-64 of 8x8 digits, batch 32", _autoencoder),
        "transformer_1x16": (
            "byte-level transformer, one layer of width 16, on Shakespeare, batch 8 x 16",
            _transformer,
        ),
        "lstm_24": ("byte-level LSTM of width 24 on Shakespeare, batch 8 x 16", _lstm),
        "mlp_raw_pixels": ("MLP 64-40-10 on Fashion-MNIST at 8x8 with pixels from 0 to 255, batch 16", _raw_pixels),
        "mlp_784x48x48": ("MLP 784-48-48-10 on Fashion-MNIST, batch 64", _large),
        "regression_raw": (
            "MLP 10-24-24-1 on measurements and targets in their units, batch 16",
            lambda: DiabetesRegression("regression_raw", (24, 24), 16),
        ),
        "vae_48_6": ("variational autoencoder 64-48-6-48-64 of Fashion-MNIST at 8x8, batch 32", _vae),
        "es_3pair_mlp_20": (
            "MLP 64-20-10 on 8x8 digits, gradients by evolution strategies of three pairs, batch 32",
            _estimated,
        ),
        "convnet_batch_2": (
            "convnet, 3x3 with 6 and 6 channels, without normalisation, on 8x8 digits, batch 2",
            _tiny_batch,
        ),
        "vit_2x24": ("vision transformer, two layers of width 24, on Fashion-MNIST at 8x8, batch 16", _vit),
        "mixer_2x16": ("MLP-Mixer, two blocks of width 16, on 8x8 digits, batch 32", _mixer),
        "mlp_8x32": (
            "MLP of eight layers of width 32, without normalisation, on Fashion-MNIST at 8x8, batch 32",
            _deep,
        ),
        "convnet_batchnorm": (
            "convnet, 3x3 with 12 and 24 channels and batch normalisation, on Fashion-MNIST at 8x8, batch 64",
            _batch_norm,
        ),
        "mlp_784x96x64x48": ("MLP 784-96-64-48-10 on Fashion-MNIST, batch 8", _large_small_batch),
        "gru_40": ("byte-level GRU of width 40 on Shakespeare, batch 8 x 24", _gru),
        "trigrams_1024": (
            "byte-level model with an embedding of 1,024 hashed trigrams, most of them rare, on Shakespeare, batch 8 x 32",
            _trigrams,
        ),
    }
)
"""Tasks by name: what each is, and how its family is made."""

FEW = tuple(VALIDATION_TASKS)[:5]
"""Those that are cheap and well scaled, which a meta-training is watched by; weights are chosen by all."""


ASK_SECONDS = 0.2
"""Between questions whether a validation is to stop."""


class ValidationStopped(Exception):
    """A validation was asked to stop before it was done."""


class MetaValidation:
    """Trains the validation tasks under a learned optimizer and compares it with Adam at the best of several learning rates.

    Initialisation and batches depend on task and seed alone: every theta, and Adam, get the same.

    Args:
      steps: length of every training. At 300 steps weights are not ordered as on an evaluation suite at 1,000.
      seeds: number of seeds, 0, 1, ...; they are trained at once.
      tasks: names in `VALIDATION_TASKS`.
      learning_rates: those that Adam is tried at.
      reference: what `tuned_adam` is to return: a dict that it returned before, or a JSON file. A file that is missing,
        damaged or of other settings is written anew, once Adam is tuned; ``None`` keeps it in memory.
      progress: where progress is shown; ``None`` for nowhere.
      stop: asked all the time; if it returns true, what is under way is left, without a result. A compilation or a training
        that XLA has begun goes on in its thread until it is done.

    Raises:
      ValueError: the settings make no sense, or ``reference`` is a dict of other settings.
    """

    def __init__(
        self,
        steps: int = 1000,
        seeds: int = 2,
        tasks: Sequence[str] = FEW,
        *,
        learning_rates: Sequence[float] = baselines.LEARNING_RATES_6,
        reference: Mapping[str, Any] | str | os.PathLike[str] | None = None,
        progress: ProgressLine | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        if unknown := [name for name in tasks if name not in VALIDATION_TASKS]:
            raise ValueError(f"there is no validation task {unknown[0]!r}: choose from {', '.join(VALIDATION_TASKS)}.")
        if not tasks or len(set(tasks)) < len(tasks):
            raise ValueError(f"validation tasks must be named, each once, not {tuple(tasks)}.")
        if steps < 1 or seeds < 1:
            raise ValueError(f"steps and seeds must be at least 1, not {steps} and {seeds}.")
        if not learning_rates or not min(learning_rates) > 0:
            raise ValueError(f"Adam needs positive learning rates to be tried at, not {tuple(learning_rates)}.")
        self.steps, self.seeds, self.tasks = steps, seeds, tuple(tasks)
        self.learning_rates = tuple(float(rate) for rate in learning_rates)
        self._families = {name: VALIDATION_TASKS[name][1]() for name in tasks}
        self._data: dict[str, Any] = {}
        self._progress, self._stop = progress, stop
        self._train = jax.jit(self._train_seeds, static_argnums=(0, 1), compiler_options=_compiler_options())
        self._adam: dict[str, Any] | None = None
        self._reference: pathlib.Path | None = None
        if isinstance(reference, Mapping):
            if not self._fits(reference):
                raise ValueError("the reference is of other validation settings: leave it out, and Adam is tuned anew.")
            self._adam = dict(reference)
        elif reference is not None:
            self._reference = pathlib.Path(reference)

    def tuned_adam(self) -> dict[str, Any]:
        """Adam's final losses, tuned on the first call unless the reference has them.

        Returns:
          For JSON: ``{"settings": ..., "tasks": {name: ...}}``. A task has the best ``"learning_rate"``, whether that is
          the edge of several (``"learning_rate_at_edge"``), its ``"final_loss"`` (mean over seeds of the mean of the last
          5 % of normalised training losses), and those of all learning rates in their order, ``"final_losses"``.

        Raises:
          OSError: the reference's file could not be written.
          ValidationStopped: it was asked to stop.
        """
        if self._adam is None:
            self._adam = self._read_reference()
        if self._adam is None:
            self._adam = {"settings": self._settings(), "tasks": self._for_each_task(self._tune)}
            if self._reference is not None:
                files.write_json(self._reference, self._adam)
        return self._adam

    def measure(self, architecture: LearnedOptimizer, theta: Any) -> dict[str, Any]:
        """Trains every task under ``theta``.

        An architecture is compiled on its first call (a `celo_core.meta_training.trainer.FrozenPart` counts as another one
        each time that it is made); after that another theta costs no compilation.

        Args:
          architecture: the learned optimizer.
          theta: its meta-parameters.

        Returns:
          For JSON: ``{"ratio": ..., "iqm": ..., "tasks": {name: ...}}``. A task has its ``"final_loss"``, tuned Adam's,
          ``"adam_final_loss"``, and ``"ratio"``, Adam's over its own: above 1 it is better than tuned Adam. The
          whole's ratio is the geometric mean, and ``"iqm"`` the interquartile one, which a single task cannot lift.
          Curves are given after the steps ``"steps"``, at most `CURVE_POINTS`: ``"losses"``, smoothed, mean over seeds,
          and ``"step_sizes"``, norm of the update over norm of the parameters, all tensors taken together, median over
          seeds, ``None`` where that is not finite.

        Raises:
          OSError, ValidationStopped: as `tuned_adam`, which is called first.
        """
        adam = self.tuned_adam()["tasks"]
        # Arrays of the host, since those of a meta-training lie on all devices, and each of them would do all the work.
        theta = jax.device_get(theta)
        measure = lambda name: self._measure_task(name, architecture, theta, adam[name]["final_loss"])
        tasks = self._for_each_task(measure)
        ratios = np.array([[task["ratio"] for task in tasks.values()]])
        geometric, middle = math.exp(np.mean(np.log(ratios))), float(iqm(ratios))
        return {"ratio": curves.six_digits(geometric), "iqm": curves.six_digits(middle), "tasks": tasks}

    def _for_each_task(self, function: Callable[[str], dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """What a function makes of every task, by name. In threads, since a compilation keeps one core busy."""
        pool = ThreadPoolExecutor(min(len(self.tasks), os.cpu_count() or 1))
        try:
            results = {name: pool.submit(function, name) for name in self.tasks}
            while wait(results.values(), ASK_SECONDS, FIRST_EXCEPTION).not_done:
                if self._stop():
                    raise ValidationStopped
                if any(one.done() and one.exception() for one in results.values()):
                    break
            return {name: one.result() for name, one in results.items() if one.done()}
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _measure_task(self, name: str, architecture: LearnedOptimizer, theta: Any, adam: float) -> dict[str, Any]:
        losses, sizes = self._trained(name, architecture, theta)
        final = float(curves.final_loss(losses).mean())
        index = np.unique(np.linspace(0, self.steps - 1, CURVE_POINTS).round().astype(int))
        return {
            "final_loss": curves.six_digits(final),
            "adam_final_loss": adam,
            "ratio": curves.six_digits(max(adam, SMALLEST_LOSS) / max(final, SMALLEST_LOSS)),
            "steps": (index + 1).tolist(),
            "losses": _numbers(curves.smooth(losses).mean(axis=0)[index]),
            "step_sizes": _numbers(np.median(sizes, axis=0)[index]),
        }

    def _tune(self, name: str) -> dict[str, Any]:
        found = [self._trained(name, Adam(), {"learning_rate": np.float32(rate)})[0] for rate in self.learning_rates]
        final = [curves.six_digits(curves.final_loss(losses).mean()) for losses in found]
        rate = self.learning_rates[int(np.argmin(final))]
        return {
            "learning_rate": rate,
            "learning_rate_at_edge": len(final) > 1 and rate in (min(self.learning_rates), max(self.learning_rates)),
            "final_loss": min(final),
            "final_losses": final,
        }

    def _trained(
        self, name: str, architecture: LearnedOptimizer, theta: Any
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Normalised losses and relative step sizes, float32 (seeds, steps)."""
        if self._stop():
            raise ValidationStopped
        if name not in self._data:
            self._data[name] = jax.device_put(self._families[name].load())
        if self._progress is not None:
            self._progress.show(f"validation: {name} under {architecture.name}")
        return jax.device_get(self._train(name, architecture, theta, self._data[name]))

    def _train_seeds(self, name: str, architecture: LearnedOptimizer, theta: Any, data: Any) -> tuple[Array, Array]:
        problem = InnerProblem(Recorded(architecture, self.steps), self._families[name])

        def one(seed: Array) -> tuple[Array, Array]:
            key_config, key = jax.random.split(jax.random.key(seed))
            config = problem.family.sample(key_config)
            trainee, losses = train(problem, theta, key, config, data, self.steps)
            return losses, trainee.opt_state.sizes

        return jax.vmap(one)(jnp.arange(self.seeds))

    def _settings(self) -> dict[str, Any]:
        """What the numbers of tuned Adam depend on; of a task, a digest of its definition (the data are the package's)."""
        return {
            "steps": self.steps,
            "seeds": self.seeds,
            "learning_rates": list(self.learning_rates),
            "tasks": {name: identity(family, ()) for name, family in self._families.items()},
        }

    def _fits(self, reference: Any) -> bool:
        try:
            return reference["settings"] == self._settings() and all(
                math.isfinite(reference["tasks"][name]["final_loss"]) for name in self.tasks
            )
        except (KeyError, TypeError):
            return False

    def _read_reference(self) -> dict[str, Any] | None:
        if self._reference is None or not self._reference.exists():
            return None
        try:
            found = json.loads(self._reference.read_text())
        except ValueError:
            return None
        return found if self._fits(found) else None


def scalars(measured: Mapping[str, Any]) -> dict[str, float]:
    """The ratios of a `MetaValidation.measure`, named for a tracker: ``"validation/ratio"``, ``".../iqm"`` and ``".../TASK"``."""
    ratios = {f"validation/{name}": task["ratio"] for name, task in measured["tasks"].items()}
    return {"validation/ratio": measured["ratio"], "validation/iqm": measured["iqm"], **ratios}


def _compiler_options() -> dict[str, Any]:
    # On a CPU, LLVM's first level halves the time of a compilation, and what it makes of such small networks is as fast.
    return {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else {}


def _numbers(values: NDArray[np.floating]) -> list[float | None]:
    return [curves.six_digits(value) if math.isfinite(value) else None for value in values.tolist()]
