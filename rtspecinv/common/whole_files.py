"""Atomic file writing: a file gets its name only when all of its bytes are on the disk.

While a file is being written, it has a hidden name in the same folder and is locked. A hidden file without a
lock was left by a killed process; the next process that writes a file of the same name removes it.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import stat
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from rtspecinv.common.printable import printable

if sys.platform != "win32":  # Windows has no fcntl, and cannot remove or rename an open file
    import fcntl


# Prefixes of the names of open files, such as /dev/stdout. These may be regular files but cannot be replaced.
_OPEN_FILES = ("/dev/std", "/dev/fd/", "/proc/")


def check_place(path: Path) -> None:
    """Raise `IsADirectoryError` if the path is a folder, `FileNotFoundError` if its folder does not exist."""
    if path.is_dir():
        raise IsADirectoryError(f"Cannot write {printable(path)}: it is a folder, pass a file name in it")
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"Cannot write {printable(path)}: create the folder {printable(path.parent)} first"
        )


def make_folder(path: Path) -> None:
    """Create a folder, and those above; raise `OSError` if that fails or files cannot be created in it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise type(error)(
            f"Cannot write into the folder {printable(path)} ({error.strerror}): choose another one"
        ) from error


def is_stream(path: Path) -> bool:
    """Return whether a path is a pipe, a device or an open file, which is written directly, not renamed."""
    absolute = os.path.abspath(path)
    if absolute.startswith(_OPEN_FILES):
        return os.path.exists(absolute) and not os.path.isdir(absolute)
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


class Guarded(io.RawIOBase):
    """A file for encoders in C, which hide errors: it stores the first error, and `check` raises it.

    `write` writes everything, or stores the error and returns the number of bytes written.
    """

    def __init__(self, file: Any, path: object) -> None:
        self.path = path
        self.error: OSError | None = None
        self._file = file

    def readable(self) -> bool:
        """Return whether the underlying file can be read."""
        return bool(self._file.readable())

    def writable(self) -> bool:
        """Return True: the file can always be written."""
        return True

    def seekable(self) -> bool:
        """Return whether the underlying file supports `seek`."""
        return bool(self._file.seekable())

    def write(self, content: bytes | bytearray | memoryview) -> int:  # type: ignore[override]
        """Write all of `content`, or store the error and return the number of bytes written."""
        view, n_written = memoryview(content).cast("B"), 0
        try:
            while n_written < len(view) and self.error is None:
                n_written += self._file.write(view[n_written:]) or 0
        except OSError as error:
            self.error = error
        return n_written

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Read bytes into `buffer` and return their number."""
        return int(self._file.readinto(buffer))

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move to a position in bytes and return it."""
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        """Return the position in bytes."""
        return int(self._file.tell())

    def truncate(self, size: int | None = None) -> int:
        """Cut the file off after `size` bytes, default: at the position; returns its size."""
        return int(self._file.truncate(size))

    def check(self) -> None:
        """Raise the first error, if there was one, with a message that names the file and the reason."""
        if self.error is not None:
            raise named_error(self.path, self.error) from self.error

    def keep(self) -> None:
        """Finish the file at its destination, or raise the first error."""
        self.check()

    def drop(self) -> None:
        """Discard what was written."""

    def close(self) -> None:
        """Do nothing: encoders call this, but only `keep` and `drop` finish the file."""


class WholeFile(Guarded):
    """A file with a hidden name, which `keep` renames to its own and `drop` removes.

    Raises:
        IsADirectoryError: the path is a folder.
        FileNotFoundError: the folder of the file does not exist.
        OSError: the file cannot be written; the message names the file and the reason.
    """

    def __init__(self, path: Path) -> None:
        check_place(path)
        try:
            self._temporary, file = _create(path)
        except OSError as error:
            raise named_error(path, error) from error
        super().__init__(file, path)
        self._target, self._done = path, False

    def keep(self) -> None:
        """Rename the file to its own name once it is on the disk; after an error, remove and raise it."""
        if self._done:
            return
        try:
            if self.error is None:
                _sync(self._file)
                self._give_name()
        except OSError as error:
            self.error = error
        finally:
            self.drop()
        self.check()

    def _give_name(self) -> None:
        if sys.platform == "win32":
            self._file.close()
        os.replace(self._temporary, self._target)
        self._done = True
        self._file.close()

    def drop(self) -> None:
        """Remove what was written; an earlier file of the same name stays unchanged."""
        if not self._done:
            self._done = True
            with suppress(OSError):  # if the disk is full, `close` raises the same error again
                self._file.close()
            self._temporary.unlink(missing_ok=True)


