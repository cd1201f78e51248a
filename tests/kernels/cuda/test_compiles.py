"""Every Triton kernel compiles for the GPUs of two generations, none of which need be there."""

import os
import re
import subprocess
import sys
from pathlib import Path

from liquid_control.kernels import cuda

ROOT = Path(__file__).parents[3]


def test_every_kernel_compiles_for_ampere_and_hopper():
    """In a process of its own, whose kernels are not the interpreter's."""
    script = Path(__file__).with_name("compile_only.py")
    run = subprocess.run(
        [sys.executable, script, "80", "90"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    compiled = {tuple(line.split()[:2]) for line in run.stdout.splitlines()}
    sources = [path.read_text() for path in Path(cuda.__file__).parent.glob("*.py")]
    launched = {name for source in sources for name in re.findall(r"^ *(_\w+)\[", source, re.MULTILINE)}
    assert compiled == {(target, name) for target in ("sm_80", "sm_90") for name in launched}
