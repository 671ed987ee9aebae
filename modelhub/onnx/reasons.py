"""What ONNX Runtime says when it cannot run a graph, as a sentence for people."""

from __future__ import annotations

import re

_MARK = re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : ")
_SOURCE = re.compile(r"/onnxruntime_src/\S+:\d+ (?:.*? was false\. |.*?\) )")


def reason_of(error: Exception) -> str:
    """Return the first line of an error without codes and places in the runtime's own source, at most 300 characters."""
    text = _SOURCE.sub("", _MARK.sub("", " ".join(str(error).split())))
    return text[:300].strip() or type(error).__name__
