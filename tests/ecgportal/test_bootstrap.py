"""Nothing is installed when nothing changed, and everything when something did."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ecgportal import bootstrap

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "base.txt").write_text("a==1\n")
    (tmp_path / "worker.txt").write_text("-r base.txt\nb==1\n")
    (tmp_path / "dev.txt").write_text("-r worker.txt\nc==1\n")
    (tmp_path / "nodeps.txt").write_text("d==1\n")
    return tmp_path


def test_fingerprint_follows_every_included_file(folder):
    assert [path.name for path in bootstrap.requirement_files("dev", folder)] == ["dev.txt", "worker.txt", "base.txt"]
    before = {name: bootstrap.fingerprint(name, folder) for name in bootstrap.SETS}
    (folder / "nodeps.txt").write_text("d==2\n")
    after = {name: bootstrap.fingerprint(name, folder) for name in bootstrap.SETS}
    assert {name for name in before if before[name] != after[name]} == {"dev", "worker"}
    (folder / "base.txt").write_text("a==2\n")
    assert bootstrap.fingerprint("base", folder) != before["base"]


def test_stamp_of_a_larger_set_counts_for_a_smaller_one(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").touch()
    assert not bootstrap.is_installed("worker", tmp_path)
    (tmp_path / ".installed-dev").write_text(bootstrap.fingerprint("dev"))
    assert bootstrap.is_installed("worker", tmp_path) and bootstrap.is_installed("dev", tmp_path)
    (tmp_path / ".installed-dev").write_text("of other requirements")
    assert not bootstrap.is_installed("worker", tmp_path)


def test_install_makes_the_environment_and_stamps_it_last(tmp_path, monkeypatch):
    commands = []

    def run(*command):
        commands.append(command)
        if "venv" in command:
            (tmp_path / "venv" / "bin").mkdir(parents=True)
            (tmp_path / "venv" / "bin" / "python").touch()
        return outcome[0] or "venv" in command

    monkeypatch.setattr(bootstrap, "_run", run)
    outcome = [False]
    with pytest.raises(bootstrap.BootstrapError, match="pip could not install"):
        bootstrap.install("worker", tmp_path / "venv")
    assert not bootstrap.is_installed("worker", tmp_path / "venv")
    outcome[0] = True
    monkeypatch.setattr(bootstrap, "_has_pip", lambda python: True)
    bootstrap.install("worker", tmp_path / "venv")
    assert bootstrap.is_installed("worker", tmp_path / "venv")
    assert "--no-deps" in commands[-1] and commands[-1][-1].endswith("nodeps.txt")
    count = len(commands)
    bootstrap.install("worker", tmp_path / "venv")
    assert len(commands) == count


def test_python_of_another_version_is_refused_with_a_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr(bootstrap.sys, "version_info", (3, 10, 4))
    with pytest.raises(bootstrap.BootstrapError, match=r"needs 3\.11, 3\.12 or 3\.13"):
        bootstrap.install("base", tmp_path / "venv")


def test_missing_ensurepip_names_the_package_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(bootstrap.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(bootstrap.os, "geteuid", lambda: 1000)
    with pytest.raises(bootstrap.BootstrapError, match=r"apt install python3\.\d+-venv"):
        bootstrap.install("base", tmp_path / "venv")


def test_no_requirement_names_an_index_or_a_local_build():
    for path in (REPOSITORY / "requirements").glob("*.txt"):
        text = path.read_text()
        assert "://" not in text and "--index" not in text and "+cpu" not in text, path


def test_make_help_lists_every_target():
    makefile = (REPOSITORY / "Makefile").read_text()
    targets = next(line for line in makefile.splitlines() if line.startswith(".PHONY:")).split()[1:]
    done = subprocess.run(["make", "--no-print-directory"], cwd=REPOSITORY, capture_output=True, text=True)
    assert {line.split()[1] for line in done.stdout.splitlines()} == set(targets)
    assert all(len(line.split()) > 3 for line in done.stdout.splitlines())


def test_bootstrap_runs_without_anything_installed():
    done = subprocess.run(
        [
            sys.executable,
            "-S",
            "-I",
            "-c",
            f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); import ecgportal.bootstrap",
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
