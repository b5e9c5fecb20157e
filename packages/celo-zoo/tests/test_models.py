"""Saving and loading: exact, complete, and closed to anything else."""

import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import PROVENANCE

import celo_core
import celo_zoo
from celo_core import ADAPTIVE, ARCHITECTURES, ORTHOGONAL, CeloConfig, SchedulerConfig, configs, get_architecture
from celo_core.checks import flatten_theta
from celo_core.directions import MLP
from celo_core.schedulers import LSTM, Constant, Cosine, Horizon, Linear, Loss, Time
from celo_zoo import folders, schema, tensors


def random_theta(architecture):
    random = np.random.default_rng(0)
    shapes = schema.expected_shapes(architecture)
    return jax.tree.map(lambda leaf: random.normal(0.0, 0.3, leaf.shape).astype(np.float32), shapes)


def assert_same_bits(left, right):
    left, right = flatten_theta(left), flatten_theta(right)
    assert left.keys() == right.keys()
    for path, leaf in left.items():
        assert np.shape(leaf) == np.shape(right[path])
        assert leaf.dtype == right[path].dtype
        assert np.asarray(leaf).tobytes() == np.asarray(right[path]).tobytes()


def rewrite(folder, target, **changes):
    """A copy whose config.json is changed and whose checksums are right again."""
    files = {name: (folder / name).read_bytes() for name in folders.LISTED}
    document = json.loads(files[folders.CONFIG]) | changes
    files[folders.CONFIG] = json.dumps(document).encode()
    return folders.write(target, files)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("dtype", tensors.DTYPES.values(), ids=str)
def test_round_trip(name, dtype, tmp_path):
    architecture = get_architecture(name)
    theta = jax.tree.map(lambda leaf: leaf.astype(dtype), random_theta(architecture))
    folder = celo_zoo.save(theta, architecture.config, tmp_path / "a" / "b", metadata=PROVENANCE)
    loaded, config = celo_zoo.load(folder)
    assert_same_bits(loaded, theta)
    assert config == architecture.config
    assert type(config) is type(architecture.config)
    assert celo_zoo.info(str(folder)) == {
        "format_version": 3,
        "requires": {"celo-zoo": "0.1.0", "celo-core": celo_core.__version__},
        "architecture": name,
        "config": configs.to_json(architecture.config),
        "provenance": PROVENANCE,
        "evaluation": [],
        "repository": None,
    }
    assert sorted(os.listdir(folder)) == ["README.md", "checksums", "config.json", "model.safetensors"]
    assert os.listdir(tmp_path / "a") == ["b"]


@pytest.mark.parametrize(
    "config",
    [
        CeloConfig(scheduler=None),
        CeloConfig(
            directions=(MLP(hidden_sizes=(8,)),), scheduler=SchedulerConfig(network=LSTM(7), prior=Constant(0.3))
        ),
    ],
    ids=["no scheduler", "other sizes"],
)
def test_other_configs(config, tmp_path):
    theta = random_theta(get_architecture("celo", config))
    loaded, read = celo_zoo.load(celo_zoo.save(theta, config, tmp_path / "model"))
    assert read == config
    assert_same_bits(loaded, theta)


def test_stored_in_another_dtype_it_is_the_same_optimizer(tmp_path):
    """Arithmetic is in float32 whatever theta is stored in, and float64 holds it exactly."""
    architecture = get_architecture("celo_adam")
    theta = random_theta(architecture)
    double = jax.tree.map(lambda leaf: np.asfortranarray(np.asarray(leaf, np.float64)), theta)
    folder = celo_zoo.save(double, architecture.config, tmp_path / "model")
    params, gradient = jnp.array([2.0, -1.0]), jnp.array([0.5, 0.1])

    def first_update(tx):
        return tx.update(gradient, tx.init(params), params, value=jnp.float32(1.0))[0]

    np.testing.assert_array_equal(
        first_update(celo_zoo.optimizer(folder, 10)), first_update(architecture.build(theta, 10))
    )


