// The action proxy of a Node.js image, as small as the contract allows: POST /init with code, POST /run with arguments.
// BEHAVE makes it one that breaks the contract in a certain way.
'use strict'
const http = require('http')

const SENTINEL = 'XXX_THE_END_OF_A_WHISK_ACTIVATION_XXX'
const behave = process.env.BEHAVE
let main

const sentinels = () => {
  if (behave === 'writes_no_sentinel') return
  console.log(SENTINEL)
  console.error(SENTINEL)
}

async function init ({ code, main: name, env }) {
  if (behave === 'exits_in_init') process.exit(3)
  if (main) {
    const error = 'Cannot initialize the action more than once.'
    console.error(`Internal system error: ${error}`)
    return [403, { error }]
  }
  Object.assign(process.env, env)
  if (behave || code === undefined) {
    main = misbehave
  } else if (code) {
    try {
      main = new Function('require', `${code}\nreturn ${name}`)(require)
    } catch (error) {
      console.error(`Error during initialization: ${error}`)
      sentinels()
      return [502, { error: `Initialization has failed due to: ${error}` }]
    }
  } else {
    return [403, { error: 'Missing main/no code to execute.' }]
  }
  return [200, { OK: true }]
}

async function run ({ value, ...context }) {
  if (!main) return [403, { error: 'System not initialized.' }]
  for (const [name, text] of Object.entries(context)) process.env[`__OW_${name.toUpperCase()}`] = text
  let result
  try {
    result = await main(value)
  } catch (error) {
    console.error(error)
    return [502, { error: `An error has occurred: ${error}` }]
  }
  if (result === null || typeof result === 'object') return [200, result]
  if (result === undefined) return [200, {}]
  return [502, { error: 'The action did not return a dictionary.' }]
}

// Without code: echoes, or does what BEHAVE says.
async function misbehave (value) {
  switch (behave) {
    case 'exits_in_run': process.exit(3); break
    case 'eats_memory': for (const all = [];;) all.push(Buffer.alloc(1 << 20, 1)); break
    case 'floods_logs': flood(30000); return {}
    case 'exits_after_last_words': flood(500); process.exit(3); break // what fits into a pipe: Node.js does not wait
    case 'answers_too_much': return { text: 'x'.repeat((1 << 20) + 1 - '{"text":""}'.length) }
    case 'answers_at_the_limit': return { text: 'x'.repeat((1 << 20) - '{"text":""}'.length) }
    default: console.log('stdout of the image'); console.error('stderr of the image'); return value
  }
}

const flood = (lines) => { for (let n = 0; n < lines; n++) console.log('flood ' + 'x'.repeat(94)) }

const server = http.createServer(async (request, response) => {
  const parts = []
  for await (const part of request) parts.push(part)
  if (behave === 'answers_garbage') return response.socket.end('nonsense\r\n\r\n')
  let status, answer
  try {
    const body = JSON.parse(Buffer.concat(parts))
    ;[status, answer] = request.url === '/init' ? await init(body.value) : await run(body)
  } catch (error) {
    console.error(error)
    ;[status, answer] = [500, { error: 'Bad request.' }]
  }
  if (request.url === '/run' && main) sentinels()
  if (request.url === '/run' && behave === 'answers_204') return response.writeHead(204).end()
  const body = Buffer.from(JSON.stringify(answer))
  const length = behave === 'answers_in_chunks' ? {} : { 'Content-Length': body.length }
  response.writeHead(status, { 'Content-Type': 'application/json', ...length }).end(body)
})
server.keepAliveTimeout = 0 // the node closes connections
process.on('SIGTERM', () => process.exit(0))

if (behave === 'exits_at_once') process.exit(0)
if (behave === 'never_listens') setInterval(() => {}, 1000)
else server.listen(8080, '0.0.0.0')
