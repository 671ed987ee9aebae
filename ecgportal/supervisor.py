"""Start the portal, keep it running, and end all of it: ``python -m ecgportal.supervisor``.

Starts the embedded PostgreSQL when ``DATABASE_URL`` is unset, brings the database up to
date (``manage.py setup``), and runs the web server, the workers of the queues and the
watch over lost jobs as children, each in a session of its own. A dead child is started
again. SIGINT, SIGTERM and SIGHUP end everything; a second one ends it at once; a guardian
process does the same when the supervisor itself is killed.

``PORTAL_PROCESSES``: ``all`` (default), ``web`` or ``workers``. ``PORTAL_LOGS``: ``files``
(default, under PORTAL_HOME/logs, of hosts that share the home in a folder each, with errors copied to the terminal) or ``terminal``.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import psutil

from ecgportal import home
from ecgportal.embedded_pg import DatabaseError, EmbeddedServer
from ecgportal.listening import StartError, check_port, health, web_address
from ecgportal.logfiles import ErrorTail, cap_size
from ecgportal.processes import (
    KEEPS_ENVIRONMENT,
    MARK,
    AlreadyRunning,
    Guardian,
    end_processes,
    is_alive,
    marked_processes,
    take_lock,
)

ROLES = ("all", "web", "workers")
QUEUES = ("portal", "train")
_TICK_S = 0.1
_LONGEST_DELAY_S = 30.0
_STEADY_AFTER_S = 60.0
_WEB_FIRST_S = 6.0


@dataclass
class Child:
    """One process that is kept running.

    Parameters
    ----------
    after_web: the first start leaves the processors to the web server.
    one_body: the death of one of its forked processes must be followed by a start of all of them.
    """

    name: str
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    after_web: bool = False
    one_body: bool = False
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    delay_s: float = 0.0
    start_at: float = 0.0
    members: set[psutil.Process] = field(default_factory=set)


def say(line: str) -> None:
    """Print one line to the terminal at once; a terminal that is gone does not matter."""
    with contextlib.suppress(OSError, ValueError):
        print(line, flush=True)


def portal_children(role: str, bind: str, port: int) -> list[Child]:
    """Return the processes that the role needs."""
    python, manage = sys.executable, str(home.REPOSITORY / "manage.py")
    listen = f"[{bind}]:{port}" if ":" in bind else f"{bind}:{port}"
    children = []
    if role in ("all", "web"):
        options = {
            "bind": listen,
            "worker-class": "gthread",
            "workers": os.environ.get("PORTAL_WEB_WORKERS") or "2",
            "threads": os.environ.get("PORTAL_WEB_THREADS") or "8",
            # Large uploads and exports stream for longer than the default allows.
            "timeout": "300",
            "graceful-timeout": "10",
            # A script that asks every few seconds must not find its connection closed while it writes.
            "keep-alive": "75",
        }
        if os.access("/dev/shm", os.W_OK):  # noqa: S108
            options["worker-tmp-dir"] = "/dev/shm"  # noqa: S108
        arguments = [f"--{name}={value}" for name, value in options.items()]
        # The control socket would be made in the account's home folder, which may be read-only.
        children.append(
            Child(
                "web",
                [
                    python,
                    "-m",
                    "gunicorn",
                    *arguments,
                    "--preload",
                    "--no-control-socket",
                    "--config=python:ecgportal.web_server",
                    "ecgportal.wsgi:application",
                ],
                # Each of many threads would otherwise keep what it once needed in a heap of its own.
                {"MALLOC_ARENA_MAX": os.environ.get("MALLOC_ARENA_MAX", "2")},
            )
        )
    if role in ("all", "workers"):
        # The checks load all pages and the API, which these processes never serve.
        children.append(Child("jobs", [python, manage, "supervise_jobs", "--skip-checks"]))
        for queue in QUEUES:
            command = [python, manage, "qcluster", "-n", queue, "--skip-checks"]
            # A worker that is killed while it waits for a message takes a lock with it that the others need.
            child = Child(f"queue-{queue}", command, {"Q_CLUSTER_NAME": queue}, role == "all", one_body=True)
            children.append(child)
    if os.environ.get("PORTAL_STORAGE_URL"):
        # Every host, of whatever role, keeps files that may be deleted elsewhere.
        children.append(Child("storage", [python, manage, "tend_storage", "--skip-checks"], after_web=role == "all"))
    return children


class Supervisor:
    """Runs children until it is told to stop.

    Parameters
    ----------
    children: the processes to keep running.
    server: the embedded database to run, None when the portal uses another server.
    setup: the command that must succeed before the children start.
    patient: run ``setup`` again and again until it succeeds, instead of giving up.
    web: (bind, port) whose answer on ``/healthz`` is announced.
    """

    def __init__(
        self,
        children: list[Child],
        *,
        server: EmbeddedServer | None = None,
        setup: list[str] | None = None,
        patient: bool = False,
        web: tuple[str, int] | None = None,
    ):
        self.children = children
        self.server = server
        self.setup = setup
        self.patient = patient
        self.web = web
        self.run_dir = home.run_dir()
        self.logs_dir = home.logs_dir()
        self.to_terminal = os.environ.get("PORTAL_LOGS") == "terminal"
        self.tail = ErrorTail()
        self.signals = 0
        self.guardian: Guardian | None = None
        self._postgres: subprocess.Popen[bytes] | None = None
        self._announced = web is None
        self._web_deadline: float | None = None
        self._next_slow_check = 0.0

    def run(self) -> int:
        """Start everything, stay until a signal or a failure, end everything; return the exit status."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        self.guardian = Guardian(self._clear_up)
        status = 0
        try:
            self._prepare()
            while not self.signals:
                self._tick()
                time.sleep(_TICK_S)
        except (StartError, DatabaseError) as error:
            if not self.signals:
                say(str(error))
                status = 1
        finally:
            self._shut_down()
        return status

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.signals += 1

    # -- start

    def _prepare(self) -> None:
        if left := marked_processes(self.run_dir):
            say(f"Ending {len(left)} processes that a former start left behind ...")
            end_processes(self.run_dir, hurry=lambda: self.signals > 1)
        if self.server is not None:
            cap_size(self.server.log, keep=False)
            self._postgres = self.server.start()
        if self.setup and not self.signals:
            self._run_setup(self.setup)

    def _run_setup(self, command: list[str]) -> None:
        log = self.logs_dir / "setup.log" if self.patient else None
        while not self.signals:
            process = self._spawn(command, {}, log)
            while process.poll() is None and not self.signals:
                time.sleep(0.02)
            if process.poll() in (0, None):
                return
            if not self.patient:
                raise StartError(f"The portal could not be set up (status {process.returncode}); see the lines above.")
            say(f"Waiting until the web process has brought the database up to date (see {log}) ...")
            self._sleep(3.0)

    def _sleep(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not self.signals:
            time.sleep(_TICK_S)

    def _spawn(self, command: list[str], extra: dict[str, str], log: Path | None) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", **extra, **KEEPS_ENVIRONMENT, MARK: str(self.run_dir)}
        with contextlib.ExitStack() as stack:
            output = stack.enter_context(log.open("ab")) if log else None
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT if output else None,
                cwd=home.REPOSITORY,
                env=environment,
                start_new_session=True,
            )

    def _start(self, child: Child) -> None:
        log = None if self.to_terminal else self.logs_dir / f"{child.name}.log"
        if log:
            cap_size(log, keep=False)
            self.tail.follow(child.name, log)
        child.started = time.monotonic()
        child.process = self._spawn(child.command, child.environment, log)

    # -- stay

    def _tick(self) -> None:
        now = time.monotonic()
        self._keep_database()
        for child in self.children:
            if child.process is None:
                if now >= child.start_at and not (child.after_web and self._web_is_coming(now)):
                    self._start(child)
            elif child.process.poll() is not None:
                self._bury(child, now)
        if self.guardian is not None and not self.guardian.is_alive():
            self.guardian.abandon()
            self.guardian = Guardian(self._clear_up)
        for line in self.tail.new_errors():
            say(line)
        if now >= self._next_slow_check:
            self._next_slow_check = now + 0.25
            self._announce()
            self._reap_strays()
            for child in self.children:
                if child.one_body and child.process is not None:
                    self._watch_members(child, child.process.pid)
            for path in self.logs_dir.glob("*.log"):
                cap_size(path)

    def _web_is_coming(self, now: float) -> bool:
        if self._web_deadline is None:
            self._web_deadline = now + _WEB_FIRST_S
        return not self._announced and now < self._web_deadline

    def _keep_database(self) -> None:
        if self.server is None:
            return
        if self._postgres is not None and self._postgres.poll() is None:
            return
        if self.server.pid() is None:
            say(f"The database ended unexpectedly; starting it again (see {self.server.log}).")
            self._postgres = self.server.start()

    def _bury(self, child: Child, now: float) -> None:
        """Note the death of a child, end what is left of its group, and plan the next start."""
        assert child.process is not None
        for line in self.tail.new_errors():
            say(line)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            # Processes that it forked (not jobs: those lead sessions of their own) would go on without a master.
            os.killpg(child.process.pid, signal.SIGKILL)
        steady = now - child.started > _STEADY_AFTER_S
        child.delay_s = 0.0 if steady else min(_LONGEST_DELAY_S, max(0.5, child.delay_s * 2))
        child.start_at = now + child.delay_s
        status = child.process.returncode
        how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        where = "" if self.to_terminal else f" (see {self.logs_dir / child.name}.log)"
        say(f"{child.name} {how}; starting it again in {child.delay_s:.1f} s{where}.")
        child.process = None
        child.members = set()

    def _watch_members(self, child: Child, leader: int) -> None:
        """End the whole child when one of its processes (not of its jobs: those lead sessions) is gone."""
        try:
            found = psutil.Process(leader).children(recursive=True)
        except psutil.Error:
            return
        gone = [process for process in child.members if not is_alive(process.pid)]
        if gone:
            say(f"Process {gone[0].pid} of {child.name} ended suddenly; starting {child.name} again.")
            with contextlib.suppress(ProcessLookupError):
                os.killpg(leader, signal.SIGKILL)
        child.members = set()
        for process in found:
            with contextlib.suppress(ProcessLookupError):
                if not gone and os.getsid(process.pid) == leader:
                    child.members.add(process)

    def _announce(self) -> None:
        if self._announced or self.web is None:
            return
        bind, port = self.web
        if health(bind, port, timeout_s=1.0) is not None:
            self._announced = True
            shown = {"0.0.0.0": "localhost", "::": "localhost"}.get(bind, f"[{bind}]" if ":" in bind else bind)  # noqa: S104
            say(
                f"\nThe portal is ready at http://{shown}:{port}/\nIts data are in {home.portal_home()}. Ctrl-C ends it."
            )

    # -- end

    def _reap(self) -> None:
        for child in self.children:
            if child.process is not None:
                child.process.poll()

    def _reap_strays(self) -> None:
        """Collect processes that came to us because their parent died: as process 1 of a container we are their heir."""
        known = {child.process.pid for child in self.children if child.process is not None}
        known |= {self._postgres.pid if self._postgres else 0, self.guardian.pid if self.guardian else 0}
        for process in psutil.Process().children():
            with contextlib.suppress(psutil.Error, ChildProcessError):
                if process.pid not in known and process.status() == psutil.STATUS_ZOMBIE:
                    os.waitpid(process.pid, os.WNOHANG)

    def _shut_down(self) -> None:
        say("\nEnding the portal ...")
        before = self.signals
        end_processes(self.run_dir, hurry=lambda: self.signals > before, reap=self._reap)
        try:
            if self.server is not None:
                self.server.stop()
        except DatabaseError as error:
            say(str(error))
        if self.guardian is not None:
            self.guardian.dismiss()
        say("The portal has ended.")

    def _clear_up(self) -> None:
        """Do what ``_shut_down`` does, from the guardian."""
        end_processes(self.run_dir)
        if self.server is not None:
            self.server.stop()


