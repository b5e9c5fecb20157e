"""Hand-designed optimizers to compare a learned one with: tuned for each task, or at the settings that people start from."""

from celo_tasks.baselines.catalogue import TUNED_BASELINES as TUNED_BASELINES
from celo_tasks.baselines.catalogue import Baseline as Baseline
from celo_tasks.baselines.shampoo import scale_by_shampoo as scale_by_shampoo
from celo_tasks.baselines.shampoo import shampoo as shampoo
from celo_tasks.baselines.tuning import LEARNING_RATES as LEARNING_RATES
from celo_tasks.baselines.tuning import LEARNING_RATES_6 as LEARNING_RATES_6
from celo_tasks.baselines.tuning import LEARNING_RATES_15 as LEARNING_RATES_15
from celo_tasks.baselines.tuning import LEARNING_RATES_SMALL as LEARNING_RATES_SMALL
from celo_tasks.baselines.tuning import SCHEDULES as SCHEDULES
from celo_tasks.baselines.tuning import TUNED_SCHEDULES as TUNED_SCHEDULES
from celo_tasks.baselines.tuning import Setting as Setting
from celo_tasks.baselines.tuning import grid as grid
from celo_tasks.baselines.tuning import learning_rate_schedule as learning_rate_schedule
from celo_tasks.baselines.tuning import schedule_factor as schedule_factor
from celo_tasks.baselines.untuned import UNTUNED_BASELINES as UNTUNED_BASELINES
from celo_tasks.baselines.untuned import UntunedBaseline as UntunedBaseline
