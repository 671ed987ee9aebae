"""What the portal lets a browser do, and what it does not: scripts, frames, cookies, sessions, errors."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from django.conf import settings
from django.contrib.sessions.models import Session
from django.test import Client
from playwright.sync_api import BrowserContext, Page, expect

from datasets.services import label_map_create
from tests import factories
from tests.browser import looks

SCRIPT = "<script>window.hit=1</script><img src=x onerror='window.hit=1'>"
CALLBACK = "/dash/app/{}/_dash-update-component"


def _policy(headers: Any) -> dict[str, list[str]]:
    parts = [part.split() for part in headers["content-security-policy"].split(";")]
    return {part[0]: part[1:] for part in parts if part}


@pytest.fixture
def record(site):
    """A record with a label, and the owner of its project beside it."""
    user = factories.make_user("olga")
    row = factories.make_record(
        factories.make_dataset(factories.make_project({user: "owner"}, name="Own")), labels=("NORM",)
    )
    row.owner = user
    return row


def test_no_page_and_no_frame_may_run_foreign_or_inline_script(site, record, sign_in):
    context = sign_in(record.owner)
    frame = f"/dash/app/EcgView/?id={record.pk}"
    for address in ("/", "/accounts/login/", f"/records/{record.pk}/", frame, "/api/v1/docs/"):
        answer = context.request.get(address)
        assert answer.status == 200
        policy = _policy(answer.headers)
        assert policy["default-src"] == ["'self'"] and policy["object-src"] == ["'none'"]
        assert (
            policy["frame-ancestors"] == ["'self'"]
            and policy["base-uri"] == ["'self'"]
            and policy["form-action"] == ["'self'"]
        )
        scripts = policy["script-src"]
        assert scripts[0] == "'self'" and all(
            re.fullmatch(r"'sha256-[A-Za-z0-9+/]{43}='", source) for source in scripts[1:]
        )
        assert not {"'unsafe-inline'", "'unsafe-eval'", "*", "https:", "data:", "blob:"} & set(scripts)
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "SAMEORIGIN"
        assert answer.headers["referrer-policy"] == "same-origin"


def test_an_inline_script_is_stopped_by_the_policy(site, record, sign_in, recorder):
    page = sign_in(record.owner).new_page()
    page.goto("/")
    page.evaluate(
        """() => { const each = document.createElement("script"); each.textContent = "window.hit = 1"; document.body.append(each); }"""
    )
    assert page.evaluate("window.hit") is None
    assert [line for line in recorder.take() if "Content Security Policy" in line]


def test_names_from_outside_are_shown_as_text(site, sign_in, recorder):
    """A project, a dataset, a record, a subject, a label, a class and a job that are called like a script."""
    user = factories.make_user("olga")
    project = factories.make_project({user: "owner"}, name=f"P {SCRIPT}", description=SCRIPT)
    dataset = factories.make_dataset(project, name=f"D {SCRIPT}", description=SCRIPT)
    record = factories.make_record(
        dataset,
        key=f"r{SCRIPT}",
        subject=SCRIPT,
        labels=(SCRIPT,),
        system="name",
        meta={"notes": [SCRIPT], "dropped_channels": [SCRIPT]},
    )
    ingest = factories.make_ingest(
        dataset, items=((f"{SCRIPT}.hea", "refused", "not_an_ecg", f"{SCRIPT} is not an ECG."),)
    )
    entries = {SCRIPT: {"class": SCRIPT[:80], "relation": "exact"}}
    label_map = label_map_create(
        actor=user, project=project, name=SCRIPT, system="name", classes=[SCRIPT[:80]], entries=entries
    )
    job = factories.make_job(project, user=user, title=SCRIPT, state="failed", error_code="x", error_message=SCRIPT)
    page = sign_in(user).new_page()
    for address in (
        "/", f"/projects/{project.pk}/", f"/projects/{project.pk}/datasets/", f"/datasets/{dataset.pk}/", f"/datasets/{dataset.pk}/labels/?map={label_map.pk}",
        f"/records/{record.pk}/", f"/uploads/{ingest.pk}/", f"/label-maps/{label_map.pk}/", f"/jobs/{job.pk}/", f"/projects/{project.pk}/audit/",
    ):  # fmt: skip
        page.goto(address)
        looks.settle(page)
        assert page.evaluate("window.hit") is None, address
        for frame in looks.dash_frames(page):
            assert frame.evaluate("window.hit") is None, address
        assert page.locator("body script:not([src])").count() == 0 and page.locator("img").count() == 0, address
        expect(page.locator("body")).to_contain_text("<script>window.hit=1</script>")
    recorder.check()


def _own_callback(page: Page, record: Any) -> dict[str, Any]:
    """Return the body that the frame of a record's page sends for its figure."""
    with page.expect_request(
        lambda request: "_dash-update-component" in request.url and "ecg.figure" in (request.post_data or "")
    ) as sent:
        page.goto(f"/records/{record.pk}/")
    looks.settle(page)
    return sent.value.post_data_json


