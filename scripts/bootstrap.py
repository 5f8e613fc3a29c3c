"""Make ``.venv`` beside this folder and install the project into it; shared by demo.py and test.py.

Runs on the bare interpreter of a fresh machine: nothing but the standard library may be imported here.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
_OLDEST = (3, 10)


def has_pip() -> bool:
    """Whether the environment is there and whole: where the system lacks ensurepip, it is left without pip."""
    command = [str(PYTHON), "-m", "pip", "--version"]
    return PYTHON.exists() and subprocess.run(command, capture_output=True, check=False).returncode == 0


def prepare(extras: str) -> Path:
    """Return the interpreter of a virtual environment that holds the project and these extras.

    Nothing is installed when the environment was prepared for the same ``setup.cfg`` and extras before.
    """
    if sys.version_info < _OLDEST:
        found = ".".join(map(str, sys.version_info[:3]))
        sys.exit(f"streamer needs Python {_OLDEST[0]}.{_OLDEST[1]} or newer; this is {found}")
    stamp = VENV / "prepared"
    wanted = hashlib.sha256((ROOT / "setup.cfg").read_bytes() + extras.encode()).hexdigest()
    if PYTHON.exists() and stamp.exists() and wanted in stamp.read_text().split():
        return PYTHON
    if not has_pip():
        print(f"making {VENV}", flush=True)
        try:
            venv.create(VENV, with_pip=True, clear=VENV.exists())
        except (subprocess.CalledProcessError, OSError) as error:
            sys.exit(f"{VENV} cannot be made ({error}); on Debian and Ubuntu: apt install python3-venv")
    target = f"{ROOT}[{extras}]" if extras else str(ROOT)
    print(f"installing {target} (a few minutes the first time)", flush=True)
    install = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-e", target]
    if subprocess.run(install, check=False).returncode:
        sys.exit(
            "installing failed; what pip said stands above. The annoy package is compiled on installation and needs a "
            "C++ compiler (Debian, Ubuntu: apt install g++ python3-dev; macOS: xcode-select --install)"
        )
    previous = stamp.read_text() if stamp.exists() else ""
    stamp.write_text(f"{previous}{wanted}\n")
    return PYTHON
