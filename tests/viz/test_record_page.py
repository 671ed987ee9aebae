"""The record page and all its views, for ordinary and for bad records."""

from __future__ import annotations

import csv
import io
import json
import re
from importlib.metadata import version
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from django.conf import settings
from django.test import Client
from django.urls import reverse

from datasets import signals
from datasets.ecg import LEADS_12
from datasets.models import Record, RecordAnnotation
from datasets.simulate import simulate
from ecgportal.audit.models import AuditEvent
from modelhub.models import Model, ModelVersion, Prediction, PredictionRun
from tests import factories
from tests.viz.ecg_samples import words
from viz import measured, showing
from viz.figures.ecg12 import ecg_svg
from viz.figures.figure import untyped
from viz.views_files import true_size_pdf

CALLBACK = "/dash/app/EcgView/_dash-update-component"
ECG = simulate("SNR", 2, fs_hz=500.0, duration_s=10.0).record


def _empty_lead() -> np.ndarray:
    signal = ECG.signal.copy()
    signal[3] = np.nan
    return signal


# name -> (signal, rate in Hz, leads, words that the page must say)
BAD: dict[str, tuple[Any, float, tuple[str, ...], tuple[str, ...]]] = {
    "flat": (lambda: np.zeros((12, 5000), np.float32), 500.0, LEADS_12, ("every lead is flat or empty", "Flat line: I, aVR")),
    "an empty lead": (_empty_lead, 500.0, LEADS_12, ("No samples here: aVR", "Heart rate")),
    "three leads": (lambda: ECG.signal[[0, 1, 6]], 500.0, ("I", "II", "V1"), ("Not recorded: aVR, V4", "not recorded")),
    "one second": (lambda: ECG.signal[:, :500], 500.0, LEADS_12, ("Every column shows the same time", "A rate needs two beats")),
    "two days": (lambda: np.tile(np.asarray(ECG.signal[1, ::5]), 17_280)[None], 100.0, ("II",), ("48 h 0 min", "Measured on 0 to 60 s")),
    "fifteen leads": (lambda: np.concatenate([ECG.signal, 0.5 * ECG.signal[:3]]), 500.0, (*LEADS_12, "X", "Y", "Z"), ("X, Y, Z",)),
    "fifty millivolts": (lambda: ECG.signal * 50 / np.abs(ECG.signal).max(), 500.0, LEADS_12, ("Beyond the paper",)),
    "no R peak": (lambda: np.random.default_rng(0).standard_normal((12, 5000)).astype(np.float32) * 0.003, 500.0, LEADS_12, ("No R peak stands out",)),
}  # fmt: skip


@pytest.fixture
def owner(db: None) -> Any:
    return factories.make_user("olga")


@pytest.fixture
def client(owner: Any) -> Client:
    made = Client()
    made.force_login(owner)
    return made


@pytest.fixture
def dataset(owner: Any) -> Any:
    return factories.make_dataset(factories.make_project({owner: "owner"}))


@pytest.fixture
def record(dataset: Any) -> Record:
    return factories.make_record(dataset, "r1", signal=ECG.signal, fs_hz=500.0, leads=LEADS_12, subject="s1")


def _callback(client: Client, record: Record, output: str = "ecg", zoom: Any = None, **chosen: Any) -> Any:
    """Ask the Dash view as a browser does; returns the response's properties by component."""
    values = {
        "layout": "3x4+rhythm", "speed": "25", "gain": "10", "rhythm": "II", "band": "none", "paper": "pink", "marks": "none",
        "signal": "original", "saliency": "none", "window": "10", "centred": "0", "start": 0,
    } | chosen  # fmt: skip
    address = {"id": "address", "property": "search", "value": f"?id={record.pk}"}
    scheme = {"id": "scheme", "property": "data", "value": "light"}
    if output == "ecg":
        inputs = [
            address,
            *({"id": k, "property": "value", "value": v} for k, v in values.items()),
            scheme,
            {"id": "detail", "property": "data", "value": None},
        ]
        outputs: Any = [{"id": "ecg", "property": "figure"}, {"id": "told", "property": "children"}]
        name, state = "..ecg.figure...told.children..", [{"id": "zoom", "property": "data", "value": zoom}]
    else:
        inputs = [address, *({"id": k, "property": "value", "value": values[k]} for k in ("start", "window", "rhythm"))]
        inputs += [
            scheme,
            {"id": "span", "property": "data", "value": chosen.get("span")},
            {"id": "drawn", "property": "data", "value": True},
        ]
        outputs, name, state = {"id": "overview-box", "property": "children"}, "overview-box.children", []
    body = {"output": name, "outputs": outputs, "inputs": inputs, "state": state, "changedPropIds": []}
    answer = client.post(CALLBACK, json.dumps(body), content_type="application/json")
    return None if answer.status_code == 204 else answer.json()["response"]


