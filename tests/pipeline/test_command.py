"""What all commands have in common."""

import os
import subprocess
import sys


def test_what_a_terminal_cannot_show_ends_no_command():
    script = "from pipeline.command import exit_codes\nwith exit_codes(stopped=''): print('18.4 \u00b1 0.2 \u9053')"
    env = os.environ | {"PYTHONIOENCODING": "latin-1"}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, timeout=100)
    assert (done.returncode, done.stdout) == (0, b"18.4 \xb1 0.2 ?\n"), done.stderr
