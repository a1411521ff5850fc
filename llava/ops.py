"""Build the C++ parts of DeepSpeed ahead of time: ``python -m llava.ops``.

DeepSpeed compiles them at first use, which takes minutes and would count against a step's time-outs. They lie in
TORCH_EXTENSIONS_DIR, by default ``torch_extensions`` in the environment's own folder.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def extensions_folder() -> Path:
    """Where compiled ops are kept."""
    return Path(os.environ.get("TORCH_EXTENSIONS_DIR") or Path(sys.prefix) / "torch_extensions")


def build() -> list[str]:
    """Build what training on CPUs uses; returns the names. What is built already is only checked."""
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    os.environ["TORCH_EXTENSIONS_DIR"] = str(extensions_folder())
    from deepspeed.ops.op_builder.cpu.comm import ShareMemCommBuilder

    builder = ShareMemCommBuilder()  # the collective between ranks of one machine
    builder.load()
    return [builder.name]


if __name__ == "__main__":
    print(f"{', '.join(build())} built in {extensions_folder()}")
