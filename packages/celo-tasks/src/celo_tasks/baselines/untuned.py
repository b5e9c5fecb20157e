"""What people train with when they tune nothing: well-known optimizers at fixed settings, the same for every task.

An optimizer that needs no tuning has to beat these by far; tuned ones are in `celo_tasks.baselines.catalogue`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType

import jax
import jax.numpy as jnp
import optax
import optax.contrib

MakeUntuned = Callable[[int], optax.GradientTransformation]


@dataclasses.dataclass(frozen=True)
class UntunedBaseline:
    """A hand-designed optimizer with all of its settings.

    Attributes:
      name: name in results.
      description: what exactly it is, in a line.
      make: builds it for a training of so many steps.
      source: where the settings are from.
    """

    name: str
    description: str
    make: MakeUntuned
    source: str


def _optlist(num_steps: int) -> optax.GradientTransformation:
    constant = 0.747 * num_steps

    def rate(count: optax.ScalarOrSchedule) -> optax.ScalarOrSchedule:
        done = jnp.asarray(count, jnp.float32)
        progress = jnp.clip((done - constant) / (num_steps - constant), 0.0, 1.0)
        return 1.19e-3 * 0.5 * (1.0 + jnp.cos(jnp.pi * progress))

    return optax.nadamw(rate, b1=0.936, b2=0.99895, weight_decay=0.010)


def _muon() -> optax.GradientTransformation:
    """With a learning rate of its own for Adam, which Optax's has in later versions only."""
    kinds = lambda params: jax.tree.map(lambda p: "matrix" if jnp.ndim(p) == 2 else "other", params)
    other = optax.adamw(3e-4, weight_decay=0.0, nesterov=True)
    return optax.multi_transform({"matrix": optax.contrib.muon(2e-2), "other": other}, kinds)


_ALL = (
    UntunedBaseline(
        "optlist_1",
        "the first of OptList: NAdamW at 1.19e-3, b1 0.936, b2 0.99895, weight decay 0.01, constant for 74.7 % of the "
        "training, then cosine decay to 0",
        _optlist,
        "arXiv 2002.11887, google-research/opt_list",
    ),
    UntunedBaseline("adam_1e-3", "Adam at 1e-3, Keras' default", lambda num_steps: optax.adam(1e-3), "arXiv 1412.6980"),
    UntunedBaseline(
        "adamw_1e-3_cosine",
        "AdamW at 1e-3 with weight decay 1e-2 (PyTorch's defaults) and cosine decay to 0",
        lambda num_steps: optax.adamw(optax.cosine_decay_schedule(1e-3, num_steps), weight_decay=1e-2),
        "arXiv 1711.05101",
    ),
    UntunedBaseline(
        "muon_default",
        "Muon at 2e-2, its authors' default, on matrices, all else by Adam at 3e-4, weight decay 0",
        lambda num_steps: _muon(),
        "Jordan 2024, kellerjordan.github.io/posts/muon",
    ),
    UntunedBaseline(
        "prodigy_default",
        "Prodigy at 1, its default, weight decay 0",
        lambda num_steps: optax.contrib.prodigy(1.0),
        "arXiv 2306.06101",
    ),
    UntunedBaseline(
        "schedule_free_adamw_default",
        "schedule-free AdamW at 2.5e-3, its default, warm-up over 5 % of the training; the loss is that of the trained, not the "
        "averaged weights",
        lambda num_steps: optax.contrib.schedule_free_adamw(2.5e-3, warmup_steps=max(1, num_steps // 20)),
        "arXiv 2405.15682",
    ),
)

UNTUNED_BASELINES: Mapping[str, UntunedBaseline] = MappingProxyType({baseline.name: baseline for baseline in _ALL})
"""Untuned baselines by name."""
