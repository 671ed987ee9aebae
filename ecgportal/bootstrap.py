"""Make ``.venv`` and install the requirements, only when they changed: ``python3 -m ecgportal.bootstrap SET``.

Runs under the machine's own Python, before anything is installed: standard library only,
and no syntax that an older Python could not read far enough to print what is wrong.
"""

import argparse
import contextlib
import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
VENV = REPOSITORY / ".venv"
# Each set holds the ones after it.
SETS = ("dev", "worker", "base")
WITHOUT_DEPENDENCIES = "nodeps.txt"
_OLDEST, _BELOW = (3, 11), (3, 14)


class BootstrapError(RuntimeError):
    """The environment cannot be made; the sentence says what is missing."""


def requirement_files(name: str, folder: Path = REPOSITORY / "requirements") -> list[Path]:
    """Return the file of a set and those that it includes by ``-r``, each once."""
    found: list[Path] = []
    waiting = [folder / f"{name}.txt"]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.append(path)
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("-r "):
                waiting.append(path.parent / line[3:].strip())
    return found


def fingerprint(name: str, folder: Path = REPOSITORY / "requirements") -> str:
    """Return a hash of everything that decides what is installed for the set."""
    state = hashlib.sha256(repr((sys.version_info[:2], sys.platform)).encode())
    files = [*requirement_files(name, folder), *([] if name == "base" else [folder / WITHOUT_DEPENDENCIES])]
    for path in sorted(files):
        state.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return state.hexdigest()


def is_installed(name: str, venv: Path = VENV) -> bool:
    """Whether the set, or one that holds it, was installed from the requirements as they are now."""
    if not (venv / "bin" / "python").exists():
        return False
    for larger in SETS[: SETS.index(name) + 1]:
        stamp = venv / f".installed-{larger}"
        if stamp.is_file() and stamp.read_text(encoding="ascii").strip() == fingerprint(larger):
            return True
    return False


def _run(*command: str) -> bool:
    return subprocess.run(command, check=False).returncode == 0


def _has_pip(python: Path) -> bool:
    command = [str(python), "-m", "pip", "--version"]
    try:
        return subprocess.run(command, check=False, capture_output=True).returncode == 0
    except OSError:
        return False


def _make_venv(venv: Path) -> list[str]:
    """Make the environment if it is not there; return the command that runs pip for it."""
    python = venv / "bin" / "python"
    if _has_pip(python):
        return [str(python), "-m", "pip"]
    print(f"Making {venv} ...", flush=True)
    if importlib.util.find_spec("ensurepip") and _run(sys.executable, "-m", "venv", "--clear", str(venv)):
        return [str(python), "-m", "pip"]
    if importlib.util.find_spec("pip") and _run(sys.executable, "-m", "venv", "--clear", "--without-pip", str(venv)):
        return [sys.executable, "-m", "pip", "--python", str(python)]
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    apt = shutil.which("apt-get")
    if apt and os.geteuid() == 0 and sys.executable.startswith("/usr/bin/"):
        print("This Python lacks the venv module; installing it with apt ...", flush=True)
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run([apt, "-q", "update"], check=False, env=environment)
        for package in (f"python{version}-venv", "python3-venv"):
            subprocess.run([apt, "-qq", "install", "-y", package], check=False, env=environment)
            if _run(sys.executable, "-m", "venv", "--clear", str(venv)):
                return [str(python), "-m", "pip"]
    raise BootstrapError(
        f"{sys.executable} can make no virtual environment: its ensurepip module is missing. On Debian and Ubuntu "
        f"install it with: sudo apt install python{version}-venv"
    )


def install(name: str, venv: Path = VENV) -> None:
    """Install the set into the environment unless it is there.

    Raises
    ------
    BootstrapError: Python is too old or too new, or pip failed.
    """
    if not _OLDEST <= sys.version_info[:2] < _BELOW:
        raise BootstrapError(
            f"{sys.executable} is Python {sys.version.split()[0]}; the portal needs 3.11, 3.12 or 3.13. "
            "Install one of them and say: make PYTHON=python3.12 run"
        )
    if is_installed(name, venv):
        return
    with _alone(venv):
        if is_installed(name, venv):
            return
        pip = [*_make_venv(venv), "--disable-pip-version-check", "--quiet", "install", "--no-input"]
        folder = REPOSITORY / "requirements"
        print(f"Installing requirements/{name}.txt (some minutes the first time) ...", flush=True)
        # The stamp is written last: an installation that was broken off is taken up again.
        if not _run(*pip, "-r", str(folder / f"{name}.txt")) or (
            name != "base" and not _run(*pip, "--no-deps", "-r", str(folder / WITHOUT_DEPENDENCIES))
        ):
            raise BootstrapError(
                "pip could not install the requirements; its reason stands above. "
                "Is there a connection to a package index, and room on the disk (about 6 GB)?"
            )
        (venv / f".installed-{name}").write_text(fingerprint(name) + "\n", encoding="ascii")


@contextlib.contextmanager
def _alone(venv: Path) -> Iterator[None]:
    venv.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(venv.parent, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def main(arguments: "list[str] | None" = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python3 -m ecgportal.bootstrap", description=__doc__)
    parser.add_argument("set", choices=SETS)
    try:
        install(parser.parse_args(arguments).set)
    except BootstrapError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
