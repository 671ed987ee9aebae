"""The interactive ECG in a browser: geometry in every layout, caliper by mouse, keys, touch and numbers, a view that is kept."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Frame, Page, expect

from datasets.ecg import LEADS_12
from datasets.simulate import simulate
from tests import factories
from tests.browser import looks
from viz.figures.view import LAYOUTS

ECG = simulate("SNR", 2, fs_hz=500.0, duration_s=10.0).record
PLOT = "document.querySelector('#ecg .js-plotly-plot')"
# What the browser shows: pixels of a millimetre both ways, and each cell with its label's text and its trace as time and voltage.
_SHOWN = """() => {
  const plot = PLOT, full = plot._fullLayout, meta = plot.layout.meta;
  const labels = plot.layout.annotations.filter((each) => (each.name || "").startsWith("label-"));
  const cells = meta.cells.map((cell, k) => {
    const trace = plot._fullData.find((each) => each.meta && each.meta.lead === cell.lead && each.meta.row === cell.row);
    const x = (i) => trace.x && trace.x.length ? trace.x[i] : trace.x0 + i * trace.dx;
    const at = [0.1, 0.5, 0.9].map((share) => Math.floor(share * trace.y.length));
    return { label: labels[k].text.replace(/<[^>]+>/g, ""), near: [labels[k].x - cell.x0_mm, labels[k].y - cell.y0_mm],
             points: at.map((i) => [x(i), trace.y[i]]), x0: cell.x0_mm, y0: cell.y0_mm, t0: cell.t0_s };
  });
  return { x: full.xaxis.l2p(1) - full.xaxis.l2p(0), y: full.yaxis.l2p(0) - full.yaxis.l2p(1), cells, title: plot.layout.title.text };
}""".replace("PLOT", PLOT)
_RANGE = f"() => {PLOT}._fullLayout.xaxis.range.map(Number)"

# Where the paper's grid, the first lead's trace and the leads' names lie in the graph, in px.
_PLACES = """() => {
  const plot = PLOT, corner = plot.getBoundingClientRect();
  const box = (each) => { const b = each.getBoundingClientRect(); return [b.left - corner.left, b.top - corner.top, b.width, b.height]; };
  const moving = document.querySelectorAll(".names > span").length > 0;
  const words = moving ? [...document.querySelectorAll(".names > span")]
    : [...plot.querySelectorAll(".annotation[data-index] .annotation-text")].filter((each) => each.closest("[data-index]").dataset.index < plot.layout.meta.cells.length);
  const names = Object.fromEntries(words.map((each) => { const b = each.getBoundingClientRect(); return [each.textContent, [b.left - corner.left, b.top - corner.top + b.height / 2]]; }));
  return { moving, grid: box(plot.querySelector(".shapelayer path")), trace: box(plot.querySelectorAll(".js-line")[4]), names };
}""".replace("PLOT", PLOT)


@pytest.fixture
def opened(site: str, sign_in: Any, recorder: Any) -> tuple[Page, Frame]:
    """The page of a record with neighbours, signed in as its editor, with its view at work."""
    user = factories.make_user("edith")
    dataset = factories.make_dataset(factories.make_project({user: "editor"}))
    rows = [
        factories.make_record(dataset, f"r{k}", signal=ECG.signal, fs_hz=500.0, leads=LEADS_12, subject=f"s{k}")
        for k in range(3)
    ]
    page = sign_in(user).new_page()
    page.goto(f"/records/{rows[0].pk}/?search=r")
    looks.settle(page)
    return page, looks.dash_frames(page)[0]


def _caliper(frame: Frame) -> dict[str, Any]:
    frame.wait_for_function(f"() => {PLOT}.dataset.caliper")
    return json.loads(frame.evaluate(f"() => {PLOT}.dataset.caliper"))


def _layer(page: Page, frame: Frame) -> dict[str, float]:
    """Return where the paper lies once the caliper's fields have taken their room."""
    frame.locator("#caliper-t-b").wait_for()
    return _at_rest(page, frame)


