// One cell as large as the window lets it be, with all that is known of it; a second one beside it to compare with.

let lightboxNow = null; // {index, image}: which cell, and which of its images
let lightboxOpener = null;
const LIGHTBOX_MODES = [["side", "side by side"], ["slider", "slider"]];

const openLightbox = async (index) => {
  lightboxOpener = document.activeElement;
  await openKeys();
  setState({ cell: idOf(index).slice(0, 12) }, { step: true });
};
const closeLightbox = () => setState({ cell: null, with: null, mode: null }, { step: true });

// Follow the address: open, close, or go to another cell.
const followLightbox = async (views) => {
  const dialog = byId("lightbox");
  if (!state.cell) {
    if (dialog.open) dialog.close();
    const index = lightboxNow?.index;
    lightboxNow = null;
    if (index !== undefined && state.view !== "sweep") views[state.view === "gallery" ? "gallery" : "grid"]?.focusTile(index);
    else lightboxOpener?.focus?.();
    return;
  }
  await openKeys();
  const index = indexOfId(state.cell);
  if (index === null) {
    say("This page has no cell of that name");
    setState({ cell: null });
    return;
  }
  const other = state.with ? indexOfId(state.with) : null;
  if (lightboxNow?.index !== index) lightboxNow = { index, image: 0 };
  const cells = await Promise.all([detailsOf(index), other === null ? null : detailsOf(other)]);
  if (lightboxNow?.index === index) drawLightbox(views, index, cells[0], other, cells[1]);
};

// The cell beside one along an axis, passing over places that are left out; null at the end.
const neighbour = (axis, index, by) => {
  for (let place = placeOn(axis, index) + by; place >= 0 && place < axis.words.length; place += by) {
    const next = stepAlong(axis, index, place);
    if (run.status[next] !== EXCLUDED) return next;
  }
  return null;
};
const neighbourRow = (index, by) => {
  for (let next = index + by * run.combinations; next >= 0 && next < run.cells; next += by * run.combinations) {
    if (run.status[next] !== EXCLUDED) return next;
  }
  return null;
};

const goTo = (index) => index !== null && setState({ cell: idOf(index).slice(0, 12) });

const stepsOf = (views) => {
  const chosen = state.along ?? (state.view === "gallery" ? "-" : (views.grid.axis()?.name ?? "-"));
  const axis = axisNamed(chosen);
  return { name: axis ? chosen : "-", step: (index, by) => (axis ? neighbour(axis, index, by) : (views.gallery.beside(index, by) ?? neighbourInGrid(index, by))) };
};
const neighbourInGrid = (index, by) => {
  for (let next = index + by; next >= 0 && next < run.cells; next += by) if (run.status[next] !== EXCLUDED) return next;
  return null;
};

const picture = (index, cell, image) => {
  const file = cell?.files[Math.min(image, cell.files.length - 1)];
  if (file) return el("img", { src: pathOf(file), alt: `${promptNow(index)} (${axisWords(index)})`, class: "whole" });
  const [what, why] = tileWords(index);
  return el("div", { class: `said whole ${STATUSES[run.status[index]]}` }, el("strong", { text: what }), why ? words(cell?.error ?? why) : null);
};

const drawLightbox = (views, index, cell, other, otherCell) => {
  const dialog = byId("lightbox");
  const focused = dialog.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  const stage = el("div", { class: "stage" });
  if (other === null) stage.append(picture(index, cell, lightboxNow.image));
  else if (state.mode === "slider") stage.append(sliderOf(index, cell, other, otherCell));
  else {
    stage.classList.add("two");
    for (const [place, said] of [[other, otherCell], [index, cell]]) stage.append(el("figure", {}, picture(place, said, 0), el("figcaption", {}, words(`${textsNow(rowOf(place)).name} · ${axisWords(place)}`))));
  }
  dialog.replaceChildren(stage, factsOf(views, index, cell, other));
  if (!dialog.open) dialog.showModal();
  (dialog.querySelector(`[data-key="${focused}"]:not([disabled])`) ?? dialog.querySelector('[data-key="close"]')).focus();
  say(cellWords(index));
};

const sliderOf = (index, cell, other, otherCell) => {
  const above = picture(index, cell, 0);
  const box = el("div", { class: "compare" }, picture(other, otherCell, 0), above);
  const slider = el("input", { type: "range", min: 0, max: 100, value: 50, class: "wipe", "data-key": "wipe", "aria-label": "How much of each image is shown" });
  const wipe = () => above.style.setProperty("clip-path", `inset(0 0 0 ${slider.value}%)`);
  slider.addEventListener("input", wipe);
  wipe();
  return el("div", { class: "comparing" }, box, slider, el("p", { class: "facts" }, words(axisWords(other)), " | ", words(axisWords(index))));
};

