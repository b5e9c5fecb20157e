"""Loading by name: the order of the sources, the embedded sets, and what is said where something is amiss."""

import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest

from celo_tasks.datasets import (
    IMAGE_SPECS,
    ImageData,
    arrays,
    is_available,
    load_images,
    load_text,
    prepare,
    tfds_images,
    to_grey_8x8,
)
from celo_tasks.datasets.embedded_images import load_embedded
from celo_tasks.families import MLP, ImageAutoencoder, ImageClassifier, ImageMLP, LanguageModel, SampledImageMLP
from celo_tasks.families.image_sets import ImageAutoencoders
from celo_tasks.families.recurrent import RecurrentLM

EMBEDDED = [name for name, spec in IMAGE_SPECS.items() if spec.embedded]


def make_data(seed: int = 0, shape: tuple[int, ...] = (8, 8), train: int = 12, test: int = 6) -> ImageData:
    rng = np.random.default_rng(seed)

    def split(count: int) -> tuple[np.ndarray, np.ndarray]:
        return rng.integers(0, 256, (count, *shape), dtype=np.uint8), rng.integers(0, 10, count, dtype=np.uint8)

    return ImageData(*split(train), *split(test))


def assert_equal(got: ImageData, expected: ImageData) -> None:
    for field, array in expected._asdict().items():
        np.testing.assert_array_equal(getattr(got, field), array, err_msg=field)
        assert getattr(got, field).dtype == np.uint8


def test_sources_are_tried_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from_tfds, from_disk = make_data(1), make_data(2)
    monkeypatch.setattr(tfds_images, "read_tfds", lambda name: from_tfds)
    assert_equal(load_images("mnist_8x8", data_dir=tmp_path), from_tfds)
    arrays.write_prepared(tmp_path / "mnist_8x8.npz", from_disk)
    assert_equal(load_images("mnist_8x8", data_dir=tmp_path), from_disk)
    assert_equal(load_images("mnist_8x8", data_dir=tmp_path, source="tfds"), from_tfds)


def test_prepared_arrays_come_before_embedded_ones(tmp_path: Path) -> None:
    ours = make_data()
    arrays.write_prepared(tmp_path / "digits_8x8.npz", ours)
    assert_equal(load_images("digits_8x8", data_dir=tmp_path), ours)
    assert_equal(load_images("digits_8x8", data_dir=tmp_path, source="embedded"), load_embedded("digits_8x8"))
    assert_equal(load_images("digits_8x8", data_dir=tmp_path / "nowhere"), load_embedded("digits_8x8"))


def test_any_npz_in_the_data_dir_has_a_name(tmp_path: Path) -> None:
    ours = make_data(shape=(9, 11, 3))
    arrays.write_prepared(tmp_path / "mine.npz", ours)
    assert_equal(load_images("mine", data_dir=str(tmp_path)), ours)


def test_availability_without_reading(tmp_path: Path, no_tfds_data: Path) -> None:
    assert all(is_available(name) == spec.embedded for name, spec in IMAGE_SPECS.items())
    assert not is_available("mine", data_dir=tmp_path)
    arrays.write_prepared(tmp_path / "mine.npz", make_data())
    arrays.write_prepared(tmp_path / "mnist_8x8.npz", make_data())
    assert is_available("mine", data_dir=tmp_path)
    assert is_available("mnist_8x8", data_dir=str(tmp_path))
    assert not is_available("cifar10_8x8", data_dir=tmp_path)