@pytest.mark.parametrize("name", BAD)
def test_every_view_answers_for_a_bad_record(name: str, client: Client, dataset: Any, monkeypatch: Any) -> None:
    make, fs_hz, leads, expected = BAD[name]
    row = factories.make_record(dataset, "bad", signal=np.asarray(make(), np.float32), fs_hz=fs_hz, leads=leads)
    if name == "two days":
        # Nothing on these pages may read the whole recording into memory.
        beginning = signals.read_signal
        monkeypatch.setattr(
            signals, "read_signal", lambda row, longest_s=None: beginning(row, longest_s) if longest_s else pytest.fail("the whole recording was read")
        )  # fmt: skip
    text = client.get(reverse("viz:record", args=[row.pk]) + "?marks=waves").content.decode()
    for part in expected:
        assert part in text, part
    assert "nan" not in re.sub(r"<[^>]+>", " ", text).lower().split()
    for layout in ("3x4+rhythm", "12x1"):
        figure = _callback(client, row, layout=layout, marks="waves")["ecg"]["figure"]
        cells = figure["layout"]["meta"]["cells"]
        assert {cell["lead"] for cell in cells} == {*LEADS_12, *leads}
        assert {cell["lead"] for cell in cells if cell["state"] == "missing"} == set(LEADS_12) - set(leads)
    zoom = {"key": "12x1|25|10", "x": [20.0, 60.0], "y": [-120.0, -60.0]}
    assert _callback(client, row, layout="12x1", zoom=zoom)["ecg"]["figure"]["layout"]["xaxis"]["range"] == [20.0, 60.0]
    prepared = _callback(client, row, signal="default")
    assert ("The original is shown." in prepared["told"]["children"]) is (name == "two days")
    gallery = client.get(reverse("viz:gallery", args=[row.dataset_id])).content.decode()
    assert "ecg-thumbnail" in gallery
    sent = client.get(f"/api/v1/records/{row.pk}/signal/?end_s=0.5").json()
    assert sent["leads"] == list(leads) and len(sent["samples"][0]) == round(0.5 * fs_hz)
    for address in ("viz:record_svg", "viz:record_pdf", "viz:beats"):
        assert client.get(reverse(address, args=[row.pk])).status_code == 200, address
    compare = reverse("viz:compare", args=[row.pk])
    assert client.get(f"{compare}?with=bad").status_code == 200
    assert client.get(f"{compare}?recipe=default").status_code == (422 if name == "two days" else 200)
    told = client.get(f"/api/v1/records/{row.pk}/measurements/").json()
    for field in ("heart_rate_bpm", "pr_ms", "qrs_ms", "qt_ms", "qtc_ms"):
        assert told[field] is not None or told["reasons"][field].endswith(".")


def test_first_picture_is_in_the_page_before_any_script(client: Client, record: Record) -> None:
    text = client.get(reverse("viz:record", args=[record.pk])).content.decode()
    picture = text[text.index("<svg xmlns") : text.index("<iframe")]
    assert text.index("<svg xmlns") < text.index("<iframe") and picture.count('class="ecg-trace"') == 13
    assert "hidden" not in text[text.index("data-ecg-stage") : text.index("<svg xmlns")]
    assert "/min" in picture and "QTc" in picture


def test_measurements_name_their_method_and_all_four_formulas(client: Client, record: Record) -> None:
    found = showing.measurements(record, showing.source_of(record), showing.Showing().view)
    rows = {row.title: row for row in measured.rows(found, {"pr_ms": 150.0})}
    assert {"QTc, Bazett", "QTc, Fridericia", "QTc, Framingham", "QTc, Hodges"} <= set(rows)
    assert {"RR variability, SDNN", "RR variability, RMSSD", "P axis", "QRS axis", "T axis"} <= set(rows)
    assert all(row.note for row in rows.values())
    assert rows["PR interval"].printed == "150 ms" and rows["QRS duration"].printed == ""
    assert rows["Heart rate"].number == found["heart_rate_bpm"]