const factsOf = (views, index, cell, other) => {
  const row = rowOf(index);
  const { name } = stepsOf(views);
  const mark = marks.get(index);
  const panel = el("div", { class: "facts-panel" });
  const bar = el("div", { class: "bar" },
    button("‹", () => goTo(stepsOf(views).step(index, -1)), { "aria-label": "Previous (left arrow)", "data-key": "back" }),
    button("›", () => goTo(stepsOf(views).step(index, 1)), { "aria-label": "Next (right arrow)", "data-key": "on" }),
    button("★ winner", () => markCell(index, "winner"), { "aria-pressed": String(mark === "winner"), "data-key": "winner", class: "winner", title: "w" }),
    button("✕ reject", () => markCell(index, "reject"), { "aria-pressed": String(mark === "reject"), "data-key": "reject", class: "reject", title: "x" }),
    button("Close", closeLightbox, { "data-key": "close", class: "last" }),
  );
  panel.append(bar);
  panel.append(el("p", { class: "longprompt" }, words(promptNow(index))), el("div", { class: "bar" }, words(textsNow(row).name, { class: "rowname" }), button("Copy prompt", () => copy(promptNow(index)), { class: "small", "data-key": "copy prompt" })));

  const walk = el("div", { class: "walk" });
  for (const axis of run.axes) {
    const before = neighbour(axis, index, -1);
    const after = neighbour(axis, index, 1);
    walk.append(
      el("span", { class: "axisname", text: axis.name }),
      button("‹", () => goTo(before), { disabled: before === null, "aria-label": `Previous ${axis.name}`, "data-key": `${axis.name} back`, class: "small" }),
      words(axis.words[placeOn(axis, index)], { class: "value" }),
      button("›", () => goTo(after), { disabled: after === null, "aria-label": `Next ${axis.name}`, "data-key": `${axis.name} on`, class: "small" }),
    );
  }
  if (walk.childNodes.length) panel.append(walk);
  panel.append(choice("← → go along", [["-", state.view === "gallery" ? "the gallery" : "the grid's order"], ...run.axes.map((axis) => [axis.name, axis.name])], name, (along) => setState({ along }), { "data-key": "along" }));
  panel.append(comparing(index, other));
  if (cell) panel.append(imagesOf(views, cell), tableOf(cell));
  panel.append(el("p", { class: "hint", text: "← → along the axis, ↑ ↓ through prompts, w winner, x reject, u unmark, c compare, Esc close" }));
  return panel;
};

const comparing = (index, other) => {
  if (other === null) return el("div", { class: "bar" }, button("Compare with another (c)", () => pin(index), { "data-key": "compare", class: "small" }));
  return el("div", { class: "bar" },
    choice("Compare", LIGHTBOX_MODES, state.mode ?? "side", (mode) => setState({ mode }), { "data-key": "mode" }),
    button("Stop comparing (c)", () => pin(index), { "data-key": "compare", class: "small" }),
  );
};
const pin = (index) => {
  if (state.with) setState({ with: null, mode: null });
  else {
    setState({ with: idOf(index).slice(0, 12) });
    say("This image stays; go to another one");
  }
};

const imagesOf = (views, cell) => {
  const bar = el("div", { class: "bar" });
  cell.files.forEach((file, place) => {
    const open = el("a", { href: pathOf(file), target: "_blank", rel: "noopener", text: cell.files.length > 1 ? `File ${place + 1}` : "Open the file", class: "small" });
    if (cell.files.length > 1) bar.append(button(`Image ${place + 1}`, () => { lightboxNow.image = place; followLightbox(views); }, { "aria-pressed": String(lightboxNow.image === place), "data-key": `image ${place}`, class: "small" }));
    bar.append(open);
  });
  return bar;
};

const MOMENTS = ["created_at", "submitted_at", "completed_at", "outputs_expire_at"];
const COPIED = ["cell_id", "prediction_id", "result_url", "outputs", "files", "sha256", "seed", "error"];

const tableOf = (cell) => {
  const body = el("tbody");
  for (const [name, value] of Object.entries(cell)) {
    if (name === "index" || name === "prompt_id" || value === null || (Array.isArray(value) && !value.length)) continue;
    let said = typeof value === "object" ? JSON.stringify(value) : String(value);
    if (Array.isArray(value) && value.every((item) => typeof item !== "object")) said = value.join("\n");
    const copied = said;
    if (MOMENTS.includes(name)) said = moment(value);
    else if (name.endsWith("_ms")) said = milliseconds(value);
    else if (name === "cost_usd") said = `${dollars(value)}${run.rehearsal ? " of play money" : ""}`;
    body.append(el("tr", {}, el("th", { scope: "row", text: name }), el("td", {}, words(said)), el("td", {}, COPIED.includes(name) ? button("Copy", () => copy(copied), { class: "small", "aria-label": `Copy ${name}`, "data-key": `copy ${name}` }) : null)));
  }
  return el("table", { class: "facts" }, body);
};

const startLightbox = (views) => {
  const dialog = byId("lightbox");
  dialog.addEventListener("cancel", (event) => {
    event.preventDefault();
    closeLightbox();
  });
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog || event.target.classList.contains("stage")) closeLightbox();
  });
  dialog.addEventListener("keydown", (event) => {
    if (!lightboxNow || event.ctrlKey || event.metaKey || event.altKey || ["SELECT", "INPUT"].includes(event.target.tagName)) return;
    const { index } = lightboxNow;
    const to = { ArrowLeft: () => goTo(stepsOf(views).step(index, -1)), ArrowRight: () => goTo(stepsOf(views).step(index, 1)), ArrowUp: () => goTo(neighbourRow(index, -1)), ArrowDown: () => goTo(neighbourRow(index, 1)), c: () => pin(index) }[event.key];
    if (event.key in MARK_KEYS) markCell(index, MARK_KEYS[event.key]);
    else if (to) to();
    else return;
    event.preventDefault();
  });
  onMarks((index) => {
    if (lightboxNow?.index !== index) return;
    for (const mark of ["winner", "reject"]) dialog.querySelector(`[data-key="${mark}"]`)?.setAttribute("aria-pressed", String(marks.get(index) === mark));
  });
};
