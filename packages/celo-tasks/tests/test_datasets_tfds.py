"""The tensorflow-datasets path, on small data sets that the tests build, prepare on disk and read back."""

import io
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from celo_tasks.datasets import (
    IMAGE_SPECS,
    arrays,
    is_available,
    load_images,
    prepare,
    tfds_images,
    to_grey_8x8,
)
from celo_tasks.datasets.resize import area_average
from celo_tasks.datasets.tfds_builders import find_readable, lies_prepared
from celo_tasks.datasets.tfds_images import read_tfds

tfds = pytest.importorskip("tensorflow_datasets")

SIZES = {"train": 25, "test": 15}


def pictures(split: str, shape: tuple[int, ...], num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(SIZES[split])
    labels = np.arange(SIZES[split]) * 7 % num_classes
    return rng.integers(0, 256, (SIZES[split], *shape), dtype=np.uint8), labels


def make_builder(name: str, shape: tuple[int, ...], num_classes: int, data_dir: Path, encoded: bool = True) -> Any:
    """A data set like tfds's own of that name. Only encoded pictures can be stored without tensorflow."""

    def png(image: np.ndarray) -> io.BytesIO:
        file = io.BytesIO()
        Image.fromarray(image.squeeze()).save(file, "PNG")
        file.seek(0)
        return file

    class Small(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg, name-defined]
        VERSION = tfds.core.Version("1.0.0")

        def _info(self) -> Any:
            features = {
                "image": tfds.features.Image(shape=shape),
                "label": tfds.features.ClassLabel(num_classes=num_classes),
            }
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager: Any) -> Any:
            return {split: self._generate_examples(split) for split in SIZES}

        def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
            for i, (image, label) in enumerate(zip(*pictures(split, shape, num_classes), strict=True)):
                yield i, {"image": png(image) if encoded else image, "label": int(label)}

    Small.name = name
    return Small(data_dir=data_dir)


def assert_same_examples(images: np.ndarray, labels: np.ndarray, want_x: np.ndarray, want_y: np.ndarray) -> None:
    """Since tfds shuffles what it writes, the examples are compared in sorted order."""

    def key(x: np.ndarray, y: np.ndarray) -> list[tuple[bytes, int]]:
        return sorted((image.tobytes(), int(label)) for image, label in zip(x, y, strict=True))

    assert images.dtype == labels.dtype == np.uint8
    assert images.shape == want_x.shape
    assert key(images, labels) == key(want_x, want_y)


CASES = [
    ("mnist_8x8", "mnist", (28, 28, 1), 10),
    ("fashion_mnist_28", "fashion_mnist", (28, 28, 1), 10),
    ("svhn_cropped_8x8", "svhn_cropped", (32, 32, 3), 10),
    ("cifar100_10of100_8x8", "cifar100", (32, 32, 3), 100),
    ("cifar100_32rgb", "cifar100", (32, 32, 3), 100),
    ("cifar10_16rgb", "cifar10", (32, 32, 3), 10),
]


@pytest.mark.parametrize(("name", "tfds_name", "shape", "num_classes"), CASES)
def test_prepared_sets_are_read_and_converted(
    name: str, tfds_name: str, shape: tuple[int, ...], num_classes: int, no_tfds_data: Path
) -> None:
    assert not is_available(name)
    make_builder(tfds_name, shape, num_classes, no_tfds_data).download_and_prepare(file_format="array_record")
    assert is_available(name)
    data = load_images(name)  # finds it through TFDS_DATA_DIR
    for split in SIZES:
        x, y = pictures(split, shape, num_classes)
        if "10of100" in name:
            x, y = x[y % 10 == 0], y[y % 10 == 0] // 10
            assert 0 < len(x) < SIZES[split]
        if name.endswith("rgb"):
            want = x if "32rgb" in name else area_average(x, 16)
        else:
            want = x.squeeze(-1) if name.endswith("28") else to_grey_8x8(x)
        assert_same_examples(getattr(data, f"x_{split}"), getattr(data, f"y_{split}"), want, y)
    assert "tensorflow" not in sys.modules  # array_record files are read without it


