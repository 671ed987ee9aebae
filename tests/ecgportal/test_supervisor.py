"""The supervisor restarts what dies, ends everything, and is itself survived by nothing."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import psycopg
import pytest

from ecgportal import processes
from ecgportal.embedded_pg import EmbeddedServer
from ecgportal.listening import StartError, check_port, health, web_address
from ecgportal.logfiles import ErrorTail, cap_size
from ecgportal.processes import does_a_job
from ecgportal.supervisor import QUEUES, Child, Supervisor, portal_children

REPOSITORY = Path(__file__).resolve().parents[2]

# Stands for the web server: forks one worker and answers every request with 200.
WEB = """
import http.server, os, sys
if os.fork() == 0:
    import time; time.sleep(600)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def log_message(self, *a): pass
print("2026-01-01 00:00:00 ERROR web says no", flush=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
# Stands for a queue's worker: starts a job in a session of its own, and waits for it when it is asked to end.
WORKER = """
import signal, subprocess, sys, time
job = subprocess.Popen([sys.executable, "-S", "-c", sys.argv[1], "run_job", sys.argv[2]], start_new_session=True)
signal.signal(signal.SIGTERM, lambda *_: (job.wait(), sys.exit(0)))
while True: time.sleep(0.1)
"""
# Stands for a training: writes a checkpoint when it is asked to end.
JOB = """
import pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[2])
def stop(*_):
    time.sleep(0.2); (folder / "checkpoint").write_text("saved"); sys.exit(0)
signal.signal(signal.SIGTERM, stop)
(folder / "job-started").touch()
while True: time.sleep(0.1)
"""
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: time.sleep(0.1)"

MAIN = """
import sys
from ecgportal import home, processes
from ecgportal.embedded_pg import EmbeddedServer
from ecgportal.supervisor import Child, Supervisor, say
port, database, stubborn, folder = int(sys.argv[1]), sys.argv[2] == "1", sys.argv[3] == "1", sys.argv[4]
processes.PATIENCE_S = 3.0
lock = processes.take_lock(home.run_dir() / "supervisor-all.lock", say=say)
python = [sys.executable, "-S", "-c"]
children = [Child("web", [*python, WEB, str(port)]), Child("worker", [*python, WORKER, JOB, folder])]
if stubborn:
    children.append(Child("stubborn", [*python, STUBBORN]))
server = EmbeddedServer(durable=False) if database else None
sys.exit(Supervisor(children, server=server, setup=[*python, "print('set up')"], web=("127.0.0.1", port)).run())
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(condition, what, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.02)
    return value


class Portal:
    """A supervisor with stub children over a home of its own."""

    def __init__(self):
        self.home = Path(tempfile.mkdtemp(prefix="sv-", dir="/tmp"))
        self.port = free_port()
        self.output = self.home / "output"
        self.process = None

    def start(self, *, database=False, stubborn=False):
        constants = "".join(f"{name} = {globals()[name]!r}\n" for name in ("WEB", "WORKER", "JOB", "STUBBORN"))
        arguments = [str(self.port), str(int(database)), str(int(stubborn)), str(self.home)]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PORTAL_")}
        environment["PORTAL_HOME"] = str(self.home)
        with self.output.open("a") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", constants + MAIN, *arguments],
                stdout=output,
                stderr=output,
                env=environment,
                cwd=REPOSITORY,
            )
        return self

    def until_ready(self):
        until(lambda: "is ready at" in self.said() or self.process.poll() is not None, "the address")
        assert self.process.poll() is None, self.said()
        until((self.home / "job-started").exists, "the job")
        return self

    def said(self):
        return self.output.read_text()

    def alive(self):
        return processes.marked_processes(self.home / "run")

    def find(self, part):
        """Leaders of sessions whose command holds the part."""
        found = []
        for process in self.alive():
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                if any(part in word for word in process.cmdline()) and os.getsid(process.pid) == process.pid:
                    found.append(process)
        return found

    def jobs(self):
        return [process for process in self.find("run_job") if does_a_job(process)]

    def guardian(self):
        """Return its process; None while there is none, as between one that was killed and the next."""
        found = psutil.Process(self.process.pid).children()
        return next((p for p in found if p.cmdline()[:2] == [sys.executable, "-c"]), None)

    def clear(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        processes.end_processes(self.home / "run", hurry=lambda: True)
        EmbeddedServer(self.home / "postgres").stop(2.0)
        shutil.rmtree(self.home, ignore_errors=True)


@pytest.fixture
def portal():
    made = Portal()
    yield made
    made.clear()


@pytest.fixture
def ready(portal):
    return portal.start().until_ready()


def test_database_setup_and_children_start_and_one_signal_ends_them_all(portal):
    portal.start(database=True).until_ready()
    server = EmbeddedServer(portal.home / "postgres")
    assert "set up" in portal.said()
    until(lambda: "web: 2026-01-01 00:00:00 ERROR web says no" in portal.said(), "the error")
    with psycopg.connect(server.url()) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)

    os.kill(server.pid(), signal.SIGKILL)
    until(lambda: "starting it again" in portal.said() and server.is_ready(), "the database again")

    portal.process.send_signal(signal.SIGINT)
    assert portal.process.wait(20) == 0
    assert portal.alive() == [] and server.pid() is None
    assert (portal.home / "checkpoint").read_text() == "saved"
    assert "The portal has ended." in portal.said()


def test_killed_child_is_started_again_without_its_old_workers_and_its_job_lives_on(ready):
    (web,) = ready.find("serve_forever")
    forked = until(web.children, "the forked worker")
    web.kill()
    until(lambda: [p for p in ready.find("serve_forever") if p != web], "a new web server")
    until(lambda: not any(processes.is_alive(process.pid) for process in forked), "the end of its workers")
    assert "web was ended by SIGKILL" in ready.said()

    (job,) = ready.jobs()
    (worker,) = (p for p in ready.find("start_new_session"))
    worker.kill()
    until(lambda: len(ready.jobs()) == 2, "a new worker with a new job")
    assert job.is_running()


def test_killed_supervisor_takes_everything_with_it(ready):
    ready.process.kill()
    until(lambda: not ready.alive(), "the end of the children")
    assert (ready.home / "checkpoint").exists(), "the job had the time to save"


def test_killed_guardian_is_replaced_and_the_replacement_works(ready):
    first = ready.guardian()
    first.kill()
    until(lambda: not first.is_running() and ready.guardian() not in (None, first), "a new guardian")
    ready.process.kill()
    until(lambda: not ready.alive(), "the end of the children")


def test_start_ends_what_a_killed_supervisor_and_guardian_left(ready):
    guardian = ready.guardian()
    left = ready.alive()
    ready.process.send_signal(signal.SIGSTOP)  # so that it cannot make a new guardian
    guardian.kill()
    ready.process.kill()
    ready.process.wait()
    assert ready.alive(), "nobody was there to end them"
    (ready.home / "job-started").unlink()
    ready.output.write_text("")
    ready.start().until_ready()
    assert "that a former start left behind" in ready.said()
    assert not any(processes.is_alive(process.pid) for process in left)


def test_a_process_that_ignores_sigterm_is_killed_and_a_second_signal_is_obeyed_at_once(portal):
    portal.start(stubborn=True).until_ready()
    until(lambda: portal.find("SIG_IGN"), "the stubborn child")
    portal.process.terminate()
    until(lambda: "Ending the portal" in portal.said(), "the first signal")
    portal.process.terminate()
    assert portal.process.wait(10) == 0
    assert portal.alive() == []


def test_second_supervisor_on_one_home_is_refused_with_a_sentence(ready):
    with pytest.raises(processes.AlreadyRunning, match=f"process {ready.process.pid} holds"):
        processes.take_lock(ready.home / "run" / "supervisor-all.lock")


def test_strays_of_dead_parents_are_collected(tmp_path, monkeypatch):
    monkeypatch.setenv("PORTAL_HOME", str(tmp_path))
    monkeypatch.delenv("PORTAL_RUN", raising=False)
    supervisor = Supervisor([Child("known", [sys.executable, "-S", "-c", ""])])
    supervisor._start(supervisor.children[0])
    known = supervisor.children[0].process
    stray = os.fork()
    if stray == 0:
        os._exit(0)
    for pid in (stray, known.pid):
        until(lambda pid=pid: psutil.Process(pid).status() == psutil.STATUS_ZOMBIE, "its end")
    supervisor._reap_strays()
    with pytest.raises(ChildProcessError):
        os.waitpid(stray, os.WNOHANG)
    assert known.wait() == 0


def test_a_queue_that_lost_a_process_is_started_again_as_a_whole(tmp_path, monkeypatch):
    monkeypatch.setenv("PORTAL_HOME", str(tmp_path))
    monkeypatch.delenv("PORTAL_RUN", raising=False)
    fork = f"import os, subprocess, sys, time; os.fork(); subprocess.Popen([sys.executable, '-S', '-c', {STUBBORN!r}], "
    code = fork + "start_new_session=True) if os.getpid() == os.getsid(0) else None; time.sleep(600)"
    supervisor = Supervisor([Child("queue", [sys.executable, "-S", "-c", code], one_body=True)])
    (queue,) = supervisor.children
    try:
        supervisor._start(queue)
        leader = psutil.Process(queue.process.pid)
        until(lambda: len(leader.children()) == 2, "a forked process and a job")
        member, job = sorted(leader.children(), key=lambda process: os.getsid(process.pid) == process.pid)
        until(lambda: os.getsid(job.pid) == job.pid, "the job's own session")
        supervisor._watch_members(queue, leader.pid)
        assert queue.members == {member}
        job.kill()
        job_gone = until(lambda: not processes.is_alive(job.pid), "the job's end")
        supervisor._watch_members(queue, leader.pid)
        assert job_gone and queue.process.poll() is None, "the end of a job is an everyday thing"
        member.kill()
        until(lambda: not processes.is_alive(member.pid), "the member's end")
        supervisor._watch_members(queue, leader.pid)
        assert queue.process.wait(10) == -signal.SIGKILL
    finally:
        processes.end_processes(supervisor.run_dir, hurry=lambda: True, reap=supervisor._reap)


def test_a_process_that_writes_its_own_title_is_still_found_and_ended(tmp_path, monkeypatch):
    monkeypatch.setenv("PORTAL_HOME", str(tmp_path))
    monkeypatch.delenv("PORTAL_RUN", raising=False)
    code = "import time; from setproctitle import setproctitle; setproctitle('web: ' + 'x' * 2000); time.sleep(600)"
    supervisor = Supervisor([Child("web", [sys.executable, "-c", code])])
    (web,) = supervisor.children
    try:
        supervisor._start(web)
        process = psutil.Process(web.process.pid)
        until(lambda: " ".join(process.cmdline()).startswith("web: "), "the title")
        assert processes.marked_processes(supervisor.run_dir) == [process]
        processes.end_processes(supervisor.run_dir, reap=supervisor._reap)
        assert web.process.returncode == -signal.SIGTERM
    finally:
        web.process.kill()
        web.process.wait()


def test_workers_wait_until_the_database_is_up_to_date(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PORTAL_HOME", str(tmp_path))
    monkeypatch.delenv("PORTAL_RUN", raising=False)
    count = "import pathlib, sys; p = pathlib.Path(sys.argv[1]); p.open('a').write('x'); sys.exit(p.stat().st_size < 2)"
    command = [sys.executable, "-S", "-c", count, str(tmp_path / "tries")]
    supervisor = Supervisor([], setup=command, patient=True)
    monkeypatch.setattr(supervisor, "_sleep", lambda seconds: None)
    supervisor._prepare()
    assert (tmp_path / "tries").read_text() == "xx"
    assert capsys.readouterr().out.count("Waiting until") == 1
    (tmp_path / "tries").unlink()
    with pytest.raises(StartError, match="could not be set up"):
        Supervisor([], setup=command)._prepare()


def run_main(tmp_path, **environment):
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PORTAL_") and k != "DATABASE_URL"}
    given = {"PORTAL_HOME": str(tmp_path), "PORTAL_ENV_FILE": os.devnull, **environment}
    command = [sys.executable, "-m", "ecgportal.supervisor"]
    return subprocess.run(command, env=kept | given, cwd=REPOSITORY, capture_output=True, text=True, timeout=30)


def test_port_in_use_is_one_sentence_and_nothing_is_started(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = run_main(tmp_path, PORT=port)
    assert done.returncode == 1 and f"cannot listen on 127.0.0.1 port {port}" in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "postgres").exists()


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"PORT": "eighty"}, "PORT is 'eighty'"),
        ({"PORTAL_PROCESSES": "web"}, "PORTAL_PROCESSES=web needs DATABASE_URL"),
        ({"PORTAL_ENV": "production"}, "PORTAL_SECRET_KEY is not set"),
    ],
)
def test_settings_that_cannot_be_are_one_sentence(tmp_path, environment, sentence):
    done = run_main(tmp_path, **environment)
    assert done.returncode == 1 and sentence in done.stderr and "Traceback" not in done.stderr


def test_port_of_a_server_that_just_ended_is_free(monkeypatch):
    port = free_port()
    check_port("127.0.0.1", port)
    with pytest.raises(StartError, match="PORTAL_BIND"):
        check_port("203.0.113.7", port)
    monkeypatch.setenv("PORT", "70000")
    with pytest.raises(StartError):
        web_address()
    assert health("127.0.0.1", port) is None


def test_a_connection_that_rests_between_two_questions_stays_open(tmp_path):
    (tmp_path / "tiny.py").write_text(
        "def application(environ, start):\n    start('200 OK', [('Content-Length', '2')])\n    return [b'ok']\n"
    )
    port = free_port()
    (web,) = (child.command for child in portal_children("web", "127.0.0.1", port))
    left_out = ("--preload", "--config=python:ecgportal.web_server", "ecgportal.wsgi:application")
    server = subprocess.Popen(
        [*(part for part in web if part not in left_out), "tiny:application"], cwd=tmp_path, stderr=subprocess.DEVNULL
    )
    try:
        until(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0, "the server listens")
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", "/")
        assert connection.getresponse().read() == b"ok"
        first = connection.sock.getsockname()
        time.sleep(4)
        connection.request("GET", "/")
        assert connection.getresponse().read() == b"ok" and connection.sock.getsockname() == first
    finally:
        server.terminate()
        server.wait(20)


def test_roles_divide_the_children():
    names = {role: {c.name for c in portal_children(role, "::1", 80)} for role in ("all", "web", "workers")}
    assert names["web"] == {"web"}
    assert names["workers"] == {"jobs", *(f"queue-{queue}" for queue in QUEUES)}
    assert names["all"] == names["web"] | names["workers"]
    assert "--bind=[::1]:80" in portal_children("web", "::1", 80)[0].command


def test_marked_processes_of_another_home_are_left_alone(ready, tmp_path):
    assert processes.marked_processes(tmp_path) == []
    assert processes.end_processes(tmp_path) == 0
    assert ready.find("serve_forever")


def test_log_tail_gives_the_gist_of_each_error_once(tmp_path):
    log = tmp_path / "web.log"
    log.write_text("2026-01-01 00:00:00 ERROR old\n")
    tail = ErrorTail()
    tail.follow("web", log)
    failure = 'ERROR bad\nTraceback (most recent call last):\n  File "x"\nValueError: why\nmore words\n'
    with log.open("a") as stream:
        stream.write(f"2026-01-01 00:00:01,123 INFO fine\nmore\n2026-01-01 00:00:02,123 {failure}")
        stream.flush()
        assert tail.new_errors() == [], "the entry may still grow"
        assert tail.new_errors() == ["web: 2026-01-01 00:00:02,123 ERROR bad", "web: ValueError: why"]
        stream.write(f"2026-01-01 00:00:09,456 {failure}[2026-01-01 00:00:09 +0000] [5] [ERROR] other\n2026-01-01 ")
        stream.flush()
        tail.new_errors()
        assert tail.new_errors() == ["web: [2026-01-01 00:00:09 +0000] [5] [ERROR] other"], "a repetition is left out"
        stream.write("00:00:10 INFO fine\nTraceback (most recent call last):\nKeyError: 1\n")
    tail.new_errors()
    assert tail.new_errors() == ["web: Traceback (most recent call last):", "web: KeyError: 1"]
    log.write_text("2026-01-01 00:00:11 CRITICAL x\n")
    tail.new_errors()
    assert tail.new_errors() == ["web: 2026-01-01 00:00:11 CRITICAL x"], "an emptied file is read from its start"


def test_log_that_grew_too_large_is_moved_aside_and_stays_open(tmp_path):
    log = tmp_path / "web.log"
    with log.open("a") as stream:
        stream.write("x" * 20)
        stream.flush()
        cap_size(log, limit=10)
        stream.write("after")
    assert (tmp_path / "web.log.1").read_text() == "x" * 20 and log.read_text() == "after"
    cap_size(log, keep=False, limit=10)
    assert log.exists()
