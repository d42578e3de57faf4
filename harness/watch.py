"""What training is watched for: a loss that is no number or explodes, and how often to look.

Reading a loss makes a GPU wait, so all losses since the last look are read together, about every two seconds. That ends
trials and never changes one.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence

from harness.errors import DivergedError

LOOK_SECONDS = 2.0
"""Time between two looks, in which a trial is asked to stop and its losses are read."""

NUM_FIRST = 20
"""The loss at the start is the median of so many steps."""
EXPLODED = 100.0
"""A loss above so many times that at the start has exploded ..."""
PATIENCE = 100
"""... if it stays there for so many steps in a row."""


class Pace:
    """Steps between two looks; at most twice as many as before, since the first steps are slow."""

    def __init__(self) -> None:
        self._left = self._steps = 1
        self._since = time.perf_counter()

    def step(self) -> bool:
        """Count a step; whether it is time to look."""
        self._left -= 1
        return self._left <= 0

    def pause(self) -> None:
        """Leave out the time since the last look, in which no step was taken."""
        self._since = time.perf_counter()

    def wanted(self, steps: int) -> int:
        """Steps until the next look, by the time that the last `steps` took here."""
        now = time.perf_counter()
        each = max(now - self._since, 1e-6) / max(steps, 1)
        self._since = now
        return max(1, min(2 * self._steps, int(LOOK_SECONDS / each)))

    def restart(self, steps: int) -> None:
        """Look again after `steps` steps: worker 0's wish, so that all workers look at the same step."""
        self._left = self._steps = steps


class LossWatch:
    """Raises where a loss says that training has failed.

    Args:
        first: Losses of the first steps, as far as they were seen before a restart.
        above: Steps in a row, up to now, whose loss had exploded.
    """

    def __init__(self, first: Sequence[float] = (), above: int = 0) -> None:
        self.first, self.above = tuple(first), above

    def see(self, losses: Sequence[float], *, last_step: int, epoch: int) -> None:
        """Look at the losses of consecutive steps.

        Args:
            losses: Loss of the whole batch, one per step.
            last_step: Number of the last of these steps, from 1.
            epoch: Their epoch, from 1.

        Raises:
            DivergedError: One is not finite, or `PATIENCE` of them in a row are above `EXPLODED` times the start.
        """
        for step, loss in enumerate(losses, start=last_step - len(losses) + 1):
            if not math.isfinite(loss):
                raise DivergedError(
                    f"the training loss must stay finite, got {loss} at step {step}, in epoch {epoch}: diverged; lower "
                    f"train.lr, or set train.warmup_steps or train.clip_norm"
                )
            if len(self.first) < NUM_FIRST:
                self.first = (*self.first, loss)
                continue
            most = EXPLODED * statistics.median(self.first)
            self.above = self.above + 1 if 0 < most < loss else 0
            if self.above >= PATIENCE:
                raise DivergedError(
                    f"the training loss must stay below {most:.4g}, {EXPLODED:g} times that of the first {NUM_FIRST} "
                    f"steps, got more for {PATIENCE} steps, {loss:.4g} at step {step}, in epoch {epoch}: exploded; "
                    f"lower train.lr, or set train.warmup_steps or train.clip_norm"
                )
