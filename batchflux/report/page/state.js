// What is shown stands in the address, so that a view can be shared and "back" goes back; marks and taste stay here.

const readHash = () => Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
let state = readHash();
const followers = [];

const onState = (follow) => followers.push(follow);
const tellState = (before) => followers.forEach((follow) => follow(state, before));

// Change the view. `step` makes it a step that "back" undoes; without it the address is only kept up to date.
const setState = (patch, { step = false } = {}) => {
  const before = state;
  state = { ...state };
  for (const [name, value] of Object.entries(patch)) {
    if (value === "" || value === null || value === undefined) delete state[name];
    else state[name] = String(value);
  }
  const address = `#${new URLSearchParams(state)}`;
  if (address !== location.hash) history[step ? "pushState" : "replaceState"](null, "", address);
  tellState(before);
};

window.addEventListener("popstate", () => {
  const before = state;
  state = readHash();
  tellState(before);
});

const kept = (name) => {
  try {
    return localStorage.getItem(name);
  } catch {
    return null; // a browser may refuse to keep anything for pages from the disk
  }
};
const keep = (name, value) => {
  try {
    localStorage.setItem(name, value);
  } catch {
    say("This browser keeps nothing for pages from the disk: download the picks before you leave");
  }
};

// Marks by cell id: they outlive a newer page of the same run, on which cells may have other places.
const MARKS = { winner: "★", reject: "✕" };
let marks = new Map(); // by index
let strangers = {}; // of cells that this page doesn't show

const marksName = () => `batchflux picks ${run.run}`;

const openMarks = async () => {
  let said = {};
  try {
    said = JSON.parse(kept(marksName()) ?? "{}");
  } catch {
    said = {};
  }
  marks = new Map();
  strangers = {};
  const wanted = Object.entries(said).filter(([, mark]) => mark in MARKS);
  if (!wanted.length) return;
  await openKeys();
  const places = new Map();
  const ids = new Map(wanted);
  const heads = new Set(wanted.map(([id]) => parseInt(id.slice(0, 6), 16)));
  for (let index = 0; index < run.cells; index += 1) {
    const at = index * 16;
    if (!heads.has(keys[at] * 65536 + keys[at + 1] * 256 + keys[at + 2])) continue;
    const id = idOf(index);
    if (ids.has(id)) places.set(id, index);
  }
  for (const [id, mark] of wanted) {
    if (places.has(id)) marks.set(places.get(id), mark);
    else strangers[id] = mark;
  }
};

const marked = () => ({ ...strangers, ...Object.fromEntries([...marks].map(([index, mark]) => [idOf(index), mark])) });

const markFollowers = [];
const onMarks = (follow) => markFollowers.push(follow);

// The same mark again takes it away.
const markCell = async (index, mark) => {
  if (run.status[index] === EXCLUDED) return;
  await openKeys();
  if (marks.get(index) === mark || mark === null) marks.delete(index);
  else marks.set(index, mark);
  keep(marksName(), JSON.stringify(marked()));
  say(marks.has(index) ? `Marked as ${mark}` : "Mark taken away");
  markFollowers.forEach((follow) => follow(index));
};

const MARK_KEYS = { w: "winner", x: "reject", u: null };

const downloadPicks = async () => {
  await openKeys();
  const lines = Object.entries(marked()).sort().map(([id, mark]) => `${id},${mark}\n`);
  download("picks.csv", `cell_id,mark\n${lines.join("")}`);
};

const systemDark = window.matchMedia("(prefers-color-scheme: dark)");
const showTheme = () => {
  const chosen = kept("batchflux theme");
  document.documentElement.dataset.theme = chosen ?? (systemDark.matches ? "dark" : "light");
};
const turnTheme = () => {
  keep("batchflux theme", document.documentElement.dataset.theme === "dark" ? "light" : "dark");
  document.documentElement.dataset.theme = kept("batchflux theme") ?? "dark";
};
systemDark.addEventListener("change", showTheme);
