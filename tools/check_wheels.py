"""Checks what the built wheels hold: type markers and licences, weights in celo-zoo, data in celo-tasks, no tests."""

import pathlib
import sys
import zipfile

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


def main(folder: str) -> int:
    """Returns the number of faults, each printed."""
    faults = []
    for package, needed in NEEDED.items():
        wheels = sorted(pathlib.Path(folder).glob(f"{package}-*.whl"))
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
    print("\n".join(faults), file=sys.stderr)
    return len(faults)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
