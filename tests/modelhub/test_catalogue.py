"""The catalogue: who proposes, who decides, who sees, who copies; and what the database itself refuses."""

from __future__ import annotations

import pytest
from django.db import IntegrityError, connection, transaction
from django.test import Client
from django.urls import reverse

from ecgportal import storage
from ecgportal.audit.models import AuditEvent
from ecgportal.errors import Conflict, InvalidInput, NotAllowed, NotFound
from modelhub import catalogue, packaging, services
from modelhub.contract import TASKS
from modelhub.identifiers import find_identifiers
from modelhub.models import CatalogueDecision, CatalogueEntry, Model, ModelVersion, PredictionRun
from tests import factories
from tests.modelhub.conftest import make_contract

pytestmark = pytest.mark.django_db

PROSE = {"intended_use": "Screening of adults in research.", "licence": "CC-BY-4.0", "training_data": "Not known."}


def make_version(project, name="Net", **fields) -> ModelVersion:
    contract = make_contract(architecture="inception_time")
    sha256, size = storage.put_bytes(f"weights of {project.pk} {name}".encode())
    values = {
        "model": Model.objects.create(project=project, name=name), "number": 1, "state": "ready", "origin": "trained",
        "contract": contract.to_dict(), "classes": list(contract.classes), "task": contract.task, "architecture": "inception_time",
        "parameters": 12_345_678, "sha256": sha256, "size": size, "card": PROSE, "checks": {"format": "onnx"},
    }  # fmt: skip
    return ModelVersion.objects.create(**(values | fields))


@pytest.fixture
def source():
    return factories.make_project(name="Source")


@pytest.fixture
def team(source):
    return factories.make_team(source)


@pytest.fixture
def target():
    return factories.make_project(name="Target")


@pytest.fixture
def others(target):
    return factories.make_team(target)


@pytest.fixture
def entry(source, team):
    return catalogue.propose(actor=team["owner"], version=make_version(source), reason="Useful elsewhere.")


@pytest.fixture
def approved(entry, administrator):
    return catalogue.decide(actor=administrator, entry=entry, decision="approve", reason="Read and tried.")


def signed_in(user) -> Client:
    client = Client()
    client.force_login(user)
    return client


def test_a_proposal_goes_through_review_to_approval_and_retirement(entry, administrator, team):
    assert entry.state == "in_review"
    for decision, state in (("refuse", "draft"), (None, "in_review"), ("approve", "approved"), ("retire", "retired")):
        if decision:
            entry = catalogue.decide(actor=administrator, entry=entry, decision=decision, reason=f"Because {decision}.")
        else:
            entry = catalogue.propose(actor=team["owner"], version=entry.version, reason="Mended.")
        assert entry.state == state
    rows = list(
        CatalogueDecision.objects.filter(entry=entry).values_list("from_state", "to_state", "reason", "decided_by_name")
    )
    owner = team["owner"].username
    assert rows == [
        ("draft", "in_review", "Useful elsewhere.", owner), ("in_review", "draft", "Because refuse.", "admin"),
        ("draft", "in_review", "Mended.", owner), ("in_review", "approved", "Because approve.", "admin"),
        ("approved", "retired", "Because retire.", "admin"),
    ]  # fmt: skip
    verbs = AuditEvent.objects.filter(action__startswith="catalogue.").order_by("id").values_list("action", flat=True)
    assert [verb.split(".")[1] for verb in verbs] == ["proposed", "refused", "proposed", "approved", "retired"]


def test_only_a_ready_version_with_its_use_and_licence_can_be_proposed_once(source, team, entry):
    owner = team["owner"]
    with pytest.raises(Conflict, match="already"):
        catalogue.propose(actor=owner, version=entry.version, reason="Again.")
    with pytest.raises(Conflict, match="not ready"):
        catalogue.propose(actor=owner, version=make_version(source, "Q", state="quarantined"), reason="r")
    with pytest.raises(InvalidInput) as refused:
        catalogue.propose(actor=owner, version=make_version(source, "Bare", card={"licence": " "}), reason="r")
    assert set(refused.value.fields) == {"intended_use", "licence"}
    named = PROSE | {"training_data": "patient id: 8812, seen twice"}
    with pytest.raises(InvalidInput) as refused:
        catalogue.propose(actor=owner, version=make_version(source, "Named", card=named), reason="r")
    assert refused.value.code == "identifiers_found"
    with pytest.raises(InvalidInput, match="why"):
        catalogue.propose(actor=owner, version=make_version(source, "Silent"), reason="  ")
    assert CatalogueEntry.objects.count() == 1


