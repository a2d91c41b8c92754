"""Waits for orders on descriptor 3 and forks a process that runs `launcher.py` for each.

Usage: python zygote.py WHISP           WHISP: the program whose `unpack` extracts archives, as the forked see it

The other side is `node/src/runtime/zygote.rs`; the steps into a sandbox are described in
`node/src/containers/backend/sandbox`.
"""

import os
import sys

# It lies beside this file, where isolated mode does not search. First of all, so that it knows what a bare launcher
# loads; and under no name, so that an action's own module of that name is found.
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from launcher import serve  # noqa: E402

del sys.path[0], sys.modules["launcher"]

import array  # noqa: E402
import base64  # noqa: E402
import ctypes  # noqa: E402
import fcntl  # noqa: E402
import gc  # noqa: E402
import importlib  # noqa: E402
import json  # noqa: E402
import resource  # noqa: E402
import signal  # noqa: E402
import socket  # noqa: E402
import traceback  # noqa: E402

# What a forked process reports when it is where it belongs.
INSIDE = b"inside"


def warm():
    """Loads what most actions use, once for all processes that are forked from this one."""
    for name in (
        "argparse asyncio calendar codecs collections concurrent.futures contextlib copy csv ctypes datetime decimal "
        "email.message email.parser encodings.idna enum fcntl fractions functools gzip hashlib heapq hmac html http.client "
        "http.cookies importlib.util inspect io itertools json linecache logging math mimetypes operator pathlib pickle "
        "platform queue random re resource secrets select selectors shutil signal ssl statistics string struct subprocess "
        "tempfile textwrap threading time types typing unicodedata urllib.parse urllib.request uuid xml.etree.ElementTree "
        "zipfile zlib"
    ).split():
        try:
            importlib.import_module(name)
        except ImportError:
            pass  # a Python built without it


def receive_order(control):
    """One message and its descriptors, or None at the end."""
    fds = array.array("i")
    message, ancillary, _, _ = control.recvmsg(1 << 20, socket.CMSG_SPACE(32 * fds.itemsize))
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return (json.loads(message), list(fds)) if message else None


def zygote(unpacker):
    """Forks a launcher for each order on descriptor 3.

    An order is the JSON `{"env": {...}, "join": steps}`, where the steps are those of the sandbox (`JoinSteps`); its
    descriptors are stdin, stdout, stderr, the connection, and those that the steps refer to. Each is answered with
    `{"pid": ...}`, the first process that was forked for it, or with `{"error": ...}`.
    """
    warm()
    libc = ctypes.CDLL(None, use_errno=True)
    control = socket.socket(fileno=3)
    # The kernel reaps children at once: the node watches over containers. It also hands those over whose parent left
    # when they entered a pid namespace; some machines' first process would let them linger.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    check(libc.prctl(36, 1, 0, 0, 0), "PR_SET_CHILD_SUBREAPER")
    gc.collect()
    gc.freeze()
    control.send(b'{"ready":true}')
    while True:
        order = receive_order(control)
        if order is None:
            return
        request, fds = order
        # The child reports here that it is inside; nothing of the user's has run until then.
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                control.detach()
                os.close(reading)
                enter(libc, request, fds, writing)
                serve(unpacker)
            except BaseException:
                try:
                    os.write(writing, json.dumps({"error": traceback.format_exc()}).encode())
                except OSError:
                    traceback.print_exc()
            os._exit(1)
        os.close(writing)
        for fd in fds:
            os.close(fd)
        answer = b""
        while True:
            piece = os.read(reading, 65536)
            if not piece:
                break
            answer += piece
        os.close(reading)
        if answer == INSIDE:
            answer = b'{"pid":%d}' % child
        control.send(answer or b'{"error":"the forked process died"}')


def check(result, step):
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, "%s: %s" % (step, os.strerror(number)))
    return result


def enter(libc, request, fds, report):
    """Makes this process the container's: its descriptors, its environment, and the steps into its sandbox, in order."""
    steps = request["join"]
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for index in steps["cgroups"]:
        os.write(fds[4 + index], b"0")
    for index in steps["namespaces"]:
        check(libc.setns(fds[4 + index], 0), "setns")
    if steps["namespaces"] and os.fork() != 0:
        # Only children of a process that entered a pid namespace are in it.
        os._exit(0)
    if not steps["namespaces"]:
        # No pid namespace ends this process together with the node, so it ends with the zygote, which does.
        check(libc.prctl(1, signal.SIGKILL, 0, 0, 0), "PR_SET_PDEATHSIG")
    # Everything that is still needed moves out of the way of 0 to 3.
    fds = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 100) for fd in fds]
    report = fcntl.fcntl(report, fcntl.F_DUPFD_CLOEXEC, 100)
    for number in range(4):
        os.dup2(fds[number], number)
    os.environ.clear()
    os.environ.update(request["env"])
    os.environ.update(dict(steps["env"]))
    os.chdir(steps["work_dir"])
    resource.setrlimit(resource.RLIMIT_NOFILE, (steps["nofile"], steps["nofile"]))
    if steps["nproc"] is not None:
        resource.setrlimit(resource.RLIMIT_NPROC, (steps["nproc"], steps["nproc"]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    drop_privileges(libc, steps, fds)
    os.write(report, INSIDE)
    # Closes `report` too: from here on only 0 to 3 are left.
    os.closerange(4, 1 << 16)
    if steps["seccomp"]:
        install_filter(libc, base64.b64decode(steps["seccomp"]))
    check(libc.prctl(4, 1, 0, 0, 0), "PR_SET_DUMPABLE")


def drop_privileges(libc, steps, fds):
    user = steps["user"]
    if user:
        os.setgroups([])
        os.setresgid(user["gid"], user["gid"], user["gid"])
        os.setresuid(user["uid"], user["uid"], user["uid"])
    if steps["drop_privileges"]:
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)
        check(libc.capset(header, (ctypes.c_uint32 * 6)()), "capset")
        check(libc.prctl(38, 1, 0, 0, 0), "PR_SET_NO_NEW_PRIVS")
    if steps["ruleset"] is not None:
        check(libc.syscall(446, fds[4 + steps["ruleset"]], 0), "landlock_restrict_self")


def install_filter(libc, instructions):
    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]

    buffer = ctypes.create_string_buffer(instructions, len(instructions))
    program = Program(len(instructions) // 8, ctypes.addressof(buffer))
    # 317 on x86-64, 277 elsewhere; SECCOMP_SET_MODE_FILTER is 1.
    number = 317 if os.uname().machine == "x86_64" else 277
    check(libc.syscall(number, 1, 0, ctypes.byref(program)), "seccomp")


if __name__ == "__main__":
    program = sys.argv[1]
    sys.argv = [""]
    zygote(program)