def test_pretrained_knows_where_it_comes_from(model_folder):
    found = celo_zoo.load(model_folder)
    assert (found.source, found.commit, found.architecture.name) == (str(model_folder), None, "celo")
    assert found.num_values == 35_803
    assert found.digest == hashlib.sha256((model_folder / "checksums").read_bytes()).hexdigest()
    assert celo_zoo.load(found.reference).digest == found.digest
    with pytest.raises(celo_zoo.ChecksumError, match=f"digest {found.digest}, not {'0' * 64}"):
        celo_zoo.load(f"{model_folder}@sha256:{'0' * 64}")


def test_fingerprint_is_of_what_decides_updates(model_folder, tmp_path):
    theta, config = celo_zoo.load(model_folder)
    other_card = celo_zoo.load(celo_zoo.save(theta, config, tmp_path / "card", metadata={"notes": ["new"]}))
    other_config = celo_zoo.load(celo_zoo.save(theta, dataclasses.replace(config, step_scale=0.5), tmp_path / "config"))
    output = theta["update_rule"]["mlp"]["output"]
    output["bias"] = output["bias"] + np.float32(1)
    other_theta = celo_zoo.load(celo_zoo.save(theta, config, tmp_path / "theta"))
    found = celo_zoo.load(model_folder)
    assert other_card.fingerprint == found.fingerprint
    assert len({found.fingerprint, other_config.fingerprint, other_theta.fingerprint}) == 3
    assert other_card.digest != found.digest


def test_wrong_digest_is_refused_before_parsing(model_folder, no_parser):
    with pytest.raises(celo_zoo.ChecksumError, match="as expected"):
        celo_zoo.load(f"{model_folder}@sha256:{'0' * 64}")


def test_checksums_are_those_of_sha256sum(model_folder):
    lines = (model_folder / "checksums").read_text().splitlines()
    assert lines == [
        f"{hashlib.sha256((model_folder / name).read_bytes()).hexdigest()}  {name}"
        for name in ("README.md", "config.json", "model.safetensors")
    ]


def test_optimizer_takes_the_keywords_of_the_architecture(model_folder):
    params, gradient = jnp.array([2.0, -1.0]), jnp.zeros(2)

    def first_update(**kwargs):
        tx = celo_zoo.optimizer(model_folder, 10, **kwargs)
        return tx.update(gradient, tx.init(params), params, value=jnp.float32(1.0))[0]

    decayed = first_update(weight_decay=0.1) - first_update()
    np.testing.assert_allclose(decayed, -0.1 * params, rtol=1e-5)  # a few roundings of float32
    assert isinstance(celo_zoo.optimizer(model_folder, 10), optax.GradientTransformationExtraArgs)
    with pytest.raises(TypeError, match="wieght_decay"):
        celo_zoo.optimizer(model_folder, 10, wieght_decay=0.1)


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.fixture
def no_parser(monkeypatch):
    """Makes every parser of file contents fail the test."""

    def reached(*arguments, **keywords):
        pytest.fail("a file was parsed before it was checked")

    monkeypatch.setattr(tensors, "decode", reached)
    monkeypatch.setattr(schema.json, "loads", reached)


def copy_of(folder, target):
    target.mkdir()
    for name in os.listdir(folder):
        (target / name).write_bytes((folder / name).read_bytes())
    return target


FILES = ("README.md", "checksums", "config.json", "model.safetensors")


@pytest.mark.parametrize("name", FILES)
def test_altered_file_is_refused_before_parsing(name, model_folder, tmp_path, no_parser):
    folder = copy_of(model_folder, tmp_path / "copy")
    data = (folder / name).read_bytes()
    # Every byte of the small checksums file; of the others the ends and a random sample.
    random = np.random.default_rng(0)
    everywhere = len(data) if name == "checksums" else 40
    positions = {0, len(data) - 1, *random.permutation(len(data))[:everywhere].tolist()}
    for position in sorted(positions):
        altered = bytearray(data)
        altered[position] ^= int(random.integers(1, 256))
        (folder / name).write_bytes(altered)
        with pytest.raises(celo_zoo.ChecksumError, match="get"):
            celo_zoo.load(folder)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("keep", [0.0, 0.5, 0.999])
