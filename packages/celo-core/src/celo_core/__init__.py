"""Celo: learned optimizers as Optax gradient transformations, and the means to meta-train them."""

from celo_core.architectures import ARCHITECTURES as ARCHITECTURES
from celo_core.architectures import architecture_names as architecture_names
from celo_core.architectures import get_architecture as get_architecture
from celo_core.architectures.celo import ADAPTIVE as ADAPTIVE
from celo_core.architectures.celo import ORTHOGONAL as ORTHOGONAL
from celo_core.architectures.celo import Celo as Celo
from celo_core.architectures.celo import CeloConfig as CeloConfig
from celo_core.architectures.celo import ScaleByCeloState as ScaleByCeloState
from celo_core.architectures.celo import celo as celo
from celo_core.architectures.celo import scale_by_celo as scale_by_celo
from celo_core.architectures.celo_adam import CeloAdam as CeloAdam
from celo_core.architectures.celo_adam import CeloAdamConfig as CeloAdamConfig
from celo_core.architectures.celo_adam import ScaleByCeloAdamState as ScaleByCeloAdamState
from celo_core.architectures.celo_adam import celo_adam as celo_adam
from celo_core.architectures.celo_adam import scale_by_celo_adam as scale_by_celo_adam
from celo_core.averaging import averaged as averaged
from celo_core.averaging import celo_eval_params as celo_eval_params
from celo_core.estimators import ESTIMATORS as ESTIMATORS
from celo_core.estimators import FullBackprop as FullBackprop
from celo_core.estimators import FullES as FullES
from celo_core.estimators import MeanOfEstimators as MeanOfEstimators
from celo_core.estimators import NoiseReuseES as NoiseReuseES
from celo_core.estimators import ResumeBuffer as ResumeBuffer
from celo_core.estimators import TruncatedBackprop as TruncatedBackprop
from celo_core.estimators import TruncatedES as TruncatedES
from celo_core.estimators import TruncatedPES as TruncatedPES
from celo_core.meta_training.lengths import ConstantLength as ConstantLength
from celo_core.meta_training.lengths import GrowingLength as GrowingLength
from celo_core.meta_training.lengths import LogUniformLength as LogUniformLength
from celo_core.meta_training.run import run_phase as run_phase
from celo_core.meta_training.trainer import FrozenPart as FrozenPart
from celo_core.meta_training.trainer import MetaTrainConfig as MetaTrainConfig
from celo_core.meta_training.trainer import MetaTrainer as MetaTrainer
from celo_core.protocols import FamilyDefaults as FamilyDefaults
from celo_core.protocols import GradientEstimator as GradientEstimator
from celo_core.protocols import LearnedOptimizer as LearnedOptimizer
from celo_core.protocols import TaskFamily as TaskFamily
from celo_core.schedulers import EMBEDDING_NAMES as EMBEDDING_NAMES
from celo_core.schedulers import Scheduler as Scheduler
from celo_core.schedulers import SchedulerConfig as SchedulerConfig
from celo_core.schedulers import embed_task as embed_task
from celo_core.schedulers import task_embedding as task_embedding
from celo_core.training import TrainState as TrainState
from celo_core.training import restore_structure as restore_structure

__version__ = "0.1.0"
