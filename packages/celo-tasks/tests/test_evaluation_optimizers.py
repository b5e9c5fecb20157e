"""Pretrained optimizers found through entry points."""

import importlib.metadata
from collections.abc import Callable
from typing import Any

import optax
import pytest

from celo_tasks.evaluation import optimizers


class FakeDistribution(importlib.metadata.Distribution):
    def __init__(self, entry_points: str) -> None:
        self._text = entry_points

    def read_text(self, filename: str) -> str | None:
        return self._text if filename == "entry_points.txt" else "Metadata-Version: 2.1\nName: fake\nVersion: 1\n"

    def locate_file(self, path: Any) -> Any:
        raise NotImplementedError


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Pretends that nothing is installed but packages with these entry points."""

    def install(*entry_points: str) -> None:
        points = [
            point
            for number, one in enumerate(entry_points)
            for point in importlib.metadata.EntryPoints._from_text_for(
                f"[celo.optimizers]\n{one}\n", FakeDistribution(str(number))
            )
        ]
        monkeypatch.setattr(
            importlib.metadata, "entry_points", lambda **wanted: importlib.metadata.EntryPoints(points).select(**wanted)
        )

    return install


def test_pretrained_is_found_by_name(install: Callable[..., None]) -> None:
    install("celo = optax:sgd", "other = optax:lion")
    assert optimizers.pretrained_names() == ("celo", "other")
    assert optimizers.load_pretrained("celo") is optax.sgd


def test_missing_optimizer_is_explained(install: Callable[..., None]) -> None:
    install()
    with pytest.raises(ValueError, match="pip install celo-zoo"):
        optimizers.load_pretrained("celo")
    install("other = optax:lion")
    with pytest.raises(ValueError, match="offer other"):
        optimizers.load_pretrained("celo")


def test_two_offers_are_refused_unless_they_are_the_same(install: Callable[..., None]) -> None:
    install("celo = optax:sgd", "celo = optax:lion")
    with pytest.raises(ValueError, match="uninstall"):
        optimizers.load_pretrained("celo")
    install("celo = optax:sgd", "celo = optax:sgd")  # a package that lies twice on the path
    assert optimizers.load_pretrained("celo") is optax.sgd


@pytest.mark.parametrize("target", ["no_such_package:celo", "optax:no_such_name"])
def test_broken_offer_is_explained(install: Callable[..., None], target: str) -> None:
    install(f"celo = {target}")
    with pytest.raises(ValueError, match="reinstall"):
        optimizers.load_pretrained("celo")
