"""Meta-trained weights for Celo's learned optimizers: bundled, from a folder or from the Hugging Face Hub."""

from celo_zoo.bundled import names as names
from celo_zoo.folders import ChecksumError as ChecksumError
from celo_zoo.models import info as info
from celo_zoo.models import load as load
from celo_zoo.models import optimizer as optimizer
from celo_zoo.models import save as save
from celo_zoo.published import convert_published as convert_published

__version__ = "0.1.0"
