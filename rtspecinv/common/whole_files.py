"""Files that are whole or absent: they get their name when every byte of them has reached the disk.

While a file is written it has a hidden name beside its own, and is locked. So what a killed process left is
told from what another one is writing: the next one to write a file of the same name removes it.
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

if sys.platform != "win32":  # where an open file can be neither removed nor renamed
    import fcntl


# Names of open files, such as /dev/stdout: they may lead to a file, but cannot be given to another one.
_OPEN_FILES = ("/dev/std", "/dev/fd/", "/proc/")


def check_place(path: Path) -> None:
    """Raise `IsADirectoryError` or `FileNotFoundError` if no file can have this name."""
    if path.is_dir():
        raise IsADirectoryError(f"Cannot write {printable(path)}: it is a folder")
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"Cannot write {printable(path)}: there is no folder {printable(path.parent)}"
        )


def is_stream(path: Path) -> bool:
    """Return whether a path is a pipe or a device, which is written as it comes and is never renamed."""
    absolute = os.path.abspath(path)
    if absolute.startswith(_OPEN_FILES):
        return os.path.exists(absolute) and not os.path.isdir(absolute)
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


class Guarded(io.RawIOBase):
    """A file for encoders in C, which hide errors: the first one is kept, and raised by `check`.

    `write` writes everything or returns less; it raises nothing.
    """

    def __init__(self, file: Any, path: object) -> None:
        self.path = path
        self.error: OSError | None = None
        self._file = file

    def readable(self) -> bool:
        """Return whether it can be read: as the file itself."""
        return bool(self._file.readable())

    def writable(self) -> bool:
        """Return whether it can be written: always."""
        return True

    def seekable(self) -> bool:
        """Return whether it can be sought in: as the file itself."""
        return bool(self._file.seekable())

    def write(self, content: bytes | bytearray | memoryview) -> int:  # type: ignore[override]
        """Write all of `content`, or keep the error and return less than its length."""
        view, n_written = memoryview(content).cast("B"), 0
        try:
            while n_written < len(view) and self.error is None:
                n_written += self._file.write(view[n_written:]) or 0
        except OSError as error:
            self.error = error
        return n_written

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Read what was written."""
        return int(self._file.readinto(buffer))

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a position."""
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        """Position."""
        return int(self._file.tell())

    def truncate(self, size: int | None = None) -> int:
        """Cut it off."""
        return int(self._file.truncate(size))

    def check(self) -> None:
        """Raise the first error, if there was one; the message names the file and the reason."""
        if self.error is not None:
            raise named_error(self.path, self.error) from self.error

    def keep(self) -> None:
        """Finish: what was written is where it should be, or the error is raised."""
        self.check()

    def drop(self) -> None:
        """Let go of what was written."""

    def close(self) -> None:
        """Do nothing: encoders close what they have written, and that decides nothing."""


class WholeFile(Guarded):
    """A file under a hidden name until `keep`; `drop` removes it.

    Raises:
        IsADirectoryError, FileNotFoundError: no file can have this name.
        OSError: it cannot be written; the message names the file and the reason.
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
        """Give the file its name, if all of it is on the disk; otherwise remove it and raise the error."""
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
        """Remove what was written; a file of that name from before stays as it was."""
        if not self._done:
            self._done = True
            with suppress(OSError):  # a disk that is full says so once more
                self._file.close()
            self._temporary.unlink(missing_ok=True)


class Stream(Guarded):
    """A pipe, a device or an open file, which gets every byte at once and only forwards."""

    def __init__(self, file: Any, path: object, *, close: bool) -> None:
        super().__init__(file, path)
        self._closes = close

    def seekable(self) -> bool:
        """Return whether it can be sought in: never."""
        return False

    def write(self, content: bytes | bytearray | memoryview) -> int:  # type: ignore[override]
        """Write all of `content` and pass it on, or keep the error."""
        n_written = super().write(content)
        try:
            if self.error is None:
                self._file.flush()
        except OSError as error:
            self.error = error
        return n_written

    def keep(self) -> None:
        """Close it, if it was opened here."""
        self.drop()
        self.check()

    def drop(self) -> None:
        """Close it, if it was opened here: what was written is gone already."""
        try:
            if self._closes:
                self._file.close()
        except OSError as error:
            self.error = self.error or error


class Spool(Guarded):
    """A temporary file that goes into a stream when it is whole: for encoders that go back in their file."""

    def __init__(self, stream: Stream) -> None:
        super().__init__(tempfile.TemporaryFile(buffering=0), stream.path)  # noqa: SIM115
        self._stream = stream

    def keep(self) -> None:
        """Send everything."""
        self.check()
        self._file.seek(0)
        while self._stream.error is None and (part := self._file.read(2**16)):
            self._stream.write(part)
        self._file.close()
        self._stream.keep()

    def drop(self) -> None:
        """Send nothing."""
        self._file.close()
        self._stream.drop()


def open_stream(path: str | os.PathLike[str] | BinaryIO) -> Stream:
    """Open a pipe or a device, or take an open binary file as one."""
    if not isinstance(path, str | os.PathLike):
        return Stream(path, "the stream", close=False)
    try:
        return Stream(open(path, "wb", buffering=0), path, close=True)
    except OSError as error:
        raise named_error(path, error) from error


def write_whole(path: str | os.PathLike[str], write: Callable[[BinaryIO], object]) -> None:
    """Let a function write a file that is whole or absent.

    Raises:
        OSError: as `WholeFile`; an error of the file comes before whatever an encoder makes of it.
    """
    file = WholeFile(Path(path))
    try:
        write(file)  # type: ignore[arg-type]  # it has what encoders use
    except BaseException:
        file.drop()
        file.check()
        raise
    file.keep()


def _create(path: Path) -> tuple[Path, io.FileIO]:
    """Make a locked file under a hidden name of `path`; remove those that no living process has locked."""
    number, made = 0, None
    while made is None or _hidden(path, number).exists():
        temporary = _hidden(path, number)
        number += 1
        with suppress(OSError):
            _remove_unless_locked(temporary)
        if made is None:
            with suppress(FileExistsError):  # somebody else writes the same file just now
                made = _locked(temporary)
    return made


def _hidden(path: Path, number: int) -> Path:
    """Return a name beside `path`: the same for every process, and short, however long its own is."""
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
    """Make a new file and lock it; None if somebody took it for a stale one in between."""
    file = io.FileIO(temporary, "x+")
    if sys.platform == "win32":
        return temporary, file
    with suppress(OSError):  # a file system without locks, where nothing is ever taken for stale
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with suppress(OSError):
        if os.path.samestat(os.fstat(file.fileno()), os.stat(temporary)):
            return temporary, file
    file.close()
    return None


def named_error(path: object, error: OSError) -> OSError:
    """Return the same error in words that name the file and the reason."""
    named = type(error)(f"Cannot write {printable(path)}: {error.strerror or printable(error)}")
    named.errno = error.errno
    return named


def _sync(file: io.FileIO) -> None:
    try:
        os.fsync(file.fileno())
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):  # it has nothing to wait for
            raise


def write_json(path: Path, value: Any) -> None:
    """Write numbers; raises `ValueError` for one that is not finite."""
    text = json.dumps(value, indent=1, allow_nan=False) + "\n"
    write_whole(path, lambda file: file.write(text.encode()))
