"""Directions: the kinds of step that a learned optimizer adds up, one file for each."""

from celo_core.directions.adam import Adam as Adam
from celo_core.directions.base import Direction as Direction
from celo_core.directions.base import ElementwiseDirection as ElementwiseDirection
from celo_core.directions.mlp import MLP as MLP
from celo_core.directions.orthogonal import Orthogonal as Orthogonal
