"""Both wheels, each in an environment of its own: what is in them, what they say they are.

`make test` builds the wheels and gives them to the first interpreter, in RAPIDSMTP_WHEELS; once is
enough, since one wheel serves every interpreter.
"""

import email
import os
import re
import shutil
import subprocess
import venv
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.requirements import Requirement

TESTS = Path(__file__).parent
FOLDER = os.environ.get("RAPIDSMTP_WHEELS", "")
EXTENSION = re.compile(r"rapidsmtp/_native(\.abi3\.so|\.pyd)")
FILE_NAMES = {"rust": "rapidsmtp-*-cp311-abi3-*.whl", "python": "rapidsmtp-*-py3-none-any.whl"}

pytestmark = pytest.mark.skipif(
    not FOLDER,
    reason="the packaging is tested on one interpreter: RAPIDSMTP_WHEELS names no wheels",
)


def wheel(half: str) -> Path:
    """The one wheel of a half."""
    (found,) = Path(FOLDER).glob(FILE_NAMES[half])
    return found


def members(half: str) -> set[str]:
    with zipfile.ZipFile(wheel(half)) as archive:
        return {name for name in archive.namelist() if not name.endswith("/")}


def metadata(half: str) -> dict[str, list[str]]:
    """What installers read: the name, the version, what is required."""
    with zipfile.ZipFile(wheel(half)) as archive:
        (name,) = (each for each in archive.namelist() if each.endswith(".dist-info/METADATA"))
        message = email.message_from_bytes(archive.read(name))
    fields = ("Name", "Version", "Requires-Python", "Provides-Extra")
    found = {field: sorted(message.get_all(field, [])) for field in fields}
    # The back ends spell one requirement differently: letters' case, quotes, the order of bounds.
    required = (str(Requirement(value)) for value in message.get_all("Requires-Dist", []))
    return found | {"Requires-Dist": sorted(value.lower() for value in required)}


@dataclass(frozen=True)
class Environment:
    """A virtual environment with one wheel in it."""

    half: str
    folder: Path

    def run(
        self, *arguments: str | Path, more: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run its Python, away from the checkout and without our own settings."""
        kept = {name: value for name, value in os.environ.items() if name[:6] != "PYTHON"}
        kept.pop("RAPIDSMTP_CORE", None)
        kept.pop("RAPIDSMTP_WHEELS", None)
        return subprocess.run(
            [self.folder / "bin" / "python", *arguments],
            cwd=self.folder,
            env=kept | dict(more or {}),
            capture_output=True,
            text=True,
            timeout=540,
        )

    def says(self, expression: str) -> str:
        done = self.run("-c", f"import rapidsmtp; print({expression})")
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def package(self) -> Path:
        return Path(self.says("rapidsmtp.__file__")).parent


@pytest.fixture(
    scope="module", params=[pytest.param("rust", marks=pytest.mark.rust), "python"], name="empty"
)
def empty_environment(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Environment:
    """The wheel alone: no extra, nothing else installed."""
    environment = Environment(request.param, tmp_path_factory.mktemp(request.param) / "venv")
    venv.create(environment.folder, with_pip=True)
    installed = environment.run("-m", "pip", "install", "-q", wheel(environment.half))
    assert installed.returncode == 0, installed.stderr
    return environment


@pytest.fixture(scope="module")
def equipped(empty: Environment) -> Environment:
    """The same environment, with what the tests need."""
    installed = empty.run("-m", "pip", "install", "-q", f"{wheel(empty.half)}[test]")
    assert installed.returncode == 0, installed.stderr
    return empty


@pytest.mark.rust
def test_the_wheels_differ_by_the_extension_alone() -> None:
    assert metadata("rust") == metadata("python")
    of_both = [{n for n in members(half) if ".dist-info/" not in n} for half in FILE_NAMES]
    (extension,) = of_both[0] - of_both[1]
    assert EXTENSION.fullmatch(extension)
    assert of_both[1] <= of_both[0]


@pytest.mark.parametrize("half", [pytest.param("rust", marks=pytest.mark.rust), "python"])
def test_a_wheel_holds_the_package_and_nothing_else(half: str) -> None:
    version = metadata(half)["Version"][0]
    assert wheel(half).name.split("-")[1] == version
    tops = {name.split("/")[0] for name in members(half)}
    assert tops == {"rapidsmtp", "_rapidsmtp_pytest.py", f"rapidsmtp-{version}.dist-info"}
    inside = {name for name in members(half) if name.startswith("rapidsmtp/")}
    suffixes = {".py", ".pyi", ".typed", ".so", ".pyd", ".eml", ".csv"}  # with the demo's data
    assert {Path(name).suffix for name in inside} <= suffixes
    assert {"rapidsmtp/py.typed", "rapidsmtp/_native.pyi"} <= inside
    assert any(EXTENSION.fullmatch(name) for name in inside) == (half == "rust")
    assert not [name for name in inside if "test_" in name or "conftest" in name]
    licences = [name for name in members(half) if name.endswith("LICENSE")]
    assert licences, "MIT asks for its text in every copy"


def test_it_says_which_half_it_is(empty: Environment) -> None:
    assert empty.says("rapidsmtp.implementation") == empty.half
    assert [empty.says("rapidsmtp.__version__")] == metadata(empty.half)["Version"]
    assert empty.folder in empty.package().parents


def test_the_command_says_which_half_it_is(equipped: Environment) -> None:
    command = equipped.folder / "bin" / "rapidsmtp"
    done = subprocess.run([command, "--version"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert equipped.half in done.stdout.lower()
    assert metadata(equipped.half)["Version"][0] in done.stdout


def test_a_half_that_is_not_there_is_not_replaced(empty: Environment) -> None:
    done = empty.run("-c", "import rapidsmtp", more={"RAPIDSMTP_CORE": "rust"})
    if empty.half == "rust":
        assert done.returncode == 0, done.stderr
    else:
        assert done.returncode == 1
        assert "ModuleNotFoundError: No module named 'rapidsmtp._native'" in done.stderr


@pytest.mark.parametrize("choice", ["auto", "rust"])
def test_a_broken_extension_is_an_error(empty: Environment, choice: str, tmp_path: Path) -> None:
    shutil.copytree(empty.package(), tmp_path / "rapidsmtp")
    (tmp_path / "rapidsmtp" / "_native.abi3.so").write_bytes(b"this is no extension module")
    more = {"PYTHONPATH": str(tmp_path), "RAPIDSMTP_CORE": choice}
    done = empty.run("-c", "import rapidsmtp; print(rapidsmtp.implementation)", more=more)
    assert done.returncode == 1
    assert done.stdout == ""
    assert re.search(r"^ImportError: .*_native\.abi3\.so", done.stderr, re.MULTILINE), done.stderr
    assert "ModuleNotFoundError" not in done.stderr


def test_the_client_works_from_the_wheel(equipped: Environment) -> None:
    files = sorted(TESTS.rglob("test_client*.py"))
    assert files
    without = [] if equipped.half == "rust" else ["--without-rust"]
    done = equipped.run(
        "-P",
        "-m",
        "pytest",
        "-q",
        "--rootdir",
        TESTS.parent,
        "-c",
        TESTS.parent / "pyproject.toml",
        "-p",
        "no:cacheprovider",
        *without,
        *files,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert re.search(r"\b\d+ passed", done.stdout)
