"""The conversion to small grey pictures."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celo_tasks.datasets import area_matrix, load_images, to_grey, to_grey_8x8
from celo_tasks.datasets.resize import LUMA_WEIGHTS, area_average


@settings(deadline=None)  # a busy machine is not an error
@given(size=st.integers(1, 64), data=st.data())
def test_area_matrix_shares_every_source_pixel_out_once(size: int, data: st.DataObject) -> None:
    out = data.draw(st.integers(1, size))
    weights = area_matrix(size, out)
    assert weights.shape == (out, size)
    # Tolerance: sums of at most 64 float64 numbers of order one.
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-13)
    np.testing.assert_allclose(weights.sum(0), out / size, rtol=1e-13)


def test_area_matrix_from_28_to_8() -> None:
    # 3.5 source pixels per target pixel: the first row ends, and the second begins, in the middle of pixel 3.
    weights = area_matrix(28)
    np.testing.assert_array_equal(weights[0, :8] * 3.5, [1, 1, 1, 0.5, 0, 0, 0, 0])
    np.testing.assert_array_equal(weights[1, :8] * 3.5, [0, 0, 0, 0.5, 1, 1, 1, 0])


@pytest.mark.parametrize(("size", "out"), [(7, 8), (8, 0)])
def test_area_matrix_only_shrinks(size: int, out: int) -> None:
    with pytest.raises(ValueError, match=f"size={size} and out={out}"):
        area_matrix(size, out)


@pytest.mark.parametrize("size", [8, 28, 32, 33])
def test_constant_pictures_stay_constant(size: int) -> None:
    levels = np.arange(256, dtype=np.uint8)
    small = to_grey_8x8(np.broadcast_to(levels[:, None, None], (256, size, size)).copy())
    np.testing.assert_array_equal(small, np.broadcast_to(levels[:, None, None], (256, 8, 8)))


def test_32_to_8_is_the_block_mean_rounded_half_up() -> None:
    images = np.random.default_rng(0).integers(0, 256, (50, 32, 32), dtype=np.uint8)
    sums = images.reshape(50, 8, 4, 8, 4).astype(int).sum((2, 4))
    assert (sums % 16 == 8).any()  # halves occur, so the rounding of halves is tested
    np.testing.assert_array_equal(to_grey_8x8(images), (sums + 8) // 16)


@settings(deadline=None, max_examples=25)  # no deadline: the time of the first call varies
@given(seed=st.integers(0, 2**31), height=st.integers(8, 40), width=st.integers(8, 40))
def test_agrees_with_the_matrix_product_and_keeps_the_mean(seed: int, height: int, width: int) -> None:
    images = np.random.default_rng(seed).integers(0, 256, (2, height, width), dtype=np.uint8)
    small = area_average(images)
    exact = area_matrix(height) @ images @ area_matrix(width).T
    # Half a level by rounding; 1e-9 for float64 sums of numbers up to 255.
    assert np.abs(small - exact).max() <= 0.5 + 1e-9
    np.testing.assert_allclose(exact.mean((1, 2)), images.mean((1, 2)), rtol=1e-12)
    # An average never has more energy (mean square) than what is averaged.
    assert (np.square(exact).mean((1, 2)) <= np.square(images.astype(float)).mean((1, 2))).all()


def test_more_pictures_than_one_chunk() -> None:
    images = np.random.default_rng(1).integers(0, 256, (4100, 9, 9), dtype=np.uint8)
    np.testing.assert_array_equal(area_average(images)[4090:], area_average(images[4090:]))


def test_luma_is_bt601() -> None:
    np.testing.assert_allclose(np.array(LUMA_WEIGHTS) / 2**16, [0.299, 0.587, 0.114], atol=0.5 / 2**16)
    assert sum(LUMA_WEIGHTS) == 2**16
    primaries = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [0, 0, 0]], np.uint8)
    np.testing.assert_array_equal(to_grey(primaries[:, None, None, :]).ravel(), [76, 150, 29, 255, 0])


def test_grey_pictures_pass_through() -> None:
    images = np.random.default_rng(2).integers(0, 256, (3, 9, 10), dtype=np.uint8)
    np.testing.assert_array_equal(to_grey(images), images)
    np.testing.assert_array_equal(to_grey(images[..., None]), images)
    np.testing.assert_array_equal(to_grey(np.repeat(images[..., None], 3, -1)), images)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 8, 8), np.float32), "uint8"),
        (np.zeros((8, 8), np.uint8), r"\(8, 8\)"),
        (np.zeros((2, 8, 8, 4), np.uint8), r"\(2, 8, 8, 4\)"),
        (np.zeros((2, 7, 8), np.uint8), "7x8"),
    ],
)
def test_unfit_pictures_are_refused(images: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        to_grey_8x8(images)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_reproduces_the_prepared_8x8_sets(name: str, shared_data: Path) -> None:
    full, small = (load_images(f"{name}_{kind}", data_dir=shared_data, source="prepared") for kind in ("28", "8x8"))
    np.testing.assert_array_equal(to_grey_8x8(full.x_test), small.x_test)
    np.testing.assert_array_equal(full.y_test, small.y_test)


def test_reproduces_the_prepared_8x8_set_from_rgb(shared_data: Path) -> None:
    sub = load_images("cifar10_32rgb_sub", data_dir=shared_data, source="prepared")
    small = load_images("cifar10_8x8", data_dir=shared_data, source="prepared")
    known = {image.tobytes() for image in small.x_test}  # the subset's order is another
    assert all(image.tobytes() in known for image in to_grey_8x8(sub.x_test))