def test_what_cannot_be_measured_says_why() -> None:
    found = {
        "heart_rate_bpm": None,
        "rr_ms": None,
        "qtc_ms": {},
        "reasons": {"heart_rate_bpm": "No R peak.", "qtc_ms": "No QT."},
    }
    rows = {row.title: row for row in measured.rows(found)}
    assert (rows["Heart rate"].value, rows["Heart rate"].note) == (None, "No R peak.")
    assert rows["QTc, Hodges"].note == "No QT." and rows["PR interval"].value is None


def test_a_blind_page_hides_labels_predictions_and_measurements(client: Client, dataset: Any) -> None:
    row = factories.make_record(dataset, "r", signal=ECG.signal, fs_hz=500.0, labels=("CRBBB",))
    open_text, blind_text = (
        client.get(reverse("viz:record", args=[row.pk]) + query).content.decode() for query in ("", "?blind=1")
    )
    for part in ("CRBBB", "Heart rate", "Predictions"):
        assert part in open_text
    # The suggestions name every code that is known.
    shown = re.sub(r"<a [^>]*>.*?</a>|<datalist.*?</datalist>", "", blind_text, flags=re.DOTALL)
    assert "CRBBB" not in shown and "Heart rate" not in shown and "predicted-heading" not in shown
    assert " /min" not in shown


def test_neighbours_keep_the_filter_and_the_view(client: Client, dataset: Any) -> None:
    for name in ("a1", "b1", "a2"):
        factories.make_record(dataset, name, signal=ECG.signal, fs_hz=500.0)
    row = Record.objects.get(key="a1")
    text = client.get(
        reverse("viz:record", args=[row.pk]) + "?search=a&layout=12x1&gain=20&zoom=1,50,-40,0"
    ).content.decode()
    link = re.search(r'<a class="button" rel="next" data-keeps-view href="([^"]+)"', text)
    assert link and str(Record.objects.get(key="a2").pk) in link[1]
    for part in ("search=a", "layout=12x1", "gain=20", "zoom=1"):
        assert part in link[1]


def test_pdf_is_in_true_size(client: Client, record: Record) -> None:
    answer = client.get(reverse("viz:record_pdf", args=[record.pk]))
    assert answer["Content-Type"] == "application/pdf" and answer.content.startswith(b"%PDF")
    assert AuditEvent.objects.filter(action="record.downloaded", changes__format="pdf").count() == 1
    box = re.search(rb"/MediaBox \[ 0 0 ([\d.]+) ([\d.]+) \]", answer.content)
    assert box and [round(float(side) / 72 * 25.4) for side in box.groups()] == [297, 210]


def test_pdf_draws_one_second_25_mm_long_and_a_millivolt_10_mm_high() -> None:
    import zlib

    from tests.viz.ecg_samples import distinct
    from viz.figures.view import View

    pdf = true_size_pdf(ecg_svg(distinct(("I",)), View(layout="12x1"), width="true"), "x")
    content = b"".join(
        zlib.decompress(_ascii85(part)) for part in re.findall(rb"stream\r?\n(.*?)~>endstream", pdf, re.DOTALL)
    )
    # The calibration pulse is the only path of five straight lines up, right, down.
    sizes = _path_sizes_mm(content.decode("latin-1"))
    assert any(abs(w - (0.2 * 25 + 4)) < 0.05 and abs(h - 10) < 0.05 for w, h in sizes)


def _ascii85(part: bytes) -> bytes:
    import base64

    return base64.a85decode(part.strip(), adobe=False)


def _path_sizes_mm(content: str) -> list[tuple[float, float]]:
    """Return width and height on paper of every path of a page, with its transformations."""
    stack, now, points, out = [], np.eye(3), [], []
    numbers: list[float] = []
    for token in content.split():
        try:
            numbers.append(float(token))
            continue
        except ValueError:
            pass
        if token == "q":
            stack.append(now)
        elif token == "Q":
            now = stack.pop()
        elif token == "cm":
            a, b, c, d, e, f = numbers[-6:]
            now = np.array([[a, b, 0], [c, d, 0], [e, f, 1]]) @ now
        elif token in ("m", "l"):
            points.append(np.array([*numbers[-2:], 1]) @ now)
        elif token in ("S", "f", "B", "n", "s"):
            if points:
                spread = np.ptp(np.array(points)[:, :2], axis=0) / 72 * 25.4
                out.append((float(spread[0]), float(spread[1])))
            points = []
        numbers = []
    return out


