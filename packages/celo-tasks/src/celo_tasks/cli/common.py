"""What the parts of the command ``celo-tasks`` share."""

import os
import sys

from celo_tasks.meta_training.recipe_files import OFFLINE_DATASETS, PAPER_DATASETS


def names(text: str) -> tuple[str, ...]:
    """``"a, b"`` as ``("a", "b")``."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def numbers(text: str) -> tuple[float, ...]:
    """``"1, 2.5"`` as ``(1.0, 2.5)``."""
    return tuple(float(number) for number in names(text))


def default_cpu_devices() -> int:
    """Devices to simulate on a CPU: one per core that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_datasets(data_dir: str | None) -> tuple[str, ...]:
    """The paper's image sets if all are there, else those inside the package."""
    from celo_tasks import datasets

    missing = [name for name in PAPER_DATASETS if not datasets.is_available(name, data_dir=data_dir)]
    if not missing:
        return PAPER_DATASETS
    print(
        f"celo-tasks: {', '.join(missing)} not found, so {' and '.join(OFFLINE_DATASETS)} from the package are used; "
        "see celo-tasks prepare --help, or name others by --datasets.",
        file=sys.stderr,
    )
    return OFFLINE_DATASETS
