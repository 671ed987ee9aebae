"""Make django-plotly-dash serve the portal's Dash views."""

from __future__ import annotations

from typing import Any

from django.conf import settings


def prepare() -> None:
    """Give Dash the secret key that it asks its Flask stand-in for since Dash 4.4.1."""
    from django_plotly_dash import dash_wrapper

    original = dash_wrapper.PseudoFlask.__init__
    if getattr(original, "has_secret_key", False):
        return

    def with_secret_key(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        self.config["SECRET_KEY"] = settings.SECRET_KEY

    with_secret_key.has_secret_key = True  # type: ignore[attr-defined]
    dash_wrapper.PseudoFlask.__init__ = with_secret_key
