"""Where a training stands."""

import math
from dataclasses import dataclass, field
from typing import Any

from dynamicblocks.training.evaluation import Score


@dataclass
class TrainingState:
    """Where a training stands.

    ``step`` counts within the epoch; ``kept_epoch`` is the one whose weights are kept so far, ``best_loss`` its loss;
    ``grown`` says what each change of the network at the start of the epoch did; ``evaluations`` counts those of layer
    functions in the epochs before, times their samples; ``forward`` and ``backward`` those of this epoch's steps so
    far, of the first process.
    """

    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    kept_epoch: int = -1
    best_loss: float = math.inf
    grown: dict[str, dict[str, Any]] = field(default_factory=dict)
    evaluations: int = 0
    forward: int = 0
    backward: int = 0

    def improved_by(self, score: Score) -> bool:
        """Whether a validation score beats the best so far, by loss: finer than a count of right answers."""
        return score.loss < self.best_loss
