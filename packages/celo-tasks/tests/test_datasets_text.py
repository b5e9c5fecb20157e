"""Texts: files, npz, and the tensorflow-datasets path on small sets that the tests build, prepare and read back."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from celo_tasks.datasets import TEXT_SPECS, TextData, is_text_available, load_text, prepare, text_vocabulary, tfds_text

tfds = pytest.importorskip("tensorflow_datasets")

DOCUMENTS = [f"Sentence {i}: the {word} sat on the mat.\n" for i, word in enumerate(("cat", "dög", "鳥", "ox") * 15)]


def make_builder(name: str, data_dir: Path) -> Any:
    """A data set like tfds's own of that name, e.g. "lm1b" or "wikipedia/20230601.en"."""

    class Small(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg, name-defined]
        VERSION = tfds.core.Version("1.0.0")
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=config) for config in name.split("/")[1:]]  # noqa: RUF012

        def _info(self) -> Any:
            features = {"text": tfds.features.Text(), "title": tfds.features.Text()}
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager: Any) -> Any:
            return {"train": self._generate_examples()}

        def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
            for i, text in enumerate(DOCUMENTS):
                yield i, {"text": text, "title": "none"}

    Small.name = name.split("/")[0]
    return Small(data_dir=data_dir)


def fill(name: str, data_dir: Path) -> None:
    make_builder(str(TEXT_SPECS[name].tfds_name), data_dir).download_and_prepare(file_format="array_record")


def documents(text: TextData) -> tuple[set[str], set[str]]:
    train, valid = (set(part.tobytes().decode().split("\0")) for part in (text.train, text.valid))
    return train, valid


def assert_whole(train: set[str], valid: set[str]) -> None:
    """Every document is in one part, whole; a tenth is to validate on, rounded up to whole documents."""
    assert train | valid == set(DOCUMENTS) and not train & valid
    assert 6 <= len(valid) <= 8


@pytest.mark.parametrize("name", ["lm1b", "wikipedia_en"])
def test_tfds_texts_are_read_as_bytes(name: str, no_tfds_data: Path) -> None:
    assert not is_text_available(name)
    with pytest.raises(FileNotFoundError, match=rf"run `celo-tasks prepare {name}`, give .*{name}\.txt.*shakespeare"):
        load_text(name)
    fill(name, no_tfds_data)
    assert is_text_available(name)
    text = load_text(name)  # finds it through TFDS_DATA_DIR
    assert text.train.dtype == text.valid.dtype == np.uint8 and text.vocabulary == 256
    assert_whole(*documents(text))
    assert not is_text_available(f"{name}_32k")  # subwords must be prepared
    assert "tensorflow" not in sys.modules


