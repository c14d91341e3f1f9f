"""Print the oldest Django version that the running interpreter supports, for use with `~=`."""

import sys

# rapidsmtp supports Django 4.2 and later. Newer interpreters need newer releases of Django.
OLDEST = {(3, 11): "4.2.16", (3, 12): "4.2.16", (3, 13): "5.1.3", (3, 14): "5.2.8"}

if __name__ == "__main__":
    print(OLDEST.get(sys.version_info[:2], max(OLDEST.values())))
