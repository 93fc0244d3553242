// Markdown as elements. The library reads it (`vendor/markdown-it.js`); what it may make is narrowed here: no HTML of
// the model's, no pictures from elsewhere, links to the web and to mail only. The page's content security policy
// forbids the same once more.

import MarkdownIt from "./vendor/markdown-it.js";

const markdown = new MarkdownIt({ html: false, linkify: true, breaks: true });
// `main.rs` is a file, not an address.
markdown.linkify.set({ fuzzyLink: false, fuzzyEmail: false });
markdown.validateLink = (url) => /^(https?:|mailto:)/i.test(url.trim());

const { rules, renderToken } = markdown.renderer;
const escape = markdown.utils.escapeHtml;

rules.link_open = (tokens, at, options) => {
  tokens[at].attrSet("target", "_blank");
  tokens[at].attrSet("rel", "noopener noreferrer nofollow");
  return renderToken.call(markdown.renderer, tokens, at, options);
};

/** A picture is a link to it: fetching it would tell its server that it was read. */
rules.image = (tokens, at) => {
  const address = escape(tokens[at].attrGet("src") ?? "");
  const words = escape(tokens[at].content || "picture");
  return `<a href="${address}" target="_blank" rel="noopener noreferrer nofollow">${words}</a>`;
};

rules.fence = (tokens, at) => code(tokens[at].content, tokens[at].info.trim().split(/\s+/)[0]);
rules.code_block = (tokens, at) => code(tokens[at].content, "");
rules.table_open = () => `<div class="table" tabindex="0" role="group" aria-label="Table"><table>`;
rules.table_close = () => `</table></div>`;

/** The policy permits no `style` attributes. */
rules.th_open = rules.td_open = (tokens, at) => {
  const [align] = /center|right/.exec(tokens[at].attrGet("style") ?? "") ?? [];
  return `<${tokens[at].tag}${align ? ` class="${align}"` : ""}>`;
};

function code(text, language) {
  const name = escape(language);
  return `<div class="code"><div class="code-top"><span>${name}</span><button type="button" class="copy">Copy</button></div><pre tabindex="0" role="group" aria-label="Code ${name}"><code>${escape(text)}</code></pre></div>`;
}

/**
 * Shows a text that may have grown since the last time. Blocks that did not change stay the same elements, so that a
 * selection in them lasts, and a button keeps its focus.
 */
export function showMarkdown(element, text) {
  const blocks = blocksOf(text);
  const before = element.blocks ?? [];
  let same = 0;
  while (same < blocks.length && blocks[same] === before[same]) same++;
  while (element.childElementCount > same) element.lastElementChild.remove();
  const added = document.createElement("template");
  added.innerHTML = blocks.slice(same).join("");
  element.append(added.content);
  element.blocks = blocks;
}

/** The HTML of each outermost block, one element each. */
function blocksOf(text) {
  const environment = {};
  const blocks = [];
  let open = [];
  for (const token of markdown.parse(text, environment)) {
    open.push(token);
    if (token.level === 0 && token.nesting <= 0) {
      blocks.push(markdown.renderer.render(open, markdown.options, environment).trim());
      open = [];
    }
  }
  return blocks;
}
