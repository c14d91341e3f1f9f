"""The contents of both wheels, and their behaviour after installation in an empty environment.

`make test` builds the wheels. For the tests on the first interpreter, it sets RAPIDSMTP_WHEELS to
the folder of the wheels. One interpreter is enough, because one wheel serves every interpreter.
"""

import email
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import processes

TESTS = Path(__file__).parent
FOLDER = os.environ.get("RAPIDSMTP_WHEELS", "")
EXTENSION = re.compile(r"rapidsmtp/_native(\.abi3\.so|\.pyd)")
FILE_NAMES = {"rust": "rapidsmtp-*-cp311-abi3-*.whl", "python": "rapidsmtp-*-py3-none-any.whl"}

pytestmark = pytest.mark.skipif(
    not FOLDER,
    reason="packaging is tested on one interpreter; RAPIDSMTP_WHEELS is not set on this one",
)


def wheel(backend: str) -> Path:
    """Return the path of a backend's wheel. Exactly one such wheel must exist."""
    (found,) = Path(FOLDER).glob(FILE_NAMES[backend])
    return found


def members(backend: str) -> set[str]:
    with zipfile.ZipFile(wheel(backend)) as archive:
        return {name for name in archive.namelist() if not name.endswith("/")}


def metadata(backend: str) -> dict[str, list[str]]:
    """Return the metadata that installers read: the name, the version and the requirements."""
    with zipfile.ZipFile(wheel(backend)) as archive:
        (name,) = (each for each in archive.namelist() if each.endswith(".dist-info/METADATA"))
        message = email.message_from_bytes(archive.read(name))
    fields = ("Name", "Version", "Requires-Python", "Provides-Extra")
    found = {field: sorted(message.get_all(field, [])) for field in fields}
    # The two build backends write the same requirements with different case, quotes and order of
    # bounds, so the requirements are normalised here.
    required = (str(Requirement(value)) for value in message.get_all("Requires-Dist", []))
    return found | {"Requires-Dist": sorted(value.lower() for value in required)}


