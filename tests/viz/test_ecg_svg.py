"""The server-drawn picture: safe, small, readable, and with a defined answer to every bad record."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from datasets.ecg import LEADS_12, Record, RecordMeta, normalise
from tests.viz.ecg_samples import NS, distinct, drawn_traces, words
from viz.figures.ecg12 import Overlays, View, ecg_plotly, ecg_svg, ecg_thumbnail_svg, summary
from viz.figures.figure import untyped
from viz.figures.filters import WARN_40_HZ, Filters
from viz.figures.header import FOOTER
from viz.figures.palette import PAPERS, contrast, paper
from viz.figures.view import LAYOUTS

HOSTILE = "<script>alert(1)</script>\"'&]]>\x00\x08\ud800"


def test_svg_is_xml_without_scripts_styles_or_handlers() -> None:
    header = dict.fromkeys(("record", "subject", "recorded_at", "sex", "format", "model"), HOSTILE) | {
        "quality": [HOSTILE], "statements": [HOSTILE],
    }  # fmt: skip
    record = Record(np.zeros((1, 100)), 100.0, (HOSTILE[:20],))
    markup = ecg_svg(record, View(), header)
    root = ElementTree.fromstring(markup)
    tags = {one.tag.removeprefix(NS) for one in root.iter()}
    assert tags <= {"svg", "g", "path", "rect", "text", "title", "desc"}
    for one in root.iter():
        assert not [name for name in one.attrib if name.startswith("on") or name in ("style", "href")]
    assert "<script" not in markup


def test_svg_names_itself_for_screen_readers() -> None:
    root = ElementTree.fromstring(ecg_svg(distinct(), View(), {"record": "r1"}, uid="p7"))
    assert root.get("role") == "img" and root.get("aria-labelledby") == "p7-title p7-desc"
    told = {one.get("id"): one.text or "" for one in root if one.tag in (f"{NS}title", f"{NS}desc")}
    assert told["p7-title"].startswith("ECG r1") and "12 leads" in told["p7-desc"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_svg_of_a_noisy_500_hz_record_stays_within_200_kb(layout: str) -> None:
    noise = Record(np.random.default_rng(1).standard_normal((12, 5000)) * 0.5, 500.0, LEADS_12)
    assert len(ecg_svg(noise, View(layout=layout)).encode()) <= 205_000


def test_true_size_is_given_in_millimetres_of_the_same_box() -> None:
    root = ElementTree.fromstring(ecg_svg(distinct(), View(), width="true"))
    _, _, w, h = root.get("viewBox", "").split()
    assert root.get("width") == f"{w}mm" and root.get("height") == f"{h}mm"


def test_grid_has_a_line_every_millimetre_and_a_strong_one_every_five() -> None:
    root = ElementTree.fromstring(ecg_svg(distinct(), View()))
    minor, major = (next(p for p in root.iter(f"{NS}path") if p.get("class") == f"ecg-grid-{k}mm") for k in (1, 5))
    xs = {int(x) for x in re.findall(r"M(\d+) 0V", minor.get("d", ""))} | {
        int(x) for x in re.findall(r"M(\d+) 0V", major.get("d", ""))
    }
    assert xs == set(range(max(xs) + 1)) and max(xs) >= 260
    assert {int(x) for x in re.findall(r"M(\d+) 0V", major.get("d", ""))} == set(range(0, max(xs) + 1, 5))


def test_speed_gain_filter_and_research_line_are_printed() -> None:
    view = View(speed_mm_s=50, gain_mm_mv=20, filters=Filters(0.05, 40.0, 50.0))
    told = " ".join(words(ecg_svg(distinct(), view)))
    for part in ("50 mm/s", "20 mm/mV", "0.05–40 Hz, 50 Hz notch", FOOTER, "Non-standard gain", WARN_40_HZ):
        assert part in told


def test_unknown_header_fields_are_said_to_be_unknown() -> None:
    told = " ".join(words(ecg_svg(distinct(), View())))
    for part in ("Subject unknown", "at unknown time", "Age unknown, sex unknown", "format unknown", "not measured"):
        assert part in told


def test_computed_leads_are_marked() -> None:
    record = normalise(distinct(("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")))
    told = words(ecg_svg(record, View()))
    assert {"III *", "aVR *", "aVL *", "aVF *", "I", "II", "V1"} <= set(told)
    assert any("Computed from I and II" in one for one in told)


def test_missing_empty_and_flat_leads_are_announced() -> None:
    record = distinct(("I", "II", "V1", "V2"))
    record.signal[2] = np.nan
    record.signal[3] = 0.25
    told = words(ecg_svg(record, View()))
    assert told.count("not recorded") == 8 and "no samples here" in told and "flat line" in told
    assert any("Flat line: V2" in one and "No samples here: V1" in one for one in told)
    assert "Flat: V2." in summary(record) and "Without samples: V1." in summary(record)


def test_gap_in_a_lead_breaks_its_trace() -> None:
    record = distinct(("II",))
    record.signal[0, 1000:1200] = np.nan
    strip = [lines for _, row, lines in drawn_traces(ecg_svg(record, View())) if row == 3][0]
    assert len(strip) == 2
    cut = np.concatenate(strip)[:, 0]
    assert not ((cut > 15 + 2.0 * 25 + 0.05) & (cut < 15 + 2.4 * 25 - 0.05)).any()


def test_50_millivolts_leave_the_paper_and_the_page_says_which_lead() -> None:
    record = distinct()
    record.signal[7] *= 50 / np.abs(record.signal[7]).max()
    markup = ecg_svg(record, View())
    assert any("Beyond the paper: V2" in one for one in words(markup))
    assert any("Beyond the paper: V2" in note for note in ecg_plotly(record, View())["layout"]["meta"]["notes"])
    assert len(markup) < 205_000


@pytest.mark.parametrize("duration_s", [0.002, 1.0, 40.0])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_length_is_drawn(duration_s: float, layout: str) -> None:
    record = distinct(duration_s=duration_s)
    ElementTree.fromstring(ecg_svg(record, View(layout=layout)))
    assert ecg_plotly(record, View(layout=layout))["data"]
    ElementTree.fromstring(ecg_thumbnail_svg(record))


def test_record_without_any_sample_is_drawn_and_named() -> None:
    record = Record(np.full((12, 5000), np.nan), 500.0, LEADS_12)
    assert "no samples here" in words(ecg_svg(record, View()))
    assert not drawn_traces(ecg_svg(record, View()))
    assert "Without samples: I, II, III" in summary(record)
    assert ecg_plotly(record, View())["layout"]["meta"]["cells"][0]["state"] == "empty"


def test_thumbnail_is_small_and_named() -> None:
    markup = ecg_thumbnail_svg(distinct(), label="record <7>")
    assert len(markup) < 16_000
    assert ElementTree.fromstring(markup).get("aria-label") == "record <7>"


@pytest.mark.parametrize("key", PAPERS)
def test_trace_and_words_stand_out_from_paper_and_grid(key: tuple[str, bool]) -> None:
    colours = paper(*key)
    for ground in (colours.ground, colours.minor, colours.major):
        assert contrast(colours.trace, ground) >= 3
        assert contrast(colours.mark, colours.ground) >= 4.5
    assert contrast(colours.ink, colours.ground) >= 7 and contrast(colours.quiet, colours.ground) >= 4.5


def test_header_takes_what_the_file_says_unless_told_otherwise() -> None:
    meta = RecordMeta(subject="S-9", age=61, sex="F", recorded_at="2020-02-03T04:05:06")
    record = Record(distinct().signal, 500.0, LEADS_12, meta=meta)
    told = words(ecg_svg(record, View(), {"sex": "M"}))
    assert {"Subject S-9", "Age 61, sex male", "Recorded 2020-02-03T04:05:06"} <= set(told)


def test_fiducials_lie_on_the_trace_at_their_times() -> None:
    record = distinct()
    beat = {"r_peak_s": 1.0, "qrs_on_s": 0.96, "qrs_off_s": 1.06, "p_on_s": None}
    figure = ecg_plotly(record, View(), Overlays(r_peaks_s=[1.0, 6.0], fiducials=[beat]))
    marks = [one for one in figure["data"] if one.get("meta", {}).get("overlay") == "QRS"][0]
    seen = {(one[0], one[2].split()[0]) for one in marks["customdata"]}
    assert (1.0, "I") in seen and (6.0, "V1") in seen and (6.0, "I") not in seen
    for x, y, (t_s, mv, name) in zip(untyped(marks["x"]), untyped(marks["y"]), marks["customdata"], strict=True):
        lead = name.split()[0]
        assert mv == pytest.approx(record.lead(lead)[round(t_s * 500)], abs=1e-4)
        assert np.isfinite([x, y]).all()
