// The neighbour that others must not reach: it listens on TCP, on a Unix and on an abstract socket, keeps a file and a
// variable, says where all that is, and stays.
const fs = require('fs')
const net = require('net')
const os = require('os')

async function main (args) {
  const serve = address => new Promise((resolve, reject) => {
    const server = net.createServer(socket => { socket.on('error', () => {}); socket.end('the neighbour\n') })
    server.on('error', reject)
    server.listen(address, () => resolve(server.address()))
  })
  const socket = `/tmp/${args.name}.sock`
  const { port } = await serve({ host: '0.0.0.0', port: 0 })
  await serve({ path: socket })
  await serve({ path: `\0${args.name}` })
  fs.writeFileSync('secret.txt', args.secret)
  const hosts = Object.values(os.networkInterfaces()).flat().filter(one => one.family === 'IPv4').map(one => one.address)
  return { folder: process.cwd(), port, hosts, socket, abstract: `@${args.name}`, pid: process.pid }
}
