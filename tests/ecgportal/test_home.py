"""The environment is read the same way by every process, and no secret has a default in production."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecgportal import home


@pytest.fixture
def clean(monkeypatch, tmp_path):
    for name in list(os.environ):
        if name.startswith("PORTAL_") or name == "DATABASE_URL":
            monkeypatch.delenv(name)
    monkeypatch.setenv("PORTAL_HOME", str(tmp_path / "home"))
    return tmp_path


def test_env_file_gives_way_to_the_environment(clean, monkeypatch):
    path = clean / "env"
    path.write_text(
        "# a comment\n\nexport OP_TEST_A = 'one two'\nOP_TEST_B=\"=x#y\"\nOP_TEST_C=file\nOP_TEST_D=\n",
        encoding="utf-8",
    )
    for name in "ABD":
        monkeypatch.setenv(f"OP_TEST_{name}", "")
        monkeypatch.delenv(f"OP_TEST_{name}")
    monkeypatch.setenv("OP_TEST_C", "environment")
    assert home.load_env(path) == {"OP_TEST_A": "one two", "OP_TEST_B": "=x#y", "OP_TEST_D": ""}
    assert os.environ["OP_TEST_A"] == "one two" and os.environ["OP_TEST_C"] == "environment"


@pytest.mark.parametrize("line", ["no equals sign", "=value", "two words=x"])
def test_env_file_with_another_line_is_refused_with_its_number(clean, line):
    path = clean / "env"
    path.write_text(f"# first\n{line}\n")
    with pytest.raises(home.SettingsError, match="Line 2"):
        home.load_env(path)


def test_env_file_is_read_when_the_module_is_imported(clean):
    (clean / "env").write_text("PORT=8123\n")
    command = [sys.executable, "-c", "import os; from ecgportal import home; print(os.environ['PORT'])"]
    environment = {key: value for key, value in os.environ.items() if key != "PORT"}
    environment["PORTAL_ENV_FILE"] = str(clean / "env")
    done = subprocess.run(command, env=environment, cwd=home.REPOSITORY, capture_output=True, text=True)
    assert done.stdout.strip() == "8123", done.stderr


def test_home_is_made_closed_to_others_and_counts_from_the_checkout(clean, monkeypatch):
    made = home.portal_home()
    assert made == clean / "home" and stat.S_IMODE(made.stat().st_mode) == 0o750
    assert home.run_dir() == made / "run"
    assert home.logs_dir() == made / "logs"
    monkeypatch.setenv("PORTAL_RUN", str(clean / "elsewhere"))
    assert home.run_dir() == clean / "elsewhere"
    # Hosts that share the home do not write into each other's logs.
    monkeypatch.setenv("PORTAL_PROCESSES", "workers")
    for host in ("one", "two"):
        monkeypatch.setenv("PORTAL_HOST_NAME", host)
        assert home.logs_dir() == made / "logs" / f"{host}-workers"
    monkeypatch.delenv("PORTAL_PROCESSES")
    monkeypatch.setenv("PORTAL_HOME", "tests")
    monkeypatch.chdir(clean)
    assert home.portal_home() == home.REPOSITORY / "tests"


def test_home_that_cannot_be_made_is_a_sentence(clean, monkeypatch):
    (clean / "file").write_text("")
    monkeypatch.setenv("PORTAL_HOME", str(clean / "file" / "home"))
    with pytest.raises(home.SettingsError, match="set PORTAL_HOME"):
        home.portal_home()


def test_key_is_made_once_and_only_its_owner_reads_it(clean):
    key = home.secret_key()
    path = home.portal_home() / "secret_key"
    assert len(key) >= 50 and home.secret_key() == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [item.name for item in path.parent.iterdir()] == ["secret_key"]
    path.write_text("short")
    with pytest.raises(home.SettingsError, match="damaged"):
        home.secret_key()


def test_processes_that_start_together_get_one_key(clean):
    code = "from ecgportal import home; print(home.secret_key())"
    started = [
        subprocess.Popen([sys.executable, "-S", "-c", code], cwd=home.REPOSITORY, stdout=subprocess.PIPE)
        for _ in range(6)
    ]
    assert len({process.communicate()[0] for process in started}) == 1


def test_production_needs_a_key_of_its_own(clean, monkeypatch):
    monkeypatch.setenv("PORTAL_ENV", "production")
    with pytest.raises(home.SettingsError, match="PORTAL_SECRET_KEY"):
        home.secret_key()
    assert not (clean / "home" / "secret_key").exists()
    monkeypatch.setenv("PORTAL_SECRET_KEY", "x" * 50)
    assert home.secret_key() == "x" * 50


def test_database_is_the_embedded_one_unless_another_is_named(clean, monkeypatch):
    assert home.uses_embedded()
    settings = home.database_settings()
    assert settings["HOST"] == str(clean / "home" / "postgres" / "s") and settings["NAME"] == "ecgportal"
    (clean / "home" / "postgres").mkdir()
    (clean / "home" / "postgres" / "socket_dir").write_text("/tmp/a b\n")
    assert home.database_settings()["HOST"] == "/tmp/a b"
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:p%40ss@db.example:6543/ecg?sslmode=require")
    assert not home.uses_embedded()
    assert home.database_settings() == {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": "ecg",
        "USER": "u",
        "PASSWORD": "p@ss",
        "HOST": "db.example",
        "PORT": "6543",
        "OPTIONS": {"sslmode": "require"},
    }


@pytest.mark.parametrize("url", ["mysql://u@h/d", "sqlite:///x", "postgresql://h", "postgresql://h:port/d", "nonsense"])
def test_other_databases_are_refused_with_a_sentence(url):
    with pytest.raises(home.SettingsError, match="DATABASE_URL"):
        home.database_settings(url)


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40))
def test_any_socket_folder_survives_the_url(name):
    folder = Path("/tmp") / name.replace("/", "_")
    assert home.database_settings(home.embedded_url(folder))["HOST"] == str(folder)
