"""Tests of the cache of compiled code; its errors do not stop the program."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

numba = pytest.importorskip("numba", reason='numba is missing: pip install "rtspecinv[fast]"')

from rtspecinv import STFT, StreamingInverter, engines  # noqa: E402
from rtspecinv.engines import kept  # noqa: E402
from rtspecinv.engines.cpu import cache, mel, push, stream, sweep  # noqa: E402
from rtspecinv.engines.cpu.memory import jit_cached  # noqa: E402


def trifle(x: float) -> float:
    return x + 1


def fresh(label: str = "a trifle") -> Any:
    """Return a function in the state of a new process: nothing is compiled yet."""
    return jit_cached(label)(trifle)


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Folders for compiled code: the one that NUMBA_CACHE_DIR names, the package's, and one of the user's."""
    found = {name: tmp_path / name for name in ("asked", "package", "user")}
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    monkeypatch.setattr(cache, "PACKAGE", found["package"])
    monkeypatch.setenv("XDG_CACHE_HOME", str(found["user"]))
    return found


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger="rtspecinv")
    return caplog


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_code_is_compiled_once_after_a_log_message(log, places):
    assert fresh()(1.0) == 2.0
    first, second = log.records
    assert first.getMessage() == "compiling a trifle for float64: some 20 s, once on this machine"
    assert first.levelno == logging.WARNING  # visible if logging is not configured
    assert re.fullmatch(r"compiled a trifle for float64 in \d+\.\d s", second.getMessage())
    assert second.levelno == logging.INFO
    assert [path.suffix for path in files(places["package"])] == [".nbc"]
    again = fresh()
    assert (again(1.0), again(2.0)) == (2.0, 3.0)
    assert len(log.records) == 2
    assert fresh("")(numba.float32(1)) == 2
    assert len(log.records) == 2  # without a label, there is no message


def test_no_other_files_remain_beside_the_code(places):
    fresh()(1.0)
    fresh()(numba.float32(1))
    assert len(files(places["package"])) == 2
    assert all(path.suffix == ".nbc" for path in files(places["package"].parent))


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "half": lambda content: content[: len(content) // 2],
    "zeros": lambda content: bytes(len(content)),
    "overwritten": lambda content: content[:500] + b"\xff" * 64 + content[564:],
    "one bit": lambda content: content[:-9] + bytes([content[-9] ^ 1]) + content[-8:],
    "longer": lambda content: content + b"\0",
    "text": lambda content: b"what is this?",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_replaced(damage, log, places):
    fresh()(1.0)
    (path,) = files(places["package"])
    content = path.read_bytes()
    path.write_bytes(DAMAGES[damage](content))
    assert fresh()(1.0) == 2.0
    assert len(log.records) == 4
    assert fresh()(1.0) == 2.0
    assert len(log.records) == 4


def test_a_complete_file_of_other_content_is_replaced(log, places):
    fresh()(1.0)
    (path,) = files(places["package"])
    kept.write(path, cache.dumps(("not", "code")))
    assert fresh()(1.0) == 2.0


def test_a_read_only_folder_is_replaced_by_the_next(places, log):
    places["package"].write_text("a file, not a folder")
    assert fresh()(1.0) == 2.0
    assert [path.parent for path in files(places["user"])] == [places["user"] / "rtspecinv"]
    assert (places["user"] / "rtspecinv").stat().st_mode & 0o077 == 0
    assert fresh()(1.0) == 2.0
    assert len(log.records) == 2


def test_the_requested_folder_is_the_only_one(places, log, monkeypatch):
    fresh()(1.0)
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(places["asked"]))
    assert fresh()(1.0) == 2.0
    assert len(log.records) == 4
    assert len(files(places["asked"])) == len(files(places["package"])) == 1
    # This folder cannot exist, so the next one is used.
    monkeypatch.setattr(numba.config, "CACHE_DIR", "/dev/null/x")
    assert fresh()(1.0) == 2.0
    assert len(log.records) == 4


def test_without_a_writable_folder_the_log_states_the_remedy(places, log, monkeypatch):
    for folder in (places["package"], places["user"]):
        folder.write_text("a file, not a folder")
    for _ in range(2):
        assert fresh()(1.0) == 2.0
    assert [record.getMessage() for record in log.records if record.levelno == logging.WARNING] == [
        "compiling a trifle for float64: some 20 s, each time, as no folder will do; set NUMBA_CACHE_DIR to "
        "a folder of yours that has room"
    ] * 2
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(places["asked"]))  # the advice of the error
    log.clear()
    for _ in range(2):
        assert fresh()(1.0) == 2.0
    assert len(log.records) == 2