def test_the_card_of_a_large_network_holds_nothing_that_looks_like_a_patient(source):
    card = packaging.card_markdown(make_version(source))
    assert "| parameters | 12,345,678 |" in card
    assert find_identifiers(card) == []


def test_only_administrators_decide_and_only_from_the_right_state(entry, team, administrator, others):
    for user in (team["owner"], others["owner"]):
        for call in (
            lambda user=user: catalogue.decide(actor=user, entry=entry, decision="approve", reason="r"),
            lambda user=user: catalogue.share(actor=user, entry=entry, visible_to_all=True),
        ):
            with pytest.raises(NotAllowed):
                call()
    with pytest.raises(Conflict, match="only an entry that is approved can be retired"):
        catalogue.decide(actor=administrator, entry=entry, decision="retire", reason="r")
    with pytest.raises(InvalidInput):
        catalogue.decide(actor=administrator, entry=entry, decision="publish", reason="r")
    assert catalogue.withdraw(actor=team["owner"], entry=entry, reason="Too early.").state == "draft"
    with pytest.raises(Conflict):
        catalogue.withdraw(actor=team["owner"], entry=entry, reason="Again.")


def test_entries_are_seen_by_grant(entry, administrator, team, others, target):
    def seen(user):
        return set(catalogue.visible(user)) == {entry}

    assert seen(team["viewer"]) and seen(administrator)
    assert not seen(others["owner"]) and not seen(team["outsider"])
    catalogue.share(actor=administrator, entry=entry, projects=[target])
    assert not seen(others["viewer"]), "a grant counts from the approval on"
    catalogue.decide(actor=administrator, entry=entry, decision="approve", reason="r")
    assert seen(others["viewer"]) and not seen(team["outsider"])
    catalogue.share(actor=administrator, entry=entry, visible_to_all=True)
    assert seen(team["outsider"])
    catalogue.decide(actor=administrator, entry=entry, decision="retire", reason="r")
    assert seen(team["viewer"]) and seen(administrator)
    assert not seen(others["owner"]) and not seen(team["outsider"])
    with pytest.raises(NotFound):
        catalogue.find(others["owner"], entry.pk)


def test_a_draft_is_its_projects_own_business(entry, administrator, team):
    catalogue.withdraw(actor=team["owner"], entry=entry, reason="Too early.")
    assert not catalogue.visible(administrator).exists()
    assert catalogue.visible(team["viewer"]).exists()


def test_a_copy_is_ready_says_where_it_comes_from_and_keeps_what_was_approved(approved, administrator, others, target):
    catalogue.share(actor=administrator, entry=approved, projects=[target])
    services.card_update(actor=administrator, version=approved.version, card={"licence": "changed afterwards"})
    copy = catalogue.copy(actor=others["editor"], entry=approved, project=target)
    original = approved.version
    assert (copy.state, copy.origin, copy.parent, copy.model.project) == ("ready", "imported", None, target)
    assert (copy.sha256, copy.contract, copy.classes) == (original.sha256, original.contract, original.classes)
    assert copy.card == PROSE
    assert copy.checks["catalogue"]["entry"] == str(approved.pk)
    assert copy.checks["catalogue"]["approved_by"] == "admin"
    event = AuditEvent.objects.get(action="catalogue.copied")
    assert (event.project_id, event.actor_id) == (target.pk, others["editor"].pk)
    with pytest.raises(Conflict) as again:
        catalogue.copy(actor=others["editor"], entry=approved, project=target)
    assert again.value.code == "already_here"
    page = signed_in(others["viewer"]).get(reverse("modelhub:version", args=[copy.pk])).content.decode()
    assert "admin vouched for it" in page


