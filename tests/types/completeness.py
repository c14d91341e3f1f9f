"""Are all public names annotated? basedpyright looks at the installed package, in `make lint`.

A name without an annotation has whatever type a checker infers, and they do not infer alike. What
begins with an underscore, and the command line's own modules, are nobody's to import. Django has no
types: what stands on its classes is unknown to everybody.
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
    "rapidsmtp.django.delivering.Delivery",
    "rapidsmtp.django.delivering.Delivery.__init__",
    "rapidsmtp.django.delivering.outcome_known",
    "rapidsmtp.django.outcome_known",
)


def is_public(name: str) -> bool:
    """Whether users may rely on a name."""
    inside = name.removesuffix(".__init__").split(".")
    return not name.startswith(PRIVATE) and not any(part.startswith("_") for part in inside)


def main() -> int:
    """Print the public names without a type; 1 if there are any, or no package was found."""
    command = [sys.executable, "-m", "basedpyright"]
    command += ["--ignoreexternal", "--outputjson", "--verifytypes", "rapidsmtp"]
    # It looks for the package where the first Python of PATH has it; --pythonpath is not asked.
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
