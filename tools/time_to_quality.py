"""Measures how long phase 1 of meta-training takes to reach the published update rule, and what its settings bring.

    python tools/time_to_quality.py --data-dir arrays --published celo_theta.state --out docs/results/time-to-quality
    python tools/time_to_quality.py --data-dir arrays --compare all --out docs/results/time-to-quality

The first form meta-trains an update rule from scratch and measures it every so often on the yardstick of `celo-tasks yardstick`:
the mean training loss over 100, 500 and 2,000 steps, on problems of its own. It stops when --minutes are over or the
schedule has run out, and writes run.json, theta.npz and curve.png. Seconds are those of meta-training, compilation
included and the yardstick's own left out. The second form changes one setting of `BASE` at a time, at equal inner steps, and adds
what it measures to comparison.json: give it again to go on.
"""

import argparse
import contextlib
import dataclasses
import json
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

import celo_zoo
from celo_core import Celo, CeloConfig, LogUniformLength, configs, files
from celo_core.estimators import ESTIMATORS
from celo_core.meta_training import checkpoints
from celo_core.meta_training.trainer import MetaTrainConfig, MetaTrainer
from celo_core.progress import ProgressLine
from celo_tasks.cli import common as cli_common
from celo_tasks.evaluation import yardstick
from celo_tasks.families import ImageMLP, reparametrize
from celo_tasks.reporting.figures import Figure, png
from celo_tasks.reporting.machine import hardware

TARGETS = {"100": 1.98, "500": 1.41, "2000": 1.23}
"""The published update rule's values on 16 problems, as its reference implementation gives them."""

