"""The benchmark's goals on the cardiologists' marks of LUDB, on every fifth record."""

from __future__ import annotations

import numpy as np

from tests.bench import bench_delineation as bench
from tests.shared import needs_shared


@needs_shared
def test_beats_and_boundaries_reach_the_goals_on_ludb() -> None:
    records = [one for k, one in enumerate(bench.marked_records()) if k % 5 == 0]
    tp, fn, fp = bench.beat_scores(records)
    assert tp > 200 and tp / (tp + fn) >= 0.995 and tp / (tp + fp) >= 0.995
    for lead in (None, "II"):
        errors, missed = bench.boundary_errors(records, lead)
        for name, values in errors.items():
            assert len(values) / (len(values) + missed[name]) > 0.93, (lead, name)
            assert np.std(values) <= bench.NEUROKIT_DWT_SD_MS[name], (lead, name)
            assert abs(np.mean(values)) <= 13, (lead, name)
