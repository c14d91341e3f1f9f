"""Checks of the sources: permitted imports, maximum file lengths, and one meaning for each name.

Python's imports are read with `ast`. Rust's paths are read from the text without its comments,
strings and tests. A path consists of names that are joined by `::`.
"""

import ast
import re
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
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
SHORT = {"src/lib.rs": 60, "src/python/mod.rs": 60, "python/rapidsmtp/_backend.py": 60}

# Rust: for each layer outside the protocol core, the paths that its modules must not name.
FORBIDDEN = {
    "python": {"std::fs", "std::net", "rustls", "tokio"},
    "engine": {"crate::python", "pyo3"},
    "sink": {"crate::python", "pyo3"},
}
# Rust: the paths that the protocol core must not name. The core has no I/O, clock, thread or log,
# and does not use the engine, the sink or the Python binding.
FORBIDDEN_IN_CORE = {
    "crate::engine",
    "crate::python",
    "crate::sink",
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

# Rust: the forbidden paths that single modules may name nevertheless.
MAY_NAME = {
    # The attached file of a row is read by the thread that renders the row.
    "src/message/attachment.rs": {"std::fs", "std::io"},
    # minijinja renders to an object of the trait `std::io::Write`.
    "src/message/text.rs": {"std::io"},
    # A recipients list may be too large for memory, so its reader reads from the file.
    "src/message/list.rs": {"std::fs", "std::io"},
    "src/message/list/list_check.rs": {"std::fs", "std::io"},
    "src/message/list/records.rs": {"std::io"},
}

# Python: the parts of the package, from the lowest to the highest, with the parts that each may
# import. The public interfaces (aio, campaign, cli, django, logging, telemetry, testing) do not
# import each other, with three exceptions: the command line starts the test server and runs
# campaigns, and telemetry observes the senders of asyncio.
MAY_IMPORT = {
    "errors": set(),
    "_charset": set(),
    "_domain": set(),
    "_host_name": set(),
    "_native": {"errors", "_host_name", "_models"},
    # From `_models`, `_pure` uses only the engine's settings, the enhanced status codes and the
    # class of sockets.
    "_pure": {"errors", "_charset", "_host_name", "_models"},
    "_models": {"errors", "_domain"},
    # From `_compose`, `_backend` uses only `pure_template`, the pure-Python backend of templates.
    "_backend": {"_native", "_pure", "_compose"},
    "_compose": {"errors", "_backend", "_charset", "_domain", "_models"},
    "_bulk": {"errors", "_backend", "_domain", "_models", "_compose"},
    "_smtp": {"errors", "_backend", "_models", "_compose"},
    "auth": {"errors", "_backend"},
    "testing": {"_backend"},
    "aio": {"errors", "_backend", "_domain", "_models", "_compose", "_bulk", "_smtp", "auth"},
    "django": {"errors", "_models", "_compose", "_bulk"},
    "logging": {"errors", "_backend", "_models", "_compose", "_bulk"},
    "telemetry": {"_models", "_bulk", "_smtp", "aio"},
    "campaign": {"errors", "_backend", "_models", "_compose", "_bulk"},
    "cli": {"errors", "_backend", "_models", "_compose", "_bulk", "_smtp", "campaign", "testing"},
    "__main__": {"cli"},
    "": {"errors", "_backend", "_models", "_compose", "_bulk", "_smtp", "campaign"},
}
LAYERS = (
    {"errors", "_charset", "_domain", "_host_name", "_native", "_pure", "_models"},
    {"_backend", "_compose"},
    {"_bulk", "_smtp", "auth"},
    {"testing", "aio", "campaign", "django", "logging", "telemetry", "cli", "__main__", ""},
)
# Modules inside the package that may import the public package `rapidsmtp`, with the reasons.
MAY_IMPORT_THE_PACKAGE = {
    "cli": "it is a program that uses the package",
    "_smtp.overrides": "a program may replace `rapidsmtp.socket` and `rapidsmtp.ssl`",
    "_smtp.client": "an annotation names a class that loads on first use",
}

# The modules of campaigns for one kind of database with the driver of each, and the modules that
# may import them. All other modules use the interface `Database`.
DATABASES = {"campaign.sqlite": "sqlite3"}
OPEN_JOURNALS = {"campaign.campaign", "campaign.creating", "campaign.older_copy"}

# Pairs of modules that name each other. This is no import cycle at run time, because the first
# module of a pair imports the second only for type checkers.
NAME_EACH_OTHER = {
    ("aio.transport", "aio.connection"): "a connection runs its transactions by a transport",
    ("django.delivering", "django.backend"): "a delivery is one call of a backend",
}

# Modules other than `_backend` that may branch on the backend, with the reasons.
MAY_DISTINGUISH_BACKENDS = {
    "_bulk.green_engine": "only the compiled engine blocks green threads",
    "_bulk.replaced_sockets": "only the compiled engine does not use a replaced `socket.socket`",
    "cli.sink": "only the compiled backend has a server",
    "cli.bench.command": "it measures each mode that the engine of the backend has, once",
}

# The modules of the standard library that the pure-Python backend may use: in all of its modules,
# and in single modules.
PURE_MAY_USE = {
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
PURE_ENGINE = {
    "queue": {"itertools", "threading"},
    "clock": {"time"},
    "connect": {"errno", "itertools", "os", "selectors", "socket", "time"},
    "connection": {"time"},
    "pool": {"heapq", "math", "random", "ssl", "threading", "time"},
    "session": {"contextlib", "ssl", "time"},
    "engine": {"math", "time"},
    "failure": set(),
    "job": set(),
    "retry": set(),
    "login": {"contextlib", "secrets"},
    "tls": {"ipaddress", "pathlib", "ssl", "tempfile"},
    "tls_error": set(),
    "tunnel": {"contextlib", "socket", "time"},
    "transport": {"contextlib", "selectors", "socket", "ssl", "time"},
}
PURE_MAY_ALSO_USE = {
    "auth": {"secrets", "stringprep", "unicodedata"},
    "flatten": {"io"},
    "identity": {"operator"},
    "proxy": {"ipaddress"},
    # The modules of the rate controller.
    "connection_limits": {"math"},
    "evidence": {"math"},
    "hold_off": {"math"},
    "learned_rate": {"math"},
    "pace": {"math"},
    **PURE_ENGINE,
}
# Modules of the pure-Python backend without a Rust file of the same name. The counterpart of the
# engine's modules is the whole folder `src/engine/`. `identity` compares Python objects, so its
# counterpart is in the binding.
WITHOUT_COUNTERPART = {"__init__", "envelope", "identity", *PURE_ENGINE}

# Names that several modules or classes have. Each value states the one meaning of the name.
SAME_MODULES = {
    "arguments": "the arguments of a subcommand",
    "campaign": "campaigns: the class Campaign, and the subcommands for it",
    "command": "a subcommand",
    "client": "the classes SMTP, SMTP_SSL and LMTP",
    "connection": "the part of a client that opens, writes, reads and closes",
    "delivering": "hands the messages of one call to a sender",
    "sender": "the class Sender",
    "sender_core": "the internal interface of a Sender",
}
SAME_CLASSES = {
    "LMTP": "the client, blocking and for asyncio",
    "SMTP": "the client, blocking and for asyncio",
    "SMTP_SSL": "the client, blocking and for asyncio",
    "Sender": "the bulk sender, blocking and for asyncio",
    "Template": "the public class, and the compiled form that it holds",
    "MessageOutcome": "the engine's class, and what is used of it",
    "PendingMessage": "the template's class, and what is used of it",
    **dict.fromkeys(
        ("External", "Login", "OAuthBearer", "Plain", "XOAuth2"),
        "the mechanism: the public class, and the exchange that it holds",
    ),
}
SAME_RUST_MODULES = {
    "error": "the error of the module above",
    "outcome": "the outcome of a message or of a recipient",
    "session": "an SMTP session",
    "render": "writes the text of a template",
    "settings": "the settings of the engine, and their conversion",
}
SAME_RUST_TYPES: dict[str, str] = {}


def where(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


# Functions that read Python files


def imports(path: Path, package: str, *, runtime: bool = False) -> Iterator[str]:
    """Yield the absolute name of each import of a file, including those in functions.

    Args:
        path: The file.
        package: The package that contains the file.
        runtime: Whether to omit imports that are for type checkers only.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if runtime:
        tree = WithoutTypeChecking().visit(tree)
    for node in ast.walk(tree):
        match node:
            case ast.Import():
                yield from (alias.name for alias in node.names)
            case ast.ImportFrom(level=level):
                parts = package.split(".")[: len(package.split(".")) - level + 1] if level else []
                base = ".".join([*parts, *([node.module] if node.module else [])])
                yield from (f"{base}.{alias.name}" for alias in node.names)
            case ast.Call(
                func=ast.Attribute(attr="import_module" | "__import__")
                | ast.Name(id="import_module" | "__import__")
            ):
                for part in ast.walk(node):
                    if isinstance(part, ast.Constant) and isinstance(part.value, str):
                        yield part.value


class WithoutTypeChecking(ast.NodeTransformer):
    """A transformer that removes `if TYPE_CHECKING:` blocks."""

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return node.orelse
        return self.generic_visit(node)


def package_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).parent.parts)


def module_of(path: Path) -> str:
    """Return the name of a file's module in the package, or "" for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def within(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")


MODULES = {module_of(path).removesuffix("__init__"): path for path in PYTHON}


def own_imports(module: str, *, runtime: bool = False) -> set[str]:
    """Return the modules of the package that a module imports. "" means the package itself."""
    found = set()
    for name in imports(MODULES[module], package_of(MODULES[module]), runtime=runtime):
        if not within(name, "rapidsmtp"):
            continue
        own = name.removeprefix("rapidsmtp").removeprefix(".")
        if within(own, "_native"):
            found.add("_native")
            continue
        # An import names a module or an object in a module. If it names an object, remove the
        # object's name, because only modules are compared.
        while own and own not in MODULES:
            own = own.rpartition(".")[0]
        found.add(own)
    return found - {module}


def part_of(module: str) -> str:
    return module.split(".")[0]


# Functions that read Rust files


def code(path: Path) -> str:
    """Return the text of a Rust file without comments, strings and the tests at its end."""
    text = path.read_text(encoding="utf-8")
    text = re.split(r"^#\[cfg\(test\)\]\s*mod ", text, maxsplit=1, flags=re.MULTILINE)[0]
    # The pattern tries strings before comments, because `//` inside a string starts no comment. A
    # lifetime such as `'a` also starts with `'`, so the pattern for a character literal requires
    # the closing quote.
    strings = r'b?r(#*)".*?"\1|b?"(?:\\.|[^"\\])*"|b?\'(?:\\.[^\']*|[^\\\'])\''
    return re.sub(rf"{strings}|//[^\n]*|/\*.*?\*/", " ", text, flags=re.DOTALL)


def paths(path: Path) -> set[str]:
    """Return the paths that a Rust file names, with `use std::{fs, net::TcpStream}` expanded."""
    text = re.sub(r"\s+", " ", code(path))
    found = set(re.findall(r"(?<![\w:])(\w+(?:::\w+)*)(?=::|;)", text))
    found |= set(re.findall(r"(?<![\w:])\w+(?:::\w+)+", text))
    for used in re.findall(r"\buse ([^;]+);", text):
        found |= set(expand(used))
    return found


def expand(used: str) -> Iterator[str]:
    """Expand `a::{b, c::{d, e}}` to `a::b`, `a::c::d`, `a::c::e`."""
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
    """Return the forbidden crates and modules that a Rust file names."""
    return {
        bad
        for bad in forbidden
        for name in paths(path)
        if name == bad or name.startswith(f"{bad}::")
    }


def layer_of(path: Path) -> str:
    """Return the layer of a Rust file: `python`, `engine`, `sink`, or "" for the protocol core."""
    name = path.relative_to(CRATE).with_suffix("").parts[0]
    return name if name in FORBIDDEN else ""


def is_test(path: Path) -> bool:
    return path.stem in ("tests", "test_support")


# Permitted imports


@pytest.mark.parametrize("path", RUST, ids=where)
def test_rust_names_only_the_paths_that_its_layer_permits(path: Path) -> None:
    if path == CRATE / "lib.rs" or path.stem == "tests":
        return
    forbidden = FORBIDDEN.get(layer_of(path), FORBIDDEN_IN_CORE)
    assert not named(path, forbidden - MAY_NAME.get(where(path), set()))
    assert not re.search(r"\bunsafe\b(?!_)", code(path))


def test_every_part_is_in_the_table() -> None:
    assert {part_of(module) for module in MODULES} | {"_native"} == MAY_IMPORT.keys()
    assert sorted(MAY_IMPORT) == sorted(part for layer in LAYERS for part in layer)


def test_no_part_may_import_one_of_a_higher_layer() -> None:
    height = {part: number for number, layer in enumerate(LAYERS) for part in layer}
    for part, allowed in MAY_IMPORT.items():
        assert all(height[other] <= height[part] for other in allowed), part


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_imports_only_the_parts_that_its_part_permits(module: str) -> None:
    allowed = MAY_IMPORT[part_of(module)] | {part_of(module)}
    if module in MAY_IMPORT_THE_PACKAGE or part_of(module) in MAY_IMPORT_THE_PACKAGE:
        allowed = allowed | {""}
    assert not {name for name in own_imports(module) if part_of(name) not in allowed}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_only_the_module_of_a_database_imports_its_driver(module: str) -> None:
    names = set(imports(MODULES[module], package_of(MODULES[module])))
    for database, driver in DATABASES.items():
        assert module == database or not {name for name in names if within(name, driver)}
        if module not in {database, *OPEN_JOURNALS}:
            assert database not in own_imports(module)


def test_the_backend_imports_only_the_pure_template_from_the_layer_above() -> None:
    found = {name for name in own_imports("_backend") if part_of(name) == "_compose"}
    assert found == {"_compose.pure_template"}


def test_no_modules_import_each_other_in_a_cycle() -> None:
    # Imports of the package itself are ignored. Python always imports the package before any of its
    # submodules.
    graph = {module: own_imports(module) - {""} for module in MODULES if module}
    for module in MODULES:
        # An `__init__` that is imported only for its submodule is not a dependency.
        graph.get(module, set()).discard(module.rpartition(".")[0])
    for module, other in NAME_EACH_OTHER:
        assert other not in own_imports(module, runtime=True)
        graph[module].discard(other)
    assert not cycle(graph)


def cycle(graph: Mapping[str, set[str]]) -> list[str]:
    """Return a cycle of modules, or an empty list if no cycle exists."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


@pytest.mark.parametrize("path", PYTHON, ids=where)
def test_only_one_module_imports_the_backends(path: Path) -> None:
    if path == PACKAGE / "_backend.py":
        return
    backends = (
        ["rapidsmtp._native"] if PURE in path.parents else ["rapidsmtp._native", "rapidsmtp._pure"]
    )
    found = set(imports(path, package_of(path)))
    assert not {name for name in found for backend in backends if within(name, backend)}


@pytest.mark.parametrize("path", PYTHON, ids=where)
def test_only_one_module_distinguishes_the_backends(path: Path) -> None:
    if module_of(path) in {"_backend", *MAY_DISTINGUISH_BACKENDS}:
        return
    assert not set(decisions(path)), "let `_backend` provide what differs"
    # The classes `Signer` and `Sink` exist in the compiled backend only. Modules that need one of
    # them raise an error if the compiled backend is missing.
    assert set(compiled_only(path)) <= {"Signer", "Sink"}


def decisions(path: Path) -> Iterator[int]:
    """Return the lines in which a file compares `implementation` or branches on it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Compare():
                parts: list[ast.AST] = [node]
            case ast.If(test=test) | ast.IfExp(test=test) | ast.While(test=test):
                parts = [test]
            case ast.Match(subject=subject):
                parts = [subject]
            case _:
                continue
        for part in parts:
            for name in ast.walk(part):
                if "implementation" in (getattr(name, "attr", None), getattr(name, "id", None)):
                    yield node.lineno  # type: ignore[attr-defined]


def compiled_only(path: Path) -> Iterator[str]:
    """Return the names that a file reads from `_backend.native`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Call(func=ast.Attribute(attr="native"), args=[ast.Constant(value=name)]):
                yield str(name)
            case ast.Call(func=ast.Attribute(attr="native")):
                yield "unknown"


@pytest.mark.parametrize("path", sorted(PURE.rglob("*.py")), ids=where)
def test_the_pure_backend_imports_only_permitted_modules(path: Path) -> None:
    allowed = PURE_MAY_USE | PURE_MAY_ALSO_USE.get(path.stem, set())
    for name in imports(path, package_of(path)):
        if not within(name, "rapidsmtp"):
            assert name.split(".")[0] in allowed, f"{where(path)} imports {name}"


@pytest.mark.parametrize("path", sorted(PURE.rglob("[!_]*.py")), ids=where)
def test_a_module_of_the_pure_backend_has_a_counterpart_in_rust(path: Path) -> None:
    if path.stem in WITHOUT_COUNTERPART:
        assert (CRATE / "engine").is_dir()
        return
    name = path.relative_to(PURE).with_suffix(".rs")
    counterparts = [CRATE / name, CRATE / "message" / name]
    assert any(counterpart.is_file() for counterpart in counterparts)


# Names


def test_no_two_modules_of_a_layer_share_a_name() -> None:
    for number, layer in enumerate(LAYERS):
        shared = duplicates(
            (module.rpartition(".")[2], module)
            for module in MODULES
            # `_pure` is omitted, because its modules have the names of the Rust modules.
            if "." in module and part_of(module) in layer - {"_pure"}
        )
        assert shared.keys() <= SAME_MODULES.keys(), f"layer {number}: {shared}"


def test_no_two_public_classes_share_a_name() -> None:
    found = (
        (node.name, where(path))
        for path in PYTHON
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert duplicates(found).keys() == SAME_CLASSES.keys()


def test_no_two_rust_modules_of_a_layer_share_a_name() -> None:
    for layer in ("", *FORBIDDEN):
        shared = duplicates(
            (path.stem, where(path))
            for path in RUST
            if layer_of(path) == layer and path.stem != "mod" and not is_test(path)
        )
        assert shared.keys() <= SAME_RUST_MODULES.keys(), shared


def test_no_two_public_rust_types_share_a_name() -> None:
    public = re.compile(r"^\s*pub(?:\(crate\))? (?:struct|enum|trait|type) (\w+)", re.MULTILINE)
    found = (
        (name, where(path))
        for path in RUST
        # The Python binding is omitted, because its classes have the names of the types that they
        # wrap.
        if not is_test(path) and layer_of(path) != "python"
        for name in public.findall(code(path))
    )
    shared = duplicates(found)
    assert shared.keys() <= SAME_RUST_TYPES.keys(), shared


def duplicates(names: Iterator[tuple[str, str]]) -> dict[str, list[str]]:
    """Return the names that occur more than once, with the places."""
    places = defaultdict(list)
    for name, place in names:
        places[name].append(place)
    return {name: found for name, found in places.items() if len(found) > 1}


# Files and versions


@pytest.mark.parametrize("path", [*RUST, *PYTHON], ids=where)
def test_no_file_is_too_long(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines < SHORT.get(where(path), LONGEST + 1)


def test_the_version_is_the_same_everywhere() -> None:
    cargo = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]["version"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert cargo == project == rapidsmtp.__version__


def test_the_tested_package_is_not_the_checkout() -> None:
    assert PACKAGE not in Path(rapidsmtp.__file__).parents


# The map in ARCHITECTURE.md

FOLDERS = ("src", "python", "tests", "docs", "benches", "fuzz/fuzz_targets")


@pytest.fixture(scope="module")
def words() -> set[str]:
    """Return all words that occur in the source files."""
    files = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*"))
    sources = (path for path in files if path.suffix in (".rs", ".py", ".pyi", ".toml"))
    return {word for path in sources for word in re.findall(r"\w+", path.read_text("utf-8"))}


def test_the_map_names_only_files_and_words_that_exist(words: set[str]) -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    for span in re.findall(r"`([^`\n]+)`", text):
        if re.fullmatch(r"[\w.*/]+(/|\.(rs|py|pyi|json|md))", span):
            found = [*ROOT.glob(span.rstrip("/")), *PACKAGE.glob(span.rstrip("/"))]
            assert found, f"there is no file {span}"
        else:
            unknown = set(re.findall(r"\b[A-Za-z_]\w{3,}", span)) - words - {"unsafe"}
            assert not unknown, f"{span}: no source has {unknown}"


# Tests of the readers: a reader that finds no imports would hide all violations.


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
def test_the_rust_reader_finds_forbidden_paths(text: str, forbidden: str, tmp_path: Path) -> None:
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
def test_the_rust_reader_ignores_comments_strings_and_tests(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.rs").write_text(text)
    assert not named(tmp_path / "a.rs", FORBIDDEN_IN_CORE)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("from rapidsmtp import _native", "rapidsmtp._native"),
        ("from . import _pure", "rapidsmtp._pure"),
        ("from ._pure.reply import Reply", "rapidsmtp._pure.reply.Reply"),
        ("def f():\n    import rapidsmtp._native as n", "rapidsmtp._native"),
        ("import importlib\nimportlib.import_module('rapidsmtp._native')", "rapidsmtp._native"),
        ("if TYPE_CHECKING:\n    from rapidsmtp._native import Sink", "rapidsmtp._native.Sink"),
        ("import_module('rapidsmtp._native' if x else 'y')", "rapidsmtp._native"),
    ],
)
def test_the_python_reader_finds_imports(text: str, name: str, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(text)
    assert name in set(imports(tmp_path / "a.py", "rapidsmtp"))


@pytest.mark.parametrize(
    "text",
    [
        "if _backend.implementation == 'rust': pass",
        "x = 1 if implementation == 'rust' else 2",
        "is_compiled = rapidsmtp.implementation != 'python'",
        "match _backend.implementation:\n    case 'rust': pass",
    ],
)
def test_a_decision_between_the_backends_is_found(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(text)
    assert set(decisions(tmp_path / "a.py"))


def test_a_cycle_is_found() -> None:
    assert set(cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})) == {"a", "b", "c"}
    assert not cycle({"a": {"b", "c"}, "b": {"c"}})
