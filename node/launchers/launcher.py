"""Runs one Python action: the OpenWhisk action-proxy contract over the socket that is inherited as descriptor 3.

Usage: python launcher.py WHISP           WHISP: the program whose `unpack` extracts archives
       python launcher.py WHISP --zygote  wait for orders on descriptor 3 and fork such a process for each

Behaviour and texts follow apache/openwhisk-runtime-python (`launcher.py`, `compile`) behind the proxy of
apache/openwhisk-runtime-go. What is kept here before user code loads cannot be replaced by it.
"""

import base64
import json
import os
import socket
import sys
import traceback

SENTINEL = b"XXX_THE_END_OF_A_WHISK_ACTIVATION_XXX\n"
NO_BINARY = "The action failed to generate or locate a binary. See logs for details."
CANNOT_START = "Cannot start action. Check logs for details."
NO_DICTIONARY = "The action did not return a dictionary or array."
EXITED = "command exited"
LONGEST_HEAD = 65536


class Refusal(Exception):
    """An answer other than 200."""

    def __init__(self, code, error):
        Exception.__init__(self, error)
        self.code = code
        self.error = error


class Launcher:
    """Serves one connection, for one action, until the node closes it or the action ends the process."""

    def __init__(self, connection, unpacker):
        self.connection = connection
        self.unpacker = unpacker
        self.buffer = b""
        self.main = None
        # The process cannot be used after these answers.
        self.ending = False
        self.stdout = sys.stdout
        self.stderr = sys.stderr

    def serve(self):
        while not self.ending:
            request = self.read_request()
            if request is None:
                return
            path, body = request
            try:
                if path == b"/init":
                    answer = self.init(body)
                elif path == b"/run":
                    answer = self.run(body)
                else:
                    raise Refusal(404, "404 page not found")
                code = 200
            except Refusal as refusal:
                code = refusal.code
                answer = json.dumps({"error": refusal.error}, ensure_ascii=False).encode("utf-8") + b"\n"
            head = b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (code, len(answer))
            self.connection.sendall(head + answer)

    def read_request(self):
        """Path and body of the next request, or None at the end of the connection."""
        buffer = self.buffer
        end = buffer.find(b"\r\n\r\n")
        while end < 0:
            piece = self.connection.recv(LONGEST_HEAD)
            if not piece or len(buffer) > LONGEST_HEAD:
                return None
            buffer += piece
            end = buffer.find(b"\r\n\r\n")
        lines = buffer[:end].split(b"\r\n")
        length = 0
        for line in lines[1:]:
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        start = end + 4
        if len(buffer) - start < length:
            # A long body is read into one piece of memory, without a copy for each packet.
            body = bytearray(length)
            filled = len(buffer) - start
            body[:filled] = buffer[start:]
            view = memoryview(body)
            while filled < length:
                read = self.connection.recv_into(view[filled:])
                if not read:
                    return None
                filled += read
            self.buffer = b""
        else:
            body = buffer[start:start + length]
            self.buffer = buffer[start + length:]
        path = lines[0].split(b" ")[1] if lines[0].count(b" ") > 1 else b""
        return path, body

    # ---- /init -------------------------------------------------------------------------------------------------

    def init(self, body):
        if self.main is not None:
            text = "Cannot initialize the action more than once."
            self.log(text)
            raise Refusal(403, text)
        try:
            value = json.loads(body).get("value") or {}
            code, main = value.get("code") or "", value.get("main") or "main"
            variables, binary = value.get("env") or {}, value.get("binary")
            del body
            if not isinstance(code, str) or not isinstance(main, str) or not isinstance(variables, dict):
                raise ValueError("code and main are strings, env is an object")
        except (ValueError, AttributeError) as error:
            raise Refusal(400, "Error unmarshaling request: %s" % error)
        if not code:
            raise Refusal(403, "Missing main/no code to execute.")
        for name, variable in variables.items():
            os.environ[name] = variable if isinstance(variable, str) else json.dumps(variable)
        if binary:
            try:
                code = base64.b64decode(code, validate=True)
            except ValueError as error:
                raise Refusal(400, "cannot decode the request: %s" % error)
        else:
            code = code.encode("utf-8", "surrogatepass")

        compiled = self.attempt(NO_BINARY, lambda: self.prepare(code))
        self.main = self.attempt(CANNOT_START, lambda: self.load(compiled, main))
        return b'{"ok":true}\n'

    def attempt(self, text, step):
        """Does one step of /init; its failure goes to the logs, and `text` into the answer."""
        try:
            return step()
        except Refusal as refusal:
            self.log(refusal.error)
        except SystemExit:
            self.log("Command exited abruptly during initialization.")
        except BaseException:
            self.flush()
            traceback.print_exc(file=self.stderr)
        self.ending = True
        self.end_logs()
        raise Refusal(502, text)

    def prepare(self, code):
        """Puts the code into the working directory as `main__.py` and compiles it."""
        folder = os.getcwd()
        source = os.path.join(folder, "main__.py")
        if code[:4] == b"PK\x03\x04" or code[:2] == b"\x1f\x8b":
            self.unpack(code, "zip" if code[:2] == b"PK" else "tar.gz", folder)
            for name in ("exec", "__main__.py"):
                if os.path.exists(os.path.join(folder, name)):
                    os.rename(os.path.join(folder, name), source)
                    break
            if not os.path.exists(source):
                raise Refusal(502, "Zip file does not include main__")
            with open(source, "rb") as file:
                code = file.read()
        else:
            with open(source, "wb") as file:
                file.write(code)
        sys.path.insert(0, folder)
        self.activate_virtualenv(os.path.join(folder, "virtualenv"))
        return source, compile(code, source, "exec", dont_inherit=True)

    def unpack(self, archive, format, folder):
        """Extraction is the node's own code, for all runtimes; it refuses what would leave the folder."""
        import subprocess

        done = subprocess.run([self.unpacker, "unpack", format, folder], input=archive, stdout=subprocess.DEVNULL)
        if done.returncode != 0:
            raise Refusal(502, "There was an error uncompressing the action archive.")

    def activate_virtualenv(self, folder):
        if not os.path.isdir(folder):
            return
        for scripts in ("bin", "Scripts"):
            script = os.path.join(folder, scripts, "activate_this.py")
            if os.path.exists(script):
                with open(script) as file:
                    exec(compile(file.read(), script, "exec"), {"__file__": script, "__name__": "__main__"})
                return
        raise Refusal(502, "Invalid virtualenv. Zip file does not include 'activate_this.py'.")

    def load(self, compiled, main):
        from importlib.util import module_from_spec, spec_from_file_location

        source, code = compiled
        module = module_from_spec(spec_from_file_location("main__", source))
        sys.modules["main__"] = module
        exec(code, module.__dict__)
        if not hasattr(module, main):
            raise ImportError("cannot import name '%s' from 'main__' (%s)" % (main, source))
        return getattr(module, main)

    # ---- /run --------------------------------------------------------------------------------------------------

    def run(self, body):
        if self.main is None:
            raise Refusal(500, "no action defined yet")
        try:
            result = self.call(json.loads(body))
            text = json.dumps(result, ensure_ascii=False)
            answer = text.encode("utf-8") + b"\n"
        except SystemExit:
            self.exited()
        except BaseException:
            self.flush()
            traceback.print_exc(file=self.stderr)
            self.exited()
        self.end_logs()
        if not (result is None or isinstance(result, (dict, list, tuple))):
            raise Refusal(502, NO_DICTIONARY)
        if "NaN" in text or "Infinity" in text:
            # Python writes what JSON does not know.
            try:
                json.dumps(result, allow_nan=False)
            except ValueError:
                raise Refusal(502, NO_DICTIONARY)
        return answer

    def call(self, request):
        payload = {}
        for key, value in request.items():
            if key == "value":
                payload = value
            else:
                os.environ["__OW_" + key.upper()] = value
        try:
            return self.main(payload)
        except Exception as error:
            self.flush()
            print(traceback.format_exc(), file=self.stderr)
            return {"error": str(error)}

    def exited(self):
        self.ending = True
        self.end_logs()
        raise Refusal(400, EXITED)

    # ---- logs --------------------------------------------------------------------------------------------------

    def log(self, line):
        self.flush()
        print(line, file=self.stderr, flush=True)

    def flush(self):
        for stream in (self.stdout, self.stderr, sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (ValueError, OSError, AttributeError):
                pass  # closed or replaced by the action

    def end_logs(self):
        """Ends the activation's output, before its answer: whoever reads the answer finds all lines in the pipes."""
        self.flush()
        for fd in (1, 2):
            rest = SENTINEL
            while rest:
                try:
                    rest = rest[os.write(fd, rest):]
                except BlockingIOError:
                    os.set_blocking(fd, True)
                except OSError:
                    break  # closed by the action: nothing can be said there


def serve(unpacker):
    """Runs one action on descriptor 3, then ends the process."""
    # Under a number that user code does not expect, and closed in programs that it starts.
    import fcntl

    fd = fcntl.fcntl(3, fcntl.F_DUPFD_CLOEXEC, 200)
    os.close(3)
    launcher = Launcher(socket.socket(fileno=fd), unpacker)
    code = 0
    try:
        launcher.serve()
    except (ConnectionError, OSError):
        code = 1
    launcher.flush()
    # Threads of the action must not keep the process.
    os._exit(code)


# ---- the zygote -----------------------------------------------------------------------------------------------------


# What a forked process reports when it is where it belongs.
INSIDE = b"inside"


def warm():
    """Loads what most actions use, once for all processes that are forked from this one."""
    import importlib

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
    import array

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
    import gc
    import signal

    warm()
    import ctypes

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
    import ctypes

    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, "%s: %s" % (step, os.strerror(number)))
    return result


def enter(libc, request, fds, report):
    """Makes this process the container's: its descriptors, its environment, and the steps into its sandbox, in order."""
    import fcntl
    import resource
    import signal

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
    import ctypes

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
    import ctypes

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]

    buffer = ctypes.create_string_buffer(instructions, len(instructions))
    program = Program(len(instructions) // 8, ctypes.addressof(buffer))
    # 317 on x86-64, 277 elsewhere; SECCOMP_SET_MODE_FILTER is 1.
    number = 317 if os.uname().machine == "x86_64" else 277
    check(libc.syscall(number, 1, 0, ctypes.byref(program)), "seccomp")


if __name__ == "__main__":
    program, mode = sys.argv[1], sys.argv[2:]
    sys.argv = [""]
    if mode == ["--zygote"]:
        zygote(program)
    else:
        serve(program)
