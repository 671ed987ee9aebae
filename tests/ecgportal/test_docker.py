"""The container files name things that exist, pass their linters and give away no secret."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ecgportal.supervisor import ROLES

REPOSITORY = Path(__file__).resolve().parents[2]
DOCKERFILE = REPOSITORY / "docker" / "Dockerfile"
COMPOSE = REPOSITORY / "docker" / "compose.yaml"


def tool(name):
    found = Path(sys.executable).parent / name
    if not found.is_file():
        pytest.skip(f"{name} is not installed on this kind of machine")
    return str(found)


@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load(COMPOSE.read_text())


@pytest.fixture(scope="module")
def instructions():
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(), flags=re.M)
    lines = text.replace("\\\n", " ").splitlines()
    return [tuple(line.split(maxsplit=1)) for line in lines if line.strip()]


def last(instructions, name):
    return [value for instruction, value in instructions if instruction == name][-1]


def test_dockerfile_passes_hadolint_which_finds_faults(tmp_path):
    hadolint = tool("hadolint")
    done = subprocess.run([hadolint, str(DOCKERFILE)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    bad = tmp_path / "Dockerfile"
    bad.write_text("FROM python:latest\nRUN cd /x && sudo apt-get install y\n")
    assert subprocess.run([hadolint, str(bad)], capture_output=True).returncode != 0


def test_compose_file_follows_the_compose_specification(tmp_path):
    check = [tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*check, str(COMPOSE)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    bad = tmp_path / "compose.yaml"
    bad.write_text("services: {web: {imagine: x}}\n")
    assert subprocess.run([*check, str(bad)], capture_output=True).returncode != 0


def test_image_runs_the_supervisor_as_an_ordinary_account(instructions):
    assert last(instructions, "USER") == "10001:10001"
    assert last(instructions, "ENTRYPOINT") == '["python", "-m", "ecgportal.supervisor"]'
    assert importlib.util.find_spec("ecgportal.supervisor")
    assert len([1 for name, _ in instructions if name == "FROM"]) == 2
    done = subprocess.run(
        [sys.executable, "-m", "ecgportal.supervisor", "--help"], capture_output=True, text=True, cwd=REPOSITORY
    )
    assert done.returncode == 0 and "--check" in done.stdout


def test_everything_that_is_copied_is_there_and_not_ignored(instructions):
    kept = {line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = set()
    for name, value in instructions:
        if name == "COPY" and not value.startswith("--from"):
            copied |= set(value.split()[:-1])
    assert copied == kept
    missing = {path for path in copied if not (REPOSITORY / path).exists()}
    assert not missing
    packages = {path.parent.name for path in REPOSITORY.glob("*/__init__.py")} - {"tests"}
    assert packages <= copied


def test_what_is_copied_is_compiled_since_nothing_is_written_later(instructions):
    assert "PYTHONDONTWRITEBYTECODE=1" in last(instructions, "ENV")
    steps = [f"{name} {value}" for name, value in instructions]
    (compiled,) = (n for n, step in enumerate(steps) if step == "RUN python -m compileall -q .")
    assert compiled > max(n for n, step in enumerate(steps) if step.startswith("COPY"))


def test_context_holds_neither_data_nor_secrets():
    lines = [line for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert lines[0] == "*", "everything is left out that is not named"
    assert lines[-1] == "**/.env"


def test_compose_runs_both_roles_over_one_volume(compose):
    web, workers = compose["services"]["web"], compose["services"]["workers"]
    assert {web["environment"]["PORTAL_PROCESSES"], workers["environment"]["PORTAL_PROCESSES"]} == set(ROLES) - {"all"}
    assert web["volumes"] == workers["volumes"] == ["portal-data:/data"]
    assert web["environment"]["DATABASE_URL"] == workers["environment"]["DATABASE_URL"]
    named = {volume.split(":")[0] for service in compose["services"].values() for volume in service["volumes"]}
    assert named == set(compose["volumes"])
    for service in (web, workers):
        for name in service["depends_on"]:
            assert "healthcheck" in compose["services"][name]
    context = (COMPOSE.parent / web["build"]["context"]).resolve()
    assert context == REPOSITORY and (context / web["build"]["dockerfile"]).is_file()


def test_compose_has_no_secret_of_its_own(compose):
    for name, service in compose["services"].items():
        for key, value in service["environment"].items():
            if re.search("PASSWORD|SECRET|DATABASE_URL", key):
                # Without a value it is passed through from the shell.
                assert value is None or "${" in value, f"{name}: {key} is written out"
    environment = compose["services"]["web"]["environment"]
    assert environment["PORTAL_ENV"] == "production"
    for required in ("PORTAL_SECRET_KEY", "PORTAL_ALLOWED_HOSTS"):
        assert ":?" in environment[required]
    assert all("0.0.0.0" not in port for port in compose["services"]["web"]["ports"])
    assert "ports" not in compose["services"]["database"]


def test_bash_scripts_are_well_formed():
    bash = shutil.which("bash")
    assert bash, "the scripts of this repository need bash"
    assert subprocess.run([bash, "-n", str(REPOSITORY / ".ci" / "run")]).returncode == 0
