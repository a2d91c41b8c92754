// Runs one Node.js action: the OpenWhisk action-proxy contract over the socket that is inherited as descriptor 3.
//
// Usage: node launcher.js WHISP [listen]       WHISP: the program whose `unpack` extracts archives
//                                              listen: the socket is no connection but takes them, for runs that overlap
//
// Behaviour and texts follow apache/openwhisk-runtime-nodejs (`service.js`, `runner.js`). What is kept here before user
// code loads cannot be replaced by it.
const fs = require('fs');
const net = require('net');
const path = require('path');
const { createRequire } = require('module');

const { writeSync } = fs;
const { env } = process;
const { parse, stringify } = JSON;
const { byteLength } = Buffer;
const { defineProperty } = Object;
const report = console.error;

const SENTINEL = 'XXX_THE_END_OF_A_WHISK_ACTIVATION_XXX\n';
const LONGEST_BODY = 48 << 20;
const SHORT_ANSWER = 32 << 10;
const SOCKET = 3;

const unpacker = process.argv[2];
const listens = process.argv[3] === 'listen';
const allowConcurrent = String(env.__OW_ALLOW_CONCURRENT).toLowerCase() === 'true';

let status = 'ready';
let handler;
// What `/run` brings reaches the environment once somebody has looked there: to set it takes a fifth of the time of a call.
let environmentSeen = false;
let latest;
// What was set last. Most of it stays the same; an action that overwrites one of these variables itself keeps its own value
// until `/run` brings another.
const context = { __proto__: null };

class Refusal {
    constructor(code, error) {
        this.code = code;
        this.error = error;
    }
}

function refuse(code, error) {
    report('Internal system error:', error);
    return new Refusal(code, error);
}

// ---- /init ------------------------------------------------------------------------------------------------------

async function init(message) {
    if (handler !== undefined) return refuse(403, 'Cannot initialize the action more than once.');
    if (status !== 'ready') return refuse(403, `System not ready, status is ${status}.`);
    const { main, code, binary, env: variables } = message.value || {};
    if (typeof main !== 'string' || typeof code !== 'string' || !main || !code) {
        return new Refusal(403, 'Missing main/no code to execute.');
    }
    status = 'starting';
    try {
        setInitEnvironment(variables);
        const loaded = binary ? await loadArchive(code, main) : loadText(code, main);
        if (typeof loaded !== 'function') throw `Action entrypoint '${main}' is not a function.`;
        handler = loaded;
        status = 'ready';
        return { OK: true };
    } catch (error) {
        status = 'stopped';
        report('Error during initialization:', error);
        await writeSentinels();
        const text = error && error.stack ? String(error.stack) : error;
        return new Refusal(502, `Initialization has failed due to: ${text}`);
    }
}

function setInitEnvironment(variables) {
    if (!variables || typeof variables !== 'object') return;
    for (const [name, value] of Object.entries(variables)) {
        if (value && typeof value === 'object') env[name] = stringify(value);
        else env[name] = value ? value.toString() : '';
    }
}

// A single file is evaluated as text. Its entry is looked up as a symbol of its own top level (or a global one) first,
// then among its exports.
function loadText(code, main) {
    const file = path.join(process.cwd(), 'index.js');
    const module = { exports: {}, filename: file, id: '.', loaded: false, children: [], paths: [] };
    const body = `${code}
;try {
    return ${main};
} catch (e) {
    if (e.name === 'ReferenceError') return module.exports.${main} || exports.${main};
    throw e;
}`;
    const evaluate = new Function('require', 'module', 'exports', '__filename', '__dirname', body);
    return evaluate(createRequire(file), module, module.exports, file, process.cwd());
}

async function loadArchive(code, main) {
    const archive = Buffer.from(code, 'base64');
    const magic = archive.toString('hex', 0, 4);
    if (magic === '504b0304') await unpack(archive, 'zip', 'Zip');
    else if (magic === '1f8b0808' || magic === '1f8b0800') await unpack(archive, 'tar.gz', 'Tar GZ');
    else throw 'There was an error uncompressing the action archive. The file type is unsupported';

    // `fn`, `module.fn` or `module.a.b`.
    const parts = main.match(/^([^.]+)$|^([^.]+)\.(.+)$/);
    if (!parts) throw 'Name of main function is not valid.';
    const [, simple, index, inModule] = parts;
    const folder = process.cwd();
    if (index === undefined && !fs.existsSync('package.json') && !fs.existsSync('index.js')) {
        throw 'Zipped actions must contain either package.json or index.js at the root.';
    }
    await installDependencies();
    const load = createRequire(path.join(folder, 'index.js'));
    let found = load(index === undefined ? folder : path.join(folder, index));
    for (const name of (simple || inModule).split('.')) found = found[name];
    return found;
}

