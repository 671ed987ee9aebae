"""Trying a model, its card in three forms, its lineage, trusted keys, and the exchange page."""

from __future__ import annotations

from uuid import uuid4

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import reverse

from datasets.models import Dataset
from ecgportal.errors import Conflict, InvalidInput, NotAllowed
from ecgportal.jobs.models import Job
from modelhub import catalogue, keys, packaging, services, services_exchanges
from modelhub.bundle import new_signing_key, public_key_of
from modelhub.downloads import origin_of
from modelhub.lineage import lineage
from modelhub.models import ModelVersion, SigningKey, Transfer
from tests import factories
from tests.modelhub.conftest import beats, make_contract
from tests.modelhub.test_importing import bundle
from tests.modelhub.test_importing import place as place  # a fixture
from tests.modelhub.test_predicting import make_version
from tests.working import work_off

pytestmark = pytest.mark.django_db


def signed_in(user) -> Client:
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def version() -> ModelVersion:
    project = factories.make_project()
    dataset = factories.make_dataset(project)
    factories.make_record(dataset, "one", signal=beats(1)[0], quality_score=0.1)
    factories.make_record(dataset, "two", signal=beats(1, 2)[0], leads=("I", "II"))
    version = make_version(project)
    services.card_update(actor=None, version=version, card={"intended_use": "Trying <things>.", "licence": "CC0"})
    return version


def test_a_version_is_tried_on_one_record(version):
    owner = factories.make_team(version.model.project)["owner"]
    client, address = signed_in(owner), reverse("modelhub:try", kwargs={"pk": version.pk})
    pk = str(Dataset.objects.get(project=version.model.project).pk)
    factories.make_dataset(version.model.project, name="Aachen, still empty")
    page = client.get(reverse("modelhub:version", kwargs={"pk": version.pk})).context
    assert [str(row.pk) for row in page["try_form"].fields["dataset"].queryset] == [pk]
    answer = client.post(address, {"dataset": pk, "key": ""})
    assert answer.status_code == 302
    assert work_off()[-1].state == "succeeded"
    shown = client.get(answer["Location"]).content.decode()
    assert "Read with care" in shown and "quality is poor" in shown and shown.count('<td class="num">0.50</td>') == 5
    for key, words in (("nobody", "has no record nobody"), ("two", "has no lead")):
        told = client.post(address, {"dataset": pk, "key": key}, follow=True).content.decode()
        assert words in told
    assert Job.objects.count() == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"thresholds": {"NORM": 0.45}}, ("Several findings at once", "NORM 0.45", "(as they came with the model; how they were chosen is not known here)")),
        ({"task": "multiclass", "thresholds": {"NORM": 0.45}}, ("One of several classes", "exceeds its threshold the most is predicted)")),
        ({"task": "multiclass"}, ("One of several classes",)),
    ],
)  # fmt: skip
def test_a_version_tells_its_task_and_how_its_thresholds_decide(changes, words):
    version = make_version(factories.make_project(), **changes)
    client = signed_in(factories.make_team(version.model.project)["owner"])
    page = client.get(reverse("modelhub:version", kwargs={"pk": version.pk})).content.decode()
    assert all(word in page for word in words)
    assert ("<dt>Thresholds</dt>" in page) == ("thresholds" in changes)


@pytest.mark.parametrize(
    ("origin", "checks", "is_known"),
    [
        ("trained", {}, True), ("imported", {}, False), ("pulled", {}, False), ("imported", {"starter": True}, True),
        ("imported", {"catalogue": {"trained_here": True}}, True), ("imported", {"catalogue": {}}, False),
    ],
)  # fmt: skip
def test_only_of_thresholds_that_this_portal_chose_it_is_said_how(origin, checks, is_known):
    version = ModelVersion(origin=origin, checks=checks, contract=make_contract().to_dict())
    said = origin_of(version, {"NORM": 0.4})
    assert said.startswith("chosen on the validation data" if is_known else "as they came with the model")
    assert origin_of(version, {}).startswith("0.5")


