"""Runs one Python action: the OpenWhisk action-proxy contract over the socket that is inherited as descriptor 3.

Usage: python launcher.py WHISP           WHISP: the program whose `unpack` extracts archives

Or forked by `zygote.py`, which calls `serve`.

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

# `json.dumps` makes an encoder for each call unless all is left at its defaults.
ENCODE = json.JSONEncoder(ensure_ascii=False).encode

# What this program itself needs. A zygote loads more ahead; an action's own module must win over that.
LOADED = frozenset(sys.modules)


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
        # What `/run` set last in the environment; most of it stays the same, and setting costs more than comparing.
        self.context = {}
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
        self.forget_shadowed(folder)
        self.activate_virtualenv(os.path.join(folder, "virtualenv"))
        return source, compile(code, source, "exec", dont_inherit=True)

    def unpack(self, archive, format, folder):
        """Extraction is the node's own code, for all runtimes; it refuses what would leave the folder."""
        import subprocess

        done = subprocess.run([self.unpacker, "unpack", format, folder], input=archive, stdout=subprocess.DEVNULL)
        if done.returncode != 0:
            raise Refusal(502, "There was an error uncompressing the action archive.")

    def forget_shadowed(self, folder):
        """Makes the action's modules win over those of the same name that were loaded ahead."""
        own = {name.split(".")[0] for name in os.listdir(folder)}
        for name in list(sys.modules):
            if name.split(".")[0] in own and name not in LOADED:
                del sys.modules[name]

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
            text = ENCODE(result)
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
            elif self.context.get(key) != value:
                os.environ["__OW_" + key.upper()] = value
                self.context[key] = value
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


if __name__ == "__main__":
    program = sys.argv[1]
    sys.argv = [""]
    serve(program)
