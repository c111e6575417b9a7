"""Tests that a forked program does the same as a started one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import forked as module
import pytest
from forked import forked

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="programs are forked on Linux")

TELL = """
import __main__, os, signal, sys, threading
assert __main__.__dict__ is globals()
print(__name__, globals().get("__file__"), sys.argv, os.getcwd(), sys.path, sorted(os.environ.items()))
print({number: str(signal.getsignal(number)) for number in signal.valid_signals()})
print(signal.pthread_sigmask(signal.SIG_BLOCK, []))
print(threading.main_thread() is threading.current_thread(), sorted(os.listdir("/proc/self/fd")))
for stream in (sys.stdin, sys.stdout, sys.stderr):
    print(stream.fileno(), stream.encoding, stream.errors, stream.line_buffering, stream.write_through)
print(sys.__stdin__ is sys.stdin, sys.__stdout__ is sys.stdout, sys.__stderr__ is sys.stderr)
print(ascii(sys.stdin.read()))
print("beside", file=sys.stderr)
"""
LOADED = "import sys; print('torch' in sys.modules)"


def both(command: list[str], **options: Any) -> list[subprocess.CompletedProcess[bytes]]:
    command = [sys.executable, *command]
    options = {"capture_output": True, "timeout": 60, **options}
    return [subprocess.run(program, **options) for program in (command, forked(command))]


@pytest.mark.parametrize(
    ("how", "encoding"),
    [
        ("script", None),
        ("module", None),
        *[("code", encoding) for encoding in (None, "ascii", "utf-8:strict", "cp1252:replace", ":ignore")],
    ],
)
def test_the_fork_has_the_state_of_a_new_process(tmp_path, how, encoding):
    (tmp_path / "told.py").write_text(TELL)
    program = {"code": ["-c", TELL], "script": [str(tmp_path / "told.py")], "module": ["-m", "told"]}[how]
    env = {**os.environ, **({"PYTHONIOENCODING": encoding} if encoding else {})}
    real, fork = both([*program, "a b", "\udce9\n", ""], input=b"given\n", cwd=tmp_path, env=env)
    assert fork.stdout.splitlines() == real.stdout.splitlines()
    assert (fork.returncode, fork.stderr) == (real.returncode, real.stderr) == (0, b"beside\n")


@pytest.mark.parametrize(
    "code",
    [
        "pass",
        "import sys; sys.exit(3)",
        "import sys; sys.exit('said')",
        "import os; os._exit(4)",
        "1 / 0",
        "raise KeyboardInterrupt",
        "import signal; signal.raise_signal(signal.SIGTERM)",
        "import os; os.kill(os.getpid(), 9)",
        "import atexit, sys; atexit.register(print, 'end'); sys.exit(2)",
        "import threading, time; threading.Thread(target=lambda: (time.sleep(0.1), print('late'))).start()",
        "import os; os.fork() or os._exit(5); print(os.wait()[1])",
    ],
)
def test_how_it_ends(code):
    real, fork = both(["-c", code])
    assert (fork.returncode, fork.stdout) == (real.returncode, real.stdout)
    assert fork.stderr.splitlines()[-1:] == real.stderr.splitlines()[-1:]


@pytest.mark.parametrize(
    "end", ["", "raise SystemExit(3)", "raise SystemExit", "raise SystemExit('x')", "1 / 0"]
)
@pytest.mark.parametrize("full", [False, True])
def test_how_a_module_ends(tmp_path, end, full):
    """Registered functions are called and output is written; otherwise the exit status is not 0."""
    thread = "threading.Thread(target=lambda: (time.sleep(0.1), print('late'))).start()"
    (tmp_path / "told.py").write_text(
        f"import atexit, threading, time\natexit.register(print, 'end')\n{thread}\nprint('told')\n{end}"
    )
    with open("/dev/full", "w") as nowhere:
        output = {"capture_output": False, "stdout": nowhere, "stderr": subprocess.PIPE} if full else {}
        real, fork = both(["-m", "told"], cwd=tmp_path, **output)
    assert (fork.returncode, fork.stdout) == (real.returncode, real.stdout)
    assert fork.stderr.splitlines()[-1:] == real.stderr.splitlines()[-1:]


def test_signals_are_ignored_and_blocked_where_they_are_in_this_process():
    code = (
        "import signal; print(signal.getsignal(signal.SIGINT) == signal.SIG_IGN,"
        "signal.SIGPIPE in signal.pthread_sigmask(signal.SIG_BLOCK, []))"
    )
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGPIPE])
    try:
        found = [*both(["-c", code]), *both(["-c", code], env={**os.environ, "OTHER": "1"})]
    finally:
        signal.signal(signal.SIGINT, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    assert [done.stdout for done in found] == [b"True True\n"] * 4


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_signals_reach_it(number):
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(100)"
    command = forked([sys.executable, "-c", code])
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        fork = Path("/proc") / process.stdout.readline().decode().strip()
        process.send_signal(number)
        assert process.wait(20) == -number
    for _ in range(200):
        if not fork.exists():
            return
        time.sleep(0.05)
    raise AssertionError(f"{fork} is still there")


def test_no_test_has_changed_the_environment():
    """Otherwise all later programs would be started without a fork, which takes seconds."""
    now, before = (
        {name: value for name, value in each.items() if not name.startswith(module.LATE)}
        for each in (dict(os.environ), module.ENVIRONMENT)
    )
    assert now == before


def test_it_loads_nothing_itself_unless_its_environment_is_another():
    real, fork = both(["-c", LOADED], env=module.ENVIRONMENT)
    assert (real.stdout, fork.stdout) == (b"False\n", b"True\n")
    other = both(["-c", LOADED], env={**os.environ, "NUMBA_NUM_THREADS": "1"})
    assert [done.stdout for done in other] == [b"False\n", b"False\n"]
    less = {name: value for name, value in os.environ.items() if name != "PATH"}
    assert both(["-c", LOADED], env=less)[1].stdout == b"False\n"


def test_several_at_once():
    command = forked([sys.executable, "-c", "import sys; print(sys.stdin.read())"])
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(4)]
    for number, process in enumerate(processes):
        assert process.communicate(f"{number}", timeout=60)[0] == f"{number}\n"


def test_the_process_that_forks_is_started_again_and_leaves_nothing():
    command = [sys.executable, "-c", LOADED]
    first = Path(forked(command)[4]).parent
    assert module._server is not None
    process, _ = module._server
    assert first.is_dir()
    process.communicate()
    assert process.returncode == 0
    assert not first.exists()
    done = subprocess.run(forked(command), capture_output=True, env=module.ENVIRONMENT)
    assert done.stdout == b"True\n"
    assert module._server[0] is not process
