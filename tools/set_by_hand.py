"""Sets by hand some meta-parameters of a Celo, for a validation to compare or for a meta-training to begin with.

    python tools/set_by_hand.py runs/joint/theta.npz --share 0.25 --length 1.5 1 --out start.npz

The schedule becomes a line to 0, whose height may depend on the length of training. A Celo that was meta-trained without an
orthogonalised momentum gets one. What comes out
can be compared (tools/choose_weights.py), used, or meta-trained further (celo-tasks meta-train --warm-start).
"""

import argparse
import dataclasses
import math
import sys
from pathlib import Path

import jax
import numpy as np

from celo_core import Celo, CeloConfig, checkpoints, configs
from celo_core.schedulers.loss_features import horizon_feature


def set_by_hand(
    source: Path, out: Path, *, share: float, length: tuple[float, float], multiplier: float, exponent: float
) -> None:
    """Writes ``out``.

    Args:
      source: theta.npz of a run of Celo with Adam's direction and a scheduler.
      out: the file to be written.
      share: what the network's direction and Adam's are multiplied by.
      length: meta-parameters of the orthogonalised momentum's length, see `celo_core.CeloConfig`.
      multiplier: where the line that takes the scheduler's place begins in a training of 1,000 steps; it falls to 0.
      exponent: in one of n steps, between 55 and 22,000, it begins at ``multiplier * (1000 / n)^exponent``.

    Raises:
      ValueError: the run is of an optimizer without these parts.
    """
    config = configs.from_json(CeloConfig, checkpoints.load_metadata(source)["config"])
    if config.scheduler is None or not config.adam:
        raise ValueError(f"{source} has no scheduler or no Adam's direction: take the theta.npz of a run with both.")
    if exponent and not (config.scheduler.horizon and config.scheduler.hidden_size == 0):
        raise ValueError(f"{source} has no linear scheduler that reads the length of training: leave out --exponent.")
    scheduler = dataclasses.replace(config.scheduler, decay="linear")
    config = dataclasses.replace(config, orthogonal=True, scheduler=scheduler)
    theta = jax.tree.map(np.array, checkpoints.load_theta(source))
    rule, step_size = theta["update_rule"], theta["scheduler"]["network"]["step_size"]
    # Of the network's two outputs the first is the direction.
    rule["output"] = jax.tree.map(lambda x: x * np.array([share, 1.0], np.float32), rule["output"])
    rule["adam"]["kernel"] *= np.float32(share)
    beginning = jax.device_get(Celo(config).init(jax.random.key(0)))["update_rule"]["orthogonal"]
    rule["orthogonal"] = {**beginning, **rule.get("orthogonal", {}), "length": np.array(length, np.float32)}
    step_size["kernel"][:] = 0.0
    step_size["bias"][:] = math.log(multiplier / scheduler.multiplier)
    if exponent:
        # The horizon's feature, the last input, is the logarithm of the steps and a constant.
        step_size["kernel"][-1] = -exponent
        step_size["bias"] += exponent * float(horizon_feature(1000.0)[0])
    checkpoints.save_theta(out, theta, {"architecture": "celo", "config": configs.to_json(config)})


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="theta.npz of the run")
    parser.add_argument("--out", type=Path, required=True, help="file to be written")
    parser.add_argument(
        "--share", type=float, default=1.0, metavar="X", help="factor on the network's direction and Adam's (1)"
    )
    what = (
        "of the orthogonalised momentum: a constant, and what is times the root mean square of Adam's direction (2 0)"
    )
    parser.add_argument("--length", type=float, nargs=2, default=(2.0, 0.0), metavar="U", help=what)
    what = "where the schedule begins, in a training of 1,000 steps (1)"
    parser.add_argument("--multiplier", type=float, default=1.0, metavar="X", help=what)
    what = "in one of n steps it begins (1000 / n)^P times as high (0)"
    parser.add_argument("--exponent", type=float, default=0.0, metavar="P", help=what)
    options = parser.parse_args()
    chosen = {name: getattr(options, name) for name in ("share", "multiplier", "exponent")}
    try:
        set_by_hand(options.source, options.out, length=tuple(options.length), **chosen)
    except (OSError, ValueError, KeyError) as error:
        print(f"set_by_hand: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
