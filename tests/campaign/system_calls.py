"""The system calls of a run: parsed from a trace, and replayed into images of the disk.

An image is what a disk may have after a loss of power at one moment. Writes that were synced are
there. Each sector of an unsynced write may be there or not. Files that were created or deleted
since the last sync of their folder may be there or not, in the order of the calls.
"""

import codecs
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

CALLS = "openat,pwrite64,write,writev,sendto,sendmsg,ftruncate,unlink,rename,fsync,fdatasync"
SECTOR = 512
_LINE = re.compile(r"(\d+) +(\w+)\((.*)", re.DOTALL)
_RESUMED = re.compile(r"(\d+) +<\.\.\. (\w+) resumed>")
_FILE = re.compile(r"\d+<([^>]*(?:->[^>]*)?)>")
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')
_NUMBERS = re.compile(r"\d+")
_MESSAGE_ID = re.compile(rb"Message-ID: <[0-9a-f]{16}\.(\d+)@")
_GRANTED = re.compile(rb"GRANTED (\d+)-(\d+)")
_END = b"\r\n.\r\n"


@dataclass(frozen=True, slots=True)
class Event:
    """One step of a run.

    Attributes:
        kind: "write", "truncate", "sync" (begin), "synced" (end), "create", "unlink", "rename",
            "granted" (rows were granted), "leaves" (bytes of a message leave, from its Message-ID
            on), or "sent" (the terminator of a message leaves).
        path: The file or the folder.
        place: The place of a write, or the size of a truncated file.
        data: The bytes of a write.
        thread: The thread of a sync.
        rows: The rows.
        target: The new name of a renamed file.
    """

    kind: str
    path: str = ""
    place: int = 0
    data: bytes = b""
    thread: str = ""
    rows: range = range(0)
    target: str = ""


def parse(trace: Path) -> Iterator[Event]:
    """Yield the events of a trace that `strace -f -y -s` has written with the calls `CALLS`."""
    streams: dict[str, bytes] = {}
    appended: dict[str, int] = {}
    for line in trace.read_text("latin-1").splitlines():
        resumed = _RESUMED.match(line)
        if resumed is not None:
            if resumed[2] in ("fsync", "fdatasync"):
                yield Event("synced", thread=resumed[1])
            continue
        match = _LINE.match(line)
        if match is None or re.search(r"\) += -1 ", line):
            continue
        thread, call, rest = match.groups()
        strings = [_unescaped(each) for each in _STRING.findall(rest)]
        named = _FILE.match(rest)
        path = named[1] if named else ""
        if call in ("openat", "unlink", "rename"):
            names = [each.decode() for each in strings]
            if call == "unlink":
                yield Event("unlink", names[0])
            elif call == "rename":
                yield Event("rename", names[0], target=names[1])
            elif "O_CREAT" in rest:
                yield Event("create", names[0])
        elif call in ("fsync", "fdatasync"):
            yield Event("sync", path, thread=thread)
            if "unfinished" not in rest:
                yield Event("synced", thread=thread)
        elif call == "ftruncate":
            yield Event("truncate", path, int(_NUMBERS.findall(rest.partition(">")[2])[0]))
        elif call == "pwrite64":
            place = int(_NUMBERS.findall(rest.rpartition('"')[2])[1])
            yield Event("write", path, place, strings[0])
        elif path.startswith(("socket:", "TCP:")):
            yield from _messages(streams, path, b"".join(strings))
        elif strings and (granted := _GRANTED.match(strings[0])) is not None:
            yield Event("granted", rows=range(int(granted[1]), int(granted[2]) + 1))
        elif call == "write" and strings:
            yield Event("write", path, appended.get(path, 0), strings[0])
            appended[path] = appended.get(path, 0) + len(strings[0])


