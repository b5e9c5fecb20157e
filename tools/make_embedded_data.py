"""Makes the small data sets that come inside celo-tasks from their full versions; deterministic.

    python tools/make_embedded_data.py --data-dir DIR

DIR holds fashion_mnist_28.npz (x_train, y_train, x_test, y_test: uint8, the official splits) and tinyshakespeare.txt.
Of Fashion-MNIST, 200 images of each class to train and 50 others to test are drawn with a fixed seed, all from the official
test split, and kept in its order: whatever was meta-trained on the training split has never seen them. The 8x8 version is
computed from them when it is loaded. Of the plays, whole lines are kept up to
200 kB. The licence of Fashion-MNIST and a note on the text's origin stand with the data and are not made here.
"""

import argparse
from pathlib import Path

import numpy as np

from celo_tasks.datasets.arrays import ImageData, Uint8, read_prepared, write_prepared

SEED = 20170825
TRAIN_PER_CLASS = 200
TEST_PER_CLASS = 50
TEXT_BYTES = 200_000
OUT_DIR = Path(__file__).resolve().parents[1] / "packages/celo-tasks/src/celo_tasks/datasets/embedded"


def balanced(rng: np.random.Generator, labels: Uint8, *per_class: int) -> list[np.ndarray]:
    """Disjoint sets of indices, each ascending, with as many examples of every class as ``per_class`` says."""
    drawn = [rng.choice(np.flatnonzero(labels == label), sum(per_class), replace=False) for label in np.unique(labels)]
    parts = [np.split(one, np.cumsum(per_class)[:-1]) for one in drawn]
    return [np.sort(np.concatenate([part[i] for part in parts])) for i in range(len(per_class))]


def small_images(data: ImageData) -> ImageData:
    """Two class-balanced parts of a data set's test split."""
    train, test = balanced(np.random.default_rng(SEED), data.y_test, TRAIN_PER_CLASS, TEST_PER_CLASS)
    return ImageData(data.x_test[train], data.y_test[train], data.x_test[test], data.y_test[test])


def small_text(text: bytes) -> bytes:
    """The beginning of a text, up to the last line end within the limit."""
    return text[: text.rindex(b"\n", 0, TEXT_BYTES) + 1]


def main() -> None:
    """Writes both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of the full data sets")
    parser.add_argument("--out-dir", type=Path, default=OUT_DIR, help="default: inside the package")
    args = parser.parse_args()
    images = small_images(read_prepared(args.data_dir / "fashion_mnist_28.npz", (28, 28)))
    write_prepared(args.out_dir / "fashion_mnist_small_28.npz", images)
    text = small_text((args.data_dir / "tinyshakespeare.txt").read_bytes())
    (args.out_dir / "shakespeare.txt").write_bytes(text)
    for path in sorted(args.out_dir.glob("*.*")):
        print(f"{path.name}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
