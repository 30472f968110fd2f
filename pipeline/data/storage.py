"""Where prepared data lie: a local folder, or a URL of what Arrow or fsspec can reach (s3://, gs://, ...)."""

import functools
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import fsspec
import pyarrow as pa
from pyarrow import fs

OBJECT_STORES = ("s3", "gcs", "abfs")
"""Where folders need not be made, and a file is there whole or not at all."""


class Folder(NamedTuple):
    """A folder somewhere, with files right in it."""

    name: str
    """As it was given; local ones in full."""
    filesystem: fs.FileSystem
    path: str
    """Within the file system."""

    def shown(self, file: str) -> str:
        """Return the path or URL of a file, for people and other programs."""
        start, mark, query = self.name.partition("?")
        return f"{start.rstrip('/')}/{file}{mark}{query}"

    def sizes(self) -> dict[str, int]:
        """Return the sizes of the files, none if there is no such folder.

        Raises:
            ValueError: If it is a file.
        """
        if self.filesystem.get_file_info(self.path).type == fs.FileType.File:
            raise ValueError(f"{self.name} is a file, not a folder.")
        found = self.filesystem.get_file_info(fs.FileSelector(self.path, allow_not_found=True))
        return {info.base_name: info.size for info in found if info.type == fs.FileType.File}

    @contextmanager
    def open(self, file: str) -> Iterator[Any]:
        """Open a file to read from any place in it."""
        with self.filesystem.open_input_file(f"{self.path}/{file}") as stream:
            yield stream

    def read(self, file: str) -> bytes:
        """Return the bytes of a file."""
        with self.open(file) as stream:
            return bytes(stream.read())

    def write(self, file: str, data: bytes | pa.Buffer) -> None:
        """Write a file, which appears whole or not at all, in place of one of the same name."""
        if self.filesystem.type_name in OBJECT_STORES:
            self._put(file, data)
            return
        self.filesystem.create_dir(self.path, recursive=True)
        temporary = f".{file}.{uuid.uuid4().hex}.tmp"
        try:
            self._put(temporary, data)
            self.filesystem.move(f"{self.path}/{temporary}", f"{self.path}/{file}")
        except OSError:
            self.delete(temporary)
            raise

    def check_writable(self) -> None:
        """Write and delete a small file, so that what is wrong with a folder shows before the work.

        Raises:
            OSError: If files cannot be written here.
        """
        name = f".{uuid.uuid4().hex}.tmp"
        self.write(name, b"-")
        self.delete(name)

    def delete(self, file: str) -> None:
        """Delete a file, if it is there."""
        if self.filesystem.get_file_info(f"{self.path}/{file}").type == fs.FileType.File:
            self.filesystem.delete_file(f"{self.path}/{file}")

    def _put(self, file: str, data: bytes | pa.Buffer) -> None:
        # Not in a with block: where writing failed, that would end the file as if it were whole.
        stream = self.filesystem.open_output_stream(f"{self.path}/{file}")
        stream.write(data)
        stream.close()


def is_url(place: str) -> bool:
    """Return whether this is a URL and not a local path."""
    return "://" in place


def locate(place: str | Path) -> Folder:
    """Return the folder that a path or URL names; nothing is looked up there.

    Raises:
        ValueError: If it is a URL of which neither Arrow nor fsspec knows the kind, or one with a password in it.
    """
    if is_url(str(place)):
        return _locate_url(str(place))
    path = str(Path(place).absolute())
    return Folder(path, fs.LocalFileSystem(), path)


@functools.lru_cache(maxsize=64)  # a data task comes here for each window; a connection is kept
def _locate_url(url: str) -> Folder:
    parts = urlsplit(url)
    if parts.password:
        raise ValueError(
            f"A {parts.scheme}:// URL with a password in it would be written into logs and results. Give credentials"
            " in the environment (AWS_ACCESS_KEY_ID, GOOGLE_APPLICATION_CREDENTIALS, ...) and leave them out here."
        )
    try:
        filesystem, path = fs.FileSystem.from_uri(url)
    except pa.ArrowInvalid as refusal:
        filesystem, path = _from_fsspec(url, refusal)
    except OSError as error:
        raise ValueError(f"{url} cannot be reached: {str(error).splitlines()[0]}.") from error
    if not path.strip("/"):
        raise ValueError(f"{url} names no folder; expected for example {parts.scheme or 's3'}://bucket/folder.")
    return Folder(url, filesystem, path.rstrip("/"))


def _from_fsspec(url: str, refusal: pa.ArrowInvalid) -> tuple[fs.FileSystem, str]:
    """Return what fsspec makes of a URL that Arrow refused."""
    try:
        found, path = fsspec.core.url_to_fs(url)
    except Exception as error:  # each of its many file systems raises what it likes
        what = f"Arrow: {_first_line(refusal)}; fsspec: {_first_line(error)}"
        raise ValueError(f"{url} is not a place that can be reached ({what}).") from error
    return fs.PyFileSystem(fs.FSSpecHandler(found)), path


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