def test_an_approved_model_is_tried_on_a_record_of_another_project(version):
    owner = factories.make_team(version.model.project)["owner"]
    administrator = factories.make_user("admin", is_administrator=True)
    entry = catalogue.propose(actor=owner, version=version, reason="r")
    other = factories.make_project()
    team = factories.make_team(other)
    dataset = factories.make_dataset(other)
    factories.make_record(dataset, "three", signal=beats(1)[0])
    client, address = signed_in(team["editor"]), reverse("catalogue_try", kwargs={"pk": entry.pk})
    assert client.post(address, {"dataset": str(dataset.pk)}).status_code == 404
    catalogue.share(actor=administrator, entry=entry, visible_to_all=True)
    catalogue.decide(actor=administrator, entry=entry, decision="approve", reason="r")
    assert b"Try it on one record" in client.get(reverse("catalogue_entry", kwargs={"pk": entry.pk})).content
    answer = client.post(address, {"dataset": str(dataset.pk)})
    job = work_off()[-1]
    assert (job.state, job.project) == ("succeeded", other)
    assert b"NORM" in client.get(answer["Location"]).content
    # A viewer may not predict there, so the dataset is not offered.
    told = signed_in(team["viewer"]).post(address, {"dataset": str(dataset.pk)}, follow=True)
    assert b"Choose a dataset" in told.content and Job.objects.count() == 1


def test_a_card_is_read_as_page_markdown_and_pdf(version):
    client = signed_in(factories.make_team(version.model.project)["viewer"])
    page = reverse("modelhub:card_read", kwargs={"pk": version.pk})
    assert b"Trying &lt;things&gt;." in client.get(page).content
    assert b"Trying &lt;things&gt;." in client.get(page + "?format=markdown").content
    assert client.get(page + "?format=pdf").content.startswith(b"%PDF-")
    api = f"/api/v1/model-versions/{version.pk}/card/"
    assert "Intended use" in client.get(api).json()["markdown"]
    for kind, start in (("pdf", b"%PDF-"), ("html", b"<!doctype html>"), ("markdown", b"# Net")):
        assert client.get(f"{api}?format={kind}").content.startswith(start)
    assert client.get(f"{api}?format=odt").status_code == 422


def descend(version: ModelVersion, number: int, **changes) -> ModelVersion:
    row = ModelVersion.objects.get(pk=version.pk)
    row.pk, row.number, row._state.adding = uuid4(), number, True
    for name, value in changes.items():
        setattr(row, name, value)
    row.save(force_insert=True)
    return row


def test_lineage_shows_parents_and_children(version):
    owner = factories.make_team(version.model.project)["owner"]
    second = descend(version, 2, parent=version)
    descend(version, 3, parent=second)
    descend(version, 4, parent=second)
    graph = lineage(second, owner)
    assert [node.is_self for node in graph.nodes] == [False, True, False, False]
    assert len(graph.edges) == 3 and graph.width > graph.height
    assert "Net v1 was fine-tuned to Net v2." in graph.summary and "Net v2 was fine-tuned to Net v4." in graph.summary


def test_lineage_shows_each_reader_what_the_reader_may_see(version, django_assert_max_num_queries):
    """The proposing project, the project of a copy, and the catalogue between them."""
    owner, administrator = (
        factories.make_team(version.model.project)["owner"],
        factories.make_user(is_administrator=True),
    )
    tuned = descend(version, 2, parent=version)
    entry = catalogue.propose(actor=owner, version=tuned, reason="r")
    catalogue.decide(actor=administrator, entry=entry, decision="approve", reason="r")
    catalogue.share(actor=administrator, entry=entry, visible_to_all=True)
    there = factories.make_project()
    reader = factories.make_team(there)["owner"]
    copy = catalogue.copy(actor=reader, entry=entry, project=there)
    page = reverse("catalogue_entry", kwargs={"pk": entry.pk})

    def names(user, of):
        return [node.lines[0] for node in lineage(of, user).nodes]

    assert names(owner, tuned) == ["Net v1", "Net v2"]
    # The reader knows the entry and the copy; what the entry was made from has no name for them.
    assert names(reader, tuned) == ["A version without a name", "Net v2", "Net v1"]
    assert names(reader, copy) == ["A version without a name", "Net v2", "Net v1"]
    shown = signed_in(reader).get(page).content.decode()
    assert "Lineage" in shown and "Of another project" in shown and str(version.pk) not in shown
    assert f"/versions/{copy.pk}/" in shown and "Net v2 was copied as Net v1." in shown
    assert f"/versions/{version.pk}/" in signed_in(owner).get(page).content.decode()
    rows = signed_in(reader).get(f"/api/v1/catalogue/{entry.pk}/lineage/").json()
    assert [row["version"] for row in rows["ancestors"]] == [None] and rows["ancestors"][0]["sha256"] == version.sha256
    assert [row["version"] for row in rows["children"]] == [str(copy.pk)]
    assert rows["self"][0]["version"] == str(tuned.pk) and rows["self"][0]["dataset"] is None
    assert signed_in(factories.make_user()).get(f"/api/v1/catalogue/{entry.pk}/lineage/").status_code == 200
    with django_assert_max_num_queries(20):
        lineage(copy, reader)


