"""The embedded PostgreSQL starts, stops, and comes back after every kind of death."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import psycopg
import pytest

from ecgportal.embedded_pg import DatabaseError, EmbeddedServer, main, programs_dir
from ecgportal.os_account import Account, _with_traverse_entry, allow_reading


@pytest.fixture(scope="module")
def template():
    """Make one initialised data folder; the tests copy it, as initdb takes most of the time."""
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    server = EmbeddedServer(folder / "postgres", durable=False)
    server.start()
    server.stop()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def server(template):
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    subprocess.run(["cp", "-a", str(template / "postgres"), str(folder)], check=True)
    made = EmbeddedServer(folder / "postgres", durable=False)
    yield made
    made.stop(5.0)
    shutil.rmtree(folder)


def ask(server, sql="SELECT 1"):
    with psycopg.connect(server.url(), autocommit=True) as connection:
        cursor = connection.execute(sql)
        return cursor.fetchone()[0] if cursor.description else None


def test_start_makes_a_utf8_database_on_a_private_socket(server):
    process = server.start()
    assert process is not None and server.pid() == process.pid and server.is_ready()
    assert ask(server, "SELECT current_database()") == "ecgportal"
    assert ask(server, "SHOW server_encoding") == "UTF8"
    assert ask(server, "SHOW listen_addresses") == ""
    assert ask(server, "SELECT lower('ÄÉ')") == "äé"
    assert stat.S_IMODE(server.socket_dir().stat().st_mode) == 0o700
    assert not [item for item in psutil.Process(process.pid).net_connections("inet") if item.status == "LISTEN"]
    assert server.start() is None, "a second start finds the running server"


def test_the_log_of_the_server_does_not_quote_rows(server):
    server.start()
    for statement in (
        "CREATE TABLE held (name text UNIQUE CHECK (name <> 'bad'))", "INSERT INTO held VALUES ('Quixworth')",
    ):  # fmt: skip
        ask(server, statement)
    with pytest.raises(psycopg.errors.UniqueViolation, match="Quixworth"):
        ask(server, "INSERT INTO held VALUES ('Quixworth')")
    with pytest.raises(psycopg.errors.CheckViolation):
        ask(server, "INSERT INTO held VALUES ('bad')")
    text = server.log.read_text()
    assert "violates unique constraint" in text and "violates check constraint" in text
    assert "Quixworth" not in text and "'bad'" not in text


def test_server_never_runs_as_root(server):
    assert psutil.Process(server.start().pid).uids().effective != 0


def test_data_survive_a_stop_and_a_kill(server):
    server.start()
    ask(server, "CREATE TABLE kept (n int)")
    ask(server, "INSERT INTO kept VALUES (42)")
    assert server.stop() is True
    assert server.pid() is None and server.stop() is False
    process = server.start()
    process.kill()
    process.wait()
    server.start()
    assert ask(server, "SELECT n FROM kept") == 42


def test_start_waits_for_the_backends_of_a_killed_server(server):
    server.remains_patience_s = 1.0
    first = server.start()
    backends = psutil.Process(first.pid).children()
    assert backends
    for backend in backends:
        backend.suspend()
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    for backend in backends[1:]:
        backend.resume()
    started = time.monotonic()
    assert server.start() is not None
    assert time.monotonic() - started > 1.0, "the suspended backend must have been waited for, then killed"
    assert ask(server) == 1
    assert not backends[0].is_running() or backends[0].status() == psutil.STATUS_ZOMBIE


def test_lock_file_that_names_another_program_does_not_stop_the_start(server):
    server.start()
    server.stop()
    # The id of a living process that is no PostgreSQL, as after a reboot.
    (server.data / "postmaster.pid").write_text(f"{os.getppid()}\n{server.data}\n0\n5432\n{server.socket_dir()}\n")
    assert server.pid() is None
    assert server.start() is not None


def test_half_made_data_folder_is_thrown_away():
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    (folder / "postgres" / "data.new-killed").mkdir(parents=True)
    (folder / "postgres" / "data.new-killed" / "PG_VERSION").write_text("18\n")
    server = EmbeddedServer(folder / "postgres", durable=False)
    try:
        server.start()
        assert ask(server) == 1
        assert not list(server.folder.glob("data.new-*"))
    finally:
        server.stop()
        shutil.rmtree(folder)


def test_socket_moves_to_a_private_folder_when_the_path_is_too_long(template):
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    deep = folder / ("long" * 20) / "with space"
    deep.mkdir(parents=True)
    folder.chmod(0o700)
    subprocess.run(["cp", "-a", str(template / "postgres"), str(deep)], check=True)
    server = EmbeddedServer(deep / "postgres", durable=False)
    try:
        server.start()
        assert ask(server) == 1
        socket_dir = server.socket_dir()
        assert socket_dir.parent == Path("/tmp") and stat.S_IMODE(socket_dir.stat().st_mode) == 0o700
        server.stop()
        shutil.rmtree(socket_dir)
        server.start()
        assert ask(server) == 1 and server.socket_dir() != socket_dir, "a cleaned /tmp gets a new folder"
    finally:
        server.stop()
        shutil.rmtree(server.socket_dir(), ignore_errors=True)
        shutil.rmtree(folder)


def test_a_server_that_cannot_start_says_why(server):
    (server.data / "postgresql.conf").write_text("no_such_setting = 1\n")
    with pytest.raises(DatabaseError, match="no_such_setting"):
        server.start()


def test_data_of_an_unknown_version_are_refused_with_a_sentence():
    with pytest.raises(DatabaseError, match=r"PostgreSQL 12.*DATABASE_URL"):
        programs_dir("12")


def test_commands(server, monkeypatch, capsys):
    monkeypatch.setenv("PORTAL_HOME", str(server.folder.parent))
    assert main(["status"]) == 3
    assert main(["start"]) == 0
    assert main(["status"]) == 0
    assert main(["url"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == server.url()
    assert main(["stop"]) == 0
    assert server.pid() is None


def test_start_from_the_shell_outlives_the_shell(server):
    environment = {**os.environ, "PORTAL_HOME": str(server.folder.parent)}
    done = subprocess.run(
        [sys.executable, "-m", "ecgportal.embedded_pg", "start"], env=environment, capture_output=True, text=True
    )
    assert done.stdout.strip() == server.url(), done.stderr
    assert ask(server) == 1


def test_access_entry_keeps_what_the_mode_said():
    made = _with_traverse_entry(None, 0o750, 1234)
    # version 2; user::rwx, user:1234:--x, group::r-x, mask::r-x, other::---
    assert made.hex() == ("0200000001000700ffffffff02000100d204000004000500ffffffff10000500ffffffff20000000ffffffff")
    assert _with_traverse_entry(made, 0o750, 1234) == made, "a second time changes nothing"
    assert Account("a", 5, 6).popen_arguments() == {"user": 5, "group": 6, "extra_groups": []}


def test_programs_that_a_strict_umask_closed_are_opened_for_reading_only(tmp_path):
    tree = tmp_path / "programs"
    (tree / "bin").mkdir(parents=True)
    for name, mode in (("postgres", 0o700), ("notes", 0o600)):
        (tree / "bin" / name).touch()
        (tree / "bin" / name).chmod(mode)
    (tree / "link").symlink_to("/nowhere")
    for folder in (tree / "bin", tree):
        folder.chmod(0o700)
    allow_reading(tree)
    modes = {path.name: stat.S_IMODE(path.lstat().st_mode) for path in (tree, *tree.rglob("*")) if path.name != "link"}
    assert modes == {"programs": 0o755, "bin": 0o755, "postgres": 0o755, "notes": 0o644}
    (tree / "bin" / "notes").chmod(0o600)
    allow_reading(tree)
    assert stat.S_IMODE((tree / "bin" / "notes").stat().st_mode) == 0o600, "an open tree is left as it is"
