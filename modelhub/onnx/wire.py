"""Count the parts of an ONNX file in its encoded form.

Parsing a protocol buffer turns an empty part of two bytes into an object of a hundred, so the number of parts is
limited before the parser runs. Only tags and lengths are read here.
"""

from __future__ import annotations

from ecgportal.errors import UnsafeFile

MAX_PARTS = 2_000_000

# Field numbers of onnx.proto3 whose content is looked into, by message.
_INNER = {
    "model": {7: "graph", 8: "leaf", 14: "leaf", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph", 3: "leaf", 4: "leaf"},
    "function": {7: "node", 9: "leaf", 11: "attribute", 12: "value", 14: "leaf"},
    "graph": {1: "node", 5: "leaf", 11: "value", 12: "value", 13: "value", 14: "leaf", 15: "leaf", 16: "leaf"},
    "node": {5: "attribute", 9: "leaf"},
    "attribute": {5: "leaf", 6: "graph", 10: "leaf", 11: "graph", 14: "type", 15: "type"},
    "value": {2: "type", 4: "leaf"},
    "type": {1: "tensor_type"},
    "tensor_type": {2: "shape"},
    "shape": {1: "leaf"},
    "leaf": {},
}
_MAX_DEPTH = 12


def check_wire(data: bytes) -> int:
    """Return the number of parts of the encoded model; UnsafeFile when there are too many or the encoding is broken."""
    view = memoryview(data)
    parts = 0
    waiting: list[tuple[int, int, str, int]] = [(0, len(data), "model", 0)]
    while waiting:
        position, end, kind, depth = waiting.pop()
        inner = _INNER[kind]
        while position < end:
            parts += 1
            if parts > MAX_PARTS:
                raise UnsafeFile(f"it has more than {MAX_PARTS} parts.", code="too_many_nodes")
            tag, position = _varint(view, position, end)
            wire = tag & 7
            if wire == 0:
                _, position = _varint(view, position, end)
            elif wire == 1:
                position += 8
            elif wire == 5:
                position += 4
            elif wire == 2:
                length, position = _varint(view, position, end)
                if position + length > end:
                    raise _broken()
                name = inner.get(tag >> 3)
                if name is not None and depth < _MAX_DEPTH:
                    waiting.append((position, position + length, name, depth + 1))
                position += length
            else:
                raise _broken()
        if position != end:
            raise _broken()
    return parts


def _varint(view: memoryview, position: int, end: int) -> tuple[int, int]:
    result = shift = 0
    while True:
        if position >= end or shift > 63:
            raise _broken()
        byte = view[position]
        position += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, position
        shift += 7


def _broken() -> UnsafeFile:
    return UnsafeFile("it is not a readable ONNX file.", code="not_onnx")
