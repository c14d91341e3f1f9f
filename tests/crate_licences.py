"""Check the licences of all crates that the wheel links.

This program reads the output of `cargo metadata --format-version 1` from the standard input. A
crate passes if permissive licences alone satisfy its SPDX expression. A wheel under the MIT licence
may contain a crate with a permissive licence.
"""

import json
import sys
from typing import Any

from license_expression import get_spdx_licensing

PERMISSIVE = {
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
}
OWN = "rapidsmtp"


def is_permissive(expression: str) -> bool:
    """Return whether `PERMISSIVE` licences alone satisfy an SPDX expression.

    Args:
        expression: The SPDX expression. Old manifests contain a slash instead of OR.
    """
    parsed = get_spdx_licensing().parse(expression.replace("/", " OR "), validate=True)
    return _is_met(parsed)


def _is_met(node: Any) -> bool:
    parts = getattr(node, "args", ())
    match type(node).__name__:
        case "OR":
            return any(map(_is_met, parts))
        case "AND":
            return all(map(_is_met, parts))
    return str(node) in PERMISSIVE


def main() -> int:
    """Print each crate that does not pass, and return 1 if any crate does not pass."""
    crates = [each for each in json.load(sys.stdin)["packages"] if each["name"] != OWN]
    refused = [each for each in crates if not each["license"] or not is_permissive(each["license"])]
    for crate in refused:
        name, version, licence = crate["name"], crate["version"], crate["license"]
        print(f"crate {name} {version}: licence {licence} is not in tests/crate_licences.py")
    print(f"licences of {len(crates)} crates: {len(refused)} not permissive")
    return bool(refused)


if __name__ == "__main__":
    sys.exit(main())
