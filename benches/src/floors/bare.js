// A bare function behind Node.js's own HTTP server: what a call costs when there is no platform.
// Usage: node bare.js SOCKET [tcp]; with `tcp` it also listens on loopback and prints the port.
const http = require('http')

const main = (params) => ({ ok: true })

const answer = (request, response) => {
  const parts = []
  request.on('data', (part) => parts.push(part))
  request.on('end', () => {
    const params = JSON.parse(Buffer.concat(parts)).value
    const body = JSON.stringify(main(params))
    response.writeHead(200, { 'Content-Type': 'application/json', 'Content-Length': Buffer.byteLength(body) })
    response.end(body)
  })
}

const [socket, tcp] = process.argv.slice(2)
// Connections stay: a floor that reconnects now and then would be no floor.
const listen = (...where) => Object.assign(http.createServer(answer), { keepAliveTimeout: 0 }).listen(...where)
listen(socket)
if (tcp) {
  const server = listen(0, '127.0.0.1', () => console.log(server.address().port))
}
