"""What is wrong with the machine is said of the machine: its variables, its disk, JAX; never of the weights."""

import dataclasses
import errno
import json
import os
import subprocess
import sys
import tempfile

import huggingface_hub
import jax
import pytest
from hub_server import HubServer

import celo_zoo
from celo_core.directions import MLP
from celo_zoo import environment, hub, index, schema
from celo_zoo.remote import Remote

TOKEN = "hf_secret0123456789secret0123456789"

VARIABLES = (
    *("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME", "HF_TOKEN", "HF_TOKEN_PATH"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE", "HF_ENDPOINT"),
)
"""Of the machine that the tests run on, which they do not depend on."""

DOWNLOAD = """
import json, sys
from celo_zoo import ZooError, hub
try:
    hub.download(hub.Hub("me/celo", "main"), hub.Options(token=None))
    print(json.dumps(["fine", ""]))
except ZooError as error:
    print(json.dumps([type(error).__name__, str(error)]))
"""


def run_python(code, *arguments, **variables):
    """Runs Python with other variables, which its libraries read when they are imported; returns its last line."""
    clean = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, env=clean | variables, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def server():
    with HubServer() as server:
        server.create("me/celo")
        folder = index.folder("celo")
        server.commit("me/celo", {name: (folder / name).read_bytes() for name in os.listdir(folder)})
        yield server


@pytest.fixture
def place(tmp_path):
    """A home directory, and files of the wrong kind."""
    (tmp_path / "home").mkdir()
    (tmp_path / "file").write_text("no folder, and no certificate")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    return tmp_path


# --- variables that the Hub's client reads when it is imported -------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "kind", "says"),
    [
        ("HF_HOME", "{place}/new", "fine", ""),
        ("HF_HOME", "{place}/file", "SettingError", "HF_HOME is '{place}/file', where no folder can be"),
        ("XDG_CACHE_HOME", "{place}/file", "SettingError", "XDG_CACHE_HOME is '{place}/file', where no folder can be"),
        ("HOME", "{place}/file", "SettingError", "HOME is '{place}/file', where no folder can be: set HF_HOME to"),
        ("HF_HUB_CACHE", "{place}/file", "WriteError", "where HF_HUB_CACHE is '{place}/file'"),
        ("HUGGINGFACE_HUB_CACHE", "{place}/file/x", "WriteError", "set HUGGINGFACE_HUB_CACHE to another folder"),
        ("HF_TOKEN_PATH", "{place}", "SettingError", "the saved login in '{place}', where HF_TOKEN_PATH puts it,"),
        ("HF_TOKEN_PATH", "{place}/bytes", "SettingError", "cannot be read (it is no text)"),
        (
            "HF_HUB_DOWNLOAD_TIMEOUT",
            "ten",
            "SettingError",
            "HF_HUB_DOWNLOAD_TIMEOUT is 'ten': set it to a whole number",
        ),
        ("HF_HUB_ETAG_TIMEOUT", "-1", "SettingError", "HF_HUB_ETAG_TIMEOUT is '-1': set it to a whole number"),
        ("HF_ENDPOINT", "http://127.0.0.1:port", "SettingError", "HF_ENDPOINT is 'http://127.0.0.1:port': set it to"),
        ("HF_ENDPOINT", "localhost:1", "SettingError", "HF_ENDPOINT is 'localhost:1': set it to"),
        ("HF_HUB_USER_AGENT_ORIGIN", "two\nlines", "SettingError", "HF_HUB_USER_AGENT_ORIGIN has characters"),
        ("TQDM_MININTERVAL", "ten", "SettingError", "TQDM_MININTERVAL is 'ten', which cannot be used (ValueError)"),
        ("TRANSFORMERS_OFFLINE", "1", "NotFoundError", "not in the cache, and TRANSFORMERS_OFFLINE is set"),
    ],
)
def test_unfit_variable_is_named(name, value, kind, says, server, place):
    settings = {"HOME": str(place / "home"), "HF_ENDPOINT": server.endpoint, name: value.format(place=place)}
    found = json.loads(run_python(DOWNLOAD, **settings))
    assert found[0] == kind, found[1]
    assert says.format(place=place) in found[1]


