// The npm client against a node, every method of actions, packages, namespaces and activations that works on one node.
// Environment: API_HOST, API_KEY, NAMESPACE; NODE_PATH leads to the client. Exits with 0 if all of it holds.
'use strict'

const assert = require('node:assert/strict')
const { readFileSync } = require('node:fs')
const openwhisk = require('openwhisk')

const namespace = process.env.NAMESPACE
const ow = openwhisk({ apihost: process.env.API_HOST, api_key: process.env.API_KEY })

const annotation = (entity, key) => entity.annotations.find(entry => entry.key === key)?.value
const fails = async (promise, statusCode, text) => {
  await assert.rejects(promise, error => {
    assert.equal(error.statusCode, statusCode, error.message)
    assert.match(error.message, text)
    return true
  })
}

// A record appears a little after its answer.
async function record (id) {
  for (let attempt = 0; ; attempt++) {
    try {
      return await ow.activations.get(id)
    } catch (error) {
      if (error.statusCode !== 404 || attempt > 300) throw error
      await new Promise(resolve => setTimeout(resolve, 50))
    }
  }
}

async function actions () {
  const code = 'function main (args) { console.log("greeting", args.name); return { greeting: `Hello, ${args.name}!` } }'
  const created = await ow.actions.create({ name: 'hello', action: code, params: { name: 'nobody' }, annotations: { colour: 'blue' } })
  assert.equal(created.name, 'hello')
  assert.equal(created.namespace, namespace)
  assert.equal(created.version, '0.0.1')
  assert.equal(created.publish, false)
  assert.match(created.exec.kind, /^nodejs:\d+$/)
  assert.deepEqual(created.parameters, [{ key: 'name', value: 'nobody' }])
  assert.equal(annotation(created, 'colour'), 'blue')
  assert.equal(annotation(created, 'provide-api-key'), false)
  assert.equal(annotation(created, 'exec'), created.exec.kind)
  assert.deepEqual(created.limits, { timeout: 60000, memory: 256, logs: 10, concurrency: 1 })

  await fails(ow.actions.create({ name: 'hello', action: code }), 409, /resource already exists/)
  await fails(ow.actions.create({ name: 'bad', action: code, kind: 'cobol:60' }), 400, /cobol:60/)
  await fails(ow.actions.create({ name: 'bad', action: code, limits: { timeout: 1 } }), 400, /allowed threshold/)

  const got = await ow.actions.get('hello')
  assert.equal(got.exec.code, code)
  assert.equal(got.exec.binary, false)
  assert.equal(got.updated, created.updated)
  assert.equal((await ow.actions.get({ name: 'hello', code: false })).exec.code, undefined)

  const updated = await ow.actions.update({ name: 'hello', action: code.replace('Hello', 'Goodbye') })
  assert.equal(updated.version, '0.0.2')
  assert.deepEqual(updated.parameters, created.parameters, 'an update keeps the parameters')

  assert.deepEqual(await ow.actions.invoke({ name: 'hello', blocking: true, result: true }), { greeting: 'Goodbye, nobody!' })
  const whole = await ow.actions.invoke({ name: `/${namespace}/hello`, blocking: true, params: { name: 'you' } })
  assert.deepEqual(whole.response, { result: { greeting: 'Goodbye, you!' }, size: whole.response.size, status: 'success', success: true })
  assert.equal(whole.version, '0.0.2')
  assert.deepEqual(whole.logs, [])
  assert.ok(whole.response.size > 0)

  const { activationId } = await ow.actions.invoke({ name: 'hello', params: { name: 'later' } })
  assert.match(activationId, /^[0-9a-f]{32}$/)
  const later = await record(activationId)
  assert.deepEqual(later.response.result, { greeting: 'Goodbye, later!' })
  assert.equal(later.logs.length, 1)
  assert.match(later.logs[0], /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z\s+stdout: greeting later$/)

  await ow.actions.create({ name: 'refusing', action: 'const main = () => ({ error: "no" })' })
  await fails(ow.actions.invoke({ name: 'refusing', blocking: true, result: true }), 502, /no/)
  await fails(ow.actions.invoke({ name: 'missing', blocking: true }), 404, /The requested resource does not exist\./)
  await fails(ow.actions.get('missing'), 404, /The requested resource does not exist\./)

  const names = (await ow.actions.list()).map(action => action.name)
  assert.deepEqual(names, ['refusing', 'hello'], 'the newest comes first')
  assert.deepEqual((await ow.actions.list({ limit: 1, skip: 1 })).map(action => action.name), ['hello'])
  assert.deepEqual(await ow.actions.list({ count: true }), { actions: 2 })
  for (const listed of await ow.actions.list()) assert.equal(listed.exec.code, undefined)

  assert.equal((await ow.actions.delete('refusing')).name, 'refusing')
  await fails(ow.actions.delete('refusing'), 404, /The requested resource does not exist\./)
}