def test_what_is_not_granted_not_approved_or_not_allowed_is_not_copied(approved, administrator, team, others, target):
    with pytest.raises(Conflict) as refused:
        catalogue.copy(actor=others["owner"], entry=approved, project=target)
    assert refused.value.code == "not_granted"
    catalogue.share(actor=administrator, entry=approved, visible_to_all=True)
    with pytest.raises(NotAllowed):
        catalogue.copy(actor=others["viewer"], entry=approved, project=target)
    with pytest.raises(NotFound):
        catalogue.copy(actor=team["owner"], entry=approved, project=target)
    with pytest.raises(Conflict, match="comes from"):
        catalogue.copy(actor=team["owner"], entry=approved, project=approved.version.model.project)
    catalogue.decide(actor=administrator, entry=approved, decision="retire", reason="r")
    with pytest.raises(Conflict, match="not approved"):
        catalogue.copy(actor=others["owner"], entry=approved, project=target)
    assert not ModelVersion.objects.filter(model__project=target).exists()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE modelhub_catalogueentry SET state = 'published'",
        "UPDATE modelhub_catalogueentry SET state = 'retired'",
        "UPDATE modelhub_catalogueentry SET shown = '{}'",
        "UPDATE modelhub_cataloguedecision SET reason = 'another'",
        "DELETE FROM modelhub_cataloguedecision",
        "INSERT INTO modelhub_catalogueentry (id, created_at, version_id, state, shown, visible_to_all) "
        "SELECT gen_random_uuid(), now(), version_id, 'draft', '{}', false FROM modelhub_catalogueentry",
    ],
)
def test_the_database_keeps_the_rules(entry, statement):
    with pytest.raises(IntegrityError), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statement)
    entry.refresh_from_db()
    assert entry.state == "in_review"


def test_a_decision_keeps_the_name_of_a_removed_account(entry, administrator):
    catalogue.decide(actor=administrator, entry=entry, decision="approve", reason="r")
    CatalogueDecision.objects.filter(decided_by=administrator).update(decided_by=None)
    assert CatalogueDecision.objects.get(to_state="approved").decided_by_name == "admin"


def test_search_and_filters(source, team, administrator):
    first = catalogue.propose(actor=team["owner"], version=make_version(source, "Alpha"), reason="r")
    other = make_version(
        source,
        "Beta",
        task="multiclass",
        architecture="xception_time",
        classes=["AF", "SNR"],
        card=PROSE | {"licence": "MIT"},
    )
    second = catalogue.propose(actor=team["owner"], version=other, reason="r")
    rows = catalogue.visible(team["viewer"])
    for wanted, found in (
        ({"text": "alph"}, {first}), ({"text": "screening"}, {first, second}), ({"label": "af"}, {second}), ({"task": "multiclass"}, {second}),
        ({"architecture": "inception_time"}, {first}), ({"licence": "cc-by"}, {first}), ({"state": "approved"}, set()), ({"text": "zzz"}, set()),
    ):  # fmt: skip
        assert set(catalogue.search(rows, **wanted)) == found, wanted


def test_deleting_is_refused_while_something_depends_on_the_version(source, team, entry):
    owner = team["owner"]
    dataset = factories.make_dataset(source)
    parent, used, free = make_version(source, "Parent"), make_version(source, "Used"), make_version(source, "Free")
    make_version(source, "Child", parent=parent)
    job = factories.make_job(source, kind="predict")
    PredictionRun.objects.create(project=source, version=used, dataset=dataset, job=job)
    for version, what in ((parent, "model version"), (used, "prediction run"), (entry.version, "catalogue entry")):
        with pytest.raises(Conflict, match=what) as refused:
            services.version_delete(actor=owner, version=version)
        assert refused.value.code == "version_in_use"
        assert ModelVersion.objects.filter(pk=version.pk).exists()
        assert storage.read_blob(version.sha256)
    services.version_delete(actor=owner, version=free)
    assert not ModelVersion.objects.filter(pk=free.pk).exists()


