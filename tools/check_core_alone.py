"""Proves, in an environment with the celo-core wheel alone, that it needs and loads nothing heavy or foreign."""

import importlib.util
import sys
from importlib import metadata

FOREIGN = ("tensorflow", "tensorflow_datasets", "huggingface_hub", "celo_tasks", "celo_zoo", "sklearn", "matplotlib")


def main() -> int:
    """Returns 1, naming them, if foreign packages are installed or loaded."""
    installed = [name for name in FOREIGN if importlib.util.find_spec(name) is not None]
    import celo_core

    celo_core.get_architecture("celo")
    loaded = [name for name in FOREIGN if name in sys.modules]
    if installed or loaded:
        print(f"celo-core alone brought in {installed or loaded}", file=sys.stderr)
        return 1
    print(f"celo-core {metadata.version('celo-core')} alone: none of {', '.join(FOREIGN)} is installed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