def test_truncated_file_is_refused_before_parsing(name, keep, model_folder, tmp_path, no_parser):
    folder = copy_of(model_folder, tmp_path / "copy")
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: int(keep * len(data))])
    with pytest.raises(celo_zoo.ChecksumError):
        celo_zoo.load(folder)


@pytest.mark.parametrize("name", FILES)
def test_missing_file_is_refused_before_parsing(name, model_folder, tmp_path, no_parser):
    folder = copy_of(model_folder, tmp_path / "copy")
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"there is no {name}"):
        celo_zoo.load(folder)


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: text + text.splitlines(keepends=True)[0],
        lambda text: "".join(text.splitlines(keepends=True)[:-1]),
        lambda text: text + "0" * 64 + "  other.bin\n",
        lambda text: text.replace("config.json", "../config.json"),
        lambda text: text.rstrip("\n"),
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.upper(),
    ],
    ids=["line twice", "line missing", "unknown file", "path", "no last newline", "CRLF", "upper case"],
)
def test_unusual_checksums_are_refused(edit, model_folder, tmp_path, no_parser):
    folder = copy_of(model_folder, tmp_path / "copy")
    (folder / "checksums").write_bytes(edit((folder / "checksums").read_text()).encode())
    with pytest.raises(celo_zoo.ChecksumError):
        celo_zoo.load(folder)


def test_files_beside_are_ignored(model_folder, tmp_path):
    folder = copy_of(model_folder, tmp_path / "copy")
    (folder / ".gitattributes").write_text("x")
    assert_same_bits(celo_zoo.load(folder).theta, celo_zoo.load(model_folder).theta)


def test_large_files_are_refused(model_folder, tmp_path, no_parser, monkeypatch):
    folder = copy_of(model_folder, tmp_path / "copy")
    os.truncate(folder / "model.safetensors", 64 * 2**20 + 1)  # sparse: takes no room on the disk
    with pytest.raises(ValueError, match=r"67,108,865 bytes, more than the 67,108,864 allowed"):
        celo_zoo.load(folder)


def test_newer_version_is_refused(model_folder, tmp_path):
    """Whatever else it has: of the present version's fields only ``requires`` is looked at."""

    def refusal(requires):
        with pytest.raises(celo_zoo.NewerFormatError) as caught:
            celo_zoo.load(rewrite(model_folder, tmp_path / "newer", format_version=4, config=None, requires=requires))
        shutil.rmtree(tmp_path / "newer")
        return str(caught.value)

    told = refusal({"celo-zoo": "0.7.1"})
    assert told.endswith(
        'format version 4 and this celo-zoo reads up to 3: install celo-zoo 0.7.1 or newer (pip install "celo-zoo>=0.7.1").'
    )
    for untold in (None, [], {}, {"celo-zoo": 7}, {"celo-zoo": "1; curl evil | sh"}, {"celo-zoo": "1" * 1000}):
        assert refusal(untold).endswith("upgrade celo-zoo (pip install -U celo-zoo).")


def test_newer_architecture_names_the_version_to_install(model_folder, tmp_path):
    changes = {"architecture": "of the future", "requires": {"celo-core": "0.9"}}
    with pytest.raises(celo_zoo.NewerFormatError, match=r"unknown architecture.*: install celo-core 0\.9 or newer"):
        celo_zoo.load(rewrite(model_folder, tmp_path / "newer", **changes))
    changes = {"config": {"surprise": 1}, "requires": {"celo-core": "99.0"}}
    with pytest.raises(celo_zoo.NewerFormatError, match=r"'surprise'.*: install celo-core 99\.0 or newer"):
        celo_zoo.load(rewrite(model_folder, tmp_path / "field", **changes))


OLD = pathlib.Path(__file__).parent / "format_1"
"""Written by the code that wrote format 1: a Celo of small sizes whose leaves count up from zero in eighths."""


