"""Task families: distributions over training problems (see `celo_core.TaskFamily`)."""

from celo_tasks.families.augmentation import LEVELS as LEVELS
from celo_tasks.families.augmentation import Reparametrized as Reparametrized
from celo_tasks.families.image_mlp import MLP as MLP
from celo_tasks.families.image_mlp import ImageMLP as ImageMLP