def test_prepare_downloads_once_and_writes_the_npz(
    tmp_path: Path, no_tfds_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = []

    def builder(name: str, data_dir: str) -> Any:
        built.append(name)
        return make_builder(name, (28, 28, 1), 10, Path(data_dir))

    monkeypatch.setattr(tfds, "builder", builder)
    path = prepare("mnist_8x8", out_dir=tmp_path / "out")
    assert path == tmp_path / "out" / "mnist_8x8.npz"
    data = load_images("mnist_8x8", data_dir=path.parent, source="prepared")
    x, y = pictures("test", (28, 28, 1), 10)
    assert_same_examples(data.x_test, data.y_test, to_grey_8x8(x), y)
    prepare("mnist_28", out_dir=tmp_path / "out")
    assert built == ["mnist"]


def test_prepare_cut_off_leaves_nothing(tmp_path: Path, no_tfds_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_builder("mnist", (28, 28, 1), 10, no_tfds_data).download_and_prepare(file_format="array_record")

    def cut_off(file: Any, **arrays: np.ndarray) -> None:
        file.write(b"half a file")
        raise OSError("disk full")

    monkeypatch.setattr(arrays.np, "savez_compressed", cut_off)
    with pytest.raises(OSError, match="disk full"):
        prepare("mnist_8x8", out_dir=tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_another_file_format_is_not_read(tmp_path: Path, no_tfds_data: Path) -> None:
    builder = make_builder("mnist", (28, 28, 1), 10, no_tfds_data)
    builder.download_and_prepare(file_format="array_record")
    info = Path(builder.data_dir) / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    assert read_tfds("mnist_8x8") is None
    assert not is_available("mnist_8x8")
    with pytest.raises(ValueError, match=r"'mnist' as tfrecord, not array_record.*--tfds-data-dir"):
        prepare("mnist_8x8", out_dir=tmp_path)


class Records:
    """A split as tensorflow-datasets returns it, of pictures of nothing."""

    def __init__(self, labels: list[int]) -> None:
        self._labels = labels

    def __len__(self) -> int:
        return len(self._labels)

    def __getitems__(self, indices: range) -> list[dict[str, Any]]:
        return [{"image": np.zeros((28, 28, 1), np.uint8), "label": np.int64(self._labels[i])} for i in indices]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([3, -1], "label has the label -1, but there are 10 classes"),  # what tensorflow-datasets has for none
        ([256 + 3], "label has the label 259, but there are 10 classes"),
        ([10], "label has the label 10, but there are 10 classes"),
        ([], "no pictures in train"),
    ],
)
def test_labels_of_no_class_are_refused_before_they_are_cut_to_a_byte(labels: list[int], message: str) -> None:
    class Builder:
        data_dir = "somewhere"

        def as_data_source(self, split: str) -> Records:
            return Records(labels if split == "train" else [1])

    with pytest.raises(ValueError, match=f"^somewhere.*{message}"):
        tfds_images._read(Builder(), IMAGE_SPECS["mnist_8x8"])
    if labels:
        with pytest.raises(ValueError, match="but there are 100 classes"):
            tfds_images._read_split(Records([labels[-1] * 100]), IMAGE_SPECS["cifar100_10of100_8x8"], "somewhere")


def test_what_lies_prepared_is_told_by_its_files(no_tfds_data: Path) -> None:
    """As tensorflow-datasets finds it, which takes seconds to import: the latest version, in a format that can be read."""
    builder = make_builder("mnist", (28, 28, 1), 10, no_tfds_data)
    builder.download_and_prepare(file_format="array_record")
    first = Path(builder.data_dir)
    agree = lambda: (lies_prepared("mnist", str(no_tfds_data)), find_readable("mnist", str(no_tfds_data)) is not None)
    assert agree() == (True, True)
    for version, text in (("1.2.0", "tfrecord"), ("1.10.0", "array_record")):
        shutil.copytree(first, first.parent / version)
        info = first.parent / version / "dataset_info.json"
        info.write_text(info.read_text().replace("array_record", text).replace('"1.0.0"', f'"{version}"'))
        assert agree() == (text == "array_record",) * 2
    (first.parent / "1.10.0" / "features.json").unlink()
    assert agree() == (False, False)
    assert not lies_prepared("wikipedia/20230601.en", str(no_tfds_data))


def test_an_explicit_directory_wins(tmp_path: Path, no_tfds_data: Path) -> None:
    make_builder("mnist", (28, 28, 1), 10, tmp_path / "other").download_and_prepare(file_format="array_record")
    assert read_tfds("mnist_8x8") is None
    found = read_tfds("mnist_8x8", tfds_data_dir=tmp_path / "other")
    assert found is not None
    assert len(found.x_train) == SIZES["train"]


def test_prepare_without_tensorflow_says_what_to_install(
    tmp_path: Path, no_tfds_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)  # importing it fails, installed or not

    def builder(name: str, data_dir: str) -> Any:
        return make_builder(name, (28, 28, 1), 10, Path(data_dir), encoded=False)  # tfds encodes with tensorflow

    monkeypatch.setattr(tfds, "builder", builder)
    with pytest.raises(RuntimeError, match=r"pip install 'celo-tasks\[prepare\]'"):
        prepare("mnist_8x8", out_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["digits_8x8", "nope"])
def test_only_tfds_sets_are_prepared(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{name}.*mnist_8x8"):
        prepare(name, out_dir=tmp_path)
