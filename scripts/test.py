"""Check everything: ``python3 scripts/test.py [PYTEST ARGUMENT...]``.

Makes ``.venv``, installs the test extras, and runs what CI and the pre-commit hooks run: lint, formatting, types, layer
contracts, all tests. Every step runs even when an earlier one failed; the exit code is 0 when all passed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

from bootstrap import ROOT, VENV, prepare

if __name__ == "__main__":
    python = prepare("test,lint,plots")
    tools = python.parent
    steps = {
        "lint": [tools / "ruff", "check", "."],
        "format": [tools / "ruff", "format", "--check", "."],
        "types": [python, "-m", "mypy"],
        "layers": [tools / "lint-imports"],
        # Two at a time: most tests wait for one process or one core.
        "tests": [python, "-m", "pytest", "-n", "2", "--dist", "worksteal", *sys.argv[1:]],
    }
    # Hundreds of processes are started: each would compile the sources anew where a shell forbids to keep the bytecode.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    failed = []
    for name, command in steps.items():
        print(f"\n== {name}", flush=True)
        began = time.monotonic()
        if subprocess.run([str(part) for part in command], cwd=ROOT, env=environment, check=False).returncode:
            failed.append(name)
        print(f"== {name}: {'failed' if name in failed else 'passed'} in {time.monotonic() - began:.0f} s", flush=True)
    if failed:
        print(f"\nfailed: {', '.join(failed)} (the environment is {VENV})")
    sys.exit(1 if failed else 0)