def _at_rest(page: Page, frame: Frame) -> dict[str, float]:
    """Return where the paper lies once the page has stopped moving it."""
    before = None
    while (now := frame.locator("#layer").bounding_box()) != before:
        before = now
        page.wait_for_timeout(400)
    return now


def _px_per_mm(frame: Frame) -> float:
    return float(frame.evaluate(f"() => {PLOT}._fullLayout.xaxis.l2p(1) - {PLOT}._fullLayout.xaxis.l2p(0)"))


def test_every_layout_is_to_scale_and_each_cell_holds_its_lead(opened):
    _, frame = opened
    for layout, entry in LAYOUTS.items():
        frame.get_by_label("Layout").select_option(layout)
        expect(frame.locator(".gtitle")).to_contain_text(f"· {entry.title} ·")
        shown = frame.evaluate(_SHOWN)
        assert shown["x"] == pytest.approx(shown["y"], rel=1e-3) and shown["x"] > 1
        assert "25 mm/s · 10 mm/mV" in shown["title"]
        for cell in shown["cells"]:
            sign = -1 if cell["label"].startswith("−") else 1
            samples = ECG.signal[LEADS_12.index(cell["label"].lstrip("−"))]
            for x, y in cell["points"]:
                at = round((cell["t0"] + (x - cell["x0"]) / 25) * 500)
                assert (y - cell["y0"]) / 10 * sign == pytest.approx(samples[at], abs=1e-4), (layout, cell["label"])
            assert 0 <= cell["near"][0] <= 3 and 5 <= cell["near"][1] <= 12


def test_a_long_record_of_two_leads_fills_the_page_beside_its_overview(site, sign_in, recorder):
    user = factories.make_user("edith")
    dataset = factories.make_dataset(factories.make_project({user: "editor"}))
    signal = np.tile(ECG.signal[:2], (1, 9))
    row = factories.make_record(dataset, "holter", signal=signal, fs_hz=500.0, leads=("MLII", "V5"))
    for width in (1280, 390):
        page = sign_in(user, width=width).new_page()
        page.goto(f"/records/{row.pk}/")
        looks.settle(page)
        frame = looks.dash_frames(page)[0]
        frame.locator("#overview .js-plotly-plot").wait_for()
        # Nothing of the paper is hidden, and it is as wide as its figure.
        frame.wait_for_function(
            f"""() => {{
              const region = document.querySelector('#paper-region'), plot = {PLOT}, size = plot._fullLayout._size;
              const wide = plot._fullLayout.xaxis.l2p(plot.layout.meta.width_mm) - plot._fullLayout.xaxis.l2p(0);
              return region.scrollHeight <= region.clientHeight + 1 && wide > 0.97 * (plot.clientWidth - size.l - size.r);
            }}"""
        )


def test_caliper_by_mouse_by_keys_and_by_numbers(opened):
    page, frame = opened
    frame.get_by_role("button", name="Caliper", exact=True).click()
    expect(frame.get_by_role("button", name="Caliper", exact=True)).to_have_attribute("aria-pressed", "true")
    box = _layer(page, frame)
    mm = _px_per_mm(frame)
    x, y = box["x"] + 200, box["y"] + 150
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 20 * mm, y - 10 * mm, steps=4)
    page.mouse.up()
    by_mouse = _caliper(frame)
    assert by_mouse["ms"] == pytest.approx(800, abs=25) and by_mouse["mv"] == pytest.approx(1.0, abs=0.06)
    assert by_mouse["rate"] == pytest.approx(60_000 / by_mouse["ms"])
    expect(frame.locator("#measured")).to_contain_text("/min")
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowUp")
    by_keys = _caliper(frame)
    assert by_keys["ms"] - by_mouse["ms"] == pytest.approx(40, abs=0.1)
    assert by_keys["mv"] - by_mouse["mv"] == pytest.approx(0.25, abs=0.001)
    page.keyboard.press("Enter")
    page.keyboard.press("Shift+ArrowRight")
    assert _caliper(frame)["ms"] - by_keys["ms"] == pytest.approx(-100, abs=0.1)
    for name, value in (("First (s)", "1"), ("Second (s)", "1.6"), ("First (mV)", "0"), ("Second (mV)", "0.5")):
        frame.get_by_label(name, exact=True).fill(value)
        frame.get_by_label(name, exact=True).press("Tab")
    by_numbers = _caliper(frame)
    assert by_numbers["ms"] == pytest.approx(600, abs=0.5) and by_numbers["mv"] == pytest.approx(0.5, abs=0.001)
    frame.locator("#paper-region").focus()
    page.keyboard.press("Escape")
    expect(frame.get_by_role("button", name="Caliper", exact=True)).to_have_attribute("aria-pressed", "false")


