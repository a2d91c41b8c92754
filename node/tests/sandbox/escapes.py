"""Tries to get out. Argument: JSON of what there is to find. Prints one JSON object: attempt -> what it got, or null and why."""
import ctypes, errno, glob, json, os, socket, sys

there = json.loads(sys.argv[1])
SECRET = there["secret"].encode()
libc = ctypes.CDLL(None, use_errno=True)
attempts = {}


def attempt(function):
    attempts[function.__name__] = function


def check(result, what):
    if result < 0:
        raise OSError(ctypes.get_errno(), what)
    return result


def holds_secret(paths):
    for path in paths:
        try:
            with open(path, "rb") as file:
                if SECRET in file.read(1 << 20):
                    return path
        except OSError:
            pass
    raise FileNotFoundError("no file with the secret")


def connect(family, address):
    with socket.socket(family, socket.SOCK_STREAM) as s:
        s.settimeout(0.7)
        s.connect(address)
        return repr(address)


def connect_any(addresses):
    why = None
    for address in addresses:
        try:
            return connect(socket.AF_INET, tuple(address))
        except OSError as error:
            why = error
    raise why


def in_child(action):
    reading, writing = os.pipe()
    if os.fork() == 0:
        try:
            action()
            os.write(writing, b"ok")
        except OSError as error:
            os.write(writing, str(error).encode())
        os._exit(0)
    os.close(writing)
    answer = os.read(reading, 1000)
    os.wait()
    if answer != b"ok":
        raise PermissionError(answer.decode())
    return "done"


@attempt
def data_of_the_node():
    return holds_secret([there["data_file"]])


@attempt
def folder_of_another():
    return holds_secret(there["other_files"])


@attempt
def leftovers_in_tmp():
    return holds_secret(glob.glob("/tmp/whisp-left-*"))


@attempt
def leftovers_in_shm():
    return holds_secret(glob.glob("/dev/shm/whisp-left-*"))


@attempt
def environment_of_others():
    return holds_secret(p for p in glob.glob("/proc/[0-9]*/environ") if "/%d/" % os.getpid() not in p)


@attempt
def memory_of_others():
    pid = there["neighbour"]
    with open("/proc/%d/maps" % pid) as maps:
        start = int(next(line for line in maps if "[stack]" in line).split("-")[0], 16)
    with open("/proc/%d/mem" % pid, "rb") as memory:
        memory.seek(start)
        return len(memory.read(16))


@attempt
def descriptors_of_others():
    return len([os.readlink(p) for p in glob.glob("/proc/%d/fd/*" % there["neighbour"])][0])


@attempt
def file_of_others_through_proc():
    return os.listdir("/proc/%d/root/proc/sys" % there["neighbour"])[0] if os.getpid() != there["neighbour"] else None


@attempt
def port_of_the_host():
    return connect_any((address, there["host_port"]) for address in there["host_addresses"])


@attempt
def port_of_a_sibling():
    return connect_any((address, there["sibling_port"]) for address in there["sibling_addresses"])


@attempt
def metadata_service():
    return connect(socket.AF_INET, ("169.254.169.254", 80))


@attempt
def unix_socket():
    return connect(socket.AF_UNIX, there["unix_socket"])


@attempt
def abstract_socket():
    return connect(socket.AF_UNIX, "\0" + there["abstract_socket"])


@attempt
def socket_in_run():
    return connect(socket.AF_UNIX, there["run_socket"])


@attempt
def trace():
    pid = there["neighbour"]
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    check(libc.ptrace(16, pid, None, None), "attach")
    os.waitpid(pid, 0x40000000)
    check(libc.ptrace(17, pid, None, None), "detach")
    return pid


@attempt
def signal_others():
    os.kill(there["neighbour"], 0)
    return there["neighbour"]


@attempt
def new_user_namespace():
    return in_child(lambda: check(libc.unshare(0x10000000), "unshare"))


@attempt
def mount():
    def action():
        # In a namespace of its own where that is possible: the test must not change the machine.
        check(libc.unshare(0x00020000), "unshare")
        check(libc.mount(b"none", b"/", None, 0x44000, None), "make private")
        check(libc.mount(b"none", b"/tmp", b"tmpfs", 0, None), "mount")

    return in_child(action)


@attempt
def shared_memory_of_system_v():
    key = there["shared_memory"]
    libc.shmat.restype = ctypes.c_void_p
    segment = check(libc.shmget(key, 0, 0), "shmget")
    address = libc.shmat(segment, None, 0o10000)
    if address in (None, ctypes.c_void_p(-1).value):
        raise OSError(ctypes.get_errno(), "shmat")
    content = ctypes.string_at(address, len(SECRET))
    libc.shmdt(ctypes.c_void_p(address))
    if content != SECRET:
        raise ValueError(content)
    return segment


@attempt
def keyrings():
    return check(libc.syscall({"x86_64": 250, "aarch64": 219}[os.uname().machine], 0, -3, 1, 0, 0), "keyctl")


@attempt
def sockets_of_the_hypervisor():
    with socket.socket(40, socket.SOCK_STREAM):
        return "AF_VSOCK"


@attempt
def change_the_system():
    with open("/usr/lib/os-release", "r+b"):
        return "open for writing"


@attempt
def change_the_kernel():
    with open("/proc/sys/kernel/core_pattern", "r+b"):
        return "open for writing"


@attempt
def interpose_a_device():
    path = os.path.join(os.environ["TMPDIR"], "device")
    os.mknod(path, 0o20600, os.makedev(1, 3))
    os.remove(path)
    return path


@attempt
def hostname():
    name = socket.gethostname().encode()
    return check(libc.sethostname(name, len(name)), "sethostname")


result = {}
for name, function in attempts.items():
    try:
        result[name] = [function(), None]
    except Exception as error:
        result[name] = [None, "%s: %s" % (type(error).__name__, error)]
print(json.dumps(result), flush=True)