def test_pages_lead_from_the_proposal_to_the_copy(source, team, administrator, others, target):
    version = make_version(source)
    owner, admin, user = signed_in(team["owner"]), signed_in(administrator), signed_in(others["editor"])
    assert "Propose for the catalogue" in owner.get(reverse("modelhub:version", args=[version.pk])).content.decode()
    propose = reverse("catalogue_propose", args=[version.pk])
    assert owner.get(propose).status_code == 200
    assert owner.post(propose, {"reason": ""}).status_code == 422
    assert owner.post(propose, {"reason": "Useful."}).status_code == 302
    entry = CatalogueEntry.objects.get()
    page = reverse("catalogue_entry", args=[entry.pk])
    assert user.get(page).status_code == 404
    shown = admin.get(page).content.decode()
    assert "Record the decision" in shown and "Useful." in shown
    wrong = admin.post(reverse("catalogue_decide", args=[entry.pk]), {"decision": "retire", "reason": "r"})
    assert wrong.status_code == 422
    done = admin.post(reverse("catalogue_decide", args=[entry.pk]), {"decision": "approve", "reason": "Tried."})
    assert done.status_code == 302
    assert admin.post(reverse("catalogue_share", args=[entry.pk]), {"projects": [str(target.pk)]}).status_code == 302
    listed = user.get(reverse("catalogue"), {"text": "net", "task": "multilabel"}).content.decode()
    assert page in listed and 'aria-current="page"' in listed
    shown = user.get(page).content.decode()
    assert "Tried." in shown and "Useful." not in shown and "CC-BY-4.0" in shown
    assert "Record the decision" not in shown and "Copy into the project" in shown
    copied = user.post(reverse("catalogue_copy", args=[entry.pk]), {"project": str(target.pk)})
    copy = ModelVersion.objects.get(model__project=target)
    assert copied.url == reverse("modelhub:version", args=[copy.pk])
    assert "Copy into the project" not in user.get(page).content.decode()


def test_two_models_are_compared_side_by_side(source, team):
    entries = [
        catalogue.propose(actor=team["owner"], version=make_version(source, name, task=task), reason="r")
        for name, task in (("A", "multilabel"), ("B", "multiclass"))
    ]
    client, address = signed_in(team["viewer"]), reverse("catalogue_compare")
    answer = client.get(address, {"entry": [str(entry.pk) for entry in entries]})
    rows = {row["name"]: row for row in answer.context["rows"]}
    assert rows["Task"] == {"name": "Task", "cells": [TASKS["multilabel"], TASKS["multiclass"]], "differs": True}
    assert rows["Licence"]["cells"] == ["CC-BY-4.0"] * 2 and not rows["Licence"]["differs"]
    assert client.get(address, {"entry": str(entries[0].pk)}).status_code == 422
    assert signed_in(team["outsider"]).get(address, {"entry": [str(e.pk) for e in entries]}).status_code == 422


def test_the_api_proposes_decides_and_copies(source, team, administrator, others, target):
    version = make_version(source)
    owner, admin, user = signed_in(team["owner"]), signed_in(administrator), signed_in(others["editor"])
    json = {"content_type": "application/json"}
    made = owner.post("/api/v1/catalogue/", {"version": str(version.pk), "reason": "Useful."}, **json)
    assert made.status_code == 201 and made.json()["state"] == "in_review"
    address = f"/api/v1/catalogue/{made.json()['id']}/"
    assert user.get(address).status_code == 404
    decision = {"decision": "approve", "reason": "Tried.", "projects": [str(target.pk)]}
    assert user.post(address + "decide/", decision, **json).status_code == 403
    answer = admin.post(address + "decide/", decision, **json)
    assert answer.status_code == 200 and answer.json()["approval"]["reason"] == "Tried."
    assert len(answer.json()["history"]) == 2
    row = user.get("/api/v1/catalogue/?licence=cc-by").json()["results"][0]
    assert (row["name"], row["licence"], row["history"]) == ("Net", "CC-BY-4.0", [])
    assert "Research use" in row["card"]
    copied = user.post(address + "copy/", {"project": str(target.pk)}, **json)
    assert copied.status_code == 201 and copied.json()["origin"] == "imported" and copied.json()["state"] == "ready"
    assert user.post(address + "copy/", {"project": str(target.pk)}, **json).json()["error"]["code"] == "already_here"
    assert user.post(address + "copy/", {"project": str(source.pk)}, **json).status_code == 404
    again = owner.post(address + "withdraw/", {"reason": "r"}, **json)
    assert again.status_code == 409