class Stream(Guarded):
    """A pipe, a device or an open file, to which every byte is passed on at once, without seeking."""

    def __init__(self, file: Any, path: object, *, close: bool) -> None:
        super().__init__(file, path)
        self._closes = close

    def seekable(self) -> bool:
        """Return False: a stream does not support `seek`."""
        return False

    def write(self, content: bytes | bytearray | memoryview) -> int:  # type: ignore[override]
        """Write all of `content` and flush it, or store the error and return the number of bytes written."""
        n_written = super().write(content)
        try:
            if self.error is None:
                self._file.flush()
        except OSError as error:
            self.error = error
        return n_written

    def keep(self) -> None:
        """Close the stream if this package opened it, then raise the first error."""
        self.drop()
        self.check()

    def drop(self) -> None:
        """Close the stream if this package opened it; bytes that were written cannot be taken back."""
        try:
            if self._closes:
                self._file.close()
        except OSError as error:
            self.error = self.error or error


class Spool(Guarded):
    """A temporary file that is sent to a stream when it is complete, for encoders that need `seek`."""

    def __init__(self, stream: Stream) -> None:
        super().__init__(tempfile.TemporaryFile(buffering=0), stream.path)  # noqa: SIM115
        self._stream = stream

    def keep(self) -> None:
        """Send all bytes to the stream, or raise the first error."""
        self.check()
        self._file.seek(0)
        while self._stream.error is None and (part := self._file.read(2**16)):
            self._stream.write(part)
        self._file.close()
        self._stream.keep()

    def drop(self) -> None:
        """Discard all bytes and send nothing."""
        self._file.close()
        self._stream.drop()


def open_stream(path: str | os.PathLike[str] | BinaryIO) -> Stream:
    """Return a `Stream` of a pipe or a device, or of a binary file that is open already."""
    if not isinstance(path, str | os.PathLike):
        return Stream(path, "the stream", close=False)
    try:
        return Stream(open(path, "wb", buffering=0), path, close=True)
    except OSError as error:
        raise named_error(path, error) from error


def write_whole(path: str | os.PathLike[str], write: Callable[[BinaryIO], object]) -> None:
    """Write a file with the function `write`; the file gets its name only if all of it is on the disk.

    Raises:
        OSError: as in `WholeFile`; an error of the file is raised in place of the one that `write` raises.
    """
    file = WholeFile(Path(path))
    try:
        write(file)  # type: ignore[arg-type]  # a WholeFile has all methods that encoders call
    except BaseException:
        file.drop()
        file.check()
        raise
    file.keep()


def _create(path: Path) -> tuple[Path, io.FileIO]:
    """Return a new locked file with a hidden name for `path`; removes such files that are not locked."""
    number, made = 0, None
    while made is None or _hidden(path, number).exists():
        temporary = _hidden(path, number)
        number += 1
        with suppress(OSError):
            _remove_unless_locked(temporary)
        if made is None:
            with suppress(FileExistsError):  # another process writes the same file
                made = _locked(temporary)
    return made


def _hidden(path: Path, number: int) -> Path:
    """Return a hidden path in the folder of `path`: the same in every process, and always short."""
    name = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
    return path.with_name(f".rtspecinv-{name}-{number}.part")


def _remove_unless_locked(left: Path) -> None:
    if sys.platform == "win32":
        left.unlink()
        return
    file = os.open(left, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        left.unlink()
    finally:
        os.close(file)


def _locked(temporary: Path) -> tuple[Path, io.FileIO] | None:
    """Return a new locked file; None if another process removed it before it was locked."""
    file = io.FileIO(temporary, "x+")
    if sys.platform == "win32":
        return temporary, file
    with suppress(OSError):  # a file system without locks: no stale file is ever removed
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with suppress(OSError):
        if os.path.samestat(os.fstat(file.fileno()), os.stat(temporary)):
            return temporary, file
    file.close()
    return None


def named_error(path: object, error: OSError) -> OSError:
    """Return an error of the same class and number whose message names the file and the reason."""
    named = type(error)(f"Cannot write {printable(path)}: {error.strerror or printable(error)}")
    named.errno = error.errno
    return named


def _sync(file: io.FileIO) -> None:
    try:
        os.fsync(file.fileno())
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):  # the file system has no fsync
            raise


def write_json(path: Path, value: Any) -> None:
    """Write a value as a JSON file; raises `ValueError` for a number that is not finite."""
    text = json.dumps(value, indent=1, allow_nan=False) + "\n"
    write_whole(path, lambda file: file.write(text.encode()))