def test_format_1_is_still_read():
    found = celo_zoo.load(OLD)
    assert json.loads((OLD / "config.json").read_text())["format_version"] == 1
    assert found.config == CeloConfig(directions=(MLP(hidden_sizes=(2,)),), scheduler=SchedulerConfig(network=LSTM(3)))
    assert found.document["format_version"] == 3
    assert found.document["provenance"] == {"command": "written by hand", "seeds": [0]}
    assert (found.document["evaluation"], found.document["repository"]) == ([], None)
    leaves = flatten_theta(found.theta)
    # Sorted by the names of then.
    name = lambda path: (
        path.replace("/mlp/", "/").replace("scheduler/", "scheduler/network/").replace("network/init", "init")
    )
    counted = np.concatenate([leaves[path].ravel() for path in sorted(leaves, key=name)])
    np.testing.assert_array_equal(counted, np.arange(counted.size, dtype=np.float32) / 8)
    assert found.digest == "ccc86b8a28741d985a319ff9c7061fa260896ed0765c6afab388c3ee9b117762"


FORMAT_2 = pathlib.Path(__file__).parent / "format_2"
"""The bundled weights as format 2 had them: a schedule set by hand in a linear scheduler, and a linear scheduler that learned."""


def test_format_2_is_still_read():
    """A schedule by hand becomes a prior; what was learned keeps its numbers under other names."""
    found = celo_zoo.load(FORMAT_2 / "celo")
    assert json.loads((FORMAT_2 / "celo" / "config.json").read_text())["format_version"] == 2
    assert found.config == ORTHOGONAL and found.document["format_version"] == 3
    assert "scheduler" not in found.theta and found.num_values == 163
    with open(FORMAT_2 / "celo" / "model.safetensors", "rb") as file:
        stored = tensors.flatten(tensors.decode(file.read()))
    for path, leaf in flatten_theta(found.theta).items():
        np.testing.assert_array_equal(leaf, stored[path.replace("/mlp/", "/")])
    adam = celo_zoo.load(FORMAT_2 / "celo_adam")
    assert adam.config.scheduler == SchedulerConfig((Time(), Loss(), Horizon()), Linear(), Cosine(peak=0.1))
    assert set(flatten_theta(adam.theta)) == {"scheduler/step_size/kernel", "scheduler/step_size/bias"}


def test_format_2_has_the_bundled_numbers():
    old, new = celo_zoo.load(FORMAT_2 / "celo_adam"), celo_zoo.load("celo_adam")
    assert old.config == new.config and old.fingerprint == new.fingerprint
    jax.tree.map(np.testing.assert_array_equal, old.theta, new.theta)


