// Elements made by hand. Text goes in as text alone: nothing here, or anywhere on the page, parses markup.

const byId = (id) => document.getElementById(id);

const fill = (node, properties, children) => {
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "text") node.textContent = value;
    else if (name === "style") for (const [key, said] of Object.entries(value)) node.style.setProperty(key, said);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
};

const el = (tag, properties = {}, ...children) => fill(document.createElement(tag), properties, children);

const svg = (tag, properties = {}, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), properties, children);

const button = (text, onclick, properties = {}) => el("button", { type: "button", text, onclick, ...properties });

// A labelled choice; options are [value, words].
const choice = (label, options, chosen, onpick, properties = {}) => {
  const select = el("select", { onchange: () => onpick(select.value), ...properties });
  for (const [value, words] of options) select.append(el("option", { value, text: words, selected: value === chosen }));
  return el("label", { class: "field" }, el("span", { text: label }), select);
};

const say = (text) => {
  byId("live").textContent = text;
};

const count = (n) => n.toLocaleString("en");

const dollars = (usd) => `$${usd.toLocaleString("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 })}`;

const milliseconds = (ms) => {
  if (ms === null || ms === undefined || ms < 0) return "–";
  if (ms < 100) return `${Math.round(ms)} ms`;
  return ms < 60000 ? `${(ms / 1000).toFixed(2)} s` : `${Math.floor(ms / 60000)} min ${Math.round((ms % 60000) / 1000)} s`;
};

const moment = (ms) => (ms === null || ms === undefined ? "–" : new Date(ms).toLocaleString());

// Prompts may hold characters that turn the direction of writing; each stays in its own box.
const words = (text, properties = {}) => el("bdi", { text, ...properties });

const download = (name, text) => {
  const address = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  const link = el("a", { href: address, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
};

const copy = async (text) => {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const box = el("textarea", { class: "unseen" });
    box.value = text;
    (byId("lightbox").open ? byId("lightbox") : document.body).append(box);
    box.select();
    document.execCommand("copy");
    box.remove();
  }
  say("Copied");
};

const debounced = (run, ms) => {
  let timer = 0;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => run(...given), ms);
  };
};
