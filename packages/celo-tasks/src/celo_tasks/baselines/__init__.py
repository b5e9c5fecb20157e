"""Hand-designed optimizers: the quickstart's two, and the twenty that the evaluation protocol tunes."""

from celo_tasks.baselines.catalogue import TUNED_BASELINES as TUNED_BASELINES
from celo_tasks.baselines.catalogue import Baseline as Baseline
from celo_tasks.baselines.contestants import BASELINES as BASELINES
from celo_tasks.baselines.contestants import LEARNING_RATES as LEARNING_RATES
from celo_tasks.baselines.contestants import Contestant as Contestant
from celo_tasks.baselines.contestants import adam as adam
from celo_tasks.baselines.contestants import adamw as adamw
from celo_tasks.baselines.contestants import pretrained as pretrained
from celo_tasks.baselines.shampoo import scale_by_shampoo as scale_by_shampoo
from celo_tasks.baselines.shampoo import shampoo as shampoo
from celo_tasks.baselines.tuning import LEARNING_RATES_15 as LEARNING_RATES_15
from celo_tasks.baselines.tuning import LEARNING_RATES_SMALL as LEARNING_RATES_SMALL
from celo_tasks.baselines.tuning import SCHEDULES as SCHEDULES
from celo_tasks.baselines.tuning import Setting as Setting
from celo_tasks.baselines.tuning import build as build
from celo_tasks.baselines.tuning import grid as grid
from celo_tasks.baselines.tuning import schedule_shape as schedule_shape
