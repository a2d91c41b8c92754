# The action proxy of a Python image, as small as the contract allows: POST /init with code, POST /run with arguments.
import json, os, socket, sys, traceback

SENTINEL = 'XXX_THE_END_OF_A_WHISK_ACTIVATION_XXX'
main = None


def sentinels():
    for stream in sys.stdout, sys.stderr:
        print(SENTINEL, file=stream, flush=True)


def init(value):
    global main
    if main:
        error = 'Cannot initialize the action more than once.'
        print(error, file=sys.stderr, flush=True)
        return 403, {'error': error}
    if not value.get('code'):
        return 403, {'error': 'Missing main/no code to execute.'}
    os.environ.update(value['env'])
    names = {}
    try:
        exec(value['code'], names)
        main = names[value['main']]
    except Exception:
        traceback.print_exc()
        sentinels()
        return 502, {'error': 'Cannot start action. Check logs for details.'}
    return 200, {'ok': True}


def run(body):
    if not main:
        return 500, {'error': 'no action defined yet'}
    for name, text in body.items():
        if name != 'value':
            os.environ['__OW_' + name.upper()] = text
    try:
        result = main(body['value'])
    except Exception as error:
        traceback.print_exc()
        result = {'error': str(error)}
    sentinels()
    if isinstance(result, (dict, list)):
        return 200, result
    return 502, {'error': 'The action did not return a dictionary or array.'}


def serve(connection):
    stream = connection.makefile('rb')
    while True:
        request = stream.readline()
        if not request:
            return
        length = 0
        while (line := stream.readline().strip()):
            name, _, text = line.partition(b':')
            if name.lower() == b'content-length':
                length = int(text)
        body = json.loads(stream.read(length))
        status, answer = init(body['value']) if b' /init ' in request else run(body)
        answer = json.dumps(answer).encode()
        head = f'HTTP/1.1 {status} x\r\nContent-Type: application/json\r\nContent-Length: {len(answer)}\r\n\r\n'
        connection.sendall(head.encode() + answer)


listener = socket.create_server(('0.0.0.0', 8080))
while True:
    with listener.accept()[0] as connection:
        serve(connection)