@dataclass(frozen=True)
class Environment:
    """A virtual environment with one wheel installed."""

    backend: str
    folder: Path

    def run(
        self, *arguments: str | Path, more: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run the environment's Python outside the checkout, without this process's settings."""
        kept = {name: value for name, value in os.environ.items() if name[:6] != "PYTHON"}
        kept.pop("RAPIDSMTP_CORE", None)
        kept.pop("RAPIDSMTP_WHEELS", None)
        return processes.run(
            [self.folder / "bin" / "python", *arguments],
            cwd=self.folder,
            env=kept | dict(more or {}),
            capture_output=True,
            text=True,
            timeout=540,
        )

    def evaluate(self, expression: str) -> str:
        done = self.run("-c", f"import rapidsmtp; print({expression})")
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def package(self) -> Path:
        return Path(self.evaluate("rapidsmtp.__file__")).parent


@pytest.fixture(
    scope="module", params=[pytest.param("rust", marks=pytest.mark.rust), "python"], name="empty"
)
def empty_environment(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Environment:
    """Create an environment with only the wheel, without extras."""
    environment = Environment(request.param, tmp_path_factory.mktemp(request.param) / "venv")
    # The pip of the tests' environment installs the wheel, because the installation of another pip
    # takes longer than the installation of the wheel.
    venv.create(environment.folder)
    install = ["-m", "pip", "--python", environment.folder, "install", "-q"]
    installed = processes.run(
        [sys.executable, *install, wheel(environment.backend)],
        capture_output=True,
        text=True,
        timeout=540,
    )
    assert installed.returncode == 0, installed.stderr
    return environment


@pytest.fixture(scope="module")
def equipped(empty: Environment) -> Environment:
    """Let the environment import the requirements of the tests, after its own packages.

    They are installed already where these tests run. Installing them again takes minutes.
    """
    installed = sysconfig.get_path("purelib")
    own = empty.evaluate("__import__('sysconfig').get_path('purelib')")
    Path(own, "requirements.pth").write_text(installed)
    return empty


@pytest.mark.rust
def test_the_wheels_differ_only_in_the_extension() -> None:
    assert metadata("rust") == metadata("python")
    files = [{n for n in members(backend) if ".dist-info/" not in n} for backend in FILE_NAMES]
    (extension,) = files[0] - files[1]
    assert EXTENSION.fullmatch(extension)
    assert files[1] <= files[0]


@pytest.mark.parametrize("backend", [pytest.param("rust", marks=pytest.mark.rust), "python"])
def test_a_wheel_contains_only_the_package(backend: str) -> None:
    version = metadata(backend)["Version"][0]
    assert wheel(backend).name.split("-")[1] == version
    roots = {name.split("/")[0] for name in members(backend)}
    assert roots == {"rapidsmtp", "_rapidsmtp_pytest.py", f"rapidsmtp-{version}.dist-info"}
    inside = {name for name in members(backend) if name.startswith("rapidsmtp/")}
    # Files with the suffixes .eml and .csv are the demo's data. The schema of journals is .sql, and
    # the page of a campaign's report is .html.
    suffixes = {".py", ".pyi", ".typed", ".so", ".pyd", ".eml", ".csv", ".sql", ".html"}
    assert {Path(name).suffix for name in inside} <= suffixes
    assert {"rapidsmtp/py.typed", "rapidsmtp/_native.pyi"} <= inside
    assert any(EXTENSION.fullmatch(name) for name in inside) == (backend == "rust")
    assert not [name for name in inside if "test_" in name or "conftest" in name]
    licences = [name for name in members(backend) if name.endswith("LICENSE")]
    assert licences, "the MIT licence requires its text in every copy"


def test_the_package_reports_its_backend(empty: Environment) -> None:
    assert empty.evaluate("rapidsmtp.implementation") == empty.backend
    assert [empty.evaluate("rapidsmtp.__version__")] == metadata(empty.backend)["Version"]
    assert empty.folder in empty.package().parents


def test_the_command_reports_its_backend(equipped: Environment) -> None:
    command = equipped.folder / "bin" / "rapidsmtp"
    done = processes.run([command, "--version"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert equipped.backend in done.stdout.lower()
    assert metadata(equipped.backend)["Version"][0] in done.stdout


def test_a_requested_backend_that_is_missing_is_an_error(empty: Environment) -> None:
    done = empty.run("-c", "import rapidsmtp", more={"RAPIDSMTP_CORE": "rust"})
    if empty.backend == "rust":
        assert done.returncode == 0, done.stderr
    else:
        assert done.returncode == 1
        assert "ModuleNotFoundError: No module named 'rapidsmtp._native'" in done.stderr


@pytest.mark.parametrize("choice", ["auto", "rust"])
def test_a_broken_extension_is_an_error(empty: Environment, choice: str, tmp_path: Path) -> None:
    shutil.copytree(empty.package(), tmp_path / "rapidsmtp")
    (tmp_path / "rapidsmtp" / "_native.abi3.so").write_bytes(b"this is not an extension module")
    more = {"PYTHONPATH": str(tmp_path), "RAPIDSMTP_CORE": choice}
    done = empty.run("-c", "import rapidsmtp; print(rapidsmtp.implementation)", more=more)
    assert done.returncode == 1
    assert done.stdout == ""
    assert re.search(r"^ImportError: .*_native\.abi3\.so", done.stderr, re.MULTILINE), done.stderr
    assert "ModuleNotFoundError" not in done.stderr


# `make test` runs all tests from the compiled wheel. So only the pure-Python wheel is left.
@pytest.mark.parametrize("empty", ["python"], indirect=True)
def test_the_client_works_from_the_wheel(equipped: Environment) -> None:
    assert equipped.folder in equipped.package().parents
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
        "--without-rust",
        TESTS / "test_client_replaced.py",
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert re.search(r"\b\d+ passed", done.stdout)