def test_full_disk(server, place):
    """Files may have a hundred bytes: as on a full disk, a file is begun and cannot be written to its end."""
    pytest.importorskip("resource")
    code = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n" + DOWNLOAD
    cache = str(place / "cache")
    kind, text = json.loads(run_python(code, HOME=str(place), HF_ENDPOINT=server.endpoint, HF_HUB_CACHE=cache))
    assert kind == "WriteError", text
    assert f"'{cache}' fails with 'File too large', where HF_HUB_CACHE is '{cache}'" in text


def test_publishing_names_the_variable(place):
    """The client is needed for the card before the Hub is looked at."""
    code = (
        "import celo_zoo\n"
        "try:\n    celo_zoo.publish('celo', 'me/celo', dry_run=True)\n"
        "except celo_zoo.SettingError as error:\n    print(error)\n"
    )
    assert run_python(code, HOME=str(place), HF_ENDPOINT="http://h:port").startswith("HF_ENDPOINT is 'http://h:port'")


# --- variables that are read with the first request ------------------------------------------------------------------


@pytest.fixture
def fresh_client(monkeypatch):
    """The client makes its connections anew, by the variables of the test."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    huggingface_hub.close_session()
    yield monkeypatch
    huggingface_hub.close_session()


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("SSL_CERT_FILE", "{place}/gone", "SSL_CERT_FILE names '{place}/gone', which has no certificates"),
        ("SSL_CERT_FILE", "{place}/file", "SSL_CERT_FILE names '{place}/file', which has no certificates"),
        ("HTTP_PROXY", "http://me:secret@127.0.0.1:bad", "HTTP_PROXY is no address of a proxy"),
        ("https_proxy", "foo://secret", "https_proxy is no address of a proxy"),
        ("HTTPS_PROXY", "http://[::", "HTTPS_PROXY is no address of a proxy"),
    ],
)
def test_what_connections_go_by(name, value, says, server, place, fresh_client):
    fresh_client.setenv(name, value.format(place=place))
    with pytest.raises(celo_zoo.SettingError) as caught:
        Remote("me/celo", hub.Options(endpoint=server.endpoint)).state()
    assert says.format(place=place) in str(caught.value)
    assert "secret" not in str(caught.value)


def test_socks_proxy_without_its_package(server, fresh_client):
    fresh_client.setenv("ALL_PROXY", "socks5://127.0.0.1:1")
    fresh_client.setitem(sys.modules, "socksio", None)
    fresh_client.setattr(environment.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(celo_zoo.SettingError, match="ALL_PROXY names a SOCKS proxy, which needs the package socksio"):
        Remote("me/celo", hub.Options(endpoint=server.endpoint)).state()


def test_refused_connection_names_the_proxy(server, fresh_client):
    options = hub.Options(endpoint=server.endpoint)
    assert Remote("me/celo", options).state() is not None
    fresh_client.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    huggingface_hub.close_session()
    with pytest.raises(celo_zoo.HubError, match="check the connection, which goes by HTTP_PROXY, and try again"):
        Remote("me/celo", options).state()
    fresh_client.setenv("NO_PROXY", "127.0.0.1")
    huggingface_hub.close_session()
    assert Remote("me/celo", options).state() is not None


def test_what_is_set_but_not_used_is_not_blamed(server, place, fresh_client):
    """In a request that fails by the Hub's own answer, in one that is refused, and in one that is answered."""
    fresh_client.setenv("SSL_CERT_DIR", str(place / "gone"))
    fresh_client.setenv("SSLKEYLOGFILE", str(place / "log"))
    fresh_client.setenv("HF_ENDPOINT", "nonsense")
    fresh_client.setenv("HF_HUB_ETAG_TIMEOUT", "-1")  # too late for the client, which has read it
    with pytest.raises(celo_zoo.HubError, match="check the connection and try again"):
        Remote("me/celo", hub.Options(endpoint="http://127.0.0.1:1")).state()
    options = hub.Options(endpoint=server.endpoint, cache_dir=place / "cache")
    with pytest.raises(celo_zoo.NotFoundError, match="no such repository"):
        hub.download(hub.Hub("me/nothing", "main"), options)
    assert hub.download(hub.Hub("me/celo", "main"), options)


