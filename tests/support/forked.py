"""Fast start of Python programs: a process that has loaded torch forks for each program.

`subprocess.run(forked([sys.executable, "-m", "rtspecinv", "devices"]), ...)` has the same effect as without
`forked`, but saves two seconds; so does `Popen`. `-c CODE` and `SCRIPT` are supported as well as `-m MODULE`.
`subprocess` then starts a small program, this file, which sends its standard streams, folder, environment
and arguments to the forking process, forwards signals, and exits with the status of the fork.

Python, torch and numba read the environment only once. If a program gets other variables than those of the
tests, except `LATE`, or if the system is not Linux, it is started normally. Tests of the start of a program
do not use `forked`. The forking process does not load modules of sound devices, which would open the devices.
"""

from __future__ import annotations

import atexit
import io
import json
import os
import signal
import socket
import sys
from typing import Any

# Prefixes of the names of variables that are read on demand, or in `become`.
LATE = ("PYTEST_", "TORCHINDUCTOR_", "JACK_", "COLUMNS", "LINES", "PYTHONIOENCODING")
PASSED_ON = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP} if sys.platform == "linux" else set()
ENVIRONMENT = dict(os.environ)  # environment of the tests, before a test changes it

_server = None


def forked(command: list[str]) -> list[str]:
    """Return a faster replacement of a Python `command`, whose second item is -c, -m or a script."""
    assert command[0] == sys.executable
    assert command[1] in ("-c", "-m") or command[1][0] != "-"
    if sys.platform != "linux":
        return command
    return [sys.executable, "-I", "-S", __file__, _address(), *command[1:]]


def _address() -> str:
    """Return the address of the forking process; starts the process if it does not run."""
    global _server
    import subprocess

    if _server is None or _server[0].poll() is not None:
        process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,  # the process ends when this pipe closes, at the end of the tests
            stdout=subprocess.PIPE,
            env=ENVIRONMENT,
            start_new_session=True,  # Ctrl-C reaches only the tests
            text=True,
        )
        atexit.register(process.communicate)
        _server = process, process.stdout.readline().strip()
        assert _server[1], "the forking process has ended"
    return _server[1]


# -- the small program --


