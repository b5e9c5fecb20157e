"""Meta-trained weights for Celo's learned optimizers: in the package, from a folder or from the Hugging Face Hub."""

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

from celo_zoo.errors import AccessError as AccessError
from celo_zoo.errors import BackendError as BackendError
from celo_zoo.errors import ChecksumError as ChecksumError
from celo_zoo.errors import ConflictError as ConflictError
from celo_zoo.errors import ExistsError as ExistsError
from celo_zoo.errors import FormatError as FormatError
from celo_zoo.errors import HubError as HubError
from celo_zoo.errors import NewerFormatError as NewerFormatError
from celo_zoo.errors import NotFoundError as NotFoundError
from celo_zoo.errors import RefError as RefError
from celo_zoo.errors import SettingError as SettingError
from celo_zoo.errors import WriteError as WriteError
from celo_zoo.errors import ZooError as ZooError
from celo_zoo.index import names as names

if TYPE_CHECKING:  # at run time `__getattr__` imports them, and with them JAX, on first use
    from celo_zoo.convert import convert_published as convert_published
    from celo_zoo.models import Pretrained as Pretrained
    from celo_zoo.models import info as info
    from celo_zoo.models import load as load
    from celo_zoo.models import optimizer as optimizer
    from celo_zoo.publishing import Publication as Publication
    from celo_zoo.publishing import publish as publish
    from celo_zoo.runs import load_run as load_run
    from celo_zoo.saving import fetch as fetch
    from celo_zoo.saving import save as save

__version__ = "0.1.0"

_LATER = {
    "convert": ("convert_published",),
    "models": ("Pretrained", "info", "load", "optimizer"),
    "publishing": ("Publication", "publish"),
    "runs": ("load_run",),
    "saving": ("fetch", "save"),
}
"""Module -> the public names in it that are imported on first use."""


def __getattr__(name: str) -> Any:
    """A public name of `_LATER`, or a module of this package.

    Raises:
      AttributeError: there is no such name.
      BackendError: JAX, which is imported with it, does not start.
    """
    for module, names_in_it in _LATER.items():
        if name in names_in_it:
            globals()[name] = value = getattr(_import(module), name)
            return value
    if name.startswith("_") or importlib.util.find_spec(f"{__name__}.{name}") is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _import(name)


def _import(module: str) -> Any:
    try:
        return importlib.import_module(f"{__name__}.{module}")
    except ImportError:
        raise
    except Exception as error:
        failure = error
    try:
        import jax  # noqa: F401
    except Exception as error:
        raise BackendError(
            f"JAX cannot be imported ({' '.join(str(error).split())}): check its installation and its environment variables."
        ) from error
    raise failure


def __dir__() -> list[str]:
    return sorted({*globals(), *(name for names_in_it in _LATER.values() for name in names_in_it)})