RULE = Celo(CeloConfig(scheduler=None))
"""What is meta-trained: the paper's update rule."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of one run of phase 1; the defaults are what the comparison found best."""

    inner_steps: int = 26_000_000
    learning_rate: float = 4e-3
    final_fraction: float = 0.03
    clip_norm: float = 0.1
    average_decay: float = 0.98
    num_pairs: int = 32
    sigma: float = 0.03
    truncation: int = 50
    min_length: int = 100
    max_length: int = 2000
    estimator: str = "pes"
    clip_problem: float = 0.0
    seed: int = 0

    @property
    def iterations(self) -> int:
        """Meta-iterations."""
        return max(1, self.inner_steps // (2 * self.num_pairs * self.truncation))


BASE = Settings(inner_steps=6_400_000, clip_norm=1.0, sigma=0.01)
"""What the comparison changes one setting of: the recipe with a larger learning rate that decays."""

VARIANTS: dict[str, dict[str, Any]] = {
    "base": {},
    "seed 1": {"seed": 1},
    "seed 2": {"seed": 2},
    "learning rate 1e-3": {"learning_rate": 1e-3},
    "learning rate 2e-3": {"learning_rate": 2e-3},
    "learning rate 8e-3": {"learning_rate": 8e-3},
    "learning rate 1.6e-2": {"learning_rate": 1.6e-2},
    "constant learning rate": {"final_fraction": 1.0},
    "no average of theta": {"average_decay": 0.0},
    "average of theta 0.99": {"average_decay": 0.99},
    "clipping at 0.1": {"clip_norm": 0.1},
    "clipping at 0.1 and sigma 0.03": {"clip_norm": 0.1, "sigma": 0.03},
    "clipping at 10": {"clip_norm": 10.0},
    "8 pairs": {"num_pairs": 8},
    "16 pairs": {"num_pairs": 16},
    "64 pairs": {"num_pairs": 64},
    "128 pairs": {"num_pairs": 128},
    "sigma 0.003": {"sigma": 0.003},
    "sigma 0.03": {"sigma": 0.03},
    "truncation 25": {"truncation": 25},
    "truncation 100": {"truncation": 100},
    "lengths 30-2000": {"min_length": 30},
    "lengths 300-2500": {"min_length": 300, "max_length": 2500},
    "lengths 2000": {"min_length": 2000},
    "truncated ES": {"estimator": "es"},
    "noise-reuse ES": {"estimator": "noise_reuse_es"},
    "noise-reuse ES (seed 1)": {"estimator": "noise_reuse_es", "seed": 1},
    "noise-reuse ES (seed 2)": {"estimator": "noise_reuse_es", "seed": 2},
    "problems' gradients clipped at 0.1": {"clip_problem": 0.1},
    "problems' gradients clipped at 1": {"clip_problem": 1.0},
    "problems' gradients clipped at 3": {"clip_problem": 3.0},
    "problems' gradients clipped at 10": {"clip_problem": 10.0},
    "problems' gradients clipped at 30": {"clip_problem": 30.0},
}


def make_trainer(settings: Settings, data_dir: str) -> MetaTrainer:
    """The trainer of phase 1 on the yardstick's distribution of tasks."""
    family = reparametrize(ImageMLP(yardstick.DATASETS, data_dir=data_dir), ("global",))
    estimator = ESTIMATORS[settings.estimator](
        RULE,
        family,
        num_pairs=settings.num_pairs,
        sigma=settings.sigma,
        truncation=settings.truncation,
        lengths=LogUniformLength(settings.min_length, settings.max_length),
        clip_problem=settings.clip_problem or None,
    )
    config = MetaTrainConfig(
        iterations=settings.iterations,
        learning_rate=settings.learning_rate,
        final_fraction=settings.final_fraction,
        clip_norm=settings.clip_norm,
        average_decay=settings.average_decay,
        seed=settings.seed,
    )
    return MetaTrainer(estimator, config, family.load())


def run(
    settings: Settings, data_dir: str, measured: yardstick.Yardstick, minutes: float, points: int
) -> tuple[list[dict[str, Any]], Any]:
    """Meta-trains; returns the curve, a point per measurement, and the final average of theta."""
    measured.curves(RULE, RULE.init(jax.random.key(0)))  # compile
    progress, curve, spent = ProgressLine(), [], 0.0
    begin = time.monotonic()
    trainer = make_trainer(settings, data_dir)
    state, done, theta = trainer.init(), 0, None
    block = max(1, min(25, settings.iterations // points))
    every = max(1, settings.iterations // points // block) * block
    while done < settings.iterations and spent < 60 * minutes:
        size = min(block, settings.iterations - done)
        state, metrics = trainer.run(state, size)
        done += size
        spent += time.monotonic() - begin
        if done % every == 0 or done >= settings.iterations or spent >= 60 * minutes:
            theta = jax.device_get(state.average)
            by_set = measured.curves(RULE, theta)
            curve.append(
                {
                    "seconds": round(spent, 1),
                    "iteration": done,
                    "inner_steps": done * trainer.estimator.inner_steps,
                    "meta_loss": round(float(np.mean(metrics["meta_loss"])), 4),
                    "gradient_norm": round(float(np.mean(metrics["gradient_norm"])), 4),
                    **yardstick.summary(by_set.mean(axis=0)),
                }
            )
            progress.show(str(curve[-1]), last=True)
        begin = time.monotonic()
    return curve, theta


def reached(point: dict[str, Any], targets: dict[str, float]) -> bool:
    """Whether the targets over all horizons are reached at once."""
    return all(point[horizon] <= targets[horizon] for horizon in TARGETS)


def plot(record: dict[str, Any], path: Path) -> None:
    """The curve, with the published rule's values as lines."""
    figure = Figure(figsize=(7, 4.2), dpi=150, layout="constrained")
    axes = figure.subplots()
    minutes = [point["seconds"] / 60 for point in record["curve"]]
    for number, horizon in enumerate(TARGETS):
        axes.plot(minutes, [point[horizon] for point in record["curve"]], f"C{number}", label=f"steps 1-{horizon}")
        for style, values in zip((":", "--"), record["targets"].values(), strict=False):
            axes.axhline(values[horizon], color=f"C{number}", linestyle=style, linewidth=1)
    for style, seconds in zip((":", "--"), record["seconds_to_targets"].values(), strict=False):
        if seconds:
            axes.axvline(seconds / 60, color="0.6", linestyle=style, linewidth=1)
    axes.set(
        xlabel=f"minutes of meta-training on {record['machine']}",
        ylabel="mean training loss, 16 problems (nats)",
        title="An update rule from scratch, and the published rule\n(dotted: as published; dashed: on these problems)",
        ylim=(None, min(3.0, max(point["100"] for point in record["curve"]))),
    )
    axes.legend()
    files.write_bytes(path, png(figure))


def environment() -> dict[str, Any]:
    """Machine and versions."""
    versions = {"python": platform.python_version(), "jax": jax.__version__, "optax": optax.__version__}
    return {"machine": hardware(), "versions": versions}


def timed_run(settings: Settings, options: argparse.Namespace) -> None:
    """The first form of the command."""
    measured = yardstick.Yardstick(options.data_dir)
    targets = {"as published": TARGETS}
    if options.published:
        theta, _ = celo_zoo.convert_published(options.published)
        rule = {"update_rule": theta["update_rule"]}
        curves = measured.curves(RULE, rule)
        # On these very problems the published rule may do better than on those of the reference's own draw.
        targets["on these problems"] = yardstick.summary(curves.mean(axis=0))
    curve, theta = run(settings, options.data_dir, measured, options.minutes, options.points)
    seconds = {
        name: next((point["seconds"] for point in curve if reached(point, values)), None)
        for name, values in targets.items()
    }
    record = {
        **environment(),
        "settings": dataclasses.asdict(settings),
        "targets": targets,
        "seconds_to_targets": seconds,
        "curve": curve,
    }
    described = {"architecture": RULE.name, "config": configs.to_json(RULE.config), "format_version": 3}
    checkpoints.save_theta(options.out / "theta.npz", theta, {**described, "settings": dataclasses.asdict(settings)})
    files.write_json(options.out / "run.json", record)
    plot(record, options.out / "curve.png")
    for name, first in seconds.items():
        print(f"published rule, {name}: " + (f"reached after {first:.0f} s" if first else "not reached"))


def compare(names: list[str], options: argparse.Namespace) -> None:
    """The second form of the command."""
    path = options.out / "comparison.json"
    record = json.loads(path.read_text()) if path.exists() else {**environment(), "problems": 64, "results": {}}
    measured = yardstick.Yardstick(options.data_dir, problems=16, seed=1)
    for name in names:
        changed = dataclasses.replace(BASE, **VARIANTS[name])
        if name in record["results"]:
            continue
        curve, _ = run(changed, options.data_dir, measured, float("inf"), options.points)
        record["results"][name] = {"settings": dataclasses.asdict(changed), "curve": curve}
        files.write_json(path, record)
        print(name, curve[-1], flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True, help="folder of the prepared arrays")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--published", help="the authors' file, to measure its rule on the same problems")
    parser.add_argument("--minutes", type=float, default=10.0, help="longest meta-training (10)")
    parser.add_argument("--points", type=int, default=20, help="measurements per run (20)")
    parser.add_argument("--compare", help=f"variants, comma-separated, or all: {', '.join(VARIANTS)}")
    parser.add_argument(
        "--cpu-devices", type=int, default=cli_common.default_cpu_devices(), help="on a CPU (all cores)"
    )
    for field in dataclasses.fields(Settings):
        name = "--" + field.name.replace("_", "-")
        parser.add_argument(name, type=type(field.default), default=field.default, help=f"({field.default})")
    options = parser.parse_args(arguments)
    with contextlib.suppress(RuntimeError):  # JAX already runs where another command calls this one
        jax.config.update("jax_num_cpu_devices", options.cpu_devices)
    settings = Settings(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Settings)})
    if options.compare:
        compare(list(VARIANTS) if options.compare == "all" else options.compare.split(","), options)
    else:
        timed_run(settings, options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