def ask(address: str, arguments: list[str]) -> None:
    """Request the run of a program, and exit with its status."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)
    deaf = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(address)
        request = json.dumps([arguments, os.getcwd(), dict(os.environ), deaf, list(blocked)]).encode()
        socket.send_fds(line, [len(request).to_bytes(4, "big")], [0, 1, 2])
        line.sendall(request)
        for number in PASSED_ON:
            signal.signal(number, lambda number, frame: line.send(bytes([number])))
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        answer = line.recv(64)
    if not answer:
        sys.exit("the forking process has ended")
    if answer == b"other environment":
        if deaf:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.execv(sys.executable, [sys.executable, *arguments])
    status = int(answer)
    if status < 0:
        if -status != signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


# -- the forking process --


def load() -> None:
    """Import all modules of the package; none may start a thread, because forks do not copy threads."""
    import contextlib
    import gc
    import importlib
    import pkgutil

    import rtspecinv

    for module in pkgutil.walk_packages(rtspecinv.__path__, "rtspecinv."):
        if not module.name.endswith("__main__"):
            with contextlib.suppress(ImportError):
                importlib.import_module(module.name)
    gc.freeze()  # otherwise every fork would collect all objects at its end


def serve() -> tuple | None:
    """Fork for every request until standard input ends; in a fork, return the request and the streams."""
    import contextlib
    import select
    import shutil
    import tempfile

    load()
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    ended, wake = socket.socketpair()
    wake.setblocking(False)
    signal.set_wakeup_fd(wake.fileno())
    folder = tempfile.mkdtemp()
    lines: dict[int, socket.socket | None] = {}  # by process id; None after the end of the small program
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(os.path.join(folder, "door"))
        door.listen()
        print(door.getsockname(), flush=True)
        while True:
            talking = [line for line in lines.values() if line]
            watched: list[Any] = [0, door, ended, *talking]
            ready = select.select(watched, [], [])[0]
            if 0 in ready:
                break
            if ended in ready:
                ended.recv(1000)
                while lines and (done := os.waitpid(-1, os.WNOHANG))[0]:
                    if line := lines.pop(done[0]):
                        with line, contextlib.suppress(OSError):
                            line.sendall(str(os.waitstatus_to_exitcode(done[1])).encode())
            for process, line in lines.items():
                if line in ready:
                    numbers = line.recv(64)
                    for number in numbers or [signal.SIGKILL]:
                        os.kill(process, number)
                    if not numbers:
                        line.close()
                        lines[process] = None
            if door in ready:
                line = door.accept()[0]
                request, streams = receive(line)
                if request and (process := os.fork()):
                    lines[process] = line
                elif request:
                    for held in (ended, wake, line, *filter(None, lines.values())):
                        held.close()
                    return request, streams
                else:
                    line.close()
                for stream in streams:
                    os.close(stream)
    for process in lines:
        os.kill(process, signal.SIGKILL)
    shutil.rmtree(folder)
    return None


def receive(line: socket.socket) -> tuple[list | None, list[int]]:
    """Return the request, or None if it must not be forked, and the received streams."""
    length, streams, _, _ = socket.recv_fds(line, 4, 3)
    data = line.recv(int.from_bytes(length, "big"), socket.MSG_WAITALL)
    if not data:  # the small program ended before its request
        return None, streams
    request = json.loads(data)
    changed = {name for name, _ in request[2].items() ^ os.environ.items()}
    if all(name.startswith(LATE) for name in changed):
        return request, streams
    line.sendall(b"other environment")
    return None, streams


# -- a fork --


def become(
    streams: list[int],
    arguments: list[str],
    folder: str,
    environment: dict[str, str],
    deaf: bool,
    blocked: list[int],
) -> None:
    """Give this process the state of a newly started Python process."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN if deaf else signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        before = getattr(sys, name)
        encoding, _, errors = environment.get("PYTHONIOENCODING", "").partition(":")
        errors = errors or ("strict" if encoding else before.errors)
        text = io.TextIOWrapper(
            open(number, "wb" if number else "rb", 0 if before.write_through else -1, closefd=False),  # noqa: SIM115
            encoding or before.encoding,
            "backslashreplace" if name == "stderr" else errors,
            line_buffering=not before.write_through and (name == "stderr" or os.isatty(number)),
            write_through=before.write_through,
        )
        setattr(sys, name, text)
        setattr(sys, f"__{name}__", text)


_status = None


def leave() -> None:
    """Exit after a module without an error, at once, because the cleanup of torch would take long."""
    if _status is not None:
        try:
            for stream in filter(None, (sys.stdout, sys.stderr)):
                stream.flush()
        except (OSError, ValueError):
            return  # Python exits and reports the output that cannot be written
        os._exit(_status)


def run(arguments: list[str]) -> None:
    """Run the program that Python runs for these arguments."""
    global _status
    import runpy
    import types

    option, *rest = arguments
    if option == "-c":
        sys.argv, sys.path[0] = ["-c", *rest[1:]], ""
        sys.modules["__main__"] = main = types.ModuleType("__main__")
        exec(compile(rest[0], "<string>", "exec"), main.__dict__)
    elif option == "-m":
        sys.argv, sys.path[0] = rest, os.getcwd()
        try:
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        except SystemExit as end:
            _status = end.code if isinstance(end.code, int) else None
            raise
    else:
        sys.argv, sys.path[0] = arguments, os.path.dirname(os.path.abspath(option))
        runpy.run_path(option, run_name="__main__")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        ask(sys.argv[1], sys.argv[2:])
        sys.exit()
    atexit.register(leave)  # registered first, therefore called last
    if request := serve():
        become(request[1], *request[0])
        run(request[0][0])
