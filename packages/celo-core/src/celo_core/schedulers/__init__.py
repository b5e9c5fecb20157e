"""Schedulers: they compute the multiplier of a step from what is known before it, and are composed of three parts.

The kinds of each part are in `celo_core.schedulers.inputs`, `celo_core.schedulers.networks` and `celo_core.schedulers.priors`.
"""

from celo_core.schedulers.embedding import EMBEDDING_NAMES as EMBEDDING_NAMES
from celo_core.schedulers.embedding import embed_task as embed_task
from celo_core.schedulers.embedding import task_embedding as task_embedding
from celo_core.schedulers.feedback import GainRatio as GainRatio
from celo_core.schedulers.feedback import LossTrend as LossTrend
from celo_core.schedulers.feedback import MomentumAlignment as MomentumAlignment
from celo_core.schedulers.feedback import RelativeStep as RelativeStep
from celo_core.schedulers.inputs import GradientAlignment as GradientAlignment
from celo_core.schedulers.inputs import Horizon as Horizon
from celo_core.schedulers.inputs import Loss as Loss
from celo_core.schedulers.inputs import SignalToNoise as SignalToNoise
from celo_core.schedulers.inputs import TaskEmbedding as TaskEmbedding
from celo_core.schedulers.inputs import Time as Time
from celo_core.schedulers.interface import Controls as Controls
from celo_core.schedulers.interface import Outcome as Outcome
from celo_core.schedulers.interface import Signal as Signal
from celo_core.schedulers.networks import LSTM as LSTM
from celo_core.schedulers.networks import Linear as Linear
from celo_core.schedulers.networks import LinearIntegral as LinearIntegral
from celo_core.schedulers.priors import Constant as Constant
from celo_core.schedulers.priors import Cosine as Cosine
from celo_core.schedulers.priors import LinearDecay as LinearDecay
from celo_core.schedulers.scheduler import Scheduler as Scheduler
from celo_core.schedulers.scheduler import SchedulerConfig as SchedulerConfig
from celo_core.schedulers.scheduler import SchedulerState as SchedulerState
from celo_core.schedulers.transformer import Transformer as Transformer
