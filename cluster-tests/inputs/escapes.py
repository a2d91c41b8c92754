"""Attempts to get out of a container. `main` makes the one named by `attempt` and says whether it worked."""
import ctypes
import os
import signal
import socket
import sys
import time

libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000
PTRACE_ATTACH, PTRACE_DETACH = 16, 17
IPC_CREAT = 0o1000


def checked(result):
    if result == -1:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno))
    return result


def read(path):
    with open(path, "rb") as file:
        return file.read()


def others():
    """Processes that are neither this one nor its parents."""
    mine, pid = set(), os.getpid()
    while pid > 0:
        mine.add(pid)
        with open("/proc/%d/stat" % pid) as file:
            pid = int(file.read().rsplit(")", 1)[1].split()[1])
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) not in mine]


def anywhere(look):
    """What `look` finds at any of the other processes; nothing of this raises."""
    for pid in others():
        try:
            found = look(pid)
        except OSError:
            continue
        if found:
            return "process %d" % pid
    raise LookupError("nothing at %d processes" % len(others()))


def ask(family, address):
    """Connects, and returns what the other side says first."""
    with socket.socket(family, socket.SOCK_STREAM) as connection:
        connection.settimeout(2)
        connection.connect(address)
        return connection.recv(64)


def reach(family, addresses):
    last = None
    for address in addresses:
        try:
            return ask(family, address).decode()
        except OSError as error:
            last = "%s: %s" % (address, error)
    raise ConnectionError(last)


def tcp(args):
    return reach(socket.AF_INET, [tuple(address) for address in args["addresses"]])


def unix(args):
    """`@name` is abstract. Node.js makes such names as long as they can be, and with libuv before 1.46 all zeros."""
    addresses = []
    for path in args["paths"]:
        name = "\0" + path[1:] if path.startswith("@") else path
        addresses += [name, name.ljust(108, "\0"), "\0" * 108] if path.startswith("@") else [name]
    return reach(socket.AF_UNIX, addresses)


def admin(args):
    """Connecting is enough: the socket is what keeps others out."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(args["data_dir"] + "/admin.sock")
    return "connected"


def data_directory(args):
    for folder, _, names in os.walk(args["data_dir"]):
        for name in names:
            if read(os.path.join(folder, name)):
                return os.path.join(folder, name)
    raise LookupError("no file to read")


def other_folder(args):
    """The folder of another action that runs now: by its own word, in the node's directory, through its processes."""
    places = [args["folder"]]
    places += [folder for folder, _, _ in os.walk(args["data_dir"])]
    places += ["/proc/%d/cwd" % pid for pid in others()]
    for place in places:
        try:
            if read(place + "/secret.txt").decode() == args["secret"]:
                return place
        except OSError:
            continue
    raise LookupError("not at %d places" % len(places))


def leftovers(args):
    """Files that a container before this one left, wherever a program may write."""
    for place in ("/tmp", "/var/tmp", "/dev/shm", os.environ.get("HOME", "/tmp"), os.getcwd(), "/run", "/run/lock"):
        try:
            if read(place + "/" + args["name"]):
                return place
        except OSError:
            continue
    raise LookupError("nothing")


def litter(args):
    """Leaves files, shared memory and its own container behind."""
    places = ("/tmp", "/var/tmp", "/dev/shm", os.environ.get("HOME", "/tmp"), os.getcwd(), "/run", "/run/lock")
    for place in places:
        try:
            with open(place + "/" + args["name"], "w") as file:
                file.write("left")
        except OSError:
            continue
    try:
        checked(libc.shmget(args["key"], 4096, IPC_CREAT | 0o666))
    except OSError:
        pass
    os._exit(1)


def shared_memory(args):
    return "segment %d" % checked(libc.shmget(args["key"], 4096, 0))


def environ(args):
    return anywhere(lambda pid: args["secret"].encode() in read("/proc/%d/environ" % pid))


