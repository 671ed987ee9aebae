"""The main job by hand: from files and a label table to a trained, evaluated and shared model, and what a viewer sees."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from playwright.sync_api import BrowserContext, FrameLocator, Locator, Page, expect

from datasets.models import Record
from ecgportal.jobs.models import Job
from tests import factories
from tests.browser import looks
from tests.browser.processes import in_a_process_of_its_own
from tests.ecgfiles import Cohort, make_cohort
from tests.working import work_off

LEADS = ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"]
# What a trace of the figure shows: its lead, and a row of time (s) and millivolts for each point, at 25 mm/s and 10 mm/mV.
_TRACES = """() => {
  const plot = document.querySelector("#ecg .js-plotly-plot"), cells = plot.layout.meta.cells;
  return plot._fullData.filter((trace) => trace.meta && trace.meta.lead).map((trace) => {
    const cell = cells.find((each) => each.lead === trace.meta.lead && each.row === trace.meta.row);
    const place = (k) => trace.x && trace.x.length ? trace.x[k] : trace.x0 + k * trace.dx;
    const points = Array.from(trace.y, (y, k) => [cell.t0_s + (place(k) - cell.x0_mm) / 25, cell.sign * (y - cell.y0_mm) / 10]);
    return { lead: trace.meta.lead, rhythm: trace.meta.rhythm, points };
  });
}"""
_DROP = """(zone, files) => {
  const moved = new DataTransfer();
  for (const [name, content] of files) {
    moved.items.add(new File([Uint8Array.from(atob(content), (c) => c.charCodeAt(0))], name));
  }
  zone.dispatchEvent(new DragEvent("drop", { dataTransfer: moved, bubbles: true, cancelable: true }));
}"""


@dataclass
class Ward:
    """Who takes part, and what the steps hand on to each other."""

    page: Page
    cohort: Cohort
    viewer: Any
    downloads: Path
    addresses: dict[str, str] = field(default_factory=dict)

    def press(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).click()

    def follow(self, name: str) -> None:
        self.page.get_by_role("main").get_by_role("link", name=name, exact=True).first.click()

    def room(self, name: str) -> None:
        """Open a room of the project by its navigation."""
        self.page.get_by_role("navigation", name="Project").get_by_role("link", name=name, exact=True).click()

    def frame(self) -> FrameLocator:
        looks.settle(self.page)
        return self.page.frame_locator("iframe")

    def job_done(self) -> None:
        """Do the waiting jobs; the page sees it by itself."""
        work_off()
        expect(self.page.locator("[data-state=succeeded]").first).to_be_visible()


def _field(page: Page, label: str) -> Locator:
    """Return the control of a form by its label."""
    return page.get_by_role("main").get_by_label(re.compile(rf"^{re.escape(label)}( \(optional\))?$"))


def test_the_main_job_by_hand(site, sign_in, recorder, few_threads, dav_server, tmp_path):
    owner, viewer = factories.make_user("olga"), factories.make_user("viktor")
    administrator = factories.make_user("root", is_administrator=True)
    context = sign_in(owner)
    ward = Ward(context.new_page(), make_cohort(32), viewer, tmp_path)
    _project_and_member(ward)
    _upload(ward)
    _labels(ward)
    _record(ward)
    recorder.check()
    _train(ward)
    _judge(ward)
    _download_and_predict(ward)
    recorder.check()
    _add_exchange(sign_in(administrator), dav_server)
    _publish_and_pull(ward)
    recorder.check()
    _as_viewer(ward, sign_in(), recorder)


def _project_and_member(ward: Ward) -> None:
    page = ward.page
    page.goto("/")
    ward.follow("New project")
    _field(page, "Name").fill("Ward study")
    _field(page, "Description").fill("Conduction, from the simulator.")
    ward.press("Create project")
    expect(page.get_by_role("heading", level=1)).to_have_text("Ward study")
    ward.addresses["project"] = page.url
    ward.room("Members")
    _field(page, "User name").fill("viktor")
    _field(page, "Role").select_option("viewer")
    ward.press("Add")
    row = page.get_by_role("row", name=re.compile("viktor"))
    expect(row.get_by_role("combobox")).to_have_value("viewer")


def _upload(ward: Ward) -> None:
    page = ward.page
    ward.room("Datasets")
    ward.follow("New dataset")
    _field(page, "Name").fill("Simulated ward")
    ward.press("Create dataset")
    expect(page.get_by_role("heading", level=1)).to_have_text("Upload ECG files")
    _field(page, "ECG files").set_input_files(
        [{"name": "study.zip", "mimeType": "application/zip", "buffer": ward.cohort.zip()}]
    )
    dropped = [["notes.txt", base64.b64encode(b"Call the ward.").decode()]]
    page.locator("[data-resumable]").evaluate(_DROP, dropped)
    expect(page.locator("[data-count]")).to_contain_text("2 files")
    expect(page.locator("[data-files]")).to_contain_text("notes.txt")
    ward.press("Upload")
    expect(page.get_by_role("heading", level=1)).to_contain_text("Upload of")
    ward.job_done()
    expect(page.locator(".stat", has_text="Accepted")).to_contain_text("32")
    expect(page.locator(".stat", has_text="Refused")).to_contain_text("1")
    expect(page.get_by_role("row", name=re.compile("case003.hea"))).to_contain_text("case003")
    page.locator("a.stat", has_text="Refused").click()
    row = page.get_by_role("row", name=re.compile("^notes.txt"))
    expect(row).to_contain_text("Refused")
    expect(row).to_contain_text("notes.txt is not an ECG")
    ward.follow("Open the dataset")
    ward.addresses["dataset"] = page.url


def _labels(ward: Ward) -> None:
    page = ward.page
    ward.follow("Labels")
    table = {"name": "labels.csv", "mimeType": "text/csv", "buffer": ward.cohort.table()}
    _field(page, "Label table").set_input_files([table])
    ward.press("Look at its columns")
    expect(page.get_by_text("All 32 rows fit records of this dataset.")).to_be_visible()
    expect(_field(page, "filename_hr")).to_have_value("record")
    expect(_field(page, "patient_id")).to_have_value("subject")
    expect(_field(page, "scp_codes")).to_have_value("codes:scp")
    expect(page.get_by_role("cell", name="case000")).to_be_visible()
    ward.press("Read the labels")
    ward.job_done()
    expect(page.locator(".stat", has_text="Rows taken")).to_contain_text("32")
    page.goto(ward.addresses["dataset"])
    expect(page.get_by_role("row", name=re.compile("^case003"))).to_contain_text("AMI")
    expect(page.locator(".stat", has_text="With labels")).to_contain_text("32")


def _record(ward: Ward) -> None:
    page = ward.page
    ward.follow("case003")
    expect(page.get_by_role("heading", level=1)).to_have_text("case003")
    frame = ward.frame()
    traces = {trace["lead"]: trace for trace in _traces(page) if not trace["rhythm"]}
    assert sorted(traces) == sorted(LEADS)
    record = Record.objects.get(key="case003")
    answer = page.context.request.get(f"/api/v1/records/{record.pk}/signal/?stage=original").json()
    truth = np.frombuffer(ward.cohort.files["study/case003.dat"], "<i2").reshape(-1, 12).T / 1000
    np.testing.assert_allclose(answer["samples"], truth, atol=1e-6)
    for lead, trace in traces.items():
        points = np.asarray(trace["points"])
        samples = np.asarray(answer["samples"][answer["leads"].index(lead)])
        at = np.rint(points[:, 0] * answer["fs_hz"]).astype(int)
        assert len(at) > 100
        np.testing.assert_allclose(points[:, 1], samples[at], atol=1e-5, err_msg=lead)
    assert (
        np.corrcoef(
            np.asarray(traces["aVR"]["points"])[:, 1],
            np.asarray(answer["samples"][0])[np.rint(np.asarray(traces["aVR"]["points"])[:, 0] * 250).astype(int)],
        )[0, 1]
        < 0
    )
    frame.get_by_label("Layout").select_option("12x1")
    frame.get_by_label("Gain").select_option("20")
    title = frame.locator(".gtitle")
    expect(title).to_contain_text("20 mm/mV")
    expect(title).to_contain_text("12 × 1")
    assert len({trace["lead"] for trace in _traces(page)}) == 12
    expect(frame.get_by_role("button", name="Share chart...")).to_have_count(0)
    expect(page.get_by_role("row", name="Heart rate")).to_contain_text("/min")
    expect(page.get_by_role("row", name="QTc, Fridericia")).to_contain_text("ms")
    expect(page.get_by_text(re.compile(r"^Subject \S+, \d+ years, (fe)?male$"))).to_be_visible()


def _traces(page: Page) -> list[dict[str, Any]]:
    return looks.dash_frames(page)[0].evaluate(_TRACES)


def _train(ward: Ward) -> None:
    page = ward.page
    ward.room("Training")
    page.get_by_role("link", name="New training run").first.click()
    page.get_by_label("Simulated ward").check()
    _field(page, "Label map").select_option(label="PTB-XL superclass v1")
    for name in ("NORM", "MI", "CD", "HYP"):
        page.get_by_label(name, exact=True).check()
    page.get_by_role("radio", name="xresnet1d18").check()
    _field(page, "Epochs").fill("2")
    _field(page, "Batch size (records)").fill("8")
    expect(page.locator("#run-check")).to_contain_text("can start")
    expect(page.locator("#time-xresnet1d18")).to_contain_text(re.compile(r"\d"))
    ward.press("Start training")
    expect(page.locator("[data-state=queued]")).to_be_visible()
    ward.addresses["run"] = page.url
    job = Job.objects.get(kind="train")
    with in_a_process_of_its_own(job):
        expect(page.locator("[data-state=running]")).to_be_visible()
        curve = page.frame_locator("iframe").locator("#loss .scatterlayer .trace")
        expect(curve.first).to_be_attached()
        expect(page.locator("[data-state=succeeded]")).to_be_visible()
    job.refresh_from_db()
    assert job.state == "succeeded" and job.attempt == 1
    frame = ward.frame()
    expect(frame.locator("#loss .scatterlayer .trace")).to_have_count(2)
    expect(frame.locator("#told")).to_contain_text("at epoch 2")
    expect(page.get_by_text(re.compile(r"^\d+ records of \d+ subjects"))).to_have_count(3)


def _judge(ward: Ward) -> None:
    page = ward.page
    ward.follow("Evaluation")
    expect(page.locator(".stat", has_text="AUROC, mean over classes")).to_contain_text("95 %")
    frame = ward.frame()
    told = frame.locator("#told")
    for name in ("NORM", "MI", "CD", "HYP"):
        expect(told).to_contain_text(f"{name}: AUROC")
        expect(page.get_by_role("row", name=re.compile(f"^{name}"))).to_contain_text("95 %")
    expect(frame.locator("#figure .scatterlayer .trace").first).to_be_attached()
    frame.get_by_label("Figure").select_option(label="Confusion matrix")
    expect(frame.locator("#figure .heatmaplayer .hm").first).to_be_attached()
    expect(told).not_to_contain_text("AUROC")
    with page.expect_download() as waiting:
        ward.follow("Report, HTML")
    assert "AUROC" in waiting.value.path().read_text()


def _download_and_predict(ward: Ward) -> None:
    page = ward.page
    ward.follow("Model")
    ward.addresses["version"] = page.url
    with page.expect_download() as waiting:
        ward.follow("ONNX")
    path = ward.downloads / "net.onnx"
    waiting.value.save_as(path)
    session = onnxruntime.InferenceSession(path)
    logits = session.run(None, {session.get_inputs()[0].name: np.zeros((1, 12, 1000), np.float32)})[0]
    assert logits.shape == (1, 4)
    predict = page.get_by_role("region", name="Predict on a dataset", exact=True)
    predict.get_by_label("Dataset").select_option("Simulated ward")
    ward.press("Predict")
    expect(page.get_by_role("heading", level=1)).to_contain_text("on Simulated ward")
    ward.job_done()
    expect(page.get_by_role("row")).to_have_count(33)
    expect(page.get_by_role("row", name=re.compile("^case031"))).to_contain_text(re.compile(r"0\.\d{3}|1\.000"))


def _add_exchange(context: BrowserContext, dav_server: Any) -> None:
    page = context.new_page()
    page.goto("/exchanges/")
    _field(page, "Name").fill("Ward share")
    _field(page, "Address").fill(dav_server.url)
    _field(page, "User name").fill(dav_server.user)
    _field(page, "Password").fill(dav_server.password)
    page.get_by_role("button", name="Add").click()
    page.get_by_role("link", name="Test the connection").click()
    expect(page.get_by_text("Connected", exact=True)).to_be_visible()
    assert dav_server.password not in page.content()
    page.close()


def _publish_and_pull(ward: Ward) -> None:
    page = ward.page
    page.goto(ward.addresses["version"])
    _field(page, "Exchange").select_option(label="Ward share")
    ward.press("Publish on this exchange")
    expect(page.get_by_role("heading", level=1)).to_contain_text("Publish")
    ward.job_done()
    page.goto("/projects/new/")
    _field(page, "Name").fill("Second centre")
    ward.press("Create project")
    ward.addresses["second"] = page.url
    ward.room("Exchange")
    page.get_by_role("button", name=re.compile("^Pull")).click()
    ward.job_done()
    ward.room("Models")
    ward.follow("Version 1")
    expect(page.locator(".notice", has_text="In quarantine")).to_be_visible()
    expect(page.get_by_role("link", name="ONNX", exact=True)).to_have_count(0)
    ward.press("Accept this version")
    expect(page.get_by_text("is accepted and can be used")).to_be_visible()
    expect(page.get_by_role("link", name="ONNX", exact=True)).to_be_visible()
    ward.room("Audit trail")
    expect(page.get_by_role("row", name=re.compile("accepted")).first).to_be_visible()


def _as_viewer(ward: Ward, context: BrowserContext, recorder: Any) -> None:
    """Sign in by the form; what a viewer may not do is neither offered nor done."""
    page = context.new_page()
    page.goto("/")
    _field(page, "User name").fill("viktor")
    _field(page, "Password").fill(factories.PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("link", name="Ward study").first.click()
    for address in (ward.addresses[name] for name in ("project", "dataset", "run", "version")):
        page.goto(address)
        looks.settle(page)
        main = page.get_by_role("main")
        assert main.locator("form[method=post]").count() == 0
        for word in ("Upload", "Edit", "Delete", "Archive", "Fine-tune", "Publish", "Predict", "Resume"):
            expect(main.get_by_role("link", name=word, exact=True)).to_have_count(0)
            expect(main.get_by_role("button", name=word, exact=True)).to_have_count(0)
    with recorder.expecting(403, 404):
        page.goto(ward.addresses["dataset"] + "upload/")
        expect(page.get_by_role("heading", level=1)).to_have_text("You are not allowed to do this")
        expect(page.get_by_text("The role that is needed")).to_contain_text("editor")
        token = {cookie["name"]: cookie["value"] for cookie in context.cookies()}["csrftoken"]
        answer = context.request.post(
            ward.addresses["dataset"] + "delete/",
            form={"name": "Simulated ward"},
            headers={"X-CSRFToken": token, "Referer": page.url},
        )
        assert answer.status == 403
        page.goto(ward.addresses["second"])
        expect(page.get_by_role("heading", level=1)).to_have_text("Not found")
    assert Record.objects.count() == 32