@pytest.mark.parametrize("endpoint", ["localhost:1", "ftp://127.0.0.1", "http://me:secret@127.0.0.1:port", "http://"])
def test_endpoint_that_is_no_address(endpoint, tmp_path):
    with pytest.raises(celo_zoo.RefError, match="is no address of a Hub") as caught:
        celo_zoo.load("me/celo", endpoint=endpoint, cache_dir=tmp_path)
    assert "secret" not in str(caught.value)


def test_token_that_no_header_can_have(server, fresh_client):
    """It would be sent: the endpoint is the client's own."""
    fresh_client.setattr(hub.client("constants"), "ENDPOINT", server.endpoint)
    fresh_client.setenv("HF_TOKEN", "hf_\u00e9")
    with pytest.raises(celo_zoo.SettingError, match="HF_TOKEN has characters that no token has") as caught:
        Remote("me/celo", hub.Options(endpoint=server.endpoint)).state()
    assert "\u00e9" not in str(caught.value)


# --- errors of the client, whatever raised them ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (errno.ENOSPC, None),
        (errno.EROFS, "blob"),
        (errno.EACCES, "blob"),
        (errno.ENOTDIR, "blob"),
        (errno.EMFILE, None),
    ],
)
def test_disk_is_blamed_and_not_the_connection(code, name, tmp_path, fresh_client):
    def fail():
        raise OSError(code, os.strerror(code), name and str(tmp_path / name))

    with pytest.raises(celo_zoo.WriteError) as caught:
        hub.call(fail, "me/celo", hub.Options(cache_dir=tmp_path, token=TOKEN), doing="nothing came")
    text = str(caught.value)
    assert os.strerror(code) in text and str(tmp_path) in text and "cache_dir" in text
    assert "connection" not in text


def test_log_of_keys_that_cannot_be_written(tmp_path, fresh_client):
    """Whether it is asked for depends on the version of the client."""
    path = str(tmp_path / "gone" / "log")
    fresh_client.setenv("SSLKEYLOGFILE", path)
    with pytest.raises(celo_zoo.SettingError, match=f"SSLKEYLOGFILE names '{path}', which cannot be written"):
        hub.call(lambda: open(path, "ab"), "me/celo", hub.Options(token=TOKEN), doing="nothing came")


def test_folder_of_certificates_that_is_gone(tmp_path, fresh_client):
    def fail():
        raise RuntimeError("[SSL: CERTIFICATE_VERIFY_FAILED] unable to get local issuer certificate")

    options = hub.Options(token=TOKEN)
    fresh_client.setenv("SSL_CERT_DIR", str(tmp_path))
    with pytest.raises(celo_zoo.HubError, match="which goes by SSL_CERT_DIR, and"):
        hub.call(fail, "me/celo", options, doing="nothing came")
    fresh_client.setenv("SSL_CERT_DIR", str(tmp_path / "gone"))
    with pytest.raises(celo_zoo.SettingError, match=f"SSL_CERT_DIR names '{tmp_path}/gone', which is no folder"):
        hub.call(fail, "me/celo", options, doing="nothing came")


def test_cause_of_what_is_not_in_the_cache(fresh_client):
    errors = hub.client("errors")

    def fail():
        raise errors.LocalEntryNotFoundError("look at the traceback") from RuntimeError(f"refused\n{TOKEN}")

    with pytest.raises(celo_zoo.HubError) as caught:
        hub.call(fail, "me/celo", hub.Options(token=TOKEN), doing="", file="checksums of me/celo@main")
    assert "the Hub was not reached or answered with an error (RuntimeError: refused ***)" in str(caught.value)


def test_login_that_cannot_be_read_does_not_hide_the_error(fresh_client, place):
    """Errors are cleaned of the saved login, which must be read for that."""
    fresh_client.setattr(hub.client("constants"), "HF_TOKEN_PATH", str(place))

    def fail():
        raise RuntimeError("no such luck")

    with pytest.raises(celo_zoo.HubError, match="no such luck"):
        hub.call(fail, "me/celo", hub.Options(token=TOKEN), doing="nothing came")
    with pytest.raises(celo_zoo.SettingError, match="the saved login in .* cannot be read"):
        hub.call(fail, "me/celo", hub.Options(), doing="nothing came")


