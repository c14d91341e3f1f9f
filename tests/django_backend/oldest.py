"""Print the oldest Django that is supported on the interpreter that runs this, as for `~=`."""

import sys

# Before 4.2 there is no support at all; later interpreters were taken up by later releases.
OLDEST = {(3, 11): "4.2.16", (3, 12): "4.2.16", (3, 13): "5.1.3", (3, 14): "5.2.8"}

if __name__ == "__main__":
    print(OLDEST.get(sys.version_info[:2], max(OLDEST.values())))
