"""Make django-plotly-dash serve the portal's Dash views."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from django.conf import settings


def libraries_version() -> str:
    """Return what changes with the installed Dash libraries, for addresses under which browsers may keep them for good."""
    return "-".join(version(name) for name in ("dash", "plotly", "dash-bootstrap-components"))


def prepare() -> None:
    """Give Dash the secret key that it asks its Flask stand-in for since Dash 4.4.1, and leave its table out of the pages."""
    from dash import dash_table
    from django_plotly_dash import dash_wrapper

    # No view has a table of Dash's; its bundle would be sent with each of them.
    dash_table._js_dist = []
    original = dash_wrapper.PseudoFlask.__init__
    if getattr(original, "has_secret_key", False):
        return

    def with_secret_key(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        self.config["SECRET_KEY"] = settings.SECRET_KEY

    with_secret_key.has_secret_key = True  # type: ignore[attr-defined]
    dash_wrapper.PseudoFlask.__init__ = with_secret_key
