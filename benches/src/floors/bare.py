"""A bare function behind the smallest HTTP server Python can be: what a call costs when there is no platform.

Usage: python -I -S bare.py SOCKET [tcp]; with `tcp` it also listens on loopback and prints the port.
One loop over epoll: threads share one lock, and asyncio takes 30 ms to import.
"""
import json
import select
import socket
import sys


def main(params):
    return {"ok": True}


def answer(request):
    body = json.dumps(main(json.loads(request)["value"])).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


def content_length(head):
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


def listen(family, address):
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.bind(address)
    listener.listen(128)
    return listener


listeners = [listen(socket.AF_UNIX, sys.argv[1])]
if len(sys.argv) > 2:
    listeners.append(listen(socket.AF_INET, ("127.0.0.1", 0)))
    print(listeners[1].getsockname()[1], flush=True)

poll = select.epoll()
accepting = {listener.fileno(): listener for listener in listeners}
connections = {}
for number in accepting:
    poll.register(number, select.EPOLLIN)
while True:
    for number, _ in poll.poll():
        if number in accepting:
            connection, _ = accepting[number].accept()
            if connection.family == socket.AF_INET:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connections[connection.fileno()] = [connection, b""]
            poll.register(connection.fileno(), select.EPOLLIN)
            continue
        state = connections[number]
        received = state[0].recv(65536)
        if not received:
            poll.unregister(number)
            connections.pop(number)[0].close()
            continue
        state[1] += received
        head, blank, body = state[1].partition(b"\r\n\r\n")
        if blank and len(body) >= content_length(head):
            state[1] = b""
            state[0].sendall(answer(body))
