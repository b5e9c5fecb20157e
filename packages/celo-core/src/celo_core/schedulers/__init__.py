"""Learned schedulers: ``(theta, features of progress, state) -> step-size multiplier``."""

from celo_core.schedulers.embedding import EMBEDDING_NAMES as EMBEDDING_NAMES
from celo_core.schedulers.embedding import embed_task as embed_task
from celo_core.schedulers.embedding import task_embedding as task_embedding
from celo_core.schedulers.lstm import LSTMScheduler as LSTMScheduler
from celo_core.schedulers.lstm import LSTMSchedulerConfig as LSTMSchedulerConfig
from celo_core.schedulers.lstm import LSTMSchedulerState as LSTMSchedulerState
