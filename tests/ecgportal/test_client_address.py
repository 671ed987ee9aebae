"""The address of a request: proxies that are trusted are looked through, nobody else can write one."""

from __future__ import annotations

import pytest
from django.test import Client

from ecgportal.audit.models import AuditEvent
from ecgportal.client_address import client_address, networks

PROXIES = networks("10.0.0.0/8, 2001:db8::/32, 192.0.2.1")


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        ("198.51.100.7", "", "198.51.100.7"),
        ("198.51.100.7", "203.0.113.9", "198.51.100.7"),
        ("10.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("10.0.0.1", "1.2.3.4, 203.0.113.9", "203.0.113.9"),
        ("10.0.0.1", "1.2.3.4, 203.0.113.9, 10.9.9.9", "203.0.113.9"),
        ("10.0.0.1", "10.0.0.3,10.0.0.2", "10.0.0.3"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "203.0.113.9, not an address", "10.0.0.1"),
        ("::ffff:10.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("2001:db8::1", "2001:db9::5", "2001:db9::5"),
        ("", "203.0.113.9", ""),
    ],
)
def test_only_trusted_proxies_are_looked_through(peer, forwarded, expected):
    assert client_address(peer, forwarded, PROXIES) == expected


def test_what_is_no_network_is_named():
    with pytest.raises(ValueError, match="proxy.example"):
        networks("proxy.example")


@pytest.mark.django_db
def test_the_audit_trail_names_the_person_behind_the_proxy(settings):
    settings.TRUSTED_PROXIES = PROXIES
    form = {"username": "nobody", "password": "wrong"}
    Client().post("/accounts/login/", form, REMOTE_ADDR="10.0.0.1", headers={"X-Forwarded-For": "6.6.6.6, 203.0.113.9"})
    assert AuditEvent.objects.get(action="session.sign_in_failed").address == "203.0.113.9"
