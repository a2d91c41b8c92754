// Renders Markdown with `marked`, as installed by npm.
const { marked } = require('marked')

exports.main = ({ text }) => {
  const html = marked.parse(text)
  return { html, headings: (html.match(/<h[1-6]/g) || []).length, folder: process.cwd() === __dirname }
}
