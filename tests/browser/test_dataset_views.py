"""The map's lasso leads to the records inside it, and a figure drawn at the server can be saved as PNG."""

from __future__ import annotations

from django.urls import reverse

from tests import factories
from tests.browser import looks
from viz.models import DatasetMap, MapPoint


def test_lasso_and_png(sign_in):
    project = factories.make_project()
    viewer = factories.make_team(project)["viewer"]
    dataset = factories.make_dataset(project, "Ward")
    job = factories.make_job(project, kind="map", state="succeeded")
    row = DatasetMap.objects.create(dataset=dataset, basis="measures", with_umap=False, job=job)
    for x in range(4):
        record = factories.make_record(dataset, f"r{x}", labels=("NORM",), sex="F")
        MapPoint.objects.create(map=row, record=record, pca_x=x, pca_y=x % 2)
    page = sign_in(viewer).new_page()
    page.goto(reverse("viz:map", args=[row.pk]))
    looks.settle(page)
    frame = looks.dash_frames(page)[0]
    # Right below its two choices, not pushed out of the frame.
    assert frame.evaluate("() => document.querySelector('.js-plotly-plot').getBoundingClientRect().top") < 150
    box = frame.locator(".nsewdrag").first.bounding_box()
    # The left half holds two of the four.
    page.mouse.move(box["x"] + 2, box["y"] + 2)
    page.mouse.down()
    for right, down in ((0.5, 0.01), (0.5, 0.99), (0.01, 0.99), (0.01, 0.01)):
        page.mouse.move(box["x"] + right * box["width"], box["y"] + down * box["height"], steps=4)
    page.mouse.up()
    frame.wait_for_function("() => /inside the line/.test(document.querySelector('#chosen').textContent)")
    assert frame.locator("#chosen").inner_text() == "2 records inside the line."
    frame.locator("#open").click()
    page.wait_for_url("**/records/**")
    assert page.locator("tbody th").all_inner_texts() == ["r0", "r1"]

    page.goto(reverse("viz:insight", args=[dataset.pk]))
    with page.expect_download() as saved:
        page.locator("#labels [data-png]").click()
    assert saved.value.suggested_filename == "labels.png"
    assert saved.value.path().read_bytes().startswith(b"\x89PNG")