def test_an_absent_set_says_what_to_do(tmp_path: Path, no_tfds_data: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        load_images("cifar10_8x8", data_dir=tmp_path)
    message = str(caught.value)
    assert all(part in message for part in ("`celo-tasks prepare cifar10_8x8`", "--data-dir", *EMBEDDED))
    assert str(tmp_path / "cifar10_8x8.npz") in message
    assert not any(no_tfds_data.iterdir())  # nothing was downloaded


def test_what_was_meant_is_guessed(no_tfds_data: Path) -> None:
    with pytest.raises(FileNotFoundError, match="did you mean mnist_8x8 or"):
        load_images("minst_8x8")
    with pytest.raises(FileNotFoundError, match="did you mean shakespeare:"):
        load_text("shakspeare")
    with pytest.raises(ValueError, match="did you mean cifar10_8x8 or"):
        prepare("cifar10_8_8", out_dir=".")


def test_an_unknown_name_lists_the_known_ones(no_tfds_data: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        load_images("imagenet")
    assert all(name in str(caught.value) for name in IMAGE_SPECS)


def test_an_embedded_set_is_not_to_be_prepared() -> None:
    with pytest.raises(FileNotFoundError, match="comes with the package"):
        load_images("digits_8x8", source="prepared")


def test_an_unknown_source_is_refused() -> None:
    with pytest.raises(ValueError, match="auto, prepared, tfds, embedded"):
        load_images("digits_8x8", source="web")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x_test": None, "y_test": None}, "lacks x_test, y_test"),
        (
            {"x_train": np.zeros((12, 8, 8), np.float32)},
            r"x_train must be uint8 \(N, 8, 8\), found float32 \(12, 8, 8\)",
        ),
        ({"x_train": np.zeros((12, 9, 8), np.uint8)}, r"x_train must be .*found uint8 \(12, 9, 8\)"),
        ({"y_train": np.zeros(12, np.int64)}, r"y_train must be uint8 \(N,\), found int64 \(12,\)"),
        ({"y_train": np.zeros(11, np.uint8)}, "12 pictures but 11 labels in train"),
        ({"x_train": np.array([{}] * 12, object)}, "not an npz of plain arrays"),
        (
            {"y_train": np.arange(12, dtype=np.uint8)},
            "y_train has the label 11, but there are 10 classes: number them from 0 to 9",
        ),
        ({"y_test": np.full(6, 255, np.uint8)}, "y_test has the label 255, but there are 10 classes"),
        ({"y_test": np.full(6, -1, np.int8)}, r"y_test must be uint8 \(N,\), found int8"),
        ({"y_train": np.full(12, 1.5)}, r"y_train must be uint8 \(N,\), found float64"),
        ({"x_test": np.full((6, 8, 8), np.nan)}, r"x_test must be uint8 \(N, 8, 8\), found float64"),
        ({"y_train": np.zeros((12, 1), np.uint8)}, r"y_train must be uint8 \(N,\), found uint8 \(12, 1\)"),
        (
            {"x_test": np.zeros((0, 8, 8), np.uint8), "y_test": np.zeros(0, np.uint8)},
            "has no pictures in test; there must be at least one",
        ),
    ],
)
def test_a_faulty_file_is_named_with_its_fault(tmp_path: Path, change: dict[str, np.ndarray], message: str) -> None:
    path = tmp_path / "mnist_8x8.npz"
    arrays = {name: array for name, array in (make_data()._asdict() | change).items() if array is not None}
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=message) as caught:
        load_images("mnist_8x8", data_dir=tmp_path)
    assert str(path) in str(caught.value)


def test_a_set_without_a_name_of_its_own_fits_the_network_or_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    arrays.write_prepared(path, make_data()._replace(y_test=np.full(6, 10, np.uint8)))
    assert load_images("mine", data_dir=tmp_path, num_classes=11, num_pixels=64).y_test.max() == 10
    with pytest.raises(ValueError, match="y_test has the label 10, but there are 10 classes") as caught:
        load_images("mine", data_dir=tmp_path, num_classes=10)
    assert str(path) in str(caught.value)
    with pytest.raises(ValueError, match=r"has pictures of 8 x 8, but the network reads 784 numbers of each") as caught:
        load_images("mine", data_dir=tmp_path, num_pixels=784)
    assert str(path) in str(caught.value)
    with pytest.raises(ValueError, match="data set 'digits_8x8': y_train has the label 9, but there are 5 classes"):
        load_images("digits_8x8", num_classes=5)


