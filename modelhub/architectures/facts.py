"""The facts of a network, and how they are read from the source of its file without running it."""

from __future__ import annotations

import ast
from dataclasses import dataclass

_FIXED = {"n_leads": (12, "leads"), "n_samples": (1000, "samples"), "fs_hz": (100, "Hz")}


@dataclass(frozen=True)
class ArchitectureFacts:
    """Static facts of one network.

    name: identifier used in files, settings and the API.
    paper: where the network is described.
    varies: which of ``n_leads``, ``n_samples``, ``fs_hz``, ``n_classes`` the network accepts freely; what it does not is
    12 leads, 1000 samples, 100 Hz.
    parameters: trainable parameters for 12 leads, 1000 samples, 5 classes.
    million_macs: million multiply-accumulates for one such ECG (convolutions and linear layers).
    shortest_samples, samples_step: the length has to be at least this, and a multiple of that.
    dynamic_length: whether one set of weights accepts other lengths than it was built for.
    needs: what the network takes beside the signal (``age``, ``sex``), and nothing when empty.
    exports_onnx: whether an ONNX file of it is offered.
    computed: whether, from scratch, it is computed in one pass over the records instead of being trained by gradients.
    advice: one sentence that helps to choose.
    definition: SHA-256 of the file that defines it where an administrator installed that file; empty for networks of
    the portal. It is never stated in the file itself.
    """

    name: str
    title: str
    paper: str
    varies: tuple[str, ...]
    parameters: int
    million_macs: float
    shortest_samples: int = 1
    samples_step: int = 1
    dynamic_length: bool = True
    needs: tuple[str, ...] = ()
    exports_onnx: bool = True
    computed: bool = False
    advice: str = ""
    definition: str = ""

    def misfit(self, *, n_leads: int, n_samples: int, fs_hz: float) -> str | None:
        """Return why the network cannot be built for such signals and what it takes instead; None when it can."""
        given = {"n_leads": n_leads, "n_samples": n_samples, "fs_hz": fs_hz}
        fixed = [
            f"{value} {unit}, not {given[name]:g}"
            for name, (value, unit) in _FIXED.items()
            if name not in self.varies and given[name] != value
        ]
        if fixed:
            return f"{self.title} takes {'; '.join(fixed)}."
        if n_samples < self.shortest_samples:
            return f"{self.title} needs at least {self.shortest_samples} samples of each lead, not {n_samples}."
        if n_samples % self.samples_step:
            return f"{self.title} takes a multiple of {self.samples_step} samples of each lead, not {n_samples}."
        return None


def facts_in(source: str) -> list[ArchitectureFacts]:
    """Return the facts of every function marked ``@architecture(...)``; the source is parsed, not run.

    ValueError, TypeError or SyntaxError when the arguments are not literals that fit.
    """
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.FunctionDef):
            continue
        for call in node.decorator_list:
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "architecture":
                found.append(ArchitectureFacts(**{str(w.arg): ast.literal_eval(w.value) for w in call.keywords}))
    return found