def supervise(role: str) -> int:
    """Run the portal's processes of one role; return the exit status."""
    embedded = home.uses_embedded()
    if role not in ROLES:
        raise StartError(f"PORTAL_PROCESSES is {role!r}; it must be one of {', '.join(ROLES)}.")
    if embedded and role != "all":
        raise StartError(
            f"PORTAL_PROCESSES={role} needs DATABASE_URL: the embedded database belongs to one supervisor that runs "
            "all processes."
        )
    home.secret_key()
    with contextlib.ExitStack() as stack:
        for part in ("web", "workers") if role == "all" else (role,):
            stack.enter_context(take_lock(home.run_dir() / f"supervisor-{part}.lock", say=say))
        bind, port = web_address()
        if role != "workers":
            check_port(bind, port)
        # Only one role changes the database; the workers wait for it.
        command = ["migrate", "--check"] if role == "workers" else ["setup"]
        return Supervisor(
            portal_children(role, bind, port),
            server=EmbeddedServer() if embedded else None,
            setup=[sys.executable, str(home.REPOSITORY / "manage.py"), *command],
            patient=role == "workers",
            web=None if role == "workers" else (bind, port),
        ).run()


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m ecgportal.supervisor", description=__doc__)
    parser.add_argument("--processes", choices=ROLES, default=os.environ.get("PORTAL_PROCESSES") or "all")
    parser.add_argument("--check", action="store_true", help="only ask /healthz of a running portal: status 0 when ok")
    options = parser.parse_args(arguments)
    try:
        if options.check:
            status = health(*web_address())
            print(f"/healthz answers {status}" if status else "nothing answers")
            return 0 if status == 200 else 1
        # The folder of locks and process ids depends on the role, for the children, too.
        os.environ["PORTAL_PROCESSES"] = options.processes
        return supervise(options.processes)
    except (StartError, AlreadyRunning, DatabaseError, home.SettingsError) as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
