"""Measuring a dataset once, and what rests on it: distributions with links, order, groups, outliers, shift between datasets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import reverse
from scipy import stats

from datasets import featuring
from datasets.insight import ALL, FIELDS, cross, insight, measure_by
from datasets.measure.effects import cohens_d, cramers_v, word
from datasets.measure.features import FEATURES, SHAPE_LEADS, SHAPE_POINTS, VERSION, features
from datasets.models import Dataset, Record, RecordFeatures, RecordLabel
from datasets.outliers import outliers
from datasets.selectors import filtered
from datasets.services import upload_receive
from datasets.shift import shift, summary
from datasets.simulate import simulate
from ecgportal.audit.models import AuditEvent
from ecgportal.errors import Conflict
from tests.ecgfiles import make_cohort
from tests.factories import LEADS, make_dataset, make_project, make_record
from tests.working import work_off


def test_features_of_a_record_are_its_measurements_and_its_beat():
    record = simulate("SNR", 4, fs_hz=500.0, duration_s=10.0).record
    found = features(record, 0.012)
    assert list(found.values) == list(FEATURES) and 40 < found.values["heart_rate_bpm"] < 130
    assert found.values["noise_mv"] == 0.012 and found.reason == ""
    assert found.shape.shape == (len(SHAPE_LEADS), SHAPE_POINTS)
    lead = record.lead("V2")
    assert found.values["amplitude_mv"] >= 0.8 * (np.percentile(lead, 99.5) - np.percentile(lead, 0.5))


def test_a_flat_record_has_a_reason_and_no_numbers():
    record = simulate("SNR", 4, fs_hz=250.0, duration_s=5.0).record
    flat = type(record)(np.zeros_like(record.signal), record.fs_hz, record.leads)
    found = features(flat)
    assert found.shape is None and found.reason and set(found.values.values()) == {None}


def test_effect_sizes_agree_with_independent_formulas():
    rng = np.random.default_rng(2)
    a, b = rng.normal(70, 10, 500), rng.normal(76, 12, 500)
    expected = (b.mean() - a.mean()) / np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 2)
    assert cohens_d(a.mean(), a.std(ddof=1), b.mean(), b.std(ddof=1)) == pytest.approx(expected)
    table = np.array([[30, 10, 5], [10, 25, 9]])
    assert cramers_v(table[0], table[1]) == pytest.approx(stats.contingency.association(table, method="cramer"))
    assert [word(x, "d") for x in (0.1, -0.3, 0.6, 2)] == ["negligible", "small", "medium", "large"]
    assert cohens_d(1, 0, 2, 0) is None and cramers_v([0, 0], [1, 2]) is None


def _fill(dataset: Dataset, n: int, *, rate: float = 70.0, seed: int = 0, male: float = 0.5) -> None:
    """Store records with made-up features; all share one signal."""
    rng = np.random.default_rng(seed)
    pack = make_record(dataset, f"{dataset.pk}-zero").pack
    Record.objects.filter(dataset=dataset).delete()
    rows = Record.objects.bulk_create(
        Record(dataset=dataset, key=f"r{k:05d}", format="wfdb", fs_hz=100, n_samples=200, leads=list(LEADS), pack=pack, offset=0, age=20 + k % 60,
               sex="M" if rng.random() < male else "F", content_sha256=f"{k:064d}")
        for k in range(n)
    )  # fmt: skip
    RecordFeatures.objects.bulk_create(
        RecordFeatures(record=row, version=VERSION, heart_rate_bpm=round(float(rng.normal(rate, 8)), 2), qtc_ms=float(rng.normal(410, 20)), axis_deg=float(rng.normal(30, 25)))
        for row in rows
    )  # fmt: skip
    RecordLabel.objects.bulk_create(
        RecordLabel(record=row, system="scp", code=("NORM", "AFIB")[k % 3 == 0], source="file")
        for k, row in enumerate(rows)
    )


class TestMeasuring:
    def test_the_job_measures_what_is_not_measured_yet(self, dataset: Dataset, team: dict[str, Any]) -> None:
        for k in range(2):
            made = simulate("SNR", k, fs_hz=250.0, duration_s=8.0).record
            make_record(
                dataset,
                f"real{k}",
                signal=made.signal,
                fs_hz=250.0,
                quality={"leads": [{"noise_mv": 0.02}, {"noise_mv": 0.04}]},
            )
        lost = make_record(dataset, "lost")
        Record.objects.filter(pk=lost.pk).update(offset=10**9)
        featuring.measuring_start(actor=team["editor"], dataset=dataset)
        with pytest.raises(Conflict, match="already"):
            featuring.measuring_start(actor=team["editor"], dataset=dataset)
        job = work_off()[-1]
        assert job.state == "succeeded" and job.result["measured"] == 3 and job.result["without_beats"] == 1
        row = RecordFeatures.objects.get(record__key="real1")
        assert row.heart_rate_bpm > 40 and row.noise_mv == 0.03 and len(row.shape) == 2 * 8 * 50
        assert "missing" in lost.features.reason and lost.features.heart_rate_bpm is None
        assert AuditEvent.objects.filter(action="dataset.measured").count() == 1
        with pytest.raises(Conflict, match="Every record"):
            featuring.measuring_start(actor=team["editor"], dataset=dataset)
        RecordFeatures.objects.update(version=0)
        assert featuring.unmeasured(dataset).count() == 3

    def test_an_upload_is_measured_by_itself_up_to_a_limit(
        self, dataset: Dataset, team: dict[str, Any], settings: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        given_way: list[int] = []
        monkeypatch.setattr("os.nice", given_way.append)
        files = [SimpleUploadedFile("study.zip", make_cohort(3, fs_hz=100.0, duration_s=5.0).zip())]
        settings.MEASURE_UP_TO = 3
        upload_receive(actor=team["editor"], dataset=dataset, files=files)
        assert [job.kind for job in work_off()] == ["ingest", "features"]
        assert not featuring.unmeasured(dataset).exists() and given_way == [10]
        upload_receive(
            actor=team["editor"],
            dataset=dataset,
            files=[SimpleUploadedFile("again.zip", make_cohort(3, fs_hz=100.0, duration_s=5.0).zip())],
        )
        assert [job.kind for job in work_off()] == ["ingest"]
        make_record(dataset, "fourth")
        settings.MEASURE_UP_TO = 0
        assert featuring.follow_upload(actor=team["editor"], dataset=dataset) is None
        settings.MEASURE_UP_TO = 1
        assert featuring.follow_upload(actor=team["editor"], dataset=dataset).payload["in_background"]
        assert featuring.follow_upload(actor=team["editor"], dataset=dataset) is None

    def test_only_an_editor_starts_it(self, client: Client, dataset: Dataset, team: dict[str, Any]) -> None:
        make_record(dataset)
        for role, status in (("outsider", 404), ("viewer", 403), ("editor", 302)):
            client.force_login(team[role])
            assert client.post(reverse("viz:measure", args=[dataset.pk])).status_code == status
        assert "Measure" in client.get(reverse("viz:insight", args=[dataset.pk])).content.decode()


class TestViews:
    @pytest.fixture
    def viewer(self, client: Client, dataset: Dataset, team: dict[str, Any]) -> Client:
        _fill(dataset, 120)
        client.force_login(team["viewer"])
        return client

    def test_each_bar_of_a_distribution_leads_to_its_records(self, viewer: Client, dataset: Dataset) -> None:
        page = viewer.get(reverse("viz:insight", args=[dataset.pk]))
        panels = {panel["name"]: panel for panel in page.context["distributions"]}
        assert set(panels) == {"heart_rate_bpm", "qtc_ms", "axis_deg"}
        for name, count, _, url in panels["heart_rate_bpm"]["rows"]:
            found = viewer.get(url.partition("#")[0]).context
            assert found["page_obj"].paginator.count == count and found["is_filtered"], name
        assert sum(count for _, count, *_ in panels["axis_deg"]["rows"]) == 120
        assert "median" in panels["qtc_ms"]["svg"]
        assert viewer.get(reverse("viz:insight", args=[dataset.pk]) + "?svg=qtc_ms").content.startswith(b"<svg")

    def test_any_field_by_any_other_agrees_with_the_record_list(self, dataset: Dataset, viewer: Client) -> None:
        records = Record.objects.filter(dataset=dataset)
        for what, by in (
            ("labels", "sex"),
            ("heart_rate_bpm", "sex"),
            ("age", "labels"),
            ("format", "device"),
            ("sex", "quality"),
        ):
            table = cross(dataset, ALL[what], FIELDS[by])
            for counts, filters in zip(table.counts, table.filters, strict=True):
                for n, query in zip(counts, filters, strict=True):
                    assert filtered(records, query).count() == n, query
        page = viewer.get(reverse("viz:insight", args=[dataset.pk]) + "?what=labels&by=sex")
        assert page.context["grouping"]["columns"] == ["female", "male"]
        ranges = viewer.get(reverse("viz:insight", args=[dataset.pk]) + "?what=qtc_ms&by=age")
        assert len(ranges.context["grouping"]["groups"]) == 6

    def test_quartiles_by_group(self, dataset: Dataset, viewer: Client) -> None:
        for group in measure_by(dataset, "heart_rate_bpm", FIELDS["sex"]):
            values = RecordFeatures.objects.filter(record__sex=group.filters["sex"]).values_list(
                "heart_rate_bpm", flat=True
            )
            assert group.known == len(values)
            assert group.quartiles == pytest.approx(np.percentile(list(values), [25, 50, 75]))

    def test_the_gallery_is_in_the_order_of_a_measure(self, viewer: Client, dataset: Dataset) -> None:
        cards = viewer.get(reverse("viz:gallery", args=[dataset.pk]) + "?sort=-heart_rate_bpm").context["cards"]
        rates = [row.features.heart_rate_bpm for row, *_ in cards]
        assert len(rates) == 24 and rates == sorted(rates, reverse=True)
        assert cards[0][3] == f"Heart rate: {rates[0]:.4g} bpm"

    def test_outliers_come_ranked_with_their_reason(self, viewer: Client, dataset: Dataset) -> None:
        RecordFeatures.objects.filter(record__key="r00003").update(heart_rate_bpm=210)
        RecordFeatures.objects.filter(record__key="r00004").update(qtc_ms=700)
        RecordFeatures.objects.filter(record__key="r00005").update(heart_rate_bpm=None, reason="No R peak stands out.")
        cards = viewer.get(reverse("viz:outliers", args=[dataset.pk])).context["cards"]
        assert [row.key for row, *_ in cards] == ["r00005", "r00003", "r00004"]
        reasons = [reason for *_, reason in cards]
        assert reasons[0] == "No R peak stands out." and reasons[1].startswith(
            "Heart rate 210 bpm; half of the dataset lies between"
        )
        assert "QTc (Fridericia) 700 ms" in reasons[2]
        found = outliers(dataset)
        for row in found.records[1:]:
            assert f"({row.score:.1f} standard deviations" in found.reason(row)

    def test_queries_are_bounded(self, viewer: Client, dataset: Dataset, django_assert_max_num_queries: Any) -> None:
        for name, most in (("viz:insight", 54), ("viz:gallery", 22), ("viz:outliers", 13)):
            with django_assert_max_num_queries(most):
                viewer.get(reverse(name, args=[dataset.pk]))

    def test_empty_and_unmeasured_datasets(self, viewer: Client, dataset: Dataset) -> None:
        bare = make_dataset(dataset.project)
        for name in ("viz:insight", "viz:gallery", "viz:outliers", "viz:dataset_compare"):
            assert viewer.get(reverse(name, args=[bare.pk])).status_code == 200
        make_record(bare)
        assert viewer.get(reverse("viz:outliers", args=[bare.pk])).context["measured"] is False


class TestShift:
    def test_what_differs_comes_first_with_its_effect(self, dataset: Dataset) -> None:
        _fill(dataset, 300)
        other = make_dataset(dataset.project, "Clinic")
        _fill(other, 200, rate=85.0, seed=5, male=0.9)
        found = shift(dataset, other)
        assert (
            found[0].name == "heart_rate_bpm"
            and found[0].size == "large"
            and found[0].sentence.startswith("Heart rate is higher in Clinic")
        )
        a, b = (
            list(RecordFeatures.objects.filter(record__dataset=one).values_list("heart_rate_bpm", flat=True))
            for one in (dataset, other)
        )
        assert found[0].ks == pytest.approx(stats.ks_2samp(a, b).statistic)
        assert found[0].effect == pytest.approx(cohens_d(np.mean(a), np.std(a, ddof=1), np.mean(b), np.std(b, ddof=1)))
        by_name = {one.name: one for one in found}
        assert by_name["sex"].size == "medium" and "less frequent in Clinic" in by_name["sex"].sentence
        assert abs(by_name["qtc_ms"].effect) < 0.2 and "Heart rate" in summary(dataset, other, found)

    def test_the_page_and_a_dataset_of_another_project(
        self, client: Client, dataset: Dataset, team: dict[str, Any], django_assert_max_num_queries: Any
    ) -> None:
        _fill(dataset, 40)
        other = make_dataset(dataset.project, "Clinic")
        _fill(other, 40, rate=60.0)
        foreign = make_dataset(make_project(), "Foreign")
        client.force_login(team["viewer"])
        url = reverse("viz:dataset_compare", args=[dataset.pk])
        with django_assert_max_num_queries(60):
            page = client.get(url, {"other": str(other.pk)})
        assert page.context["differences"][0].name == "heart_rate_bpm"
        assert (
            "other" not in client.get(url, {"other": str(foreign.pk)}).context
            or client.get(url, {"other": str(foreign.pk)}).context.get("other") is None
        )

    def test_insight_counts_measures_only_when_there_are_some(self, dataset: Dataset) -> None:
        make_record(dataset)
        assert insight(dataset).measures == {}


def test_counts_are_kept_until_something_changes(dataset: Dataset, django_assert_max_num_queries: Any) -> None:
    _fill(dataset, 30)
    first = insight(dataset)
    with django_assert_max_num_queries(2):
        assert insight(dataset) == first
    record = Record.objects.filter(dataset=dataset, sex="F").first()
    changes = (
        lambda: Record.objects.filter(pk=record.pk).update(sex="M"),
        lambda: RecordLabel.objects.create(record=record, system="scp", code="NEW", source="table"),
        lambda: RecordFeatures.objects.filter(record=record).update(qtc_ms=555.0),
        lambda: RecordLabel.objects.filter(record=record).delete(),
        lambda: record.delete(),
    )
    for change in changes:
        change()
        found = insight(dataset)
        assert found != first
        first = found
    assert found.totals.records == 29 and "NEW" not in found.fields["labels"].counts


class TestRest:
    @pytest.fixture
    def viewer(self, client: Client, dataset: Dataset, team: dict[str, Any]) -> Client:
        _fill(dataset, 120)
        client.force_login(team["viewer"])
        return client

    def test_counts_and_distributions_are_those_of_the_page(
        self, viewer: Client, dataset: Dataset, django_assert_max_num_queries: Any
    ) -> None:
        address = f"/api/v1/datasets/{dataset.pk}/"
        with django_assert_max_num_queries(54):
            found = viewer.get(address + "insight/").json()
        assert found["records"] == found["measured"] == 120
        assert sum(one["records"] for one in found["fields"]["sex"]) == 120
        rate = found["measures"]["heart_rate_bpm"]
        assert rate["unit"] == "bpm" and sum(bar["records"] for bar in rate["bars"]) == 120
        bar = rate["bars"][3]
        assert filtered(Record.objects.filter(dataset=dataset), bar["filter"]).count() == bar["records"]
        groups = viewer.get(address + "insight/by/?what=qtc_ms&by=sex").json()["groups"]
        assert {one["value"] for one in groups} == {"female", "male"} and all(
            len(one["quartiles"]) == 3 for one in groups
        )
        table = viewer.get(address + "insight/by/?what=labels&by=sex").json()
        assert sum(map(sum, table["counts"])) == RecordLabel.objects.filter(record__dataset=dataset).count()
        for bad in ("what=x&by=sex", "what=sex&by=sex", "what=sex&by=heart_rate_bpm", ""):
            assert viewer.get(address + "insight/by/?" + bad).status_code == 422

    def test_measures_and_outliers(self, viewer: Client, dataset: Dataset, django_assert_max_num_queries: Any) -> None:
        RecordFeatures.objects.filter(record__key="r00007").update(qtc_ms=900.0)
        RecordFeatures.objects.filter(record__key="r00009").update(reason="No beat was found.")
        with django_assert_max_num_queries(12):
            page = viewer.get(f"/api/v1/datasets/{dataset.pk}/measures/?page_size=100").json()
        assert page["count"] == 120 and page["results"][7]["key"] == "r00007" and page["results"][7]["qtc_ms"] == 900.0
        with django_assert_max_num_queries(12):
            first, second = viewer.get(f"/api/v1/datasets/{dataset.pk}/outliers/").json()["results"]
        assert (first["key"], first["score"], first["reason"]) == ("r00009", None, "No beat was found.")
        assert second["key"] == "r00007" and second["score"] > 20 and "QTc" in second["reason"]
        assert second["measures"]["qtc_ms"] == 900.0

    def test_measuring_is_started_by_an_editor(self, client: Client, dataset: Dataset, team: dict[str, Any]) -> None:
        make_record(dataset)
        address = f"/api/v1/datasets/{dataset.pk}/measures/"
        for role, status in (("outsider", 404), ("viewer", 403), ("editor", 202), ("editor", 409)):
            client.force_login(team[role])
            answer = client.post(address)
            assert answer.status_code == status, answer.content
        work_off()
        assert client.get(address).json()["count"] == 1
        assert client.post(address).json()["error"]["code"] == "nothing_to_measure"

    def test_shift_names_the_largest_difference_first(self, viewer: Client, dataset: Dataset) -> None:
        other = make_dataset(dataset.project, "Second")
        _fill(other, 120, rate=90.0, seed=4)
        found = viewer.get(f"/api/v1/datasets/{dataset.pk}/shift/?other={other.pk}").json()
        assert found["differences"][0]["field"] == "heart_rate_bpm" and found["differences"][0]["effect"] > 2
        assert "higher in Second" in found["summary"] and 0.5 < found["differences"][0]["ks_distance"] <= 1
        foreign = make_dataset(make_project(), "Theirs")
        for bad in ("", f"?other={foreign.pk}", f"?other={dataset.pk}", "?other=x"):
            assert viewer.get(f"/api/v1/datasets/{dataset.pk}/shift/{bad}").status_code in (400, 422), bad
