"""Take the moving median out, as ExChanGeAI does before every prediction."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import scipy  # Its parts are slow to import and load when they are first used.

from datasets.preprocess._gaps import bridge, reopen
from datasets.preprocess.base import Stage, Step, coerce_fields, meta, require, step


@step("moving_median")
@dataclass(frozen=True)
class MovingMedian(Step):
    """Subtract each lead's median over a moving window, mirrored at the record's ends.

    The window has ``2 * floor(window_s * fs_hz / 2) + 1`` samples. Two seconds is what the files of ExChanGeAI were
    trained with; it takes the baseline out and bends long ST segments a little.
    """

    window_s: float = field(default=2.0, metadata=meta("Length of the window in seconds."))

    def __post_init__(self) -> None:
        coerce_fields(self)
        require(0.1 <= self.window_s <= 10, f"moving_median.window_s must lie in 0.1 to 10 s, not {self.window_s}.")

    def apply(self, stage: Stage) -> Stage:
        bridged, missing = bridge(stage.signal)
        window = 2 * int(self.window_s * stage.fs_hz / 2) + 1
        # One row at a time: the filter of one dimension takes a thirtieth of the time.
        rows = [row - scipy.ndimage.median_filter(row, size=window, mode="reflect") for row in bridged]
        return replace(stage, signal=reopen(np.stack(rows) if rows else bridged.copy(), missing))
