"""The most memory that a program has held, and how to run one whose memory is to be known."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent


def peak_bytes() -> int:
    """Of this program alone (Linux); getrusage also counts the one that started it."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def in_a_process_of_its_own(program: str, *arguments: str | Path) -> str:
    """What a Python program prints that may import this package and `peak`."""
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
        timeout=3600,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])},
    ).stdout
