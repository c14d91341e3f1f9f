"""Who may touch what, and how large a file may grow: the table of the design, held by reading.

Python's imports are read with `ast`. Rust's paths are read from the text without its comments,
strings and tests, for any name that stands before `::`.
"""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import rapidsmtp

ROOT = Path(__file__).parent.parent
CRATE = ROOT / "src"
PACKAGE = ROOT / "python" / "rapidsmtp"
PURE = PACKAGE / "_pure"

RUST = sorted(CRATE.rglob("*.rs"))
PYTHON = sorted(PACKAGE.rglob("*.py"))

LONGEST = 800
SHORT = {"src/lib.rs": 60, "src/python/mod.rs": 60, "python/rapidsmtp/_core.py": 60}

# What the rooms beside the protocol core may not name.
ROOMS = {
    "python": {"std::fs", "std::net", "rustls", "tokio"},
    "engine": {"crate::python", "pyo3"},
    "sink": {"crate::python", "pyo3"},
}
# And the core: nothing that is called I/O, clock, thread or log, and none of those rooms.
NO_PROTOCOL = {
    *(f"crate::{name}" for name in ROOMS),
    "pyo3",
    "std::fs",
    "std::io",
    "std::net",
    "std::os",
    "std::process",
    "std::sync::mpsc",
    "std::thread",
    "std::time",
    "chrono",
    "log",
    "rustls",
    "time",
    "tokio",
    "tracing",
}

TWIN_MAY_USE = {
    "__future__",
    "_typeshed",
    "base64",
    "binascii",
    "collections",
    "dataclasses",
    "enum",
    "hashlib",
    "hmac",
    "re",
    "typing",
}
# The plain engine of threads is several modules, and has the room `src/engine/` for a namesake.
TWIN_ENGINE = {
    "attention": {"threading", "time"},
    "backlog": {"heapq", "itertools", "random"},
    "connect": {"contextlib", "errno", "itertools", "os", "selectors", "socket", "time"},
    "crew": {"threading", "time"},
    "dialogue": {"contextlib", "socket", "ssl", "time"},
    "engine": {"itertools", "threading", "time"},
    "governor": set(),
    "job": set(),
    "judgement": set(),
    "login": {"secrets"},
    "settings": {"pathlib", "ssl", "tempfile"},
    "wire": {"contextlib", "select", "socket", "ssl", "time"},
    "worker": {"contextlib", "socket", "ssl", "threading", "time"},
}
# A module that needs more than the others: SASLprep, memory to write to, and the engine.
TWIN_MAY_ALSO_USE = {
    "auth": {"secrets", "stringprep", "unicodedata"},
    "flatten": {"io"},
    **TWIN_ENGINE,
}
# Modules of `src/` that have no twin are the compiled half's own; a twin without a namesake is not.
NAMELESS_TWINS = {"__init__", *TWIN_ENGINE}