def _ask(
    context: BrowserContext,
    body: dict[str, Any],
    pk: Any,
    *,
    app: str = "EcgView",
    token: str | None = None,
    **changed: Any,
) -> Any:
    """Send a callback as a frame does, for another object and with other values."""
    values = {"address": f"?id={pk}"} | changed
    inputs = [each | {"value": values.get(each["id"], each.get("value"))} for each in body["inputs"]]
    headers = {"Content-Type": "application/json"} | ({"X-CSRFToken": token} if token else {})
    return context.request.post(CALLBACK.format(app), data=json.dumps(body | {"inputs": inputs}), headers=headers)


def test_frames_answer_only_to_those_who_may_see_the_object(site, record, sign_in):
    anonymous, own = sign_in(), sign_in(record.owner)
    sibling_owner = factories.make_user()
    sibling = factories.make_record(
        factories.make_dataset(factories.make_project({sibling_owner: "owner"}, name="Sibling"))
    )
    body = _own_callback(own.new_page(), record)
    token = {cookie["name"]: cookie["value"] for cookie in own.cookies()}["csrftoken"]
    for address in (
        f"/dash/app/EcgView/?id={record.pk}",
        "/dash/app/EcgView/_dash-layout",
        "/dash/app/EcgView/_dash-dependencies",
    ):
        assert anonymous.request.get(address, max_redirects=0).status == 401
    assert _ask(anonymous, body, record.pk).status == 401
    answer = _ask(own, body, record.pk, token=token)
    assert answer.status == 200 and len(answer.json()["response"]["ecg"]["figure"]["data"]) > 12
    assert _ask(own, body, record.pk).status == 403
    assert _ask(own, body, record.pk, token="x" * 32).status == 403
    refused = _ask(own, body, sibling.pk, token=token)
    assert (
        refused.status == 404 and refused.json()["error"]["code"] == "not_found" and sibling.key not in refused.text()
    )
    for forged in ("1", "../../x", "' or 1=1", "00000000-0000-0000-0000-000000000000"):
        assert _ask(own, body, forged, token=token).status in (400, 404, 422), forged
    for name, value in (
        ("start", "NaN"),
        ("start", "soon"),
        ("gain", "x"),
        ("layout", "9x9"),
        ("rhythm", "x" * 99),
        ("band", ["a"]),
    ):
        assert _ask(own, body, record.pk, token=token, **{name: value}).status < 500, name
    for address in (
        "/dash/app/Unknown/",
        "/dash/app/Unknown/_dash-layout",
        "/dash/app/EcgView/_dash-routes",
        "/dash/instance/EcgView/",
    ):
        assert own.request.get(address).status == 404, address
    assert _ask(own, body, record.pk, app="Unknown", token=token).status == 404


