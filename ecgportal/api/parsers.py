"""What a request's body may be."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, BinaryIO

from rest_framework.exceptions import ParseError
from rest_framework.parsers import FormParser, JSONParser

from ecgportal.errors import TooLarge

# These bodies are read whole into memory. Files come in parts of a form, or as a stream.
MAX_BYTES = 8_000_000


def _check_size(parser_context: Mapping[str, Any] | None) -> None:
    request = (parser_context or {}).get("request")
    length = request.META.get("CONTENT_LENGTH") or "0" if request is not None else "0"
    # The server answers 400 for a length that is no number, and gives no body without one.
    if int(length) > MAX_BYTES:
        raise TooLarge(f"The body of the request has more than {MAX_BYTES / 1e6:g} MB. Send it in parts, or as a file.")


class ObjectParser(JSONParser):
    """Reads JSON objects that can be stored and sent back: no other value at the top, no endless numbers, no half characters."""

    def parse(
        self, stream: BinaryIO, media_type: str | None = None, parser_context: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        _check_size(parser_context)
        try:
            body = super().parse(stream, media_type, parser_context)
            json.dumps(body, allow_nan=False, ensure_ascii=False).encode()
        except RecursionError:
            raise ParseError("The JSON body is nested too deep.") from None
        except ValueError:
            # A number beyond 1.8e308 is read as infinite; a lone half of a surrogate pair is no character.
            raise ParseError("The JSON body holds a number out of range, or a character that is none.") from None
        if not isinstance(body, dict):
            raise ParseError("The JSON body must be an object, such as {}.")
        return body


class FieldsParser(FormParser):
    """Reads the fields of a form that holds no files."""

    def parse(
        self, stream: BinaryIO, media_type: str | None = None, parser_context: Mapping[str, Any] | None = None
    ) -> Any:
        _check_size(parser_context)
        return super().parse(stream, media_type, parser_context)