def test_no_more_is_read_than_the_limits(no_tfds_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill("lm1b", no_tfds_data)
    monkeypatch.setattr(tfds_text, "TRAIN_BYTES", 500)
    monkeypatch.setattr(tfds_text, "VALID_BYTES", 40)
    train, valid = documents(load_text("lm1b"))
    longest = max(len(document.encode()) for document in DOCUMENTS)
    assert len(valid) in (1, 2) and 500 - longest <= sum(len(one.encode()) for one in train) <= 500 + longest


def test_prepare_bytes(tmp_path: Path, no_tfds_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = []

    def builder(name: str, data_dir: str) -> Any:
        built.append(name)
        return make_builder(name, Path(data_dir))

    monkeypatch.setattr(tfds, "builder", builder)
    path = prepare("wikipedia_en", out_dir=tmp_path / "out")
    assert path == tmp_path / "out" / "wikipedia_en.npz" and built == ["wikipedia/20230601.en"]
    assert is_text_available("wikipedia_en", data_dir=path.parent)
    assert_whole(*documents(load_text("wikipedia_en", data_dir=path.parent)))


def test_prepare_subwords(tmp_path: Path, no_tfds_data: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers", reason="subwords are made by the library tokenizers")
    fill("lm1b", no_tfds_data)
    path = prepare("lm1b_32k", out_dir=tmp_path)
    assert is_text_available("lm1b_32k", data_dir=tmp_path)
    text = load_text("lm1b_32k", data_dir=tmp_path)
    assert text.train.dtype == text.valid.dtype == np.uint16
    assert text.vocabulary == text_vocabulary("lm1b_32k") == 32_000
    assert len(text.train) < 0.5 * sum(map(len, DOCUMENTS))  # repeated words have become one token each
    with np.load(path) as file:
        tokenizer = tokenizers.Tokenizer.from_str(file["tokenizer"].tobytes().decode())
    parts = []
    for tokens in (text.train, text.valid):
        cuts = np.split(tokens, np.flatnonzero(tokens == 0))
        parts.append({tokenizer.decode(cut[cut != 0].tolist()) for cut in cuts})
    assert_whole(*parts)


def test_prepare_subwords_without_tokenizers(
    tmp_path: Path, no_tfds_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)  # importing it fails, installed or not
    with pytest.raises(
        RuntimeError, match=r"'lm1b_32k' needs the library tokenizers.*pip install 'celo-tasks\[prepare\]'"
    ):
        prepare("lm1b_32k", out_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_prepare_says_which_package_is_missing(
    tmp_path: Path, no_tfds_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def builder(name: str, data_dir: str) -> Any:
        small = make_builder(name, Path(data_dir))
        monkeypatch.setattr(type(small), "_generate_examples", lambda self: __import__("no_such_beam"))
        return small

    monkeypatch.setattr(tfds, "builder", builder)
    with pytest.raises(RuntimeError, match=r"needs no_such_beam once, to prepare 'wikipedia/20230601.en'"):
        prepare("wikipedia_en", out_dir=tmp_path)


@pytest.mark.parametrize("name", ["shakespeare", "nope"])
def test_only_tfds_texts_are_prepared(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{name}.*mnist_8x8.*lm1b_32k"):
        prepare(name, out_dir=tmp_path)


def test_order_of_the_files(tmp_path: Path, no_tfds_data: Path) -> None:
    (tmp_path / "a.txt").write_bytes(bytes(range(20)))
    np.testing.assert_array_equal(load_text("a", data_dir=tmp_path).valid, [18, 19])
    (tmp_path / "a_train.txt").write_bytes(b"\1\2")
    assert len(load_text("a", data_dir=tmp_path).train) == 18  # half a pair is none
    (tmp_path / "a_valid.txt").write_bytes(b"\3")
    text = load_text("a", data_dir=tmp_path)
    assert (text.train.tolist(), text.valid.tolist(), text.vocabulary) == ([1, 2], [3], 256)
    np.savez(tmp_path / "a.npz", train=np.uint16([300, 1]), valid=np.uint16([7]), vocabulary=301)
    text = load_text("a", data_dir=str(tmp_path))
    assert (text.train.tolist(), text.valid.tolist(), text.vocabulary) == ([300, 1], [7], 301)
    (tmp_path / "lm1b_32k.txt").write_bytes(bytes(20))
    assert not is_text_available("lm1b_32k", data_dir=tmp_path)  # bytes are no subwords
    assert is_text_available("shakespeare") and not is_text_available("b", data_dir=tmp_path)


def test_absent_subwords(tmp_path: Path, no_tfds_data: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"lm1b_32k\.npz does not exist\): run `celo-tasks prepare lm1b_32k`"):
        load_text("lm1b_32k", data_dir=tmp_path)


SHORT = np.zeros(3, np.uint16)
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "lacks an array": ({"train": SHORT}, r"lacks valid; it must hold train and valid"),
    "two dtypes": ({"train": SHORT, "valid": SHORT.astype(np.uint8)}, r"train: uint16 \(3,\), valid: uint8 \(3,\)"),
    "no vocabulary": ({"train": SHORT, "valid": SHORT}, r"with their number of tokens as vocabulary"),
    "two axes": ({"train": SHORT[None], "valid": SHORT, "vocabulary": 9}, r"train: uint16 \(1, 3\)"),
    "empty": ({"train": SHORT[:0], "valid": SHORT, "vocabulary": 9}, "at least one token"),
    "too large a token": (
        {"train": SHORT + 9, "valid": SHORT, "vocabulary": 9},
        "the token 9, but tokens must be all below 9",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_npz(case: str, tmp_path: Path) -> None:
    arrays, message = BAD[case]
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        load_text("bad", data_dir=tmp_path)


def test_other_bad_files(tmp_path: Path) -> None:
    np.savez(tmp_path / "lm1b_32k.npz", train=SHORT, valid=SHORT, vocabulary=9)
    with pytest.raises(ValueError, match="a vocabulary of 9, not 32000: run `celo-tasks prepare lm1b_32k`"):
        load_text("lm1b_32k", data_dir=tmp_path)
    (tmp_path / "bad.npz").write_bytes(b"no zip")
    with pytest.raises(ValueError, match="not an npz of plain arrays"):
        load_text("bad", data_dir=tmp_path)
    (tmp_path / "half_train.txt").write_bytes(b"text")
    (tmp_path / "half_valid.txt").write_bytes(b"")
    with pytest.raises(ValueError, match="half_valid.txt is empty"):
        load_text("half", data_dir=tmp_path)


def test_full_texts(shared_data: Path) -> None:
    text = load_text("wikitext2", data_dir=shared_data)
    assert len(text.train) == (shared_data / "wikitext2_train.txt").stat().st_size
    assert len(text.valid) == (shared_data / "wikitext2_valid.txt").stat().st_size