def where(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(path: Path, package: str) -> Iterator[str]:
    """The absolute name of everything that a file imports, inside of functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Import():
                yield from (alias.name for alias in node.names)
            case ast.ImportFrom(level=level):
                parts = package.split(".")[: len(package.split(".")) - level + 1] if level else []
                base = ".".join([*parts, *([node.module] if node.module else [])])
                yield from (f"{base}.{alias.name}" for alias in node.names)
            case ast.Call(func=ast.Attribute(attr="import_module") | ast.Name(id="__import__")):
                match node.args:
                    case [ast.Constant(value=str(name)), *_]:
                        yield name


def package_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).parent.parts)


def within(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")


def code(path: Path) -> str:
    """A Rust file without comments, strings and the tests at its end."""
    text = path.read_text(encoding="utf-8")
    text = re.split(r"^#\[cfg\(test\)\]\s*mod ", text, maxsplit=1, flags=re.MULTILINE)[0]
    # A string first: `//` inside of one is no comment. A lifetime's quote stands alone.
    strings = r'b?r(#*)".*?"\1|b?"(?:\\.|[^"\\])*"|b?\'(?:\\.[^\']*|[^\\\'])\''
    return re.sub(rf"{strings}|//[^\n]*|/\*.*?\*/", " ", text, flags=re.DOTALL)


def paths(path: Path) -> set[str]:
    """The paths that a Rust file names, `use std::{fs, net::TcpStream}` taken apart."""
    text = re.sub(r"\s+", " ", code(path))
    found = set(re.findall(r"(?<![\w:])(\w+(?:::\w+)*)(?=::|;)", text))
    found |= set(re.findall(r"(?<![\w:])\w+(?:::\w+)+", text))
    for used in re.findall(r"\buse ([^;]+);", text):
        found |= set(expand(used))
    return found


def expand(used: str) -> Iterator[str]:
    """`a::{b, c::{d, e}}` -> `a::b`, `a::c::d`, `a::c::e`."""
    opening = used.find("{")
    if opening < 0:
        yield used.split(" as ")[0].strip().removeprefix("::")
        return
    prefix, inner = used[:opening].strip(), used[opening + 1 : used.rfind("}")]
    depth, item = 0, ""
    for character in f"{inner},":
        depth += {"{": 1, "}": -1}.get(character, 0)
        if character == "," and depth == 0:
            if item.strip():
                yield from expand(prefix + item.strip())
            item = ""
        else:
            item += character


def named(path: Path, forbidden: set[str]) -> set[str]:
    """Which of the forbidden crates and modules a Rust file names."""
    return {
        bad
        for bad in forbidden
        for name in paths(path)
        if name == bad or name.startswith(f"{bad}::")
    }


def room(path: Path) -> str:
    """Which of the rooms beside the protocol core a file of `src/` is in; nothing for the core."""
    name = path.relative_to(CRATE).with_suffix("").parts[0]
    return name if name in ROOMS else ""


@pytest.mark.parametrize("path", RUST, ids=where)
def test_rust_keeps_to_its_room(path: Path) -> None:
    if path == CRATE / "lib.rs" or path.stem == "tests":
        return
    assert not named(path, ROOMS.get(room(path), NO_PROTOCOL))
    assert not re.search(r"\bunsafe\b(?!_)", code(path))


@pytest.mark.parametrize("path", PYTHON, ids=where)
def test_only_the_chooser_imports_the_halves(path: Path) -> None:
    if path == PACKAGE / "_core.py":
        return
    halves = (
        ["rapidsmtp._native"] if PURE in path.parents else ["rapidsmtp._native", "rapidsmtp._pure"]
    )
    found = set(imports(path, package_of(path)))
    assert not {name for name in found for half in halves if within(name, half)}


@pytest.mark.parametrize("path", sorted(PURE.rglob("*.py")), ids=where)
def test_the_twin_uses_no_more_than_it_may(path: Path) -> None:
    allowed = TWIN_MAY_USE | TWIN_MAY_ALSO_USE.get(path.stem, set())
    for name in imports(path, package_of(path)):
        own = within(name, "rapidsmtp._pure")
        assert own or name.split(".")[0] in allowed, f"{where(path)} imports {name}"


@pytest.mark.parametrize("path", sorted(PURE.glob("[!_]*.py")), ids=where)
def test_each_twin_has_its_namesake(path: Path) -> None:
    if path.stem in NAMELESS_TWINS:
        assert (CRATE / "engine").is_dir()
        return
    namesakes = [CRATE / f"{path.stem}.rs", CRATE / "message" / f"{path.stem}.rs"]
    assert any(namesake.is_file() for namesake in namesakes)


@pytest.mark.parametrize("path", [*RUST, *PYTHON], ids=where)
def test_no_file_outgrows_its_reader(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines < SHORT.get(where(path), LONGEST + 1)


def test_one_version() -> None:
    cargo = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]["version"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert cargo == project == rapidsmtp.__version__


def test_what_is_tested_is_what_is_shipped() -> None:
    assert PACKAGE not in Path(rapidsmtp.__file__).parents


# The reader is read as well: it has to see what it forbids.


@pytest.mark.parametrize(
    ("text", "forbidden"),
    [
        ("use std::{fmt, net::TcpStream};", "std::net"),
        ("use std::{fmt, io::{self, Read}};", "std::io"),
        ("fn now() -> u64 { std::time::Instant::now() }", "std::time"),
        ("use pyo3 as python;", "pyo3"),
        ('const A: &str = "//"; use tokio::net;', "tokio"),
        ("fn f<'a>(x: &'a str) { log::warn!(\"x\") }", "log"),
    ],
)
def test_the_reader_of_rust_sees(text: str, forbidden: str, tmp_path: Path) -> None:
    (tmp_path / "a.rs").write_text(text)
    assert named(tmp_path / "a.rs", {forbidden}) == {forbidden}


@pytest.mark.parametrize(
    "text",
    [
        "// use tokio::net;",
        'const TEXT: &str = "std::net::TcpStream";',
        "use crate::log_line::timeless;",
        "#[cfg(test)]\nmod tests { use std::fs; use std::time; }",
    ],
)
def test_the_reader_of_rust_passes_over(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.rs").write_text(text)
    assert not named(tmp_path / "a.rs", NO_PROTOCOL)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("from rapidsmtp import _native", "rapidsmtp._native"),
        ("from . import _pure", "rapidsmtp._pure"),
        ("from ._pure.reply import Reply", "rapidsmtp._pure.reply.Reply"),
        ("def f():\n    import rapidsmtp._native as n", "rapidsmtp._native"),
        ("import importlib\nimportlib.import_module('rapidsmtp._native')", "rapidsmtp._native"),
    ],
)
def test_the_reader_of_python_sees(text: str, name: str, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(text)
    assert name in set(imports(tmp_path / "a.py", "rapidsmtp"))