WRONG_FAMILIES = {
    "labels of an MLP": (ImageMLP(("digits_8x8",), num_classes=5), "the label 9, but there are 5 classes"),
    "pixels of an MLP": (ImageMLP(("fashion_mnist_small_28",)), "pictures of 28 x 28, but the network reads 64"),
    "labels of sampled MLPs": (SampledImageMLP(("digits_8x8",), num_classes=5), "the label 9, but there are 5"),
    "pixels of sampled MLPs": (SampledImageMLP(("fashion_mnist_small_28",)), "but the network reads 64"),
    "labels of a classifier": (
        ImageClassifier("a", MLP((8,), 5), "digits_8x8", (64,), num_classes=5),
        "the label 9, but there are 5 classes",
    ),
    # 28 x 28 is a multiple of 49: reshaped, there would be sixteen times as many pictures as labels
    "pixels of a classifier": (
        ImageClassifier("a", MLP((8,), 10), "fashion_mnist_small_28", (49,)),
        "reads 49 numbers",
    ),
    "pixels of an autoencoder": (ImageAutoencoder("a", "fashion_mnist_small_28", 49), "reads 49 numbers"),
    "a text shorter than a sequence": (
        LanguageModel("a", RecurrentLM("gru", 8, 8), length=200_000),
        "179995 tokens to train on, too few for a sequence of 200000",
    ),
}


@pytest.mark.parametrize(("family", "message"), WRONG_FAMILIES.values(), ids=WRONG_FAMILIES)
def test_families_refuse_data_that_do_not_fit_their_networks(family: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        family.load()


def test_a_network_that_reads_no_labels_takes_any() -> None:
    assert len(ImageAutoencoders(("digits_8x8",), num_classes=5).load()["images"])


def test_a_text_too_short_to_be_judged_on_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_bytes(bytes(range(100)))
    model = LanguageModel("a", RecurrentLM("gru", 8, 8), "mine", length=32, data_dir=tmp_path)
    assert len(model.load()["text"]) == 90
    with pytest.raises(ValueError, match="10 tokens to validate on, too few for a sequence of 32"):
        model.load_held_out()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"\x80\x04K\x01.", b"text"])
def test_a_file_that_is_no_npz(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mnist_8x8.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"is not an npz of plain arrays.*x_train, x_test: uint8 \(N, 8, 8\)"):
        load_images("mnist_8x8", data_dir=tmp_path)


def test_a_single_array_is_no_npz(tmp_path: Path) -> None:
    path = tmp_path / "mnist_8x8.npz"
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(ValueError, match="is not an npz of plain arrays"):
        load_images("mnist_8x8", data_dir=tmp_path)


@pytest.mark.parametrize("existing", [False, True])
def test_writing_is_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, existing: bool) -> None:
    path = tmp_path / "sub" / "mnist_8x8.npz"
    old = make_data(1)
    if existing:
        arrays.write_prepared(path, old)

    def cut_off(file: IO[bytes], **arrays: np.ndarray) -> None:
        file.write(b"half a file")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez_compressed", cut_off)
    with pytest.raises(KeyboardInterrupt):
        arrays.write_prepared(path, make_data(2))
    assert [each.name for each in path.parent.iterdir()] == (["mnist_8x8.npz"] if existing else [])
    if existing:
        assert_equal(arrays.read_prepared(path), old)


@pytest.mark.parametrize("size", [8, 28])
def test_embedded_fashion_mnist(size: int) -> None:
    data = load_images(f"fashion_mnist_small_{'8x8' if size == 8 else 28}", source="embedded")
    assert data.x_train.shape == (2000, size, size)
    assert data.x_test.shape == (500, size, size)
    assert all(array.dtype == np.uint8 for array in data)
    np.testing.assert_array_equal(np.bincount(data.y_train), [200] * 10)
    np.testing.assert_array_equal(np.bincount(data.y_test), [50] * 10)
    train = {image.tobytes() for image in data.x_train}
    assert len(train) == 2000  # no picture twice, and none of those in the test split
    assert not any(image.tobytes() in train for image in data.x_test)