def memory(args):
    def look(pid):
        with open("/proc/%d/maps" % pid) as maps:
            start = int(maps.readline().split("-")[0] or "0", 16)
        with open("/proc/%d/mem" % pid, "rb") as file:
            file.seek(start)
            return file.read(4) == b"\x7fELF"

    return anywhere(look)


def descriptors(args):
    return anywhere(lambda pid: os.listdir("/proc/%d/fd" % pid))


def ptrace(args):
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    libc.ptrace.restype = ctypes.c_long
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    try:
        checked(libc.ptrace(PTRACE_ATTACH, child, None, None))
        os.waitpid(child, 0)
        checked(libc.ptrace(PTRACE_DETACH, child, None, None))
        return "attached to a child"
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def process_vm(args):
    class Vector(ctypes.Structure):
        _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]

    text = ctypes.create_string_buffer(b"secret")
    buffer = ctypes.create_string_buffer(6)
    local = Vector(ctypes.cast(buffer, ctypes.c_void_p), 6)
    remote = Vector(ctypes.cast(text, ctypes.c_void_p), 6)
    libc.process_vm_readv.restype = ctypes.c_ssize_t
    checked(libc.process_vm_readv(os.getpid(), ctypes.byref(local), 1, ctypes.byref(remote), 1, 0))
    return buffer.raw.decode()


def signals(args):
    """Signal 0 only asks whether one may."""
    os.kill(args["pid"], 0)
    return "may signal %d" % args["pid"]


def in_child(step):
    """Does `step` in a child, whose namespaces are then its own."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            step()
            text = b""
        except BaseException as error:
            text = repr(error).encode()
        os.write(writer, text)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        text = file.read()
    os.waitpid(child, 0)
    if text:
        raise OSError(text.decode())


def user_namespace(args):
    in_child(lambda: checked(libc.unshare(CLONE_NEWUSER)))
    return "made one"


def mounts(args):
    def step():
        if os.geteuid() == 0:
            checked(libc.unshare(CLONE_NEWNS))
        else:
            checked(libc.unshare(CLONE_NEWNS | CLONE_NEWUSER))
        checked(libc.mount(b"none", b"/tmp", b"tmpfs", 0, None))

    in_child(step)
    return "mounted"


def outlive(args):
    """A process of a session of its own stays when its container is destroyed."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.closerange(0, 64)
            os.execv("/bin/sleep", ["sleep", args["mark"]])
        os._exit(0)
    os.wait()
    os._exit(1)


# ---- exhaustion: run in a sandbox only ------------------------------------------------------------------------------


def fork_bomb(args):
    count = 0
    while True:
        try:
            if os.fork() == 0:
                time.sleep(600)
            count += 1
        except OSError as error:
            raise RuntimeError("%d forks, then: %s" % (count, error))


def fill(args):
    written, piece = 0, b"x" * (1 << 20)
    try:
        for place in (os.getcwd(), "/tmp", "/dev/shm"):
            with open(place + "/filler", "wb", buffering=0) as file:
                for _ in range(2048):
                    written += file.write(piece)
                    if written % (16 << 20) == 0:
                        print("written %d" % (written >> 20), flush=True)
    except OSError as error:
        raise RuntimeError("%d MiB, then: %s" % (written >> 20, error))
    return "wrote %d MiB" % (written >> 20)


def hoard(args):
    """Each child stays below the limit; together they do not."""
    children = []
    for _ in range(8):
        child = os.fork()
        if child == 0:
            held = bytearray(b"x") * (64 << 20)
            time.sleep(60)
            os._exit(len(held) & 1)
        children.append(child)
    ended, status = os.wait()
    raise RuntimeError("a child ended with %d" % status)


ATTEMPTS = {
    name: attempt for name, attempt in globals().items() if callable(attempt) and name not in ("main", "checked", "read")
}


def main(args):
    try:
        return {"escaped": True, "detail": str(ATTEMPTS[args["attempt"]](args))}
    except Exception as error:
        return {"escaped": False, "detail": "%s: %s" % (type(error).__name__, error)}
