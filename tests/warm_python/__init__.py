"""A Python that has loaded torch already, for tests that start commands: Python takes seconds to load it, a fork none.

`python` in :func:`warm_python`'s folder is a command like the real one. It asks a server, one for all tests, that has
loaded what commands import, to fork; the fork takes over arguments, folder, environment, open files, and the signals
that come, and runs the program to its end as a process of its own. It understands -m, -c and the path of a program;
whatever else is asked goes to the real one. It keeps to a limit of the size of files and to PYTHONIOENCODING. Tests of
how a command starts and of its limits of memory start the real one themselves. A kill reaches the program, and what it
has started, a moment after the caller is gone.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from liquid_control.support.starting import SPINS

HERE = Path(__file__).parent


@contextmanager
def warm_python(folder: Path) -> Iterator[Path]:
    """The path of the command; its folder is `folder`, which is empty before."""
    client, address = folder / "python", folder / "server"
    program = (HERE / "client.py").read_text()
    client.write_text(f"#!{sys.executable} -IS\n{program}\nmain({str(address)!r}, {sys.executable!r})\n")
    client.chmod(0o755)
    (folder / "python3").symlink_to(client)
    server = subprocess.Popen(
        [sys.executable, str(HERE / "server.py"), str(address), str(client)],
        stdin=subprocess.PIPE,
        env=os.environ | {"GOMP_SPINCOUNT": SPINS},  # as a command has it before it loads torch
    )
    try:
        yield client
    finally:
        server.stdin.close()  # it ends, and whatever still runs
        server.wait(30)