def _messages(streams: dict[str, bytes], connection: str, data: bytes) -> Iterator[Event]:
    """Yield the messages in further bytes of a connection."""
    before = streams.get(connection, b"")
    stream = before + data
    for match in _MESSAGE_ID.finditer(stream):
        if match.end() > len(before):
            yield Event("leaves", rows=range(int(match[1]), int(match[1]) + 1))
    while (end := stream.find(_END)) >= 0:
        found = _MESSAGE_ID.search(stream[:end])
        if found is not None:
            yield Event("sent", rows=range(int(found[1]), int(found[1]) + 1))
        stream = stream[end + len(_END) :]
    streams[connection] = stream


def _unescaped(text: str) -> bytes:
    # strace escapes bytes as Python does. The type stubs lack this function.
    return codecs.escape_decode(text.encode("latin-1"))[0]  # type: ignore[attr-defined,no-any-return]


@dataclass(slots=True)
class _File:
    """A file: its durable bytes, and the writes and truncations since."""

    durable: bytearray = field(default_factory=bytearray)
    pending: list[Event] = field(default_factory=list)


class Disk:
    """A folder on a disk that may lose its power.

    Args:
        folder: The path of the folder in the trace.
        files: The bytes of its durable files, by name.
    """

    def __init__(self, folder: Path, files: dict[str, bytes]) -> None:
        self._folder = str(folder)
        self._names = {name: _File(bytearray(data)) for name, data in files.items()}
        self._durable_names = dict(self._names)
        self._changes: list[dict[str, _File]] = []  # the names after each unsynced change
        self._syncs: dict[str, tuple[_File | None, int]] = {}

    def apply(self, event: Event) -> None:
        """Apply an event."""
        if event.kind == "synced":
            self._synced(event.thread)
            return
        if event.kind == "sync" and event.path == self._folder:
            self._syncs[event.thread] = None, len(self._changes)
            return
        name = self._name(event.path)
        if name is None:
            return
        if event.kind == "create" and name not in self._names:
            self._change({**self._names, name: _File()})
        elif event.kind == "unlink":
            self._change({each: file for each, file in self._names.items() if each != name})
        elif event.kind == "rename":
            target = self._name(event.target) or name
            rest = {each: file for each, file in self._names.items() if each != name}
            self._change({**rest, target: self._names[name]})
        elif event.kind in ("write", "truncate") and name in self._names:
            self._names[name].pending.append(event)
        elif event.kind == "sync" and name in self._names:
            file = self._names[name]
            self._syncs[event.thread] = file, len(file.pending)

    def image(self, source: random.Random) -> dict[str, bytes]:
        """Return files as they may be after a loss of power: all, none or some unsynced writes."""
        share = source.choice((0.0, 1.0, 0.1, 0.5, 0.5, 0.9))
        names = self._durable_names
        if self._changes and (kept := source.randint(0, len(self._changes)) if share else 0):
            names = self._changes[-1] if share == 1.0 else self._changes[kept - 1]
        return {name: _after(file, share, source) for name, file in names.items()}

    def _name(self, path: str) -> str | None:
        folder, _, name = path.rpartition("/")
        return name if folder == self._folder else None

    def _change(self, names: dict[str, _File]) -> None:
        self._names = names
        self._changes.append(names)

    def _synced(self, thread: str) -> None:
        file, count = self._syncs.pop(thread, (None, 0))
        if file is not None:
            for event in file.pending[:count]:
                _write(file.durable, event)
            del file.pending[:count]
        elif count:
            self._durable_names = self._changes[count - 1]
            del self._changes[:count]


def _after(file: _File, share: float, source: random.Random) -> bytes:
    data = bytearray(file.durable)
    for event in file.pending:
        if event.kind == "truncate":
            if source.random() < share:
                _write(data, event)
            continue
        start = event.place
        end = start + len(event.data)
        while start < end:
            stop = min(end, start - start % SECTOR + SECTOR)
            if source.random() < share:
                part = event.data[start - event.place : stop - event.place]
                _write(data, Event("write", place=start, data=part))
            start = stop
    return bytes(data)


def _write(data: bytearray, event: Event) -> None:
    size = event.place + len(event.data)
    if event.kind == "truncate":
        del data[size:]
    data.extend(bytes(max(0, size - len(data))))
    if event.kind == "write":
        data[event.place : size] = event.data
