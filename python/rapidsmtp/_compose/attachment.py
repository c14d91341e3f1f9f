"""Attached files: their header fields, and the files that are read for each row.

The value of a field is a name and no path: it cannot leave the folder of the attachments, and it
cannot choose another folder in it. `src/message/attachment.rs` is the counterpart of this module.
"""

import base64
import errno
import mimetypes
import os
import re
from pathlib import Path

from rapidsmtp._compose.encode import (
    MARKED,
    PREFERRED_LINE,
    RowError,
    encode_parameter,
    has_control,
    strip_marks,
)
from rapidsmtp._compose.text_part import FilePart
from rapidsmtp.errors import brief

ATTACHMENT = "X-Rapidsmtp-Attachment"
"""The field of a part in `Template.source` with the path of a file that is read for each row."""

_UNKNOWN_TYPE = "application/octet-stream"
# On Windows, a colon begins a drive or a stream of a file.
_NOT_IN_VALUE = "/\\:" if os.name == "nt" else "/\\"
# A character that Python uses for a byte of a file name that is not valid in UTF-8.
_SURROGATE = re.compile("[\ud800-\udfff]")
# A suffix without merge fields.
_SUFFIX = re.compile(r"\.[A-Za-z0-9]+$")


def file_part(path: str, root: str | os.PathLike[str] | None, content_type: str = "") -> FilePart:
    """Return the part for a path with merge fields.

    Args:
        path: The path below the root.
        root: The folder that contains the files. None is the current folder.
        content_type: The type of the files, as in the field Content-Type. "" is the type that
            belongs to their suffix.

    Raises:
        ValueError: The path leads out of the folder.
        OSError: The folder does not exist.
    """
    path = path.strip().removeprefix("./")
    place = f"attachment {brief(path)!r}"
    if _SURROGATE.search(path):
        raise ValueError(f"{place}: the path is not valid Unicode")
    if Path(path).is_absolute() or ".." in path.split("/"):
        raise ValueError(
            f"{place}: a path with fields is below attachment_root; use a relative path without "
            "'..', and attachment_root"
        )
    folder = Path(root or ".").resolve(strict=True)
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    content_type = " ".join(content_type.split())
    if type_of(content_type) != content_type or not content_type.isascii():
        content_type = ""
    suffix = _SUFFIX.search(path)
    types: dict[str, str] = {}
    if not content_type and suffix is not None:
        content_type = type_of(mimetypes.guess_type(f"x{suffix[0]}")[0])
    elif not content_type:
        # The types that the system knows are not used, so that every machine gives the same bytes.
        known = mimetypes.MimeTypes().types_map[True].items()
        types = {each: type_of(kind) for each, kind in known}
    return FilePart(path, place, str(folder), content_type, types)


def attachment_data(path: str) -> bytes:
    """Return the part for a path with merge fields, as `Template.source` writes it.

    A line break inside a merge field has the meaning of a space.
    """
    path = " ".join(path.splitlines())
    return f"{ATTACHMENT}: {path}\r\n\r\n".encode("utf-8", "surrogateescape")


def check_file_name(name: str) -> None:
    """Check the name of an attached file.

    Raises:
        ValueError: The name cannot be written.
    """
    if has_control(name) or _SURROGATE.search(name):
        raise ValueError(
            f"file {name!r}: the name has a line break, a control character or an invalid "
            "character; rename the file"
        )


def type_of(guessed: str | None) -> str:
    """Return the type of a file that is written in base64, from a guessed type."""
    if guessed is None or guessed.lower().startswith(("message/", "multipart/")):
        # RFC 2046 section 5.2.1: a message must not be encoded in base64. Without base64, its
        # lines may be too long for the relay. So a file of this type is attached as unknown
        # binary data.
        return _UNKNOWN_TYPE
    return guessed


def file_header(kind: str, content_type: str, name: str) -> bytes:
    """Return the header fields of a file in base64, without the empty line after them.

    Args:
        kind: The disposition: "attachment" or "inline".
        content_type: The value of Content-Type.
        name: The name of the file.
    """
    head, parameter = f"Content-Disposition: {kind};", encode_parameter("filename", name)
    fits = len(head) + 1 + len(parameter) <= PREFERRED_LINE
    disposition = head + (" " if fits else "\r\n ") + parameter
    encoding = "Content-Transfer-Encoding: base64"
    return f"Content-Type: {content_type}\r\n{encoding}\r\n{disposition}\r\n".encode("ascii")


def base64_lines(content: bytes) -> bytes:
    """Encode bytes in base64 with CRLF line ends."""
    return base64.encodebytes(content).replace(b"\n", b"\r\n")


def attached(part: FilePart, path: str, limit: int) -> tuple[bytes, int]:
    """Read the file of a row.

    Args:
        part: The part.
        path: The rendered path, with the marks of the merge fields.
        limit: The maximum size, in bytes.

    Returns:
        The header fields and the body of the part, and the size of the file.

    Raises:
        RowError: The path leads out of the folder, or the file cannot be read.
    """
    name, content = _read(part.root, path, limit)
    kind = part.content_type or part.types.get(Path(name).suffix.lower(), _UNKNOWN_TYPE)
    return file_header("attachment", kind, name) + b"\r\n" + base64_lines(content), len(content)


def _read(root: str, marked: str, limit: int) -> tuple[str, bytes]:
    """Return the name and the content of a file."""
    path = strip_marks(marked)
    fault = f"attachment {path!r}"
    if _SURROGATE.search(path):
        raise RowError(f"{fault}: the path is not valid Unicode")
    if has_control(path):
        raise RowError(f"{fault}: the path contains a line break or control character")
    for value in MARKED.findall(marked):
        character = next((each for each in value if each in _NOT_IN_VALUE), None)
        if character is not None:
            raise RowError(f"{fault}: the value {value!r} contains {character!r}")
    names = path.split("/")
    if "\\" in path or any(name in ("", ".", "..") for name in names):
        raise RowError(f"{fault}: the path has an empty name, '.', '..' or a backslash")
    try:
        content = _content(root, names, limit)
    except _LeadsOut:
        raise RowError(f"{fault}: a symbolic link leads out of {root!r}") from None
    except (FileNotFoundError, NotADirectoryError):
        raise RowError(f"{fault}: there is no such file in {root!r}") from None
    except PermissionError:
        raise RowError(f"{fault}: permission to read the file is denied") from None
    except (OSError, RuntimeError):  # RuntimeError: a loop of symbolic links, until Python 3.12
        raise RowError(f"{fault}: the file cannot be read") from None
    if content is None:
        raise RowError(f"{fault}: it is no file")
    if len(content) > limit:
        raise RowError(f"{fault}: the texts and files of the message are too large")
    return names[-1], content


class _LeadsOut(Exception):
    """A symbolic link leads out of the root."""


def _content(root: str, names: list[str], limit: int) -> bytes | None:
    """Return a file, or None if the path is not that of a file.

    Of a file that is larger than `limit`, only the first `limit` + 1 bytes are read.
    """
    real = Path(root, *names).resolve(strict=True)
    if not real.is_relative_to(root):
        raise _LeadsOut
    # The type is checked before the file is opened, because opening a FIFO waits for a writer.
    if not real.is_file():
        return None
    with real.open("rb") as file:
        return file.read(limit + 1 if real.stat().st_size > limit else -1)
