// Runs inside Whisp and calls Whisp: __OW_API_HOST and __OW_API_KEY are all it has.
const openwhisk = require('openwhisk')

exports.main = async args => {
  const ow = openwhisk()
  const before = (await ow.actions.list()).map(action => action.name)
  const namespaces = await ow.namespaces.list()
  await ow.actions.create({ name: 'worker', action: 'const main = ({ word }) => ({ shout: word.toUpperCase() + "!" })' })
  try {
    const answer = await ow.actions.invoke({ name: 'worker', blocking: true, result: true, params: { word: args.word } })
    return { answer, before, namespaces }
  } finally {
    await ow.actions.delete('worker')
  }
}
