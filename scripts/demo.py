"""Try streamer: ``python3 scripts/demo.py [FOLDER]``.

Makes ``.venv``, installs what is needed, draws a small labelled picture set when no folder is given, runs the whole
pipeline, searches, draws a contact sheet, and says where everything is and what to type next.
"""

from __future__ import annotations

import subprocess
import sys

from bootstrap import ROOT, prepare

if __name__ == "__main__":
    python = prepare("")
    command = [str(python), "-m", "streamer", "demo", "--output", str(ROOT / "demo"), *sys.argv[1:]]
    sys.exit(subprocess.run(command, check=False).returncode)
