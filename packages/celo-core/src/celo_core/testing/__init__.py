"""Conformance suites for optimizers and architectures, for this package's own and for yours."""

from celo_core.testing._problem import Unavailable as Unavailable
from celo_core.testing.conformance import CHECKS as CHECKS
from celo_core.testing.conformance import DEVICE_CHECKS as DEVICE_CHECKS
from celo_core.testing.conformance import LEARNED_CHECKS as LEARNED_CHECKS
from celo_core.testing.conformance import check_learned_optimizer as check_learned_optimizer
from celo_core.testing.conformance import check_optimizer as check_optimizer