// Extraction is the node's own code, for all runtimes; it refuses what would leave the folder.
async function unpack(archive, format, shown) {
    const { spawn } = require('child_process');
    await new Promise((resolve, reject) => {
        const child = spawn(unpacker, ['unpack', format, process.cwd()], { env, stdio: ['pipe', 'ignore', 'inherit'] });
        const failed = () => reject(`There was an error uncompressing the action ${shown} archive.`);
        child.on('error', failed);
        child.on('exit', (code) => (code === 0 ? resolve() : failed()));
        child.stdin.on('error', () => {}); // told by its exit code
        child.stdin.end(archive);
    });
}

async function installDependencies() {
    if (env.OW_ENABLE_INIT_INSTALL !== 'true' || !fs.existsSync('package.json') || fs.existsSync('node_modules')) return;
    const { dependencies } = parse(fs.readFileSync('package.json', 'utf8'));
    if (!dependencies || Object.keys(dependencies).length === 0) return;
    const { exec } = require('child_process');
    await new Promise((resolve, reject) => {
        exec('npm install', { env }, (error, _, stderr) => (error ? reject(stderr.trim()) : resolve()));
    });
}

// ---- /run -------------------------------------------------------------------------------------------------------

async function run(message) {
    if (handler === undefined) return refuse(403, 'System not initialized.');
    if (status !== 'ready') return refuse(403, `System not ready, status is ${status}.`);
    let args = message.value;
    if (args === null || args === undefined) args = {};
    if (typeof args !== 'object') {
        return refuse(403, `Internal system error: the argument must be a dictionary but has type '${typeof args}'.`);
    }
    if (!allowConcurrent) status = 'running';
    message.value = undefined;
    latest = message;
    if (environmentSeen) setContext();

    let pending;
    try {
        pending = handler(args);
    } catch (error) {
        report(error);
        status = 'stopped';
        await writeSentinels();
        return new Refusal(502, `An error has occurred: ${error}`);
    }
    let result;
    try {
        result = await pending;
        if (result === undefined) result = {};
    } catch (error) {
        // A rejection is an answer of the application.
        result = { error: error ? serializeError(error) : {} };
    }
    let answer = new Refusal(502, 'The action did not return a dictionary.');
    if (typeof result !== 'object') {
        report(`Result must be of type object but has type "${typeof result}":`, result);
    } else {
        try {
            answer = stringify(result);
            // `toJSON` may leave nothing.
            if (answer === undefined) answer = '{}';
        } catch (error) {
            report(error);
            answer = new Refusal(500, 'Internal error.');
        }
    }
    if (!allowConcurrent && status === 'running') status = 'ready';
    await writeSentinels();
    return answer;
}

function setContext() {
    for (const key in latest) {
        const value = latest[key];
        if (typeof value !== 'string' || context[key] === value) continue;
        context[key] = value;
        env['__OW_' + key.toUpperCase()] = value;
    }
}

// From the first look on the environment is as Node.js has it, since who looks may keep it.
function showEnvironment() {
    environmentSeen = true;
    setContext();
    defineProperty(process, 'env', { value: env, writable: true, enumerable: true, configurable: true });
}

// As the package `serialize-error` does: an error's name, message and stack besides its own fields, without cycles.
function serializeError(error, above = []) {
    if (typeof error === 'function') return `[Function: ${error.name || 'anonymous'}]`;
    if (typeof error !== 'object' || error === null) return error;
    if (typeof error.toJSON === 'function') return error.toJSON();
    const seen = [...above, error];
    const serialized = Array.isArray(error) ? [] : {};
    const add = (key, value) => {
        if (typeof value === 'function') return;
        if (typeof value !== 'object' || value === null) serialized[key] = value;
        else if (Buffer.isBuffer(value)) serialized[key] = '[object Buffer]';
        else if (typeof value.pipe === 'function') serialized[key] = '[object Stream]';
        else serialized[key] = seen.includes(value) ? '[Circular]' : serializeError(value, seen);
    };
    for (const [key, value] of Object.entries(error)) add(key, value);
    for (const key of ['name', 'message', 'stack', 'code', 'cause']) {
        if (error[key] !== undefined && error[key] !== null) add(key, error[key]);
    }
    return serialized;
}

// ---- logs -------------------------------------------------------------------------------------------------------

const streamOf = (fd) => (fd === 1 ? process.stdout : process.stderr);

// Ends the activation's output, before its answer: whoever reads the answer finds all lines in the pipes.
function writeSentinels() {
    const waits = [];
    for (const fd of [1, 2]) {
        if (streamOf(fd).writableLength === 0) {
            try {
                if (writeSync(fd, SENTINEL) === SENTINEL.length) continue;
            } catch (error) {
                if (error.code !== 'EAGAIN') continue; // closed by the action: nothing can be said there
            }
        }
        waits.push(new Promise((resolve) => streamOf(fd).write(SENTINEL, resolve)));
    }
    return waits.length ? Promise.all(waits) : undefined;
}

