"""Configs go through JSON unchanged, and bad JSON is refused."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celo_core import CeloAdamConfig, CeloConfig, LSTMSchedulerConfig, configs
from celo_core.features import CELO_FEATURES
from celo_core.schedulers.loss_features import DECAYS

decays = st.floats(0.0, 1.0, exclude_max=True)
schedulers = st.builds(
    LSTMSchedulerConfig,
    hidden_size=st.integers(0, 512),
    num_timescales=st.integers(2, 20),
    multiplier=st.floats(1e-6, 1e3),
    task_embedding=st.booleans(),
    horizon=st.booleans(),
    shortest_horizon=st.integers(1, 10_000),
    decay=st.sampled_from(DECAYS),
)


@st.composite
def celo_configs(draw):
    size = draw(st.integers(1, 4))
    return CeloConfig(
        features=tuple(draw(st.lists(st.sampled_from(CELO_FEATURES), min_size=1, unique=True))),
        hidden_sizes=tuple(draw(st.lists(st.integers(1, 64), max_size=3))),
        momentum_decays=tuple(draw(st.lists(decays, min_size=size, max_size=size))),
        second_moment_decay=draw(decays),
        factored_decays=tuple(draw(st.lists(decays, min_size=size, max_size=size))),
        gradient_clip=draw(st.floats(1e-3, 1e6)),
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
    assert configs.from_json(CeloConfig, {"scheduler": {"hidden_size": 8}}).scheduler == LSTMSchedulerConfig(
        hidden_size=8
    )
    assert configs.from_json(CeloConfig, {"scheduler": None}).scheduler is None


def test_an_integer_will_do_for_a_float():
    clip = configs.from_json(CeloConfig, {"gradient_clip": 10}).gradient_clip
    assert clip == 10.0 and isinstance(clip, float)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"hidden": [4]}, "CeloConfig has no field 'hidden'"),
        ({"scheduler": {"units": 8}}, "CeloConfig.scheduler has no field 'units'"),
        ({"scheduler": 3}, "CeloConfig.scheduler must be an object"),
        ({"hidden_sizes": 4}, "CeloConfig.hidden_sizes must be a list"),
        ({"hidden_sizes": [4.5]}, r"CeloConfig.hidden_sizes\[0\] must be of type int"),
        ({"hidden_sizes": [True]}, r"CeloConfig.hidden_sizes\[0\] must be of type int"),
        ({"features": [1]}, r"CeloConfig.features\[0\] must be of type str"),
        ({"features": ["velocity"]}, "unknown features"),
        ({"features": "gradient"}, "CeloConfig.features must be a list"),
        ({"gradient_clip": "1e3"}, "CeloConfig.gradient_clip must be of type float"),
        ({"gradient_clip": None}, "CeloConfig.gradient_clip must be of type float"),
        ({"gradient_clip": True}, "CeloConfig.gradient_clip must be of type float"),
        ({"momentum_decays": [0.9]}, "the same length"),
        ([], "CeloConfig must be an object"),
        ("celo", "CeloConfig must be an object"),
    ],
)
def test_bad_json(data, message):
    with pytest.raises(ValueError, match=message):
        configs.from_json(CeloConfig, data)
