#!/usr/bin/env python3
"""Replays the faults that people met and holds the number that passes, kind by kind, against thresholds that only rise.

usage: faults.py CHECKS BIN [--raise]

CHECKS is the folder with tools/check_faults.py and faults/; BIN holds the commands. Fails when a kind passes fewer cases than
.ci/thresholds.json says; --raise writes the numbers that pass now where they are higher. (Of parent-time, whose case of 8 000 names has a
limit of wall time that a busy machine can pass, one is asked for.)
"""
import collections
import json
import pathlib
import re
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
THRESHOLDS = HERE / "thresholds.json"


def main() -> int:
    checks, binaries = pathlib.Path(sys.argv[1]), sys.argv[2]
    command = [sys.executable, str(checks / "tools" / "check_faults.py"), str(checks / "faults"), "--bin", binaries, "-v"]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    print(done.stdout, end="")
    print(done.stderr, end="", file=sys.stderr)
    passed = collections.Counter(re.findall(r"^right \S+ \[(.+?)\]", done.stdout, re.MULTILINE))
    failed = collections.Counter(re.findall(r"^FAULT \S+ \[(.+?)\]", done.stdout, re.MULTILINE))
    wanted = json.loads(THRESHOLDS.read_text())
    if not passed:
        print("no case passed: the check itself is broken")
        return 1
    for kind in sorted({*passed, *failed}):
        print(f"{kind:28} {passed[kind]:3} passed {failed[kind]:3} failed, at least {wanted.get(kind, 0)}")
    fallen = [kind for kind, least in wanted.items() if passed[kind] < least]
    if fallen:
        print(f"worked before, and does not now: {', '.join(fallen)}")
        return 1
    if "--raise" in sys.argv:
        raised = {kind: max(passed[kind], wanted.get(kind, 0)) for kind in sorted({*passed, *wanted})}
        THRESHOLDS.write_text(json.dumps(raised, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