def test_a_model_from_another_portal_names_its_parent_by_its_digest(version):
    owner = factories.make_team(version.model.project)["owner"]
    known = descend(version, 2, facts={"parent_sha256": version.sha256}, sha256="a" * 64)
    stranger = descend(version, 3, facts={"parent_sha256": "b" * 64}, sha256="c" * 64)
    assert [node.lines[0] for node in lineage(known, owner).nodes] == ["Net v1", "Net v2"]
    first = lineage(stranger, owner).nodes[0]
    assert first.lines[1] == "Not on this portal" and first.url == ""


def test_a_trusted_key_is_marked_and_only_administrators_trust(place):
    private = new_signing_key()
    public = public_key_of(private).hex()
    administrator = factories.make_user("admin", is_administrator=True)
    with pytest.raises(NotAllowed):
        keys.trust(actor=place.owner, name="x", public_key=public)
    client, page = signed_in(administrator), reverse("modelhub:keys")
    assert client.post(page, {"name": "Other hospital", "public_key": "short"}).status_code == 422
    assert client.post(page, {"name": "Other hospital", "public_key": public}).status_code == 302
    version = ModelVersion.objects.get(pk=place.by_exchange("a.ecgmodel.zip", bundle(private)).result["version"])
    assert (version.state, version.checks["signature"], version.checks["concerns"]) == ("quarantined", "trusted", [])
    with pytest.raises(Conflict):
        keys.trust(actor=administrator, name="again", public_key=public)
    with pytest.raises(InvalidInput):
        keys.trust(actor=administrator, name="", public_key="00" * 32)
    row = SigningKey.objects.get(public_key=public)
    assert client.post(page, {"remove": str(row.pk)}).status_code == 302
    assert not SigningKey.objects.filter(public_key=public).exists()
    with pytest.raises(Conflict):
        keys.distrust(actor=administrator, key=packaging.own_key())


def test_the_exchange_page_brings_both_sides_together(place):
    make_version(place.project)
    (place.dav.folder / "theirs.ecgmodel.zip").write_bytes(bundle(name="Theirs"))
    services_exchanges.exchange_save(actor=place.owner, name="Off", url="http://127.0.0.1:9/")
    page = reverse("modelhub:exchanges", kwargs={"project": place.project.pk})
    shown = place.client.get(page).content.decode()
    assert "does not answer on port 9" in shown and "Errno" not in shown
    assert "only here" in shown and "only on the exchange" in shown
    place.client.post(page, {"exchange": str(place.exchange.pk), "sync": "1"})
    assert {job.state for job in work_off()} == {"succeeded"}
    assert sorted(Transfer.objects.values_list("direction", flat=True)) == ["pull", "push"]
    names = sorted(path.name for path in place.dav.folder.iterdir())
    assert [name.split("-")[0] for name in names] == ["net", "net", "theirs.ecgmodel.zip"] and names[1].endswith(
        ".json"
    )
    rows = place.client.get(f"/api/v1/exchanges/{place.exchange.pk}/models/?project={place.project.pk}").json()[
        "results"
    ]
    assert {row["state"] for row in rows} == {"same"}


def test_the_catalogue_is_filtered_by_input_and_metrics(version):
    owner = factories.make_team(version.model.project)["owner"]
    metrics = {"auroc_macro": {"value": 0.91, "low": 0.9, "high": 0.92}, "n": 50, "part": "test", "data": "Ward ECGs"}
    ModelVersion.objects.filter(pk=version.pk).update(facts={"metrics": metrics})
    catalogue.propose(actor=owner, version=ModelVersion.objects.get(pk=version.pk), reason="r")
    client = signed_in(owner)
    for query, count in (
        ("leads=12", 1), ("leads=2", 0), ("fs_hz=100", 1), ("fs_hz=500", 0), ("auroc=0.9", 1), ("auroc=0.95", 0), ("data=ward", 1), ("data=x", 0),
    ):  # fmt: skip
        assert client.get(f"/api/v1/catalogue/?{query}").json()["count"] == count, query
        shown = client.get(f"{reverse('catalogue')}?{query}").content.decode()
        assert ("Net v1" in shown) is bool(count), query
    assert client.get("/api/v1/catalogue/?leads=many").status_code == 422


def test_an_import_that_comes_back_asks_for_its_file_again():
    project = factories.make_project()
    client = signed_in(factories.make_team(project)["owner"])
    file = SimpleUploadedFile("a.onnx", b"model")
    address = reverse("modelhub:import", kwargs={"project": project.pk})
    answer = client.post(address, {"name": "", "file": file})
    assert answer.status_code == 422
    assert answer.context["form"].errors["file"] == ["Choose the file again; the browser does not keep it."]
    assert client.post(address, {"name": ""}).context["form"].errors["file"] == ["This field is required."]
