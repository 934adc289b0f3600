// The run's data. A page from the disk can't fetch, so each file is a script that hands one value to `batchfluxTake`.

let FOLDER = document.documentElement.dataset.folder;
const THUMBNAILS = document.documentElement.dataset.thumbnails;

const waiting = new Map();
const loaded = new Map();

window.batchfluxTake = (name, value) => {
  waiting.get(name)?.(value);
  waiting.delete(name);
};

// Load a file once; the promise fails where the file isn't there.
const load = (name) => {
  if (!loaded.has(name)) {
    loaded.set(
      name,
      new Promise((resolve, reject) => {
        waiting.set(name, resolve);
        const script = el("script", { src: `${FOLDER}/${name}.js` });
        script.onerror = () => reject(new Error(`${FOLDER}/${name}.js is missing`));
        script.onload = () => script.remove();
        document.head.append(script);
      }),
    );
  }
  return loaded.get(name);
};

const bytesOf = (packed) => {
  const text = atob(packed);
  const bytes = new Uint8Array(text.length);
  for (let place = 0; place < text.length; place += 1) bytes[place] = text.charCodeAt(place);
  return bytes;
};

const STATUSES = ["pending", "submitted", "completed", "failed", "unknown"];
const EXCLUDED = 255;

// The index, its arrays unpacked; every array runs over row × combination.
const run = {};

const openRun = async () => {
  const index = await load("index");
  Object.assign(run, index);
  for (const name of ["status", "warned", "files", "kind", "reason", "thumb"]) run[name] = bytesOf(index[name]);
  run.nsfw = new Int8Array(bytesOf(index.nsfw).buffer);
  for (const name of ["inference", "latency", "completed"]) run[name] = new Int32Array(bytesOf(index[name]).buffer);
  for (const said of Object.values(run.choices)) said.codes = bytesOf(said.codes);
  run.cells = run.rows * run.combinations;
  let stride = run.combinations;
  for (const axis of run.axes) {
    stride /= axis.words.length;
    axis.stride = stride;
  }
  loaded.delete("index");
};

// Turn to newer data of the same run; nothing of the older ones is kept.
const turnTo = async (folder) => {
  FOLDER = folder;
  loaded.clear();
  texts.length = 0;
  keys = null;
  await openRun();
};

const rowOf = (index) => Math.floor(index / run.combinations);
const placeOn = (axis, index) => Math.floor((index % run.combinations) / axis.stride) % axis.words.length;
const axisNamed = (name) => run.axes.find((axis) => axis.name === name);
const stepAlong = (axis, index, place) => index + (place - placeOn(axis, index)) * axis.stride;

const thumbnailOf = (index) => {
  let name = "";
  for (let place = index * 8; place < index * 8 + 8; place += 1) name += run.thumb[place].toString(16).padStart(2, "0");
  return name === "0000000000000000" ? null : `${THUMBNAILS}/${name.slice(0, 2)}/${name}.webp`;
};

const numbered = (kind, number) => `${kind}-${String(number).padStart(5, "0")}`;

// Rows' names and prompts, by the thousand. `textsNow` is what is there already, else null.
const texts = [];
const textsOf = async (row) => {
  const number = Math.floor(row / run.rowsAText);
  texts[number] = await load(numbered("rows", number));
  return textsNow(row);
};
const textsNow = (row) => {
  const some = texts[Math.floor(row / run.rowsAText)];
  if (!some) return null;
  const place = row % run.rowsAText;
  return { name: some.names[place] ?? `row ${row + 1}`, prompts: some.prompts[place] };
};
const promptNow = (index) => textsNow(rowOf(index))?.prompts[run.wordOf[index % run.combinations]] ?? "";
const allTexts = async (onload) => {
  const number = Math.ceil(run.rows / run.rowsAText);
  for (let place = 0; place < number; place += 1) {
    if (!texts[place]) texts[place] = await load(numbered("rows", place));
    onload?.(place + 1, number);
  }
};

// What a row's prompts have in common is the row's own part of them.
const rowLabel = (row) => {
  const said = textsNow(row)?.prompts.filter((prompt) => prompt !== null) ?? [];
  if (said.length < 2) return said[0] ?? "";
  const first = said[0];
  let begin = 0;
  while (begin < first.length && said.every((prompt) => prompt[begin] === first[begin])) begin += 1;
  let end = 0;
  while (end < first.length - begin && said.every((prompt) => prompt.at(-1 - end) === first.at(-1 - end))) end += 1;
  return `${first.slice(0, begin)}…${end ? first.slice(-end) : ""}`;
};

// All that the manifest says of a cell.
const detailsOf = async (index) => {
  const chunk = await load(numbered("cells", Math.floor(rowOf(index) / run.rowsAChunk)));
  chunk.places ??= new Map(chunk.columns[0][1].map((found, place) => [found, place]));
  const place = chunk.places.get(index);
  if (place === undefined) return null;
  await textsOf(rowOf(index));
  return Object.fromEntries(chunk.columns.map(([name, values]) => [name, values[place]]));
};

// Cell ids, sixteen bytes each, for marks and addresses.
let keys = null;
const openKeys = async () => {
  keys ??= bytesOf(await load("keys"));
  return keys;
};
const idOf = (index) => {
  let id = "";
  for (let place = index * 16; place < index * 16 + 16; place += 1) id += keys[place].toString(16).padStart(2, "0");
  return id;
};
const indexOfId = (id) => {
  const wanted = id.match(/../g)?.map((pair) => parseInt(pair, 16)) ?? [];
  if (!wanted.length) return null;
  for (let index = 0; index < run.cells; index += 1) {
    if (wanted.every((byte, place) => keys[index * 16 + place] === byte) && run.status[index] !== EXCLUDED) return index;
  }
  return null;
};

const axisWords = (index) => run.axes.map((axis) => `${axis.name} ${axis.words[placeOn(axis, index)]}`).join(", ");

const WAITS = { pending: "not sent yet", submitted: "in flight", unknown: "outcome unknown" };

// What is in the tooltips and for screen readers: a cell in one line, with every word that its tile shows.
const cellWords = (index) => {
  const status = run.status[index];
  const parts = [textsNow(rowOf(index))?.name ?? `row ${rowOf(index) + 1}`, axisWords(index)];
  parts.push(status === EXCLUDED ? "left out by exclude" : WAITS[STATUSES[status]] ?? STATUSES[status]);
  if (STATUSES[status] === "completed" && !run.files[index]) parts.push("no image on disk");
  if (run.inference[index] >= 0) parts.push(milliseconds(run.inference[index]));
  parts.push(run.kinds[run.kind[index]], run.reasons[run.reason[index]]);
  if (run.nsfw[index] === 1) parts.push("flagged NSFW");
  if (run.warned[index]) parts.push("with a warning");
  if (run.files[index] > 1) parts.push(`1 of ${run.files[index]} images`);
  return parts.filter(Boolean).join("; ");
};
