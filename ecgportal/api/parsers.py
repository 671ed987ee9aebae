"""What a request's body may be."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, BinaryIO

from rest_framework.exceptions import ParseError
from rest_framework.parsers import JSONParser


class ObjectParser(JSONParser):
    """Reads JSON objects that can be stored and sent back: no other value at the top, no endless numbers, no half characters."""

    def parse(
        self, stream: BinaryIO, media_type: str | None = None, parser_context: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
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
