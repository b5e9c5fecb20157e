"""Checks the built wheels: what they hold, and that celo-core's alone needs and loads nothing heavy or foreign.

python tools/check_wheels.py dist      # type markers and licences, weights in celo-zoo, data in celo-tasks, no tests
python tools/check_wheels.py --alone   # in an environment with the celo-core wheel alone
"""

import argparse
import importlib.util
import pathlib
import sys
import zipfile
from importlib import metadata

LARGEST = 4_000_000
"""Bytes. A wheel of Celo is small; a larger one has caught something that does not belong in it."""
NEEDED = {
    "celo_core": ["celo_core/py.typed"],
    "celo_tasks": [
        "celo_tasks/py.typed",
        "celo_tasks/datasets/embedded/",
        "celo_tasks/tasks/costs.json",
        "celo_tasks/evaluation/references/small-8.json",
    ],
    "celo_zoo": ["celo_zoo/py.typed", "celo_zoo/weights/celo/model.safetensors", "celo_zoo/index.json"],
}

FOREIGN = ("tensorflow", "tensorflow_datasets", "huggingface_hub", "celo_tasks", "celo_zoo", "sklearn", "matplotlib")
"""Packages that celo-core must neither install nor load."""


def contents(folder: pathlib.Path) -> list[str]:
    """Faults of the wheels in a folder."""
    faults = []
    for package, needed in NEEDED.items():
        wheels = sorted(folder.glob(f"{package}-*.whl"))
        if len(wheels) != 1:
            faults.append(f"{len(wheels)} wheels of {package} in {folder}, not 1")
            continue
        names = zipfile.ZipFile(wheels[0]).namelist()
        faults += [f"{wheels[0].name} lacks {need}" for need in needed if not any(n.startswith(need) for n in names)]
        if not any(name.endswith("LICENSE") for name in names):
            faults.append(f"{wheels[0].name} lacks its LICENSE")
        faults += [f"{wheels[0].name} holds the test file {name}" for name in names if "/tests/" in name]
        if wheels[0].stat().st_size > LARGEST:
            faults.append(f"{wheels[0].name} has {wheels[0].stat().st_size} bytes, more than {LARGEST}")
        print(f"{wheels[0].name}: {len(names)} files, {wheels[0].stat().st_size:,} bytes")
    return faults


def alone() -> list[str]:
    """Faults of an environment with celo-core alone."""
    installed = [name for name in FOREIGN if importlib.util.find_spec(name) is not None]
    import celo_core

    celo_core.get_architecture("celo")
    found = installed or [name for name in FOREIGN if name in sys.modules]
    print(f"celo-core {metadata.version('celo-core')} alone: {', '.join(found) or 'nothing foreign'}")
    return [f"celo-core alone brought in {name}" for name in found]


def main() -> int:
    """Runs the command; returns 1 where there is a fault, each printed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path, nargs="?", help="with the three wheels")
    parser.add_argument("--alone", action="store_true", help="check this environment instead")
    options = parser.parse_args()
    if (options.folder is None) != options.alone:
        parser.error("give either a folder or --alone.")
    faults = alone() if options.alone else contents(options.folder)
    print("\n".join(faults), file=sys.stderr)
    return min(len(faults), 1)


if __name__ == "__main__":
    sys.exit(main())