def test_downloads_carry_marks_annotations_and_the_filter(client: Client, record: Record, owner: Any) -> None:
    RecordAnnotation.objects.create(record=record, author=owner, t0_s=1.0, t1_s=1.4, lead="II", text="early beat")
    answer = client.get(reverse("viz:record_svg", args=[record.pk]) + "?size=true&marks=waves&band=mains50&paper=blue")
    markup = answer.content.decode()
    root = ElementTree.fromstring(markup)
    assert root.get("width", "").endswith("mm")
    told = " ".join(words(markup))
    assert "early beat (olga)" in told and "50 Hz notch" in told and "beats are marked" in told
    assert markup.count("ecg-mark-onset") == 3


def test_beats_lie_on_each_other_and_their_numbers_can_be_fetched(client: Client, record: Record) -> None:
    address = reverse("viz:beats", args=[record.pk])
    text = client.get(f"{address}?lead=V5", headers={"HX-Request": "true"}).content.decode()
    assert text.lstrip().startswith("<div") and "beats of lead V5 lie on top of each other" in text
    rows = list(csv.reader(io.StringIO(client.get(f"{address}?csv=median").content.decode())))
    assert rows[0][1:] == [f"{name} (mV)" for name in LEADS_12] and len(rows) > 200
    assert client.get(f"{address}?lead=V9").status_code == 422
    assert client.get(f"{address}?csv=all").status_code == 422


def test_two_records_side_by_side_with_their_differences(client: Client, dataset: Any, record: Record) -> None:
    faster = simulate("SNR", 3, fs_hz=500.0, duration_s=10.0).record
    other = factories.make_record(dataset, "r2", signal=faster.signal, fs_hz=500.0, subject="s1")
    text = client.get(reverse("viz:record", args=[record.pk])).content.decode()
    assert "Other ECGs of the subject" in text and f"with={other.pk}" in text
    text = client.get(reverse("viz:compare", args=[record.pk]) + f"?with={other.pk}&speed=50").content.decode()
    assert text.count("<svg xmlns") == 2 and text.count("50 mm/s ·") == 2
    a, b = (
        showing.measurements(row, showing.source_of(row), showing.Showing().view)["heart_rate_bpm"]
        for row in (record, other)
    )
    row = re.search(r"Heart rate</th>.*?</tr>", text, re.DOTALL)
    assert row and f"{b - a:+.0f} /min".replace("-", "−") in row[0]


def test_before_and_after_a_recipe(client: Client, record: Record) -> None:
    text = client.get(reverse("viz:compare", args=[record.pk]) + "?recipe=default").content.decode()
    assert text.count("<svg xmlns") == 2 and "r1, the default recipe" in text
    assert "· 500 Hz ·" in text and "· 100 Hz ·" in text


def test_a_foreign_record_is_not_compared_with(client: Client, record: Record) -> None:
    other = factories.make_record(
        factories.make_dataset(factories.make_project()), "hidden", signal=ECG.signal, fs_hz=500.0
    )
    for wanted in (other.pk, "hidden"):
        answer = client.get(reverse("viz:compare", args=[record.pk]) + f"?with={wanted}")
        assert answer.status_code == 422 and "There is no record" in answer.content.decode()


def _predicted(record: Record, owner: Any) -> Prediction:
    project = record.dataset.project
    version = ModelVersion.objects.create(
        model=Model.objects.create(project=project, name="M"), number=1, state="ready", origin="trained", classes=["A", "B"],
        contract={"leads": list(LEADS_12), "fs_hz": 100.0, "n_samples": 1000, "classes": ["A", "B"], "task": "multilabel"},
        task="multilabel", sha256="1" * 64, size=7,
    )  # fmt: skip
    run = PredictionRun.objects.create(
        project=project, version=version, dataset=record.dataset, job=factories.make_job(project, kind="predict")
    )
    values = [[[0.0, 1.0, -2.0, 0.5]] * 12, [[0.1] * 4] * 12]
    kept = {
        "method": "occlusion",
        "leads": list(LEADS_12),
        "t0_s": 0.0,
        "t1_s": 10.0,
        "classes": ["A", "B"],
        "values": values,
    }
    return Prediction.objects.create(run=run, record=record, values=[0.8, 0.1], predicted=["A"], saliency=kept)


