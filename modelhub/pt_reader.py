"""Read a PyTorch state dictionary in a process of its own, with little memory, time and no files to write but one.

Run as ``python -m modelhub.pt_reader <input> <output> <memory bytes> <seconds>``: writes safetensors. Only tensors
come out of this process; whatever else the file holds is left behind.
"""

from __future__ import annotations

import re
import resource
import sys
from collections.abc import Mapping
from pathlib import Path

_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "weights")


def main(source: str, target: str, memory_bytes: int, seconds: int) -> int:
    """Convert one file; the exit status is 0, or 3 with a sentence on standard error."""
    import safetensors.torch
    import torch

    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (memory_bytes, memory_bytes))
    try:
        loaded = torch.load(Path(source), map_location="cpu", weights_only=True)
    except Exception as error:  # any trouble with a hostile file ends in one sentence.
        # torch's own words advise to load the file without protection; of them only the class that it met is told.
        met = re.search(r"GLOBAL ([\w.]{1,100})", str(error))
        held = f": it holds {met[1]}" if met else ""
        sys.stderr.write(
            f"it is not a plain dictionary of weights{held}. Save model.state_dict() and nothing else into it"
        )
        return 3
    for name in _WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(name), Mapping):
            loaded = loaded[name]
    if not isinstance(loaded, Mapping):
        sys.stderr.write(f"it holds a {type(loaded).__name__} instead of a dictionary of weights")
        return 3
    state = {str(k): v.detach().clone().contiguous() for k, v in loaded.items() if isinstance(v, torch.Tensor)}
    if not state:
        sys.stderr.write("it holds no weights")
        return 3
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    safetensors.torch.save_file(state, target)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
