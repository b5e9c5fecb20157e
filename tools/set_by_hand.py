"""Sets by hand some meta-parameters of a Celo or Celo-Adam, for a validation to compare or for a meta-training to begin with.

    python tools/set_by_hand.py runs/joint/theta.npz --share 0.25 --length 1.5 1 --out start.npz

The schedule becomes a line or half a cosine to 0, whose height may depend on the length of training. With --length a Celo that
was meta-trained without an orthogonalised momentum gets one. What comes out can be compared (tools/choose_weights.py), used, or
meta-trained further (celo-tasks meta-train --warm-start).
"""

import argparse
import dataclasses
import math
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from celo_core import Celo, CeloConfig, LSTMSchedulerConfig, configs, get_architecture
from celo_core.meta_training import checkpoints
from celo_core.schedulers.loss_features import DECAYS, horizon_feature


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A decay from a height that depends on the length of training.

    Attributes:
      decay: one of `DECAYS`.
      multiplier: where it begins in a training of 1,000 steps.
      exponent: in a training of n steps it is ``(1000 / n)^exponent`` times as high.
      shortest: steps that fewer count as.
    """

    decay: str = "linear"
    multiplier: float = 1.0
    exponent: float = 0.0
    shortest: int = 1

    def configured(self, scheduler: LSTMSchedulerConfig) -> LSTMSchedulerConfig:
        """The config that can have it; raises ValueError if the scheduler lacks the inputs."""
        changed = dataclasses.replace(scheduler, decay=self.decay, shortest_horizon=self.shortest)
        if self.exponent and not (changed.horizon and changed.hidden_size == 0):
            raise ValueError("no linear scheduler here reads the length of training: leave out --exponent.")
        return changed

    def write(self, step_size: dict[str, np.ndarray], scheduler: LSTMSchedulerConfig) -> None:
        """Sets the weights, in place, of the log multiplier."""
        kernel, bias = step_size["kernel"], step_size["bias"]
        kernel[:] = 0.0
        bias[:] = math.log(self.multiplier / scheduler.multiplier)
        if self.exponent:
            # The horizon's feature, the last input, is the logarithm of the steps and a constant.
            kernel[-1] = -self.exponent
            bias += self.exponent * float(horizon_feature(1000.0)[0])


def set_by_hand(
    source: Path, out: Path, *, share: float, length: tuple[float, float] | None, schedule: Schedule
) -> None:
    """Writes ``out``.

    Args:
      source: theta.npz of a run of Celo with Adam's direction and a scheduler, or of Celo-Adam.
      out: the file to be written.
      share: what the network's direction and Adam's are multiplied by.
      length: meta-parameters of the orthogonalised momentum's length, see `celo_core.CeloConfig`; ``None`` for as it is.
      schedule: what takes the place of the scheduler's.

    Raises:
      ValueError: the run is of an optimizer without these parts.
    """
    metadata = checkpoints.load_metadata(source)
    config = get_architecture(metadata["architecture"], metadata["config"]).config
    if config.scheduler is None:
        raise ValueError(f"{source} has no scheduler: take the theta.npz of a run with one.")
    config = dataclasses.replace(config, scheduler=schedule.configured(config.scheduler))
    theta = jax.tree.map(np.array, checkpoints.load_theta(source))
    if share != 1 or length is not None:
        if not getattr(config, "adam", False):
            raise ValueError(f"{source} has no update rule with Adam's direction: leave out --share and --length.")
        config = _set_directions(theta["update_rule"], config, share, length)
    schedule.write(theta["scheduler"]["network"]["step_size"], config.scheduler)
    described = {"architecture": metadata["architecture"], "config": configs.to_json(config)}
    checkpoints.save_theta(out, theta, described)


def _set_directions(
    rule: dict[str, Any], config: CeloConfig, share: float, length: tuple[float, float] | None
) -> CeloConfig:
    """Sets the update rule in place; returns the config that it needs."""
    # Of the network's two outputs the first is the direction.
    rule["output"] = jax.tree.map(lambda x: x * np.array([share, 1.0], np.float32), rule["output"])
    rule["adam"]["kernel"] *= np.float32(share)
    if length is None:
        return config
    config = dataclasses.replace(config, orthogonal=True)
    beginning = jax.device_get(Celo(config).init(jax.random.key(0)))["update_rule"]["orthogonal"]
    rule["orthogonal"] = {**beginning, **rule.get("orthogonal", {}), "length": np.array(length, np.float32)}
    return config


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="theta.npz of the run")
    parser.add_argument("--out", type=Path, required=True, help="file to be written")

    def add(name: str, default: float, what: str) -> None:
        parser.add_argument(name, type=type(default), default=default, metavar="X", help=f"{what} ({default:g})")

    what = "of the orthogonalised momentum: a constant, and what is times the root mean square of Adam's direction"
    parser.add_argument("--length", type=float, nargs=2, metavar="U", help=f"{what} (as it is)")
    parser.add_argument("--decay", choices=DECAYS, default="linear", help="form of the schedule (linear)")
    add("--share", 1.0, "factor on the network's direction and Adam's")
    add("--multiplier", 1.0, "where the schedule begins, in a training of 1,000 steps")
    add("--exponent", 0.0, "in a training of n steps the schedule is (1000 / n)^X times as high")
    add("--shortest", 1, "steps that fewer count as")
    options = parser.parse_args()
    schedule = Schedule(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Schedule)})
    length = None if options.length is None else tuple(options.length)
    try:
        set_by_hand(options.source, options.out, share=options.share, length=length, schedule=schedule)
    except (OSError, ValueError, KeyError) as error:
        print(f"set_by_hand: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
