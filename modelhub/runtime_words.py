"""What ONNX Runtime and the reader of its files say about a graph that does not run, in words for people.

Their own words name places in their source and codes of theirs; they go to the log.
"""

from __future__ import annotations

import logging
import re

from ecgportal.errors import UnsafeFile

logger = logging.getLogger(__name__)

_NODE = re.compile(r"while running (\w+) node")
EXPORT_AGAIN = "To train it further, export it again with operator set 17 and standard operators."
# What is said -> (code, what it means and what to do). Groups of the pattern fill the sentence.
_SAID: tuple[tuple[re.Pattern[str], str, str], ...] = tuple(
    (re.compile(pattern), code, sentence)
    for pattern, code, sentence in (
        (
            r"[Pp]rotobuf parsing failed|Error parsing message|No graph was found|Missing opset", "not_onnx",
            "the file is damaged or is no ONNX file. Import it again from where it was made.",
        ),
        (
            r"Unsupported model IR version|Opset (?P<what>\d+) is|guarantees\* support", "unknown_opset",
            "it was written for a newer ONNX than this portal knows. Export it again with operator set 17.",
        ),
        (
            r"No Op registered for (?P<what>\w+)|(?P<what2>[\w.]+:\w+)\(-?\d+\) is not a registered", "operator_not_supported",
            "it uses the operator {what}, which ONNX does not have. Export the network with standard operators only.",
        ),
        (
            r"Could not find an implementation for (?P<what>\w+)|NOT_IMPLEMENTED", "operator_not_supported",
            "the runtime of this portal cannot compute the operator {what} in the form that it has here. Export the network with "
            "operator set 17 and 32-bit numbers.",
        ),
        (
            r"of operator \((?P<what>\w+)\) in node .* is invalid", "model_not_runnable",
            "its operator {what} gets numbers of a kind that it cannot take. Export the network with 32-bit numbers throughout.",
        ),
        (
            r"Got invalid dimensions|Invalid rank for input", "input_mismatch",
            "the network takes ECGs of another shape than is stated for it. Correct the leads and the length, or export it with a "
            "number of records that may vary.",
        ),
        (
            r"is not a graph input, initializer, or output", "model_not_runnable",
            "parts of its graph are missing. Export it again from where it was trained.",
        ),
    )
)  # fmt: skip
_OTHER = (
    "its operators do not fit together in this portal's runtime. See that it runs in ONNX Runtime where it was made, and export it "
    "again."
)


def words_for(error: Exception) -> tuple[str, str]:
    """Return why a graph does not run and what to do next, as the rest of a sentence, and a code for programs."""
    text = " ".join(str(error).split())
    for pattern, code, sentence in _SAID:
        if found := pattern.search(text):
            named = next((value for value in found.groupdict().values() if value), "one of its operators")
            return sentence.format(what=named), code
    if found := _NODE.search(text):
        sentence = (
            f"its operator {found[1]} does not fit ECGs of this shape. Correct the leads and the length that are stated for it, or "
            "export it for signals of this length."
        )
        return sentence, "model_not_runnable"
    return _OTHER, "model_not_runnable"


def logged(sentence: str, error: Exception) -> str:
    """Return a sentence for a person, and log what a library said, whose words are about its own inside."""
    logger.warning("%s (%s: %s)", sentence, type(error).__name__, error)
    return sentence


def does_not_run(what: str, error: Exception) -> UnsafeFile:
    """Return the error for a person; ``what`` is its beginning. The runtime's own words are logged."""
    sentence, code = words_for(error)
    return UnsafeFile(logged(f"{what}: {sentence}", error), code=code)


def several_heads(count: int) -> str:
    """Return why a network whose output comes from so many layers cannot take other classes."""
    return f"The classification layer of this model cannot be told: {count} layers lead to its output. Train it with its own classes."
