"""Configs are unchanged after a round trip through JSON, and invalid JSON raises an error."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celo_core import CeloAdamConfig, CeloConfig, ConstantLength, SchedulerConfig, configs
from celo_core.accumulators import Moments
from celo_core.architectures.celo import ParameterScale
from celo_core.directions import MLP, Adam, Orthogonal
from celo_core.features import CELO_FEATURES
from celo_core.meta_training.lengths import LengthSchedule
from celo_core.schedulers import (
    LSTM,
    Constant,
    Cosine,
    GradientAlignment,
    Horizon,
    Linear,
    LinearDecay,
    Loss,
    TaskEmbedding,
    Time,
)

decays = st.floats(0.0, 1.0, exclude_max=True)
positive = st.floats(1e-6, 1e3)
falling = {"peak": positive, "exponent": st.floats(0.0, 2.0), "shortest": st.floats(1.0, 1e4)}
priors = st.builds(Constant, value=positive) | st.builds(LinearDecay, **falling) | st.builds(Cosine, **falling)
inputs = st.lists(
    st.just(Time())
    | st.builds(Loss, num_timescales=st.integers(2, 20))
    | st.builds(Horizon, shortest=st.integers(1, 10_000))
    | st.just(TaskEmbedding())
    | st.just(GradientAlignment()),
    min_size=1,
    unique_by=type,
)
networks = st.just(Linear()) | st.builds(LSTM, size=st.integers(1, 512))
schedulers = st.builds(SchedulerConfig, inputs=inputs.map(tuple), network=networks, prior=priors) | st.builds(
    SchedulerConfig, inputs=st.just(()), network=st.none(), prior=priors
)


@st.composite
def celo_configs(draw):
    size = draw(st.integers(1, 4))
    mlp = MLP(
        features=tuple(draw(st.lists(st.sampled_from(CELO_FEATURES), min_size=1, unique=True))),
        hidden_sizes=tuple(draw(st.lists(st.integers(1, 64), max_size=3))),
    )
    directions = st.lists(st.sampled_from([mlp, Adam(), Orthogonal()]), min_size=1, unique=True)
    return CeloConfig(
        moments=Moments(
            momentum_decays=tuple(draw(st.lists(decays, min_size=size, max_size=size))),
            second_moment_decay=draw(decays),
            factored_decays=tuple(draw(st.lists(decays, min_size=size, max_size=size))),
            gradient_clip=draw(st.floats(1e-3, 1e6)),
        ),
        directions=tuple(draw(directions)),
        scale=draw(st.none() | st.builds(ParameterScale, zero_init=st.floats(0.0, 10.0))),
        scheduler=draw(st.none() | schedulers),
    )


adam_configs = st.builds(CeloAdamConfig, b1=decays, b2=decays, eps=st.floats(0, 1), scheduler=schedulers)


@settings(deadline=None)  # a busy machine is not an error
@given(celo_configs() | adam_configs | schedulers)
def test_round_trip(config):
    text = json.dumps(configs.to_json(config))
    restored = configs.from_json(type(config), json.loads(text))
    assert restored == config
    assert hash(restored) == hash(config)  # so that lists have become tuples again at every depth


def test_defaults_fill_what_is_left_out():
    assert configs.from_json(CeloConfig, {}) == CeloConfig()
    found = configs.from_json(CeloConfig, {"scheduler": {"network": {"type": "lstm"}, "prior": {"type": "cosine"}}})
    assert found.scheduler == SchedulerConfig(prior=Cosine())
    assert configs.from_json(CeloConfig, {"scheduler": None}).scheduler is None


def test_an_integer_will_do_for_a_float():
    clip = configs.from_json(CeloConfig, {"moments": {"gradient_clip": 10}}).moments.gradient_clip
    assert clip == 10.0 and isinstance(clip, float)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"direction": []},
            "CeloConfig has no field 'direction', did you mean directions: it takes moments, directions",
        ),
        (
            {"scheduler": {"units": 8}},
            "CeloConfig.scheduler has no field 'units', did you mean noise or inputs or bounds: it takes inputs",
        ),
        ({"scheduler": 3}, "CeloConfig.scheduler must be an object"),
        (
            {"scheduler": {"network": {"size": 3}}},
            r'scheduler.network must have a "type": choose from linear, linear_integral, lstm',
        ),
        (
            {"scheduler": {"network": {"type": "lsmt"}}},
            "unknown type 'lsmt', did you mean lstm: choose from linear, linear_integral, lstm, transformer",
        ),
        (
            {"scheduler": {"network": {"type": "lstm", "units": 3}}},
            "scheduler.network has no field 'units': it takes size",
        ),
        ({"scheduler": {"network": {"type": "lstm", "size": 0}}}, "an LSTM needs at least 1 unit, not 0"),
        ({"scheduler": {"network": None}}, "a scheduler with inputs needs network too"),
        ({"scheduler": {"inputs": []}}, "a scheduler with a network needs inputs too"),
        ({"scheduler": {"inputs": [{"type": "time"}, {"type": "time"}]}}, "has each input once, not time, time"),
        ({"scheduler": {"prior": {"type": "cosine", "peak": 0}}}, "peak must be a positive number, not 0.0"),
        ({"scheduler": {"prior": {"type": "cosine", "shortest": 1e9}}}, "1 <= shortest <= longest must hold"),
        ({"directions": [{"type": ["adam"]}]}, "unknown type"),
        ({"directions": []}, "there must be directions, each type once, not none"),
        ({"directions": [{"type": "adam"}, {"type": "adam"}]}, "each type once, not adam, adam"),
        (
            {"directions": [{"type": "mlp", "hidden_sizes": 4}]},
            r"CeloConfig.directions\[0\].hidden_sizes must be a list",
        ),
        ({"directions": [{"type": "mlp", "hidden_sizes": [4.5]}]}, r"hidden_sizes\[0\] must be of type int"),
        ({"directions": [{"type": "mlp", "hidden_sizes": [True]}]}, r"hidden_sizes\[0\] must be of type int"),
        ({"directions": [{"type": "mlp", "features": [1]}]}, r"features\[0\] must be of type str"),
        ({"directions": [{"type": "mlp", "features": ["velocity"]}]}, "unknown features"),
        ({"directions": [{"type": "mlp", "features": "gradient"}]}, "features must be a list"),
        ({"directions": [{"type": "mlp", "bank": 0}]}, "a bank has at least 1 network"),
        ({"moments": {"gradient_clip": "1e3"}}, "CeloConfig.moments.gradient_clip must be of type float"),
        ({"moments": {"gradient_clip": None}}, "gradient_clip must be of type float"),
        ({"moments": {"gradient_clip": True}}, "gradient_clip must be of type float"),
        ({"moments": {"momentum_decays": [0.9]}}, "the same length"),
        ({"directions": [{"type": "mlp", "bank": 0}]}, r"^CeloConfig.directions\[0\]: a bank"),
        ([], "CeloConfig must be an object"),
        ("celo", "CeloConfig must be an object"),
    ],
)
def test_bad_json(data, message):
    with pytest.raises(ValueError, match=message):
        configs.from_json(CeloConfig, data)


class Shape(configs.Part):
    """A family of parts for the tests below."""


@dataclasses.dataclass(frozen=True)
class Circle(Shape, type="circle"):
    radius: float = 1.0
    label: str | None = dataclasses.field(default=None, metadata={"json": False})


@dataclasses.dataclass(frozen=True)
class Drawing:
    shapes: Mapping[str, Shape]
    corner: tuple[int, float] = (0, 0.0)
    style: Literal["thin", "bold"] = "thin"
    size: float | Circle = 1.0


def test_mappings_pairs_choices_and_alternatives_round_trip():
    drawing = Drawing({"a": Circle(2.0, "left out")}, (3, 0.5), "bold", Circle())
    data = json.loads(json.dumps(configs.to_json(drawing)))
    assert data["shapes"] == {"a": {"type": "circle", "radius": 2.0}}
    assert configs.from_json(Drawing, data) == Drawing({"a": Circle(2.0)}, (3, 0.5), "bold", Circle())
    assert configs.from_json(Drawing, {**data, "size": 3}).size == 3.0
    for changes, message in (
        ({"corner": [1]}, "Drawing.corner must be a list of 2"),
        ({"style": "blod"}, "Drawing.style must be one of 'thin', 'bold', not 'blod'"),
        ({"size": {"type": "square"}}, "Drawing.size must be of type 'circle', not 'square'"),
        ({"size": "large"}, "Drawing.size must be of type float"),
        ({"shapes": {"b": {"type": "circl"}}}, "Drawing.shapes.b has the unknown type 'circl', did you mean circle"),
        ({"shapes": {"b": {"type": "circle", "label": "x"}}}, "has no field 'label'"),
    ):
        with pytest.raises(ValueError, match=message):
            configs.from_json(Drawing, {**data, **changes})


def test_what_has_no_default_must_be_there():
    assert configs.from_json(LengthSchedule, {"type": "constant", "steps": 3}) == ConstantLength(3)
    with pytest.raises(ValueError, match="^lengths must have steps: it takes steps.$"):
        configs.from_json(LengthSchedule, {"type": "constant"}, "lengths")


def test_two_parts_of_one_type_are_refused():
    with pytest.raises(TypeError, match="two of type 'circle'"):

        class Round(Shape, type="circle"):
            pass
