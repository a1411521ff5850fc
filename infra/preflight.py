"""What a machine must have before anything is installed: ``python3.11 infra/preflight.py [--ports]``.

It runs with the standard library alone, since it runs before the environment exists, on whatever Python there is. Every
finding names the fix; nothing is changed.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GB = 1e9
NEEDED_DISK, NEEDED_DISK_INSTALLED, NEEDED_MEMORY = 8 * GB, 4 * GB, 8 * GB
MEMORY_TOLERANCE = 0.93  # a machine sold with 8 GB shows a little less
PORTS = {"LLAVA_PORT_S3": 8333, "LLAVA_PORT_MLFLOW": 5000, "LLAVA_PORT_RAY_DASHBOARD": 8265, "LLAVA_PORT_RAY_GCS": 6379,
         "LLAVA_PORT_PICTURES": 8900, "LLAVA_SERVE_PORT": 8000}


def missing_python() -> str | None:
    """None on Python 3.11 that can make environments and compile extensions, else what to do."""
    packages = "Debian and Ubuntu: apt install python3.11-venv python3.11-dev; macOS: brew install python@3.11"
    if sys.version_info[:2] != (3, 11):
        return (f"Python 3.11 is needed, this is {sys.version.split()[0]}: install it ({packages}) "
                f"and say make PYTHON=python3.11")
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    if not header.exists() or not importlib.util.find_spec("ensurepip"):
        return f"this Python has no headers ({header}) or no ensurepip: install all of it ({packages})"
    return None


def missing_compiler() -> str | None:
    """None when gcc and g++ are there: DeepSpeed compiles its operators."""
    absent = [name for name in ("gcc", "g++") if not shutil.which(name)]
    return f"{' and '.join(absent)} not found: apt install g++ (macOS: xcode-select --install)" if absent else None


def missing_disk(folder: Path, needed: float) -> str | None:
    """None when ``needed`` bytes are free where the folder is, or will be."""
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free >= needed:
        return None
    return (f"{needed / GB:.0f} GB of disk are needed, {folder} has {free / GB:.1f} GB free: make room, or put the "
            f"state elsewhere with LLAVA_STATE=/path")


def missing_memory(total: float) -> str | None:
    """None when the machine (or its container) has enough memory in all."""
    if total >= NEEDED_MEMORY * MEMORY_TOLERANCE:
        return None
    return f"{NEEDED_MEMORY / GB:.0f} GB of memory are needed, this machine has {total / GB:.1f} GB: use a larger one"


def total_memory() -> float:
    """Bytes of memory that this process could get: the machine's, or the container's limit."""
    total = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(limit).read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            total = min(total, float(text))
    return total


def taken_ports(ports: dict[str, int]) -> list[str]:
    """A line for each port that something listens on. Who it is, ``llavactl up`` says."""
    lines = []
    for variable, port in ports.items():
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                lines.append(f"port {port} is taken: stop what listens there (ss -ltnp 'sport = :{port}'), or move "
                             f"ours with {variable}=PORT")
    return lines


def findings(ports: bool) -> list[str]:
    """Everything that is missing, a line each; empty when the machine will do."""
    state = Path(os.environ.get("LLAVA_STATE") or ROOT / ".state").expanduser()
    installed = (ROOT / ".venv" / ".installed").exists()
    found = [missing_python(), missing_compiler(), missing_memory(total_memory()),
             missing_disk(ROOT, NEEDED_DISK_INSTALLED if installed else NEEDED_DISK),
             missing_disk(state, NEEDED_DISK_INSTALLED)]
    lines = list(dict.fromkeys(line for line in found if line))
    if ports and not (state / "ports.json").exists():  # else they are our own, or `up` asks for them
        taken = taken_ports({name: int(os.environ.get(name) or port) for name, port in PORTS.items()})
        lines += taken
        if taken:
            lines.append("free ports for a stack beside another: make venv && .venv/bin/llavactl up --port-offset 1000")
    return lines


def main() -> int:
    lines = findings("--ports" in sys.argv[1:])
    for line in lines:
        print(f"missing: {line}", file=sys.stderr)
    return 2 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
