"""How the tests run `headrace up`, and how they find every process of one loop again."""

import os
import sys
from pathlib import Path

COMMAND = [sys.executable, "-m", "headrace.cli.main", "up", "--json"]
FREE_PORTS = ["--port", "0", "--http-port", "0", "--metrics-port", "0", "--admin-port", "0"]


def marked(directory):
    """Environment by which every process of one loop can be found again."""
    return os.environ | {"HEADRACE_CONFIG": "", "UP_TEST_MARK": str(directory)}


def marked_processes(directory):
    mark = f"UP_TEST_MARK={directory}".encode()
    return [pid for pid in running_pids() if mark in proc_file(pid, "environ")]


def running_pids():
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def proc_file(pid, name):
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""
