"""Uploads in pieces by hand: a folder, large and small files, a connection that breaks, and going on after a reload."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from datasets import uploading
from datasets.models import ArrivingFile, Ingest, Record
from datasets.services import dataset_create
from ecgportal.projects.services import project_create
from tests import factories
from tests.ecgfiles import make_cohort
from tests.working import work_off


def _begin(site: str, sign_in: Any) -> tuple[Page, Any]:
    user = factories.make_user("olga")
    project = project_create(actor=user, name="Ward")
    dataset = dataset_create(actor=user, project=project, name="Ward")
    page = sign_in(user).new_page()
    page.goto(f"/datasets/{dataset.pk}/upload/")
    return page, dataset


def _upload(page: Page) -> None:
    page.get_by_role("button", name="Upload", exact=True).click()


def _done(page: Page) -> None:
    expect(page.get_by_role("heading", level=1)).to_contain_text("Upload of")


def _only(recorder: Any, word: str) -> None:
    """The browser may complain of what the test did to it, and of nothing else."""
    assert all(word in line for line in recorder.take())


def test_a_folder_with_many_small_files(site, sign_in, tmp_path, recorder):
    page, dataset = _begin(site, sign_in)
    cohort = make_cohort(3)
    for name, data in {**cohort.files, "study/.hidden": b"x", "study/empty.txt": b""}.items():
        path = tmp_path / "ward" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    page.get_by_label("or a whole folder").set_input_files(tmp_path / "ward")
    expect(page.locator("[data-count]")).to_contain_text("7 files")
    expect(page.locator("[data-files] li")).to_have_count(7)
    _upload(page)
    _done(page)
    (ingest,) = Ingest.objects.all()
    assert {entry["name"] for entry in ingest.files} == {f"ward/{name}" for name in [*cohort.files, "study/empty.txt"]}
    work_off()
    assert Record.objects.filter(dataset=dataset).count() == 3
    recorder.check()


def test_a_large_file_goes_on_after_a_broken_connection(site, sign_in, tmp_path, recorder):
    page, _ = _begin(site, sign_in)
    data = bytes(range(256)) * 80_000
    (tmp_path / "large.bin").write_bytes(data)
    broken: list[str] = []

    def break_once(route: Route) -> None:
        offset = route.request.headers["upload-offset"]
        if offset != "0" and not broken:
            broken.append(offset)
            route.abort("connectionreset")
        else:
            route.continue_()

    page.route("**/upload-files/*/", lambda r: break_once(r) if r.request.method == "PATCH" else r.continue_())
    page.get_by_label("ECG files").set_input_files(tmp_path / "large.bin")
    _upload(page)
    _done(page)
    assert broken == [str(8 * 1024 * 1024)]
    (ingest,) = Ingest.objects.all()
    stored = uploading.storage.area("uploads", ingest.pk) / ingest.files[0]["path"]
    assert stored.read_bytes() == data
    _only(recorder, "ERR_CONNECTION_RESET")


def test_an_upload_goes_on_after_the_page_was_left(site, sign_in, tmp_path, recorder):
    page, dataset = _begin(site, sign_in)
    data = bytes(range(256)) * 80_000
    (tmp_path / "large.bin").write_bytes(data)
    page.route(
        "**/upload-files/*/",
        lambda r: r.abort("connectionreset") if r.request.headers.get("upload-offset", "0") != "0" else r.continue_(),
    )
    page.get_by_label("ECG files").set_input_files(tmp_path / "large.bin")
    _upload(page)
    expect(page.locator("[data-progress-text]")).to_contain_text("trying again")
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("[data-error]")).to_contain_text("What has arrived is kept")
    assert ArrivingFile.objects.get().received == 8 * 1024 * 1024
    page.unroute("**/upload-files/*/")
    page.goto(f"/datasets/{dataset.pk}/upload/")
    page.get_by_role("link", name=re.compile("Go on")).click()
    offsets: list[str] = []
    page.on("request", lambda r: offsets.append(r.headers.get("upload-offset", "")) if r.method == "PATCH" else None)
    page.get_by_label("ECG files").set_input_files(tmp_path / "large.bin")
    _upload(page)
    _done(page)
    assert offsets[0] == str(8 * 1024 * 1024)
    (ingest,) = Ingest.objects.all()
    assert (uploading.storage.area("uploads", ingest.pk) / ingest.files[0]["path"]).read_bytes() == data
    _only(recorder, "ERR_CONNECTION_RESET")


def test_wrong_answers_are_told_beside_the_files(site, sign_in, tmp_path, recorder):
    page, _ = _begin(site, sign_in)
    (tmp_path / "a.csv").write_text("1,2\n")
    page.get_by_label("ECG files").set_input_files(tmp_path / "a.csv")
    page.get_by_text("For files that do not say").click()
    page.get_by_label("Lead order").fill("I, I")
    _upload(page)
    expect(page.locator("[data-error]")).to_contain_text("Name each lead once")
    assert not Ingest.objects.exists()
    _only(recorder, "422")


# Drops files that the page makes itself, and notes the most lines that the list ever had.
_DROP_MANY = """(zone, count) => {
  const list = zone.querySelector("[data-files]");
  window.mostLines = 0;
  new MutationObserver(() => { window.mostLines = Math.max(window.mostLines, list.children.length); }).observe(list, { childList: true });
  const data = new DataTransfer();
  for (let n = 0; n < count; n += 1) {
    data.items.add(new File([new Uint8Array(4096).fill(n % 251), String(n)], `ecg${String(n).padStart(5, "0")}.dat`));
  }
  zone.dispatchEvent(new DragEvent("drop", { bubbles: true, cancelable: true, dataTransfer: data }));
}"""


@pytest.mark.slow
def test_two_thousand_dropped_files_arrive_and_the_page_stays_usable(site, sign_in, recorder):
    page, _ = _begin(site, sign_in)
    count = 2000
    begun = time.monotonic()
    page.locator("[data-dropzone]").evaluate(_DROP_MANY, count)
    expect(page.locator("[data-count]")).to_contain_text("2,000 files")
    chosen = time.monotonic()
    _upload(page)
    expect(page.locator("[data-progress-text]")).to_contain_text("of 2,000 files")
    most = page.evaluate("window.mostLines")
    heap_mb = page.evaluate("performance.memory ? performance.memory.usedJSHeapSize / 1e6 : 0")
    expect(page.get_by_role("heading", level=1)).to_contain_text("Upload of", timeout=300_000)
    print(
        f"chosen in {chosen - begun:.1f} s, sent in {time.monotonic() - chosen:.1f} s, heap {heap_mb:.0f} MB, {most} lines"
    )
    (ingest,) = Ingest.objects.all()
    assert len({entry["name"] for entry in ingest.files}) == count
    assert {entry["size"] for entry in ingest.files} == {4097, 4098, 4099, 4100}
    assert 0 < most <= 60
    recorder.check()


def test_what_was_sent_is_told_when_it_stops(site, sign_in, tmp_path, recorder):
    page, _ = _begin(site, sign_in)
    for name in ("a.dat", "b.dat"):
        (tmp_path / name).write_bytes(b"x" * 2000)
    (tmp_path / "large.bin").write_bytes(bytes(9_000_000))
    page.route(
        "**/upload-files/*/",
        lambda r: r.abort("connectionreset") if r.request.headers.get("upload-offset", "0") != "0" else r.continue_(),
    )
    page.get_by_label("ECG files").set_input_files([tmp_path / name for name in ("a.dat", "b.dat", "large.bin")])
    expect(page.locator("[data-files] li")).to_have_count(3)
    _upload(page)
    expect(page.locator("[data-progress-text]")).to_contain_text("trying again")
    expect(page.locator("[data-files] li")).to_have_count(1)
    expect(page.locator("[data-files] li")).to_contain_text("large.bin")
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("[data-count]")).to_contain_text("3 files, 9.0 MB; 1 file still to be sent")
    _only(recorder, "ERR_CONNECTION_RESET")


def test_a_label_table_is_dropped_and_sent_by_the_form(site, sign_in, recorder):
    page, dataset = _begin(site, sign_in)
    page.goto(f"/datasets/{dataset.pk}/labels/")
    zone = page.locator("[data-dropzone]")
    for name in ("first.csv", "table.csv"):
        zone.evaluate(
            """(zone, name) => {
              const data = new DataTransfer();
              data.items.add(new File(["file_name,label\\ncase000,NORM\\n"], name));
              zone.dispatchEvent(new DragEvent("drop", { bubbles: true, cancelable: true, dataTransfer: data }));
            }""",
            name,
        )
    # One table at a time: the second takes the first one's place.
    expect(page.locator("[data-files] li")).to_have_count(1)
    expect(page.locator("[data-files] li")).to_contain_text("table.csv")
    page.locator("form:has([data-dropzone]) button[type=submit]").first.click()
    expect(page.locator("main")).to_contain_text("table.csv")
    expect(page.locator("main")).to_contain_text("case000")
    recorder.check()
