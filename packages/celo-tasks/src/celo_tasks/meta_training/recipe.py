"""What a meta-training is made of: its settings, phases and architectures, and the recipes by name.

Source of the defaults: Celo (arXiv 2501.12670, section 4).
"""

import dataclasses
import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

PHASES = ("update_rule", "scheduler")
"""Celo's. Celo-Adam's direction is Adam's, so it has the second phase alone."""

ARCHITECTURES = ("celo", "celo_adam")
"""What can be meta-trained."""

PAPER_DATASETS = ("mnist_8x8", "fashion_mnist_8x8", "cifar10_8x8", "svhn_cropped_8x8")
OFFLINE_DATASETS = ("digits_8x8", "fashion_mnist_small_8x8")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Settings of a whole two-phase run. The defaults are the paper's (arXiv 2501.12670, section 4).

    Attributes:
      datasets: image sets, see `celo_tasks.datasets`.
      levels: levels of task augmentation.
      iterations: meta-iterations of each phase, by phase.
      learning_rates: peak learning rate of the meta-optimizer, by phase.
      final_fraction: the learning rate decays by a cosine to this fraction of its peak; 1 for a constant one.
      decay_from: share of a phase's iterations after which it begins to: before, it is constant.
      weight_decay: AdamW's.
      clip_norm: largest norm of the meta-gradient.
      meta_optimizer: ``"module:function"`` that, called with the number of iterations, returns the Optax optimizer to use in
        place of AdamW; ``None`` for AdamW.
      average_decay: decay of the running average of theta that is the result.
      estimator: a name in `celo_core.estimators.ESTIMATORS`.
      num_pairs: antithetic pairs; with backpropagation, half the number of problems.
      sigma: standard deviation of perturbations.
      final_sigma: what sigma goes to, by the same factor in every iteration; ``None`` for a constant one.
      clip_problem: largest norm of one problem's gradient; ``None`` for none.
      truncation: inner steps per window.
      truncations: pairs (iteration, truncation) that change it.
      min_length, max_length: range of log-uniform problem lengths.
      first_length: a curriculum's longest length at the start; ``None`` for no curriculum.
      curriculum: iterations until it has grown to ``max_length``.
      meta_loss: ``"training"`` or ``"held_out"``.
      late_weights: by phase, how much more the end of a problem's life weighs than its beginning, for estimators on truncated
        unrolls: see `celo_core.TruncatedPES`.
      resume_probability: share of new problems that begin from a snapshot of an earlier life.
      architecture: ``"celo"`` or ``"celo_adam"``.
      families: pairs (name in `celo_tasks.meta_training.families.META_FAMILIES`, antithetic pairs of problems of it); empty for the
        paper's, ``num_pairs`` of "mlp".
      text: what the families of language models read, see `celo_tasks.datasets.load_text`.
      objective: of what the mean over a problem's steps is minimised, ``"loss"`` or ``"log_loss"`` (see
        `celo_tasks.families.LogLoss`); families whose losses differ in size want the latter.
      zero_init_scale: Celo's, see `celo_core.CeloConfig`; if it is not 0, augmentation spares what begins as zeros (see
        `celo_tasks.families.Reparametrized`).
      adam, orthogonal: Celo's, see `celo_core.CeloConfig`.
      scheduler_hidden_size: units of the LSTM; evolution strategies learn the sooner, the fewer meta-parameters there are.
      scheduler_horizon: whether it reads the planned length of training.
      scheduler_shortest: steps that a shorter planned length counts as for it.
      scheduler_decay: what the learned multiplier is multiplied by, see `celo_core.LSTMSchedulerConfig`.
      joint: whether the scheduler's phase goes on training the update rule as well, which is then frozen no more: what it
        has learned at a constant multiplier is not best for steps that get smaller.
      warm_start: a theta.npz, each part of which the phase that trains it begins with, or the checkpoint.npz of a first
        phase; ``None`` for random beginnings.
      seed: of everything random.
    """

    datasets: tuple[str, ...]
    levels: tuple[str, ...] = ("global", "tensor", "parameter")
    iterations: tuple[int, int] = (100_000, 100_000)
    learning_rates: tuple[float, float] = (3e-4, 3e-4)
    final_fraction: float = 1.0
    decay_from: float = 0.0
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    meta_optimizer: str | None = None
    average_decay: float = 0.0
    estimator: str = "pes"
    num_pairs: int = 32
    sigma: float = 0.01
    final_sigma: float | None = None
    clip_problem: float | None = None
    truncation: int = 50
    truncations: tuple[tuple[int, int], ...] = ()
    min_length: int = 100
    max_length: int = 2000
    first_length: int | None = None
    curriculum: int = 10_000
    meta_loss: str = "training"
    late_weights: tuple[float, float] = (0.0, 0.0)
    resume_probability: float = 0.0
    architecture: str = "celo"
    families: tuple[tuple[str, int], ...] = ()
    text: str = "shakespeare"
    objective: str = "loss"
    zero_init_scale: float = 0.0
    adam: bool = False
    orthogonal: bool = False
    scheduler_hidden_size: int = 64
    scheduler_horizon: bool = False
    scheduler_shortest: int = 1
    scheduler_decay: str = "constant"
    joint: bool = False
    warm_start: str | None = None
    seed: int = 0

    def settings(self) -> dict[str, Any]:
        """What differs from the defaults, for JSON: settings that later versions add change nothing in it."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        changed = {name: value for name, value in fields.items() if value != defaults[name]}
        return dict(json.loads(json.dumps(changed)))

    @property
    def problems(self) -> tuple[tuple[str, int], ...]:
        """Pairs (family, antithetic pairs of problems): ``families``, or the paper's."""
        return self.families or (("mlp", self.num_pairs),)

    @property
    def phases(self) -> tuple[str, ...]:
        """Those of `PHASES` that the architecture has."""
        return PHASES if self.architecture == "celo" else PHASES[1:]


RECIPES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "paper": {},
        "fast": {
            "levels": ("global", "tensor"),
            "iterations": (3000, 3000),
            "learning_rates": (4e-3, 1e-3),
            "final_fraction": 0.03,
            "average_decay": 0.98,
        },
    }
)
"""By name, what differs from the paper's settings."""
