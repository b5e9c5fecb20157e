"""Estimators of meta-gradients, one file each.

| | unroll | bias | variance |
|---|---|---|---|
| `TruncatedES` | windows | short horizon | lowest of the evolution strategies |
| `TruncatedPES` | windows | none | grows with the number of windows |
| `NoiseReuseES` | windows | none | does not; shared by the windows of a trajectory |
| `FullES` | whole | none (with ``sign_delta`` a direction only) | as noise-reuse ES, per unroll |
| `TruncatedBackprop` | windows | short horizon | the problems' own; explodes where unrolls are chaotic |
| `FullBackprop` | whole | none | likewise, more so |

`MeanOfEstimators` combines several.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from celo_core.estimators._antithetic import DecayingSigma as DecayingSigma
from celo_core.estimators._base import Estimator as Estimator
from celo_core.estimators._problems import ProblemState as ProblemState
from celo_core.estimators.es import TruncatedES as TruncatedES
from celo_core.estimators.full_backprop import FullBackprop as FullBackprop
from celo_core.estimators.full_es import FullES as FullES
from celo_core.estimators.mixture import MeanOfEstimators as MeanOfEstimators
from celo_core.estimators.noise_reuse_es import NoiseReuseES as NoiseReuseES
from celo_core.estimators.pes import TruncatedPES as TruncatedPES
from celo_core.estimators.pes import pair_gradient as pair_gradient
from celo_core.estimators.resume import ResumeBuffer as ResumeBuffer
from celo_core.estimators.truncated_backprop import TruncatedBackprop as TruncatedBackprop

ESTIMATORS: Mapping[str, Any] = MappingProxyType(Estimator.kinds)
"""Estimators by type: those here, and those of other packages that have been imported."""
