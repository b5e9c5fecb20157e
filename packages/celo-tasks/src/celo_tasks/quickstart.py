"""What ``celo-tasks quickstart`` runs: a pretrained optimizer beside tuned baselines on networks it has never seen.

The data come with the package, so nothing is downloaded.
"""

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from celo_core import TaskFamily, files
from celo_core.progress import ProgressLine, format_seconds
from celo_tasks import baselines, plots, report
from celo_tasks.baselines import Contestant
from celo_tasks.comparison import Comparison, compare
from celo_tasks.evaluation.optimizers import PretrainedOptimizer, load_pretrained
from celo_tasks.families import MLP, ConvNet, ImageClassifier, TextTransformer
from celo_tasks.reporting.machine import hardware, versions
from celo_tasks.spelling import nearest

OPTIMIZERS = ("celo", "adam", "adamw")


def _mlp() -> TaskFamily:
    return ImageClassifier("mlp", MLP((128, 128), 10), "fashion_mnist_small_28", (28 * 28,), batch_size=128)


def _convnet() -> TaskFamily:
    network = ConvNet(channels=(16, 32), strides=(2, 2), num_outputs=10)
    return ImageClassifier("convnet", network, "fashion_mnist_small_28", (28, 28, 1), batch_size=64)


def _transformer() -> TaskFamily:
    return TextTransformer("shakespeare", num_layers=2, width=32, num_heads=4, batch_size=16, length=32)


TASKS: Mapping[str, tuple[str, Callable[[], TaskFamily]]] = MappingProxyType(
    {
        "mlp": ("MLP 784-128-128-10 on 2,000 images of Fashion-MNIST, batch 128", _mlp),
        "convnet": ("convnet, 3x3 with 16 and 32 channels and stride 2, on the same images, batch 64", _convnet),
        "transformer": ("byte-level transformer, 2 layers of width 32, on Shakespeare, batch 16 x 32", _transformer),
    }
)
"""Tasks by name: what each is, and how its family is made."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of a quickstart.

    Attributes:
      tasks: names in `TASKS`.
      optimizers: names in `celo_tasks.baselines.BASELINES`, or of installed pretrained optimizers.
      steps: length of every training.
      seeds: number of seeds.
      learning_rates: those that every baseline is tried at.
    """

    tasks: tuple[str, ...] = tuple(TASKS)
    optimizers: tuple[str, ...] = OPTIMIZERS
    steps: int = 1000
    seeds: int = 1
    learning_rates: tuple[float, ...] = baselines.LEARNING_RATES

    def __post_init__(self) -> None:
        if unknown := [name for name in self.tasks if name not in TASKS]:
            raise ValueError(
                f"there is no task {unknown[0]!r}{nearest(unknown[0], TASKS)}: choose from {', '.join(TASKS)}."
            )
        for what in ("tasks", "optimizers", "learning_rates"):
            values = getattr(self, what)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{what.replace('_', ' ')} must be named, each once, not {values}.")
        if self.steps < 1 or self.seeds < 1:
            raise ValueError(f"steps and seeds must be at least 1, not {self.steps} and {self.seeds}.")
        if min(self.learning_rates) <= 0:
            raise ValueError(f"learning rates must be positive, not {min(self.learning_rates)}.")


def run(
    settings: Settings,
    out: str | Path,
    *,
    find: Callable[[str], PretrainedOptimizer] = load_pretrained,
    progress: ProgressLine | None = None,
) -> list[Comparison]:
    """Runs the comparison, prints its table, and writes ``results.json``, ``results.md`` and ``curves.png``.

    The files are written anew, each atomically, after every task.

    Args:
      settings: what is run.
      out: folder of the files; made if it does not exist.
      find: finds a pretrained optimizer by name.
      progress: where progress is shown.

    Returns:
      One comparison per task.

    Raises:
      ValueError: an optimizer is not installed, or the folder cannot be made; raised before anything is trained.
    """
    folder, begin = Path(out), time.monotonic()
    chosen = [_contestant(name, settings, find) for name in settings.optimizers]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{folder} cannot be made ({error.strerror}): give another folder by --out.") from error
    comparisons: list[Comparison] = []
    for number, name in enumerate(settings.tasks, start=1):
        description, make = TASKS[name]
        print(f"{number} of {len(settings.tasks)}: {description}", file=sys.stderr)
        comparisons.append(
            compare(make(), chosen, num_steps=settings.steps, seeds=settings.seeds, progress=progress, task=name)
        )
        _write(folder, settings, comparisons, time.monotonic() - begin)
    print(_text(comparisons))
    print(f"\n{hardware()}, {format_seconds(time.monotonic() - begin)} in all")
    print(f"{folder / 'curves.png'}\n{folder / 'results.json'}\n{folder / 'results.md'}")
    return comparisons


def _contestant(name: str, settings: Settings, find: Callable[[str], PretrainedOptimizer]) -> Contestant:
    if name in baselines.BASELINES:
        return baselines.BASELINES[name](settings.learning_rates)
    optimizer = find(name)
    optimizer(settings.steps)  # weights that are missing or damaged are found out now, not after the first task
    return baselines.pretrained(name, optimizer)


def _text(comparisons: Sequence[Comparison]) -> str:
    lines = [line for comparison in comparisons for line in report.sentences(comparison)]
    return "\n\n".join(["", report.markdown_table(comparisons), "\n".join(lines), report.NOTES])


def _write(folder: Path, settings: Settings, comparisons: Sequence[Comparison], seconds: float) -> None:
    value: dict[str, Any] = {
        "settings": dataclasses.asdict(settings),
        "complete": len(comparisons) == len(settings.tasks),
        "seconds": round(seconds, 1),
        "machine": hardware(),
        "versions": versions(),
        "tasks": report.results(comparisons),
    }
    for task, name in zip(value["tasks"], settings.tasks, strict=False):
        task["description"] = TASKS[name][0]
    files.write_bytes(folder / "curves.png", plots.draw(comparisons))
    files.write_bytes(folder / "results.md", (_text(comparisons).strip() + "\n").encode())
    files.write_bytes(folder / "results.json", (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())