def test_saliency_of_a_chosen_class_lies_on_the_paper_and_in_the_picture(
    client: Client, record: Record, owner: Any
) -> None:
    found = _predicted(record, owner)
    chosen = f"{found.run.version_id} A"
    figure = _callback(client, record, saliency=chosen)
    shades = [one for one in figure["ecg"]["figure"]["data"] if one["type"] == "heatmap"]
    # One band a cell. What speaks against the class is left out, so the third quarter is empty.
    assert len(shades) == 13 and shades[-1]["z"] == [[0.0, 1.0, 0.0, 0.5]]
    assert "supports A by occlusion" in figure["told"]["children"]
    page = client.get(reverse("viz:record", args=[record.pk]) + f"?saliency={chosen}").content.decode()
    assert 'class="ecg-saliency"' in page and "Shade the ECG by what supports" in page and "0.800" in page
    assert (
        "ecg-saliency"
        not in client.get(reverse("viz:record", args=[record.pk]) + f"?saliency={chosen}&blind=1").content.decode()
    )


def test_only_the_chosen_models_answers_are_shown(client: Client, record: Record, owner: Any) -> None:
    found = _predicted(record, owner)
    page = reverse("viz:record", args=[record.pk])
    text = client.get(f"{page}?model={found.run.version_id}").content.decode()
    assert "0.800" in text and "Threshold" in text and "0.500" in text and "whatever display filter is on" in text
    assert "0.800" not in client.get(f"{page}?model=00000000-0000-0000-0000-000000000000").content.decode()


def test_a_monitoring_filter_does_not_go_along_to_the_next_record(client: Client, record: Record) -> None:
    factories.make_record(record.dataset, "r2")
    for band, kept in (("monitor", False), ("diagnostic", True)):
        page = client.get(reverse("viz:record", args=[record.pk]) + f"?gain=20&band={band}").content.decode()
        onward = re.search(r'rel="next"[^>]*href="([^"]+)"', page)[1]
        assert "gain=20" in onward and (f"band={band}" in onward) is kept


def test_what_a_model_saw_is_drawn_or_the_original_with_the_reason(client: Client, record: Record, owner: Any) -> None:
    found = _predicted(record, owner)
    seen = _callback(client, record, signal=str(found.run.version_id))
    assert seen["ecg"]["figure"]["layout"]["meta"]["fs_hz"] == 100.0
    other = _callback(client, record, signal="00000000-0000-0000-0000-000000000000")
    assert other["ecg"]["figure"]["layout"]["meta"]["fs_hz"] == 500.0
    assert "The original is shown." in other["told"]["children"]


def test_zoom_comes_back_for_the_same_paper_only(client: Client, record: Record) -> None:
    zoom = {"key": "3x4+rhythm|25|10", "x": [20.0, 80.0], "y": [-60.0, -10.0]}
    axes = [
        _callback(client, record, zoom=zoom, layout=name)["ecg"]["figure"]["layout"] for name in ("3x4+rhythm", "12x1")
    ]
    assert axes[0]["xaxis"]["range"] == [20.0, 80.0] and axes[1]["xaxis"]["range"][0] == 0
    for bad in ({**zoom, "x": ["a", 1]}, {**zoom, "x": [1, float("inf")]}, {**zoom, "y": [5, 5]}, [1], "x"):
        assert _callback(client, record, zoom=bad)["ecg"]["figure"]["layout"]["xaxis"]["range"][0] == 0