async function packages () {
  const created = await ow.packages.create({ name: 'tools', package: { parameters: [{ key: 'unit', value: 'm' }], annotations: [{ key: 'of', value: 'ours' }] } })
  assert.equal(created.name, 'tools')
  const code = 'exports.main = args => ({ length: args.length + args.unit })'
  await ow.actions.create({ name: 'tools/measure', action: code, params: { length: 1 } })
  const got = await ow.packages.get('tools')
  assert.deepEqual(got.actions.map(action => action.name), ['measure'])
  assert.equal((await ow.actions.get('tools/measure')).namespace, `${namespace}/tools`)
  const invoke = params => ow.actions.invoke({ name: 'tools/measure', blocking: true, result: true, params })
  assert.deepEqual(await invoke({}), { length: '1m' })
  assert.deepEqual(await invoke({ unit: 'km' }), { length: '1km' })

  await ow.packages.update({ name: 'bound', package: { binding: { namespace, name: 'tools' }, parameters: [{ key: 'unit', value: 'cm' }] } })
  const bound = await ow.actions.invoke({ name: 'bound/measure', blocking: true })
  assert.deepEqual(bound.response.result, { length: '1cm' })
  assert.equal(annotation(bound, 'path'), `${namespace}/tools/measure`)
  assert.equal(annotation(bound, 'binding'), `${namespace}/bound`)

  assert.deepEqual((await ow.packages.list()).map(entry => entry.name).sort(), ['bound', 'tools'])
  await fails(ow.packages.delete('tools'), 409, /Package not empty/)
  await ow.packages.delete('bound')
  await ow.actions.delete('tools/measure')
  await ow.packages.delete('tools')
  await fails(ow.packages.get('tools'), 404, new RegExp(`The requested resource '${namespace}/tools' does not exist`))
}

async function archive () {
  const zip = readFileSync(process.env.ZIP)
  const created = await ow.actions.create({ name: 'renderer', action: zip, kind: 'nodejs:default' })
  assert.equal(created.exec.binary, true)
  assert.equal((await ow.actions.get('renderer')).exec.code, zip.toString('base64'))
  const { html } = await ow.actions.invoke({ name: 'renderer', blocking: true, result: true, params: { text: '*so*' } })
  assert.equal(html, '<p><em>so</em></p>\n')
  await ow.actions.delete('renderer')
}

async function activations () {
  const since = Date.now()
  const ids = []
  for (const name of ['first', 'second', 'third']) {
    const { activationId } = await ow.actions.invoke({ name: 'hello', blocking: true, params: { name } })
    ids.unshift(activationId)
    await record(activationId)
  }
  const list = await ow.activations.list({ name: 'hello', since })
  assert.deepEqual(list.map(entry => entry.activationId), ids, 'the newest comes first')
  assert.equal(list[0].statusCode, 0)
  assert.equal(list[0].response, undefined)
  assert.deepEqual((await ow.activations.list({ since, limit: 1, skip: 1 })).map(entry => entry.activationId), [ids[1]])
  const [full] = await ow.activations.list({ since, limit: 1, docs: true })
  assert.deepEqual(full.response.result, { greeting: 'Goodbye, third!' })
  assert.deepEqual(await ow.activations.list({ since, count: true }), { activations: 3 })
  assert.deepEqual(await ow.activations.list({ name: 'nothing' }), [])

  const { logs } = await ow.activations.logs(ids[0])
  assert.equal(logs.length, 1)
  assert.ok(logs[0].endsWith('stdout: greeting third'))
  const result = await ow.activations.result({ name: ids[0] })
  assert.deepEqual(result.result, { greeting: 'Goodbye, third!' })
  assert.equal(result.success, true)
  assert.equal(result.status, 'success')
  await fails(ow.activations.get('0'.repeat(32)), 404, /The requested resource does not exist\./)
  await fails(ow.activations.get('0'.repeat(31)), 400, /Activation id length is 31 but must be 32\./)
}

// An action that is itself a client: it stores another action, invokes it, and removes it.
async function insideOut () {
  const action = readFileSync(process.env.CALLBACK_ZIP)
  await ow.actions.create({ name: 'manager', action, annotations: { 'provide-api-key': true } })
  const { activationId, response } = await ow.actions.invoke({ name: 'manager', blocking: true, params: { word: 'inside' } })
  assert.deepEqual(response.result, { answer: { shout: 'INSIDE!' }, before: ['manager', 'hello'], namespaces: [namespace] })
  const stored = await record(activationId)
  const inner = (await ow.activations.list({ name: 'worker' }))
  assert.equal(inner.length, 1)
  assert.ok(inner[0].start >= stored.start && inner[0].end <= stored.end, 'it ran within the outer one')
  await fails(ow.actions.get('worker'), 404, /does not exist/)

  // Without the annotation there is no key to call with.
  await ow.actions.create({ name: 'keyless', action })
  await assert.rejects(ow.actions.invoke({ name: 'keyless', blocking: true }), ({ statusCode, error }) => {
    assert.equal(statusCode, 502)
    assert.match(error.response.result.error.message, /Missing api_key/)
    return true
  })
}

async function strangers () {
  const stranger = openwhisk({ apihost: process.env.API_HOST, api_key: 'f'.repeat(8) + '-0000-4000-8000-000000000000:wrong' })
  await fails(stranger.actions.list(), 401, /The supplied authentication is invalid/)
  assert.deepEqual(await ow.namespaces.list(), [namespace])
}

async function main () {
  for (const part of [actions, packages, archive, activations, insideOut, strangers]) {
    try {
      await part()
    } catch (error) {
      error.message = `${part.name}: ${error.message}`
      throw error
    }
  }
}

main().catch(error => {
  console.error(error)
  process.exitCode = 1
})
