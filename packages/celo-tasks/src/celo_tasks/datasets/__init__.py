"""Data sets. Nothing is read before a loader is called, and loaders never download."""

from celo_tasks.datasets.arrays import ImageData as ImageData
from celo_tasks.datasets.arrays import TextData as TextData
from celo_tasks.datasets.images import is_available as is_available
from celo_tasks.datasets.images import load_images as load_images
from celo_tasks.datasets.prepare import prepare as prepare
from celo_tasks.datasets.resize import area_matrix as area_matrix
from celo_tasks.datasets.resize import to_grey as to_grey
from celo_tasks.datasets.resize import to_grey_8x8 as to_grey_8x8
from celo_tasks.datasets.specs import IMAGE_SPECS as IMAGE_SPECS
from celo_tasks.datasets.specs import TEXT_SPECS as TEXT_SPECS
from celo_tasks.datasets.specs import ImageSpec as ImageSpec
from celo_tasks.datasets.specs import TextSpec as TextSpec
from celo_tasks.datasets.specs import text_vocabulary as text_vocabulary
from celo_tasks.datasets.text import is_text_available as is_text_available
from celo_tasks.datasets.text import load_text as load_text