// ---- the connection ---------------------------------------------------------------------------------------------

// HTTP/1.1 by hand, for one peer that sends a Content-Length and waits for each answer: `http.createServer` takes half
// as long again for a warm call.

function parseHead(head) {
    const [requestLine, ...fields] = head.split('\r\n');
    const [method, target] = requestLine.split(' ');
    let length = 0;
    for (const field of fields) {
        const colon = field.indexOf(':');
        if (field.slice(0, colon).toLowerCase() === 'content-length') length = Number(field.slice(colon + 1));
    }
    return { route: method === 'POST' ? routes[target] : undefined, length };
}

const routes = { __proto__: null, '/init': init, '/run': run };

// Takes what arrives on a connection and answers through `send`; returns who takes it.
function attach(send) {
    // What has arrived of the current request.
    let pieces = [];
    let arrived = 0;
    let request;

    return function receive(piece) {
        pieces.push(piece);
        arrived += piece.length;
        if (request === undefined) {
            // A head that comes in parts is rare and small.
            if (pieces.length > 1) pieces = [Buffer.concat(pieces)];
            const end = pieces[0].indexOf('\r\n\r\n');
            if (end < 0) return;
            request = parseHead(pieces[0].latin1Slice(0, end));
            pieces[0] = pieces[0].subarray(end + 4);
            arrived -= end + 4;
        }
        if (arrived < request.length) {
            // Too long to be accepted: it is read to its end all the same, but not kept.
            if (arrived > LONGEST_BODY) pieces = [];
            return;
        }
        const { route } = request;
        const body = arrived > LONGEST_BODY ? undefined : pieces.length === 1 ? pieces[0] : Buffer.concat(pieces);
        pieces = [];
        arrived = 0;
        request = undefined;
        serve(route, body, send);
    };
}

function serve(route, body, send) {
    let work;
    try {
        if (!route || !body) throw new SyntaxError('no such request');
        const message = body.length === 0 ? {} : parse(body.utf8Slice(0, body.length));
        if (typeof message !== 'object' || message === null) throw new SyntaxError('neither object nor array');
        work = route(message);
    } catch {
        return answer(new Refusal(500, 'Bad request.'), send);
    }
    work.then((result) => answer(result, send));
}

function answer(result, send) {
    const failed = result instanceof Refusal;
    const body = failed ? stringify({ error: result.error }) : typeof result === 'string' ? result : stringify(result);
    const length = byteLength(body);
    const head = `HTTP/1.1 ${failed ? result.code : 200} X\r\nContent-Type: application/json\r\nContent-Length: ${length}`;
    send(`${head}\r\n\r\n${body}`, length);
}

process.argv.length = 1;
defineProperty(process, 'env', {
    get() {
        showEnvironment();
        return env;
    },
    set(value) {
        showEnvironment();
        process.env = value;
    },
    enumerable: true,
    configurable: true,
});
if (listens) listen();
else converse();

// The one connection there is.
function converse() {
    // A short answer goes out in one call, past the stream; what the socket does not take at once is the stream's.
    const send = (text, length) => {
        let rest = text;
        if (length <= SHORT_ANSWER) {
            try {
                const sent = writeSync(SOCKET, text);
                if (sent === byteLength(text)) return;
                rest = Buffer.from(text).subarray(sent);
            } catch (error) {
                if (error.code !== 'EAGAIN') process.exit(1);
            }
        }
        socket.write(rest);
    };
    const receive = attach(send);
    // Requests arrive in one buffer, without a stream's bookkeeping; what is kept of it is copied.
    const arrivals = Buffer.allocUnsafeSlow(64 << 10);
    const onread = {
        buffer: arrivals,
        callback(length) {
            receive(Buffer.from(arrivals.subarray(0, length)));
            return true;
        },
    };
    const socket = new net.Socket({ fd: SOCKET, readable: true, writable: true, onread });
    socket.resume();
    socket.on('error', () => process.exit(1));
    // The node is gone, and with it all who could ask.
    socket.on('close', () => process.exit(0));
}

// A connection for each run that is under way.
function listen() {
    let lifeline;
    const server = net.createServer((socket) => {
        // Whoever asked has given up; it may be the action's doing that nothing was answered.
        socket.on('error', () => socket.destroy());
        if (lifeline === undefined) {
            // The first asks nothing: it ends with the node.
            lifeline = socket;
            socket.on('close', () => process.exit(0));
            socket.resume();
            return;
        }
        socket.on('data', attach((text) => {
            if (!socket.destroyed) socket.write(text);
        }));
    });
    server.on('error', () => process.exit(1));
    server.listen({ fd: SOCKET });
}
