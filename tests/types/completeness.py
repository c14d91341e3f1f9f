"""Check with basedpyright that all public names of the installed package are annotated.

`make lint` runs this check. A public name needs an annotation, because type checkers may infer
different types for a name without one. Names that begin with an underscore and the modules of the
command line are private. Django has no annotations, so the types of classes that inherit from
Django's classes are unknown.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

PRIVATE = ("rapidsmtp.cli.", "rapidsmtp.__main__")
UNTYPED = (
    "rapidsmtp.django.EmailBackend",
    "rapidsmtp.django.backend.EmailBackend",
    "rapidsmtp.django.delivering.BackendDelivery",
    "rapidsmtp.django.delivering.BackendDelivery.__init__",
    "rapidsmtp.django.delivering.outcome_known",
    "rapidsmtp.django.outcome_known",
)


def is_public(name: str) -> bool:
    """Return whether a name is public."""
    inside = name.removesuffix(".__init__").split(".")
    return not name.startswith(PRIVATE) and not any(part.startswith("_") for part in inside)


def main() -> int:
    """Print the public names without a type.

    Return 1 if there are any, or if no package was found.
    """
    command = [sys.executable, "-m", "basedpyright"]
    command += ["--ignoreexternal", "--outputjson", "--verifytypes", "rapidsmtp"]
    # basedpyright checks the package of the first Python in PATH, and ignores --pythonpath. So the
    # folder of the running Python is put first in PATH.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path}
    done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8")
    found = json.loads(done.stdout)["typeCompleteness"]
    symbols = [each for each in found["symbols"] if each["isExported"] and is_public(each["name"])]
    unknown = [each for each in symbols if not each["isTypeKnown"] and each["name"] not in UNTYPED]
    for symbol in unknown:
        print(symbol["name"], *(each["message"] for each in symbol["diagnostics"]), sep="\n  ")
    print(f"{len(symbols)} public names, {len(unknown)} of them without a type of their own")
    return int(bool(unknown) or not symbols)


if __name__ == "__main__":
    sys.exit(main())