def test_the_paper_keeps_its_size_beside_the_fields_of_the_caliper(opened):
    page, frame = opened
    before = _at_rest(page, frame)
    frame.get_by_role("button", name="Caliper", exact=True).click()
    after = _layer(page, frame)
    assert (after["width"], after["height"]) == pytest.approx((before["width"], before["height"]), abs=2)


def test_caliper_by_touch(opened):
    page, frame = opened
    frame.get_by_role("button", name="Caliper", exact=True).click()
    box = _layer(page, frame)
    mm = _px_per_mm(frame)
    session = page.context.new_cdp_session(page)
    x, y = box["x"] + 150, box["y"] + 120

    def touch(kind: str, *points: tuple[float, float]) -> None:
        session.send(
            "Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": px, "y": py} for px, py in points]}
        )

    touch("touchStart", (x, y))
    touch("touchMove", (x + 5 * mm, y))
    touch("touchMove", (x + 10 * mm, y + 5 * mm))
    touch("touchEnd")
    found = _caliper(frame)
    assert found["ms"] == pytest.approx(400, abs=25) and found["mv"] == pytest.approx(-0.5, abs=0.06)


def test_a_measured_stretch_becomes_an_annotation(opened):
    page, frame = opened
    frame.locator("#paper-region").focus()
    page.keyboard.press("c")
    for name, value in (("First (s)", "1"), ("Second (s)", "1.4")):
        frame.get_by_label(name, exact=True).fill(value)
        frame.get_by_label(name, exact=True).press("Tab")
    frame.get_by_role("button", name="Annotate the place of the caliper").click()
    text = page.locator("[data-annotate] [name=text]")
    expect(text).to_be_focused()
    assert page.locator("[data-annotate] [name=t0_s]").input_value() == "1.000"
    assert page.locator("[data-annotate] [name=t1_s]").input_value() == "1.400"
    text.fill("Early beat")
    page.get_by_role("button", name="Save the annotation").click()
    expect(page.get_by_role("row", name="Early beat")).to_contain_text("edith")
    frame = looks.dash_frames(page)[0]
    expect(frame.locator(".annotation-text", has_text="Early beat").first).to_be_attached()
    frame.locator("#paper-region").focus()
    page.keyboard.press("n")
    expect(frame.locator("#measured")).to_contain_text("Annotation 1 of 1: Early beat, at 1.00 s")


def test_a_thinned_page_shows_every_sample_of_what_is_zoomed_to(opened):
    page, frame = opened
    frame.get_by_label("Layout").select_option("12x1")
    expect(frame.locator(".gtitle")).to_contain_text("· 12 × 1 ·")
    frame.locator("#paper-region").focus()
    for key in ("5", "+", "+", "+"):
        page.keyboard.press(key)
    step = """() => {
      const plot = PLOT, [left, right] = plot._fullLayout.xaxis.range, lead = window.ecgPaper.meta().cells[4].lead;
      const trace = plot._fullData.find((each) => each.meta && each.meta.lead === lead);
      // A row all of whose samples fit comes with its first place and the step.
      const x = trace.x && trace.x.length ? [...trace.x] : [...trace.y].map((_, k) => trace.x0 + k * trace.dx);
      const near = x.filter((each) => each > left && each < right);
      return plot._fullLayout.xaxis.range[0] > 5 && near.length > 100 ? Math.max(...near.slice(1).map((each, k) => each - near[k])) : 99;
    }""".replace("PLOT", PLOT)
    frame.wait_for_function(f"() => ({step})() < 0.06")
    assert frame.evaluate(step) == pytest.approx(25 / 500, rel=0.02)


