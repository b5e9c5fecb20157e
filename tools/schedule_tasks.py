"""Numbered small tasks whose best step size differs: those of `celo_tasks.families.Varied`, drawn with NumPy, by number.

The families are those of `celo_tasks.meta_training.families` whose names begin with "varied". None of them is a task of a suite
or of `celo_tasks.meta_training.validation`. What differs between two tasks of the same `Shape` is an argument of the compiled
program, not a part of it, so that one program serves them all.
"""

import dataclasses
import math
from typing import Any

import jax
import numpy as np

from celo_tasks.families import ImageRegression, Varied, reparametrize
from celo_tasks.families.varied import FEW, INPUTS, TARGETS, UNEVEN, WRONG
from celo_tasks.meta_training.families import META_FAMILIES, Sources

AUGMENTATIONS = {"none": 0.4, "global": 0.2, "tensor": 0.4}
"""Levels of augmentation, each with its probability."""


class Numbered(Varied):
    """A family whose tasks are drawn by number, too."""

    def config(self, draw: "Draw") -> dict[str, Any]:
        """The config of a drawn task."""
        key = jax.random.key(draw.seed)
        level = draw.described["augmentation"]
        scale = reparametrize(self.family, (level,), zeros_follow=True).sample(key)["scale"]
        config = self.whole_batches({"task": self.family.sample(key), "scale": scale})
        return {**config, "knobs": draw.knobs()}

    def limit(self, draw: "Draw") -> tuple[float, float]:
        """What losses are divided by, and above which they are cut off after that."""
        if isinstance(self.family, ImageRegression):
            # Returning zeros costs 1 after the division; a network that begins with outputs of 1 for targets of 0.01, 10,000.
            return draw.described["target_scale"] ** 2, 1e6
        return 1.0, float(self.normalizer(np.float32(np.inf)))


@dataclasses.dataclass(frozen=True)
class Shape:
    """Tasks that share a compiled program.

    Attributes:
      family: a name in `META_FAMILIES`.
      label: what kind of network, in results.
      share: how often it is drawn: the cheaper, the more often.
    """

    family: str
    label: str
    share: int

    def build(self, datasets: tuple[str, ...], data_dir: str | None) -> Numbered:
        """The family of all its tasks."""
        varied: Any = META_FAMILIES[self.family][1](Sources(datasets, data_dir=data_dir))
        return Numbered(varied.family)


SHAPES = (
    Shape("varied_mlp", "mlp_32", 3),
    Shape("varied_small_batch_mlp", "mlp_32_16", 3),
    Shape("varied_few_images_mlp", "mlp_40_40_few", 3),
    Shape("varied_sampled_mlp", "sampled_mlp_32", 4),
    Shape("varied_autoencoder", "autoencoder_24_6_24", 2),
    Shape("varied_vit", "vit_1x16", 2),
    Shape("varied_convnet", "convnet_6_12_norm", 2),
    Shape("varied_transformer", "transformer_1x12", 2),
    Shape("varied_gru", "gru_16", 2),
    Shape("varied_regression", "regression_32", 3),
    Shape("varied_large_batch_mlp", "mlp_16_large_batch", 2),
    Shape("varied_deep_mlp", "mlp_64_64_64", 2),
    Shape("varied_wide_mlp", "mlp_128", 2),
    Shape("varied_wide_sampled_mlp", "sampled_mlp_64", 1),
    Shape("varied_large_autoencoder", "autoencoder_96_24_96", 1),
    Shape("varied_plain_convnet", "convnet_6_12_plain", 2),
    Shape("varied_wide_convnet", "convnet_16_32_norm", 1),
    Shape("varied_wide_regression", "regression_96_48", 1),
    Shape("varied_large_transformer", "transformer_2x32", 1),
    Shape("varied_large_gru", "gru_48", 1),
    Shape("varied_large_vit", "vit_2x32", 1),
    Shape("varied_large_few_images_mlp", "mlp_160_160_few", 1),
    Shape("varied_large_mlp", "mlp_256_128", 1),
)
"""Of a thousand to some 50,000 parameters."""


def shape_of(task: int) -> Shape:
    """The shape of a task by its number: all of them come first, and then those of larger shares more often."""
    cycle = [shape for turn in range(max(s.share for s in SHAPES)) for shape in SHAPES if shape.share > turn]
    return cycle[task % len(cycle)]


class Draw:
    """What a task is, apart from its shape.

    Args:
      task: its number.
      seed: of all tasks.
      family: of its shape.

    Attributes:
      described: for JSON and for people.
      seed: of initialisation and batches.
    """

    def __init__(self, task: int, seed: int, family: Varied) -> None:
        rng = np.random.default_rng([seed, task])
        pick = lambda choices: list(choices)[rng.choice(len(choices), p=list(choices.values()))]
        self.seed = int(rng.integers(2**31))
        batch = int(rng.choice(family.batch_sizes))
        inputs, wrong, target = pick(INPUTS), pick(WRONG), pick(TARGETS)
        augmentation, few = pick(AUGMENTATIONS), bool(rng.random() < FEW)
        low, high = (math.log(bound) for bound in UNEVEN)
        self.pixels = np.exp(rng.uniform(low, high, family.num_pixels)).astype(np.float32)
        self.described = {
            "batch_size": batch,
            "inputs": inputs if family.num_pixels else "plain",
            "wrong_labels": wrong if family.has_labels else 0.0,
            "target_scale": target if isinstance(family.family, ImageRegression) else 1.0,
            "augmentation": augmentation,
            "few_examples": few or getattr(family.family, "num_images", None) is not None,
        }

    def knobs(self) -> dict[str, Any]:
        """Arguments of the compiled program."""
        of = self.described
        gain = {"times_255": 255.0, "times_0.01": 0.01}.get(of["inputs"], 1.0)
        return {
            "batch_size": np.int32(of["batch_size"]),
            "gain": self.pixels if of["inputs"] == "uneven" else np.full_like(self.pixels, gain),
            "offset": np.float32(5.0 if of["inputs"] == "plus_5" else 0.0),
            "wrong": np.float32(of["wrong_labels"]),
            "target_scale": np.float32(of["target_scale"]),
            "few": np.bool_(of["few_examples"]),
        }
