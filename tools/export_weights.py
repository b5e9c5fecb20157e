"""Turns a finished meta-training run into a folder of weights that celo_zoo.load reads.

    python tools/export_weights.py RUN FOLDER [--note "..."] [--overwrite]

RUN is the folder of ``celo-tasks meta-train``; its run.json becomes the weights' provenance.
"""

import argparse
import json
import sys
from pathlib import Path

import celo_zoo
from celo_core import CeloConfig, configs
from celo_tasks import meta_training


def export(run: Path, folder: Path, notes: list[str], overwrite: bool) -> Path:
    """Writes the folder; errors as `celo_tasks.meta_training.load_theta` and `celo_zoo.save`."""
    theta = meta_training.load_theta(run / "theta.npz")
    provenance = json.loads((run / "run.json").read_text())
    config = configs.from_json(CeloConfig, provenance.pop("config"))
    return celo_zoo.save(theta, config, folder, metadata={**provenance, "notes": notes}, overwrite=overwrite)


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a finished run")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where to write the weights")
    parser.add_argument("--note", action="append", default=[], help="a sentence for the model card; may be repeated")
    parser.add_argument("--overwrite", action="store_true", help="replace FOLDER")
    options = parser.parse_args()
    try:
        print(export(options.run, options.folder, options.note, options.overwrite))
    except (ValueError, OSError) as error:
        print(f"export_weights: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
