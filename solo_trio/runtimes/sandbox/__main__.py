"""`python -m solo_trio.runtimes.sandbox` says as JSON which layers this machine has. Owns: the one line. Never: more."""

from __future__ import annotations

import json
import sys

from solo_trio.runtimes.sandbox.layers import detect

if __name__ == "__main__":
    found = detect()
    sys.stdout.write(json.dumps({"level": found.level, **found.to_dict()}) + "\n")
