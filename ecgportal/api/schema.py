"""The OpenAPI document; its errors are JSON like all others."""

from __future__ import annotations

from typing import Any

from drf_spectacular.renderers import OpenApiJsonRenderer, OpenApiYamlRenderer
from drf_spectacular.views import SpectacularAPIView
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response

from ecgportal.errors import InvalidInput

_FORMATS = {"yaml": OpenApiYamlRenderer, "json": OpenApiJsonRenderer}


class SchemaView(SpectacularAPIView):
    """The document as YAML, or as JSON by ``?format=json`` or the ``Accept`` header."""

    def get_renderers(self) -> list[Any]:
        asked = self.request.GET.get("format")
        return [_FORMATS[asked]()] if asked in _FORMATS else super().get_renderers()

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        asked = request.query_params.get("format")
        if asked not in (None, *_FORMATS):
            raise InvalidInput(
                f"There is no format {asked[:40]!r}.", fields={"format": f"Choose {' or '.join(_FORMATS)}."}
            )

    def finalize_response(self, request: Request, response: Response, *args: Any, **kwargs: Any) -> Response:
        response = super().finalize_response(request, response, *args, **kwargs)
        if response.status_code >= 400:
            response.accepted_renderer = JSONRenderer()
            response.accepted_media_type = response.content_type = JSONRenderer.media_type
        return response
