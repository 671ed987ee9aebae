"""The password of an exchange goes to the server that it was entered for, and to no other one."""

from __future__ import annotations

import pytest

from ecgportal.secrets import decrypt
from modelhub.models import Exchange
from tests.api_client import Api
from tests.factories import make_user

pytestmark = pytest.mark.django_db
URL = "https://dav.example.org/models/"


@pytest.fixture
def api() -> Api:
    return Api(session=make_user(is_administrator=True))


@pytest.mark.parametrize(
    "url",
    ["https://evil.example.org/models/", "http://dav.example.org/models/", "https://dav.example.org:8443/models/"],
)
def test_another_server_needs_the_password_anew(api, url):
    exchange = api.post("exchanges/", {"name": "X", "url": URL, "username": "u", "password": "told once"})["id"]
    error = api.refused("patch", f"exchanges/{exchange}/", {"url": url}, status=422)
    assert set(error["fields"]) == {"password"} and Exchange.objects.get().url == URL
    api.patch(f"exchanges/{exchange}/", {"url": url, "password": "another"})
    row = Exchange.objects.get()
    assert (row.url, decrypt(row.password_encrypted)) == (url, "another")


def test_another_folder_or_name_keeps_it(api):
    exchange = api.post("exchanges/", {"name": "X", "url": URL, "username": "u", "password": "told once"})["id"]
    api.patch(f"exchanges/{exchange}/", {"url": "https://DAV.example.org/models/new/", "name": "Y"})
    assert decrypt(Exchange.objects.get().password_encrypted) == "told once"


def test_an_exchange_without_a_password_may_move(api):
    exchange = api.post("exchanges/", {"name": "X", "url": URL})["id"]
    assert (
        api.patch(f"exchanges/{exchange}/", {"url": "https://other.example.org/"})["url"]
        == "https://other.example.org/"
    )
