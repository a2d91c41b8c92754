"""A zygote in its smallest form: takes one order on descriptor 3, forks, and the child joins a sandbox and runs a program's text.

Order: JSON {"steps": ..., "env": {...}, "program": text}, with the step's descriptors, then stdin, stdout, stderr and the connection.
"""
import base64, ctypes, fcntl, json, os, resource, signal, socket, sys

libc = ctypes.CDLL(None, use_errno=True)


def check(result, step):
    if result < 0:
        raise OSError(ctypes.get_errno(), step)


def enter(steps, fds, stdio):
    for index in steps["cgroups"]:
        os.write(fds[index], b"0")
    for index in steps["namespaces"]:
        check(libc.setns(fds[index], 0), "setns")
    if steps["namespaces"] and os.fork() != 0:
        os._exit(0)
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.chdir(steps["work_dir"])
    resource.setrlimit(resource.RLIMIT_NOFILE, (steps["nofile"],) * 2)
    if steps["nproc"] is not None:
        resource.setrlimit(resource.RLIMIT_NPROC, (steps["nproc"],) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    user = steps["user"]
    if user:
        os.setgroups([])
        os.setresgid(*[user["gid"]] * 3)
        os.setresuid(*[user["uid"]] * 3)
    if steps["drop_privileges"]:
        check(libc.capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()), "capset")
        check(libc.prctl(38, 1, 0, 0, 0), "no_new_privs")
    if steps["ruleset"] is not None:
        check(libc.syscall(446, fds[steps["ruleset"]], 0), "landlock")
    stdio = [fcntl.fcntl(fd, fcntl.F_DUPFD, 100) for fd in stdio]
    for number in range(4):
        os.dup2(stdio[number], number)
    os.closerange(4, 65536)
    if steps["seccomp"] is not None:
        code = base64.b64decode(steps["seccomp"])
        text = ctypes.create_string_buffer(code, len(code))

        class Program(ctypes.Structure):
            _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]

        number = {"x86_64": 317, "aarch64": 277}[os.uname().machine]
        check(libc.syscall(number, 1, 0, ctypes.byref(Program(len(code) // 8, ctypes.addressof(text)))), "seccomp")
    check(libc.prctl(4, 1, 0, 0, 0), "dumpable")


signal.signal(signal.SIGCHLD, signal.SIG_IGN)
control = socket.socket(fileno=3)
message, fds, _, _ = socket.recv_fds(control, 1 << 20, 32)
order = json.loads(message)
child = os.fork()
if child == 0:
    enter(order["steps"], fds[:-4], fds[-4:])
    os.environ.clear()
    os.environ.update(order["env"])
    os.environ.update(dict(order["steps"]["env"]))
    sys.argv = ["-c", *order["arguments"]]
    exec(compile(order["program"], "payload", "exec"), {"__name__": "__main__"})
    sys.stdout.flush()
    os._exit(0)
for fd in fds:
    os.close(fd)
control.send(b'%d' % child)
control.recv(1)