def _close(first: dict[str, Any], second: dict[str, Any], within_px: float) -> bool:
    same = set(first["names"]) == set(second["names"])
    pairs = [(first["names"][name], second["names"][name]) for name in first["names"]] if same else []
    return same and all(
        abs(a - b) <= within_px
        for left, right in (*pairs, (first["grid"], second["grid"]), (first["trace"], second["trace"]))
        for a, b in zip(left, right, strict=True)
    )


def test_a_move_shows_at_once_what_is_drawn_afterwards(opened):
    page, frame = opened
    frame.locator("#paper-region").focus()
    for keys in (("+",), ("+", "ArrowRight", "ArrowDown"), ("-", "Shift+ArrowLeft"), ("0",)):
        frame.evaluate("() => { window.kept = window.setTimeout; window.setTimeout = () => 0; }")
        for key in keys:
            page.keyboard.press(key)
        frame.wait_for_function("() => document.querySelector('.names > span')")
        frame.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        at_once = frame.evaluate(_PLACES)
        frame.evaluate("() => { window.setTimeout = window.kept; }")
        # Any further move lets the paper come to rest; this one leads nowhere.
        frame.evaluate("() => window.ecgPaper.pan(0, 0)")
        frame.wait_for_function("() => !document.querySelector('.names > span')")
        drawn = frame.evaluate(_PLACES)
        assert at_once["moving"] and not drawn["moving"]
        assert _close(at_once, drawn, 2.5), (keys, at_once, drawn)


def test_two_fingers_zoom_and_move_the_paper_and_one_scrolls_the_page(opened):
    page, frame = opened
    session = page.context.new_cdp_session(page)
    session.send("Emulation.setTouchEmulationEnabled", {"enabled": True, "maxTouchPoints": 2})
    # Buttons grow for a finger, so that the paper moves and is drawn anew; a busy machine takes its time to begin.
    for each in (page, frame):
        each.wait_for_function("() => matchMedia('(pointer: coarse)').matches")
        each.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    box = _at_rest(page, frame)
    # A browser brings moves together and hands them on with its next picture: the last one counts.
    frame.evaluate(
        "() => addEventListener('touchmove', (event) => { window.seen = [...event.touches].map((at) => at.clientX); }, true)"
    )

    def touch(kind: str, *points: tuple[float, float]) -> None:
        sent = [{"x": x, "y": y, "id": k} for k, (x, y) in enumerate(points)]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": sent})

    def heard(*across: float) -> None:
        corner = frame.frame_element().bounding_box()
        frame.wait_for_function(
            "(sent) => (window.seen || []).length === sent.length && sent.every((x, k) => Math.abs(x - window.seen[k]) < 1)",
            arg=[x - corner["x"] for x in across],
        )

    def under(x: float, y: float) -> dict[str, float]:
        corner = frame.frame_element().bounding_box()
        return frame.evaluate(
            "(at) => window.ecgPaper.toMm(at)", {"clientX": x - corner["x"], "clientY": y - corner["y"]}
        )

    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    whole, held = frame.evaluate(_RANGE), under(x, y)
    touch("touchStart", (x - 40, y), (x + 40, y))
    for apart in (50, 60, 70, 80):
        touch("touchMove", (x - apart, y), (x + apart, y))
    heard(x - 80, x + 80)
    now = frame.evaluate("() => window.ecgPaper.ranges().x")
    assert (whole[1] - whole[0]) / (now[1] - now[0]) == pytest.approx(2, rel=0.02)
    assert under(x, y) == pytest.approx(held, abs=1.0)
    for away in (20, 40, 60):
        touch("touchMove", (x - 80 + away, y), (x + 80 + away, y))
    heard(x - 20, x + 140)
    assert under(x + 60, y) == pytest.approx(held, abs=1.0)
    touch("touchEnd")
    frame.wait_for_function(
        f"(wide) => {PLOT}._fullLayout.xaxis.range[1] - {PLOT}._fullLayout.xaxis.range[0] < wide",
        arg=(whole[1] - whole[0]) * 0.6,
    )
    # A box that may scroll by a fraction of a pixel would take the finger from the page, once in six or seven times.
    assert frame.locator("#paper-region").evaluate("(box) => getComputedStyle(box).overflowY") == "hidden"
    before, kept = page.evaluate("() => document.scrollingElement.scrollTop"), frame.evaluate(_RANGE)
    touch("touchStart", (x, y))
    for step in range(1, 9):
        touch("touchMove", (x, y - 15 * step))
    touch("touchEnd")
    page.wait_for_function("(top) => document.scrollingElement.scrollTop > top + 20", arg=before)
    assert frame.evaluate(_RANGE) == pytest.approx(kept)


