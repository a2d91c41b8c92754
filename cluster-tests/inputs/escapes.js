// Attempts to get out of a container, those that need no system calls of their own. `main` makes the one named by
// `attempt` and says whether it worked.
const fs = require('fs')
const net = require('net')
const path = require('path')

function * files (folder) {
  for (const entry of fs.readdirSync(folder, { withFileTypes: true })) {
    const name = path.join(folder, entry.name)
    if (entry.isDirectory()) yield * files(name)
    else yield name
  }
}

const others = () => fs.readdirSync('/proc').filter(name => /^\d+$/.test(name)).map(Number)
  .filter(pid => pid !== process.pid && pid !== process.ppid)

function first (candidates, look) {
  let last = 'nothing to try'
  for (const candidate of candidates) {
    try {
      if (look(candidate)) return candidate
      last = `${candidate}: nothing`
    } catch (error) {
      last = error.message
    }
  }
  throw new Error(last)
}

const ask = address => new Promise((resolve, reject) => {
  const socket = net.connect(address)
  socket.setTimeout(2000, () => socket.destroy(new Error('timeout')))
  socket.on('data', data => { socket.destroy(); resolve(data.toString()) })
  socket.on('error', reject)
  socket.on('close', () => reject(new Error('closed')))
})

async function reach (addresses) {
  let last
  for (const address of addresses) {
    try {
      return await ask(address)
    } catch (error) {
      last = error
    }
  }
  throw last
}

const attempts = {
  data_directory: args => first(files(args.data_dir), name => fs.readFileSync(name).length > 0),
  other_folder: args => first(
    [args.folder, ...others().map(pid => `/proc/${pid}/cwd`)],
    folder => fs.readFileSync(folder + '/secret.txt', 'utf8') === args.secret),
  environ: args => first(others(), pid => fs.readFileSync(`/proc/${pid}/environ`, 'utf8').includes(args.secret)),
  descriptors: () => first(others(), pid => fs.readdirSync(`/proc/${pid}/fd`).length > 0),
  signals: args => process.kill(args.pid, 0) && 'may signal',
  tcp: args => reach(args.addresses.map(([host, port]) => ({ host, port }))),
  unix: args => reach(args.paths.map(path => ({ path: path.replace(/^@/, '\0') }))),
  admin: args => new Promise((resolve, reject) => {
    const socket = net.connect({ path: args.data_dir + '/admin.sock' }, () => { socket.destroy(); resolve('connected') })
    socket.on('error', reject)
  })
}

async function main (args) {
  try {
    return { escaped: true, detail: String(await attempts[args.attempt](args)) }
  } catch (error) {
    return { escaped: false, detail: String(error.message) }
  }
}