def test_damage_that_cannot_be_undone_says_why(server, place, fresh_client):
    options = {"endpoint": server.endpoint, "cache_dir": place / "cache"}
    found = celo_zoo.load("me/celo", **options)
    with open((found.folder / "config.json").resolve(), "ab") as file:
        file.write(b" ")
    huggingface_hub.close_session()
    fresh_client.setenv("SSL_CERT_FILE", str(place / "gone"))
    with pytest.raises(
        celo_zoo.ChecksumError, match=r"damaged or altered.*not be downloaded anew: SSL_CERT_FILE names"
    ):
        celo_zoo.load(f"me/celo@{found.commit}", **options)


def test_no_temporary_folder(monkeypatch):
    def fail(**_):
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "TemporaryDirectory", fail)
    with pytest.raises(celo_zoo.WriteError, match=r"folder can be made \(No usable .*: free some space, or set TMPDIR"):
        celo_zoo.publish("celo", "me/celo", dry_run=True)


# --- paths -----------------------------------------------------------------------------------------------------------


def test_home_directory_that_is_not_known(model_folder, tmp_path):
    theta, config = celo_zoo.load(model_folder)
    for use in (
        lambda path: celo_zoo.load(path),
        lambda path: celo_zoo.save(theta, config, path),
        lambda path: celo_zoo.load_run(path),
        lambda path: celo_zoo.publish(path, "me/celo"),
        lambda path: celo_zoo.convert_published(path),
    ):
        with pytest.raises(celo_zoo.NotFoundError, match="unknown home directory"):
            use("~nobody-of-this-name/weights")


def test_path_that_is_too_long(model_folder):
    theta, config = celo_zoo.load(model_folder)
    with pytest.raises(celo_zoo.RefError, match="unknown weights"):
        celo_zoo.load("a" * 5000)
    with pytest.raises(celo_zoo.NotFoundError, match=r"cannot be accessed \(File name too long\)"):
        celo_zoo.load("./" + "a" * 5000)
    with pytest.raises(celo_zoo.WriteError, match="File name too long"):
        celo_zoo.save(theta, config, "a" * 5000)


# --- JAX -------------------------------------------------------------------------------------------------------------


def test_weights_need_no_device(tmp_path):
    """Reading, checking and copying weights does not start JAX's back end; what does is not said to be of the weights."""
    code = (
        "import celo_zoo, sys\n"
        "theta, config = celo_zoo.load('celo')\n"
        "celo_zoo.save(theta, config, sys.argv[1])\n"
        "try:\n    celo_zoo.optimizer('celo', 10)\n"
        "except RuntimeError as error:\n    print(type(error).__module__, error)\n"
    )
    line = run_python(code, tmp_path / "copy", JAX_PLATFORMS="nosuch")
    assert "nosuch" in line and "config.json" not in line
    assert celo_zoo.load(tmp_path / "copy").digest


def test_failing_jax_is_not_blamed_on_the_weights(monkeypatch, tmp_path):
    theta, config = celo_zoo.load("celo")

    def fail(*_):
        raise AssertionError  # as of a back end that is missing: without a text

    monkeypatch.setattr(jax, "eval_shape", fail)
    schema._expected_shapes.cache_clear()
    for use in (lambda: celo_zoo.load("celo"), lambda: celo_zoo.save(theta, config, tmp_path / "copy")):
        with pytest.raises(celo_zoo.BackendError, match=r"^JAX failed at .* of celo weights.*AssertionError") as caught:
            use()
        assert "config.json" not in str(caught.value)


def test_config_that_fits_no_shapes_is_blamed_on_the_file(model_folder, tmp_path):
    document = json.loads((model_folder / "config.json").read_text())
    document["config"]["directions"][0]["hidden_sizes"] = [-1]
    with pytest.raises(celo_zoo.FormatError, match=r"config.json does not fit the installed celo-core"):
        schema.decode(json.dumps(document).encode(), {}, "here")
    theta, config = celo_zoo.load(model_folder)
    with pytest.raises(celo_zoo.FormatError, match="no weights of celo are of this config"):
        celo_zoo.save(theta, dataclasses.replace(config, directions=(MLP(hidden_sizes=(-1,)),)), tmp_path / "copy")


def test_jax_that_does_not_start():
    code = (
        "import celo_zoo\ncelo_zoo.names()\n"
        "try:\n    celo_zoo.load\n"
        "except celo_zoo.BackendError as error:\n    print(error)\n"
    )
    assert "JAX_ENABLE_X64" in run_python(code, JAX_ENABLE_X64="maybe")
