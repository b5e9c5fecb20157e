"""Meta-trained weights for Celo's learned optimizers: in the package, from a folder or from the Hugging Face Hub."""

from celo_zoo.convert import convert_published as convert_published
from celo_zoo.errors import AccessError as AccessError
from celo_zoo.errors import ChecksumError as ChecksumError
from celo_zoo.errors import ConflictError as ConflictError
from celo_zoo.errors import ExistsError as ExistsError
from celo_zoo.errors import FormatError as FormatError
from celo_zoo.errors import HubError as HubError
from celo_zoo.errors import NewerFormatError as NewerFormatError
from celo_zoo.errors import NotFoundError as NotFoundError
from celo_zoo.errors import RefError as RefError
from celo_zoo.errors import WriteError as WriteError
from celo_zoo.errors import ZooError as ZooError
from celo_zoo.index import names as names
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
