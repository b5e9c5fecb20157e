"""Learned schedulers: ``(theta, features of progress, state) -> step-size multiplier``."""

from celo_core.schedulers.lstm import LSTMScheduler as LSTMScheduler
from celo_core.schedulers.lstm import LSTMSchedulerConfig as LSTMSchedulerConfig
from celo_core.schedulers.lstm import LSTMSchedulerState as LSTMSchedulerState
