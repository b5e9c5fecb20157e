"""CIFAR in colour: the sets of 16x16 pictures are made from those of 32x32."""

from pathlib import Path

import numpy as np
import pytest

from celo_tasks.datasets import ImageData, arrays, is_available, load_images


def make_data(size: int) -> ImageData:
    rng = np.random.default_rng(size)
    pictures = [rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8) for count in (9, 5)]
    return ImageData(pictures[0], np.arange(9, dtype=np.uint8), pictures[1], np.arange(5, dtype=np.uint8))


def halved(images: np.ndarray) -> np.ndarray:
    """Means of 2x2 pixels, halves rounded up."""
    means = np.stack([images[:, i::2, j::2].astype(np.float64) for i in (0, 1) for j in (0, 1)]).mean(axis=0)
    return np.floor(means + 0.5).astype(np.uint8)


@pytest.mark.parametrize("suffix", ["", "_sub"])
def test_16_is_averaged_from_32(suffix: str, tmp_path: Path, no_tfds_data: Path) -> None:
    name = f"cifar100_16rgb{suffix}"
    assert not is_available(name, data_dir=tmp_path)
    large = make_data(32)
    arrays.write_prepared(tmp_path / f"cifar100_32rgb{suffix}.npz", large)
    assert is_available(name, data_dir=tmp_path) and is_available(f"cifar100_32rgb{suffix}", data_dir=tmp_path)
    small = load_images(name, data_dir=tmp_path)
    np.testing.assert_array_equal(small.x_train, halved(large.x_train))
    np.testing.assert_array_equal(small.x_test, halved(large.x_test))
    np.testing.assert_array_equal(small.y_train, large.y_train)
    assert small.x_train.dtype == np.uint8
    for other in ("cifar10_16rgb", "cifar100_16rgb" if suffix else "cifar100_16rgb_sub"):
        assert not is_available(other, data_dir=tmp_path)


def test_arrays_of_its_own_come_first(tmp_path: Path) -> None:
    own = make_data(16)
    arrays.write_prepared(tmp_path / "cifar10_32rgb.npz", make_data(32))
    arrays.write_prepared(tmp_path / "cifar10_16rgb.npz", own)
    np.testing.assert_array_equal(load_images("cifar10_16rgb", data_dir=tmp_path).x_train, own.x_train)


def test_a_faulty_larger_set_is_named(tmp_path: Path) -> None:
    arrays.write_prepared(tmp_path / "cifar10_32rgb.npz", make_data(28))
    with pytest.raises(ValueError, match=r"cifar10_32rgb\.npz: x_train must be uint8 \(N, 32, 32, 3\)"):
        load_images("cifar10_16rgb", data_dir=tmp_path)


def test_an_absent_set_says_what_to_do(tmp_path: Path, no_tfds_data: Path) -> None:
    with pytest.raises(FileNotFoundError, match="`celo-tasks prepare cifar10_16rgb`, give a --data-dir"):
        load_images("cifar10_16rgb", data_dir=tmp_path)
    with pytest.raises(FileNotFoundError) as caught:
        load_images("cifar10_16rgb_sub", data_dir=tmp_path)
    message = str(caught.value).replace(str(tmp_path), "FOLDER")  # whose name may have points
    assert (
        "cifar10_16rgb_sub.npz or cifar10_32rgb_sub.npz, or use 'cifar10_16rgb', which `celo-tasks prepare`" in message
    )
    assert message.count(".") - message.count(".npz") == 1 and message.endswith(".")  # one sentence


def test_the_subset_is_balanced(shared_data: Path) -> None:
    data = load_images("cifar100_32rgb_sub", data_dir=shared_data)
    np.testing.assert_array_equal(np.bincount(data.y_train), [100] * 100)
    np.testing.assert_array_equal(np.bincount(data.y_test), [20] * 100)