def test_a_disk_that_fills_while_it_compiles(places, log, monkeypatch):
    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kept, "write", full)
    assert fresh()(1.0) == 2.0
    assert "No space left on device" in log.messages[-1]
    assert "NUMBA_CACHE_DIR" in log.messages[-1]


def test_code_is_not_loaded_from_folders_that_others_can_write_to(places, log):
    places["package"].write_text("a file, not a folder")
    fresh()(1.0)
    (places["user"] / "rtspecinv").chmod(0o777)
    assert fresh()(1.0) == 2.0
    assert "each time" in log.messages[2]


def test_without_a_home(places, monkeypatch):
    places["package"].write_text("a file, not a folder")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert fresh()(1.0) == 2.0


def test_a_changed_source_is_compiled_again(log):
    fresh()(1.0)
    changed = jit_cached("a trifle")(trifle)
    changed._cache._sources = "changed"
    assert changed(1.0) == 2.0
    assert len(log.records) == 4


def test_threads_and_inner_functions_log_nothing(log):
    @numba.njit
    def inner(x):
        return x + 1

    @jit_cached("outer")
    def outer(x):
        return inner(x)

    threads = [threading.Thread(target=outer, args=(1.0,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [message.split()[0] for message in log.messages] == ["compiling", "compiled"]


def test_code_that_cannot_be_compiled_is_an_error(log, places):
    @jit_cached("nonsense")
    def nonsense(x):
        return x.nothing

    with pytest.raises(numba.TypingError):
        nonsense(1.0)
    assert [message.split()[0] for message in log.messages] == ["compiling"]
    assert not places["package"].exists() or files(places["package"]) == []


def test_all_slow_compilations_are_cached():
    for function in (push.push, sweep.sweep, sweep.settle, mel.unmix):
        assert isinstance(function._cache, cache.CodeCache)


def test_disabled_numba_falls_back_to_eager_with_a_message(monkeypatch):
    monkeypatch.setattr(stream, "is_switched_off", True)
    with pytest.warns(UserWarning, match="NUMBA_DISABLE_JIT=1 switches compiled code off"):
        assert StreamingInverter(STFT(64, 16)).engine == "eager"
    with pytest.warns(UserWarning, match="NUMBA_DISABLE_JIT=1"):
        whole = engines.find_batch("auto", STFT(64, 16), (), 1, needs_grad=False)
    assert whole is engines.EagerBatch
    with pytest.raises(ValueError, match=r"engine='numba' .* NUMBA_DISABLE_JIT=1 .* or use 'eager'"):
        StreamingInverter(STFT(64, 16), engine="numba")
    assert StreamingInverter(STFT(64, 16), engine="eager").engine == "eager"


CODE = (
    "import sys, logging; sys.path.insert(0, {folder!r}); import test_cache; print(test_cache.fresh()(1.0))"
)


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=300, env=env)


def limited(limit: int) -> str:
    return f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}));"


def test_a_process_that_has_not_set_up_logging_sees_one_line(places):
    code = CODE.format(folder=str(Path(__file__).parent))
    first, second = (run("-c", code, NUMBA_CACHE_DIR=str(places["asked"])) for _ in range(2))
    assert first.stdout == second.stdout == "2.0\n"
    assert first.stderr == "compiling a trifle for float64: some 20 s, once on this machine\n"
    assert second.stderr == ""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limits")
def test_a_full_disk(places):
    code = limited(50_000) + CODE.format(folder=str(Path(__file__).parent))
    done = run("-c", code, NUMBA_CACHE_DIR=str(places["asked"]), XDG_CACHE_HOME=str(places["user"]))
    assert (done.returncode, done.stdout) == (0, "2.0\n")
    assert done.stderr.count("\n") == 1
    assert "NUMBA_CACHE_DIR" in done.stderr
    assert files(places["asked"]) == []


def test_two_processes_at_once(places):
    code = CODE.format(folder=str(Path(__file__).parent))
    env = {**os.environ, "NUMBA_CACHE_DIR": str(places["asked"])}
    both = [subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE) for _ in range(2)]
    assert [process.communicate(timeout=300)[0] for process in both] == [b"2.0\n"] * 2
    assert len(files(places["asked"])) == 1
    assert run("-c", code, NUMBA_CACHE_DIR=str(places["asked"])).stderr == ""


def test_the_command_line_without_compiled_code(tmp_path):
    source, output = tmp_path / "a.npz", tmp_path / "a.wav"
    np.savez(source, magnitude=np.ones((33, 9), "f4"), sample_rate=8000, n_fft=64, hop_length=16)
    for method in ("stream", "agla"):
        command = ("invert", str(source), "-o", str(output), "--method", method)
        done = run("-m", "rtspecinv", *command, NUMBA_DISABLE_JIT="1")
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("NUMBA_DISABLE_JIT=1") == 1, done.stderr
