"""Task families: distributions over training problems (see `celo_core.TaskFamily`)."""

from celo_tasks.families.augmentation import LEVELS as LEVELS
from celo_tasks.families.augmentation import Reparametrized as Reparametrized
from celo_tasks.families.image_classifier import ImageClassifier as ImageClassifier
from celo_tasks.families.image_conv import ConvNet as ConvNet
from celo_tasks.families.image_conv import PatchConv as PatchConv
from celo_tasks.families.image_mlp import MLP as MLP
from celo_tasks.families.image_mlp import ImageMLP as ImageMLP
from celo_tasks.families.text_transformer import TextTransformer as TextTransformer
from celo_tasks.families.text_transformer import TransformerLM as TransformerLM