def test_long_records_get_an_overview_and_send_only_the_window(client: Client, dataset: Any, record: Record) -> None:
    hour = np.tile(ECG.signal[[1]], 360)
    row = factories.make_record(dataset, "hour", signal=hour, fs_hz=500.0, leads=("II",))
    figure = _callback(client, row, start=1800)["ecg"]["figure"]
    strip = [one for one in figure["data"] if one.get("meta", {}).get("rhythm")][0]
    assert untyped(strip["y"]).size == 5001 and figure["layout"]["meta"]["start_s"] == 1800
    graph = _callback(client, row, "overview", start=1800)["overview-box"]["children"]["props"]["figure"]
    assert graph["layout"]["meta"]["window_s"] == [1800, 1810] and untyped(graph["data"][0]["y"]).size < 3200
    part = _callback(client, row, "overview", start=1800, span=[1000, 1100])["overview-box"]["children"]["props"][
        "figure"
    ]
    assert part["layout"]["xaxis"]["range"] == [1000, 1100] and untyped(part["data"][0]["y"]).size < 3200
    kept = signals.derived_path(row, "overview-0.npz")
    assert kept.exists()
    assert _callback(client, record, "overview") is None
    signals.erase(row)
    assert not kept.exists()


def test_a_broken_overview_file_is_built_again(client: Client, dataset: Any) -> None:
    row = factories.make_record(dataset, "minute", signal=np.tile(ECG.signal[[1]], 6), fs_hz=500.0, leads=("II",))
    signals.derived_path(row, "overview-0.npz").write_bytes(b"half")
    assert _callback(client, row, "overview")["overview-box"]["children"]
    assert np.load(signals.derived_path(row, "overview-0.npz"))["low0"].shape[0] == 1


@pytest.mark.parametrize("query", ["layout=4x3", "speed=30", "marks=all", "band=best", "start=x"])
def test_a_view_that_is_not_offered_is_refused_with_its_name(client: Client, record: Record, query: str) -> None:
    answer = client.get(reverse("viz:record", args=[record.pk]) + f"?{query}")
    assert answer.status_code == 422


def test_a_record_page_needs_few_queries(
    client: Client, record: Record, owner: Any, django_assert_max_num_queries: Any
) -> None:
    for _ in range(3):
        _predicted_again = RecordAnnotation.objects.create(record=record, author=owner, t0_s=1.0, text="x")
    _predicted(record, owner)
    with django_assert_max_num_queries(30):
        client.get(reverse("viz:record", args=[record.pk]) + "?marks=waves")


def test_where_the_libraries_lie_is_kept_by_the_browser_and_told_to_no_stranger(client: Client) -> None:
    suites = "/dash/app/EcgView/_dash-component-suites/dash"
    address = f"{suites}/deps/react@18.v4_4_1m1795610887.3.1.min.js"
    for path, kept_s in ((address, 86400), (f"{suites}/dcc/async-graph.js", 3600)):
        answer = client.get(path)
        assert answer.status_code == 302 and answer["Cache-Control"] == f"private, max-age={kept_s}"
        # Kept for good where it leads, so that an update needs another address.
        assert answer["Location"].startswith("/static/dash/component/") and version("dash") in answer["Location"]
        assert re.search(settings.WHITENOISE_IMMUTABLE_FILE_TEST, answer["Location"])
    page = client.get("/dash/app/EcgView/").content.decode()
    assert "dash_table/bundle" not in page
    assert f"plotly.min.js?v={version('dash')}-{version('plotly')}" in page
    assert client.get("/dash/app/EcgView/_dash-layout")["Cache-Control"] == "private, max-age=60"
    refused = Client().get(address)
    assert refused.status_code == 401 and "max-age" not in refused.get("Cache-Control", "")


def test_a_holter_of_two_leads_is_shown_row_by_row_and_called_by_its_words(client: Client, dataset: Any) -> None:
    row = factories.make_record(dataset, "holter", signal=ECG.signal[:2], fs_hz=500.0, leads=("MLII", "V5"))
    Record.objects.filter(pk=row.pk).update(
        quality={"flags": ["missing_leads"]},
        meta=row.meta | {"printed": {"qrs_axis_deg": -31.0}},
    )
    url = reverse("viz:record", args=[row.pk])
    page = client.get(url).content.decode()
    assert "One row for each recorded lead" in page and "&amp;usual=recorded" in page
    assert "At least one of the twelve leads is missing." in page and "missing_leads" not in page
    assert "WFDB record" in page and "−31°" in page
    asked = client.get(url + "?layout=3x4%2Brhythm").content.decode()
    assert "3 × 4 and rhythm strip" in asked and "not recorded" in asked
