"""Task families: distributions over training problems (see `celo_core.TaskFamily`)."""

from celo_tasks.families.adafac_mlp import AdafacMLP as AdafacMLP
from celo_tasks.families.adafac_mlp import AdafacMLPConfig as AdafacMLPConfig
from celo_tasks.families.attention import Attention as Attention
from celo_tasks.families.attention import TransformerBlock as TransformerBlock
from celo_tasks.families.augmentation import LEVELS as LEVELS
from celo_tasks.families.augmentation import PUBLISHED_LEVELS as PUBLISHED_LEVELS
from celo_tasks.families.augmentation import PUBLISHED_RANGES as PUBLISHED_RANGES
from celo_tasks.families.augmentation import Reparametrized as Reparametrized
from celo_tasks.families.augmentation import reparametrize as reparametrize
from celo_tasks.families.es_wrapped import ESWrapped as ESWrapped
from celo_tasks.families.image_autoencoder import ImageAutoencoder as ImageAutoencoder
from celo_tasks.families.image_autoencoder import ImageVAE as ImageVAE
from celo_tasks.families.image_classifier import ImageClassifier as ImageClassifier
from celo_tasks.families.image_conv import ConvNet as ConvNet
from celo_tasks.families.image_conv import PatchConv as PatchConv
from celo_tasks.families.image_mlp import MLP as MLP
from celo_tasks.families.image_mlp import ImageMLP as ImageMLP
from celo_tasks.families.image_resnet import ResNet as ResNet
from celo_tasks.families.language_model import LanguageModel as LanguageModel
from celo_tasks.families.learned_optimizer_training import LearnedOptimizerTraining as LearnedOptimizerTraining
from celo_tasks.families.mlp_mixer import MLPMixer as MLPMixer
from celo_tasks.families.recurrent import RecurrentLM as RecurrentLM
from celo_tasks.families.sampled_mlp import SampledImageMLP as SampledImageMLP
from celo_tasks.families.text_transformer import TextTransformer as TextTransformer
from celo_tasks.families.text_transformer import TransformerLM as TransformerLM
from celo_tasks.families.vision_transformer import VisionTransformer as VisionTransformer
