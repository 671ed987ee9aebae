"""WSGI entry point."""

import os

from django.core.wsgi import get_wsgi_application
from django.urls import get_resolver

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "ecgportal.settings")
application = get_wsgi_application()
# All pages are loaded before the server forks, so that its processes share them.
get_resolver().url_patterns  # noqa: B018