def test_the_update_rule_of_celo_began_as_that_of_format_2():
    """Whose schedule was set by hand: a scheduler that modulates it has been learned since, and ten numbers with it."""
    old, new = celo_zoo.load(FORMAT_2 / "celo"), celo_zoo.load("celo")
    assert new.config == ADAPTIVE and ADAPTIVE.scheduler.prior == old.config.scheduler.prior
    assert dataclasses.replace(new.config, scheduler=old.config.scheduler) == old.config
    before, after = old.theta["update_rule"]["mlp"], new.theta["update_rule"]["mlp"]
    for name in ("hidden_0", "hidden_1"):
        jax.tree.map(np.testing.assert_array_equal, before[name], after[name])
    # Of the network's direction only the length has changed.
    ratios = [after["output"][name][..., 0] / before["output"][name][..., 0] for name in ("kernel", "bias")]
    np.testing.assert_allclose(np.ravel(ratios[0]), np.ravel(ratios[1]).item(), rtol=1e-5)  # float32
    np.testing.assert_array_equal(before["output"]["kernel"][:, 1], after["output"]["kernel"][:, 1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"surprise": 1}, "has no field 'surprise' in this format"),
        ({"scheduler": 3}, "scheduler must be of type dict"),
        ({"scheduler": {"hidden_size": "x"}}, "hidden_size must be of type int"),
        ({"scheduler": {"decay": "sine"}}, "decay must be constant, linear or cosine, not 'sine'"),
        ({"scheduler": {"hidden_size": True}}, "hidden_size must be of type int"),
        ({"adam": 1}, "adam must be of type bool"),
        ({"hidden_sizes": "44"}, "hidden_sizes must be of type list"),
        ({"scheduler": {"multiplier": -1.0, "hidden_size": 64}}, "does not fit the installed celo-core"),
        ({"scheduler": {"multiplier": 1e300, "hidden_size": 0, "decay": "cosine"}}, "config.json|shape"),
        ({"scheduler": {"hidden_size": 0, "num_timescales": 2**16, "decay": "cosine"}}, "shape"),
        ({"features": [["gradient"]]}, "must be of type str"),
    ],
)
def test_unfit_configs_of_format_2_are_refused(changes, message, tmp_path):
    document = json.loads((FORMAT_2 / "celo" / "config.json").read_text())
    config = {**document["config"], **changes}
    with pytest.raises(celo_zoo.FormatError, match=message):
        celo_zoo.load(rewrite(FORMAT_2 / "celo", tmp_path / "unfit", config=config))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": None}, "no format_version"),
        ({"format_version": True}, "no format_version"),
        ({"format_version": "1"}, "no format_version"),
        ({"format_version": 0}, "no format_version"),
        ({"architecture": "adamw"}, "unknown architecture 'adamw'"),
        ({"architecture": 3}, "lacks an architecture"),
        ({"architecture": "celo_adam"}, "has no field"),
        ({"config": []}, "lacks an architecture"),
        ({"config": {"directions": [{"type": "mlp", "hidden_sizes": [-1]}]}}, "does not fit the installed celo-core"),
        ({"config": {"directions": [{"type": "mlp", "hidden_sizes": "ab"}]}}, "must be a list"),
        ({"config": {"surprise": 1}}, "has no field 'surprise'"),
        ({"config": {"directions": [{"type": "mlp", "hidden_sizes": [5, 4]}]}}, r"has shape \(4,\), not \(5,\)"),
        ({"config": {"scheduler": None}}, "unknown leaves scheduler"),
        ({"provenance": None}, "lacks an architecture, a config, a provenance or another field"),
        ({"repository": 3}, "or another field"),
        ({"evaluation": None}, "or another field"),
        ({"evaluation": [{"suite": 3}]}, "unfit evaluation"),
        (
            {"config": {"directions": [{"type": "mlp", "hidden_sizes": [2**16 + 1]}]}},
            "the size 65537, more than the 65,536 allowed",
        ),
        ({"config": {"directions": [{"type": "mlp", "hidden_sizes": [1] * 257}]}}, "a config with 257 entries"),
    ],
)
def test_unfit_config_is_refused(changes, message, model_folder, tmp_path):
    with pytest.raises(ValueError, match=message):
        celo_zoo.load(rewrite(model_folder, tmp_path / "unfit", **changes))


@pytest.mark.parametrize(
    "text", [b"", b"3", b"{", b"[" * 200_000, b'{"format_version": NaN}', b'{"a": 1e999}', b"\xff"]
)
def test_config_that_is_not_json_is_refused(text, model_folder, tmp_path):
    files = {name: (model_folder / name).read_bytes() for name in folders.LISTED} | {folders.CONFIG: text}
    with pytest.raises(ValueError, match=r"config\.json"):
        celo_zoo.load(folders.write(tmp_path / "unfit", files))


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_non_finite_theta_is_refused(number, model_folder, tmp_path):
    theta, config = celo_zoo.load(model_folder)
    theta["update_rule"]["mlp"]["output"]["bias"] = np.array([0.0, number], np.float32)
    with pytest.raises(ValueError, match="'update_rule/mlp/output/bias' has numbers that are not finite"):
        celo_zoo.save(theta, config, tmp_path / "model")
    files = {name: (model_folder / name).read_bytes() for name in folders.LISTED}
    files[folders.WEIGHTS] = tensors.encode(theta)
    with pytest.raises(ValueError, match="'update_rule/mlp/output/bias' has numbers that are not finite"):
        celo_zoo.load(folders.write(tmp_path / "by hand", files))
    assert os.listdir(tmp_path) == ["by hand"]


# --- imports -----------------------------------------------------------------------------------------------------------


def test_import_is_light():
    code = (
        "import os, sys, builtins\n"
        "import celo_core\n"
        "opened = []\n"
        "sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == 'open' else None)\n"
        "import celo_zoo\n"
        "assert 'huggingface_hub' not in sys.modules and 'safetensors' not in sys.modules\n"
        "data = [name for name in opened if name.endswith(('.json', '.safetensors', 'checksums'))]\n"
        "assert not data, data\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
