"""A process that forks one that reads, for each checkpoint of fairchem: it has imported torch, which takes seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

SERVER = """
import json, os, runpy, sys, traceback
import safetensors.torch
import torch

for line in sys.stdin:
    arguments, said = json.loads(line)
    child = os.fork()
    if child == 0:
        code = 0
        try:
            sys.argv, sys.stderr = arguments, open(said, "w")
            runpy.run_path(arguments[0], run_name="__main__")
        except SystemExit as end:
            code = end.code
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stderr.flush()
        os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Unpickler:
    """Stands in for the module `subprocess` where matscale.core.fairchem.checkpoint starts `unpickle.py`."""

    TimeoutExpired = subprocess.TimeoutExpired

    def __init__(self, folder: Path) -> None:
        self.said = folder / "said"
        self.server: subprocess.Popen[str] | None = None

    def run(self, command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        interpreter, isolated, *arguments = command
        assert (interpreter, isolated) == (sys.executable, "-I")
        if self.server is None:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # so that it may fork
            self.server = subprocess.Popen([interpreter, isolated, "-c", SERVER], env=os.environ | threads, **pipes)
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        print(json.dumps([arguments, str(self.said)]), file=self.server.stdin, flush=True)
        code = int(self.server.stdout.readline())
        return subprocess.CompletedProcess(command, code, "", self.said.read_text())

    def close(self) -> None:
        if self.server is not None:
            self.server.communicate()