def test_cookies_cannot_be_read_by_scripts_and_a_sign_in_renews_the_session(site, sign_in, recorder):
    user = factories.make_user("olga")
    context = sign_in()
    page = context.new_page()
    page.goto("/")
    assert "/accounts/login/" in page.url
    before = {cookie["name"]: cookie["value"] for cookie in context.cookies()}
    for attempt in ("a wrong password", factories.PASSWORD):
        page.get_by_label("User name").fill(user.username)
        page.get_by_label("Password").fill(attempt)
        with recorder.expecting(400, 401, 403, 422):
            page.get_by_role("button", name="Sign in").click()
            page.wait_for_load_state()
    expect(page.get_by_role("heading", level=1)).to_have_text("My work")
    cookies = {cookie["name"]: cookie for cookie in context.cookies()}
    session, token = cookies[settings.SESSION_COOKIE_NAME], cookies["csrftoken"]
    assert session["httpOnly"] is True and session["sameSite"] == token["sameSite"] == "Lax"
    assert settings.SESSION_COOKIE_NAME not in page.evaluate("document.cookie")
    assert token["value"] != before["csrftoken"]
    first = session["value"]
    page.locator("details.menu").last.locator("summary").click()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")
    assert not Session.objects.filter(session_key=first).exists()
    old = Client()
    old.cookies[settings.SESSION_COOKIE_NAME] = first
    assert old.get("/").status_code == 302
    # A session that somebody else planted before the sign-in is not the one after it.
    planted = Client()
    planted.session.save()
    key = planted.session.session_key
    context.add_cookies([{"name": settings.SESSION_COOKIE_NAME, "value": key, "url": site}])
    page.goto("/accounts/login/")
    page.get_by_label("User name").fill(user.username)
    page.get_by_label("Password").fill(factories.PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("My work")
    assert {cookie["name"]: cookie["value"] for cookie in context.cookies()}[settings.SESSION_COOKIE_NAME] != key


def test_an_error_of_the_portal_shows_no_details(site, record, sign_in, recorder, monkeypatch):
    def broken(*arguments: Any, **more: Any) -> Any:
        raise RuntimeError("a secret path /srv/data")

    monkeypatch.setattr("viz.showing.signals.mapped", broken)
    page = sign_in(record.owner).new_page()
    with recorder.expecting(500):
        page.goto(f"/records/{record.pk}/")
    expect(page.get_by_role("heading", level=1)).to_have_text("Something failed in the portal")
    text = page.content()
    assert not [word for word in ("secret", "Traceback", "RuntimeError", "/srv", ".py") if word in text]
    assert page.locator("h1").count() == 1 and not looks.accessibility(page)
    answer = page.request.get(f"/api/v1/records/{record.pk}/signal/")
    assert answer.status in (200, 500) and "secret" not in answer.text()


@pytest.mark.parametrize(
    ("address", "status", "heading"),
    [
        ("/nothing/", 404, "Not found"),
        ("/projects/00000000-0000-0000-0000-000000000000/", 404, "Not found"),
        ("/accounts/users/", 403, "You are not allowed to do this"),
    ],
)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_refusals_are_pages(site, sign_in, recorder, address, status, heading, theme):
    page = sign_in(factories.make_user(), theme=theme).new_page()
    with recorder.expecting(status):
        page.goto(address)
    expect(page.get_by_role("heading", level=1)).to_have_text(heading)
    assert not looks.accessibility(page) + looks.headings(page)
    page.set_viewport_size({"width": 390, "height": 800})
    assert not looks.overflow(page)
    page.set_viewport_size({"width": 1280, "height": 800})
    assert not looks.keyboard(page)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_sign_in_page_stands_alone(site, sign_in, theme):
    page = sign_in(theme=theme).new_page()
    page.goto("/accounts/login/")
    assert not looks.accessibility(page) + looks.headings(page) + looks.overflow(page)
    assert page.evaluate("document.activeElement.name") == "username"
    page.set_viewport_size({"width": 390, "height": 800})
    assert not looks.overflow(page)
