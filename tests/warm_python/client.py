"""The program `python` of the package; `__init__.py` appends a call of `main` to it.

It imports next to nothing: Python starts in 10 ms so.
"""

import _socket
import marshal
import os
import resource
import signal
import sys
import time


def main(address, python):
    """Has the server run what the arguments say, and ends as that ends."""
    words = [*sys.argv[1:]]
    while words and words[0] in ("-B", "-u"):
        del words[0]
    if not words or (words[0].startswith("-") and words[0] not in ("-m", "-c")):
        os.execv(python, [python, *sys.argv[1:]])
    server = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    deadline = time.monotonic() + 120  # the server may still be loading
    while True:
        try:
            server.connect(address)
            break
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
    files = [number for number in map(int, os.listdir("/proc/self/fd")) if _is_inherited(number)]
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    deaf = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    request = (words, dict(os.environb), os.getcwdb(), files, [int(number) for number in blocked], deaf, limit)
    request = marshal.dumps(request)
    numbers = b"".join(number.to_bytes(4, sys.byteorder) for number in files)
    server.sendmsg([len(request).to_bytes(8, "little")], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, numbers)])
    for number in (signal.SIGINT, signal.SIGTERM):
        if not (deaf and number == signal.SIGINT):
            signal.signal(number, lambda got, _: server.send(bytes([got])))
    while request:
        request = request[server.send(request) :]
    answer = server.recv(8)
    if not answer:
        os._exit(70)  # the server is gone
    status = int.from_bytes(answer, "little")
    if os.WIFSIGNALED(status):
        if os.WTERMSIG(status) != signal.SIGKILL:
            signal.signal(os.WTERMSIG(status), signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.kill(os.getpid(), os.WTERMSIG(status))
    os._exit(os.waitstatus_to_exitcode(status))


def _is_inherited(number):
    try:
        return os.get_inheritable(number)
    except OSError:
        return False