def test_embedded_8x8_is_made_from_28() -> None:
    small, full = load_embedded("fashion_mnist_small_8x8"), load_embedded("fashion_mnist_small_28")
    np.testing.assert_array_equal(small.x_test, to_grey_8x8(full.x_test))
    np.testing.assert_array_equal(small.y_test, full.y_test)


def test_embedded_fashion_mnist_comes_from_the_official_test_split(shared_data: Path) -> None:
    """So that what was meta-trained on the training split has not seen a picture of it."""
    part = load_embedded("fashion_mnist_small_28")
    full = load_images("fashion_mnist_28", data_dir=shared_data, source="prepared")
    known = {(image.tobytes(), int(label)) for image, label in zip(full.x_test, full.y_test, strict=True)}
    seen = {image.tobytes() for image in full.x_train}
    for images, labels in ((part.x_train, part.y_train), (part.x_test, part.y_test)):
        assert all((image.tobytes(), int(label)) in known for image, label in zip(images, labels, strict=True))
        assert not any(image.tobytes() in seen for image in images)


def test_embedded_digits() -> None:
    data = load_images("digits_8x8", source="embedded")
    assert data.x_train.shape == (1457, 8, 8)
    assert data.x_test.shape == (340, 8, 8)
    assert all(array.dtype == np.uint8 for array in data)
    np.testing.assert_array_equal(np.bincount(data.y_test), [34] * 10)
    assert np.ptp(np.bincount(data.y_train)) <= 9  # the whole set has 174 to 183 of each
    levels = np.unique(data.x_train)
    np.testing.assert_array_equal(levels, np.rint(np.arange(17) * 255 / 16))


def test_an_unknown_embedded_set() -> None:
    with pytest.raises(ValueError, match="digits_8x8, fashion_mnist_small_8x8"):
        load_embedded("mnist_8x8")


def test_licence_and_origin_stand_beside_the_data() -> None:
    folder = files("celo_tasks.datasets") / "embedded"
    licence = (folder / "fashion_mnist_small_28.LICENSE.txt").read_text(encoding="utf-8")
    assert "Copyright © 2017 Zalando SE" in licence
    assert "Permission is hereby granted, free of charge" in licence
    assert "public domain" in (folder / "shakespeare.ORIGIN.txt").read_text(encoding="utf-8")
    sizes = [len(item.read_bytes()) for item in folder.iterdir() if item.name.endswith((".npz", ".txt"))]
    assert sum(sizes) < 1.5e6  # it is in every wheel


def test_embedded_text() -> None:
    text = load_text()
    assert text.train.dtype == text.valid.dtype == np.uint8
    assert text.train.tobytes().startswith(b"First Citizen:\nBefore we proceed")
    assert text.valid.tobytes().endswith(b"\n")
    assert 190_000 < len(text.train) + len(text.valid) <= 200_000
    assert max(text.train.max(), text.valid.max()) < 128


def test_text_of_the_data_dir_comes_first_and_is_split_by_position(tmp_path: Path) -> None:
    (tmp_path / "shakespeare.txt").write_bytes(bytes(range(200, 220)))
    text = load_text("shakespeare", data_dir=tmp_path)
    np.testing.assert_array_equal(text.train, np.arange(200, 218))
    np.testing.assert_array_equal(text.valid, [218, 219])


def test_text_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nope\.txt.*shakespeare"):
        load_text("nope", data_dir=tmp_path)
    (tmp_path / "tiny.txt").write_bytes(b"123456789")
    with pytest.raises(ValueError, match="9 bytes"):
        load_text("tiny", data_dir=tmp_path)


_IMPORT = """
import sys
opened = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
import celo_tasks, celo_tasks.datasets
heavy = {"tensorflow", "tensorflow_datasets", "sklearn", "matplotlib", "PIL", "array_record"} & set(sys.modules)
assert not heavy, heavy
read = [path for path in opened if "celo_tasks" in path and not path.endswith((".py", ".pyc")) and ".pyc." not in path]
assert not read, read
"""


def test_importing_reads_no_data_and_nothing_heavy() -> None:
    result = subprocess.run([sys.executable, "-c", _IMPORT], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert not result.stdout + result.stderr