def test_the_mouse_drags_a_zoomed_paper(opened):
    page, frame = opened
    frame.locator("#paper-region").focus()
    page.keyboard.press("+")
    page.keyboard.press("+")
    frame.wait_for_function(f"() => {PLOT}._fullLayout.xaxis.range[0] > 40")
    before, mm = frame.evaluate(_RANGE), _px_per_mm(frame)
    box = frame.locator("#layer").bounding_box()
    x, y = box["x"] + 300, box["y"] + 200
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 20 * mm, y, steps=5)
    page.mouse.up()
    frame.wait_for_function(f"(left) => {PLOT}._fullLayout.xaxis.range[0] > left", arg=before[0] + 15)
    assert frame.evaluate(_RANGE)[0] - before[0] == pytest.approx(20, abs=0.5)


def test_keys_zoom_pan_and_show_a_lead(opened):
    page, frame = opened
    whole = frame.evaluate(_RANGE)
    frame.locator("#paper-region").focus()
    page.keyboard.press("+")
    frame.wait_for_function(
        f"(wide) => {PLOT}._fullLayout.xaxis.range[1] - {PLOT}._fullLayout.xaxis.range[0] < wide",
        arg=(whole[1] - whole[0]) * 0.8,
    )
    before = frame.evaluate(_RANGE)
    page.keyboard.press("ArrowRight")
    frame.wait_for_function(f"(left) => {PLOT}._fullLayout.xaxis.range[0] > left + 4", arg=before[0])
    assert np.diff(frame.evaluate(_RANGE)) == pytest.approx(np.diff(before))
    page.keyboard.press("5")
    expect(frame.locator("#measured")).to_have_text("Lead aVL")
    cell = frame.evaluate(f"() => {PLOT}.layout.meta.cells.find((each) => each.lead === 'aVL')")
    left, right = frame.evaluate(_RANGE)
    assert left <= cell["x0_mm"] and right >= cell["x0_mm"] + cell["width_mm"] and right - left < 80
    page.keyboard.press("0")
    frame.wait_for_function(f"(right) => Math.abs({PLOT}._fullLayout.xaxis.range[1] - right) < 1", arg=whole[1])
    page.keyboard.press("g")
    expect(frame.locator(".gtitle")).to_contain_text("20 mm/mV")


def test_view_and_zoom_go_along_to_the_next_record_of_the_filter(opened):
    page, frame = opened
    frame.get_by_label("Layout").select_option("6x2")
    expect(frame.locator(".gtitle")).to_contain_text("6 × 2")
    frame.locator("#paper-region").focus()
    page.keyboard.press("+")
    page.wait_for_url(lambda url: "zoom=" in url and "layout=6x2" in url)
    kept = frame.evaluate(_RANGE)
    page.get_by_role("link", name="Next").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("r1")
    assert "search=r" in page.url
    looks.settle(page)
    frame = looks.dash_frames(page)[0]
    expect(frame.locator(".gtitle")).to_contain_text("6 × 2")
    assert frame.evaluate(_RANGE) == pytest.approx(kept, abs=0.2)


def test_the_first_picture_stands_without_any_script(site, sign_in, recorder):
    user = factories.make_user()
    row = factories.make_record(
        factories.make_dataset(factories.make_project({user: "viewer"})), signal=ECG.signal, fs_hz=500.0
    )
    page = sign_in(user, java_script_enabled=False).new_page()
    page.goto(f"/records/{row.pk}/")
    expect(page.locator(".ecg-stage__picture svg").first).to_be_visible()
    expect(page.get_by_role("row", name="Heart rate")).to_be_visible()
    recorder.take()
