// One cell as a tile: its image, or what became of it instead, in words.

// A kind of error may be broken after its underscores.
const breakable = (text) => text.split(/(?<=_)/).flatMap((part) => [part, el("wbr")]);

const tileWords = (index) => {
  const status = STATUSES[run.status[index]];
  if (run.status[index] === EXCLUDED) return ["left out", ""];
  const reason = run.reasons[run.reason[index]];
  const kind = run.kinds[run.kind[index]];
  if (status === "completed") return [run.files[index] ? "" : "no image on disk", kind ? `${kind}: ${reason}` : ""];
  if (status === "failed") return [kind || "failed", reason];
  return [WAITS[status], [kind, reason].filter(Boolean).join(": ")];
};

// An image that can't be shown as a thumbnail is shown as itself, once its cell's details are there.
const imageOf = (index, alt) => {
  const image = el("img", { alt, decoding: "async", draggable: "false" });
  const small = thumbnailOf(index);
  const whole = async () => {
    const cell = await detailsOf(index);
    if (cell?.files.length) image.src = pathOf(cell.files[0]);
  };
  if (small) {
    image.addEventListener("error", whole, { once: true });
    image.src = small;
  } else whole();
  return image;
};

const pathOf = (file) => file.split("/").map(encodeURIComponent).join("/");

const buildTile = (index, properties = {}) => {
  const status = run.status[index] === EXCLUDED ? "excluded" : STATUSES[run.status[index]];
  const label = cellWords(index);
  const tile = el("div", { class: `tile ${status}`, tabindex: "-1", "data-index": index, title: label, "aria-label": label, ...properties });
  if (status === "completed" && run.files[index]) tile.append(imageOf(index, ""));
  else {
    const [what, why] = tileWords(index);
    tile.append(el("div", { class: "said" }, el("strong", {}, ...breakable(what)), why ? words(why) : null));
  }
  const flags = el("div", { class: "flags" });
  if (run.nsfw[index] === 1) flags.append(el("span", { class: "flag", text: "NSFW" }));
  if (run.warned[index]) flags.append(el("span", { class: "flag", text: "warning" }));
  if (run.files[index] > 1) flags.append(el("span", { class: "flag", text: `1 of ${run.files[index]}` }));
  if (flags.childNodes.length) tile.append(flags);
  showMark(tile, index);
  return tile;
};

const showMark = (tile, index) => {
  const mark = marks.get(index);
  tile.querySelector(".mark")?.remove();
  tile.classList.toggle("winner", mark === "winner");
  tile.classList.toggle("reject", mark === "reject");
  if (mark) tile.append(el("span", { class: `mark ${mark}`, text: MARKS[mark], role: "img", "aria-label": mark }));
};

onMarks((index) => {
  for (const tile of document.querySelectorAll(`.tile[data-index="${index}"]`)) showMark(tile, index);
});

// Keys and clicks on any tiles: arrows walk by `move(index, key)`, which gives the index to go to, or null.
const handleTiles = (scroller, { move, show }) => {
  const focusTile = (index) => {
    show(index);
    const tile = scroller.querySelector(`.tile[data-index="${index}"]`);
    for (const other of scroller.querySelectorAll('.tile[tabindex="0"]')) other.tabIndex = -1;
    if (!tile) return;
    tile.tabIndex = 0;
    tile.focus({ preventScroll: true });
  };
  scroller.addEventListener("click", (event) => {
    const tile = event.target.closest(".tile");
    if (tile && run.status[tile.dataset.index] !== EXCLUDED) openLightbox(Number(tile.dataset.index));
  });
  scroller.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    let tile = event.target.closest(".tile");
    if (!tile && event.target === scroller && event.key.startsWith("Arrow")) {
      tile = scroller.querySelector(".tile");
      if (tile) {
        event.preventDefault();
        focusTile(Number(tile.dataset.index));
      }
      return;
    }
    if (!tile) return;
    const index = Number(tile.dataset.index);
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      if (run.status[index] !== EXCLUDED) openLightbox(index);
    } else if (event.key in MARK_KEYS) markCell(index, MARK_KEYS[event.key]);
    else if (/^(Arrow|Home$|End$|Page)/.test(event.key)) {
      const next = move(index, event.key);
      event.preventDefault();
      if (next !== null) focusTile(next);
    }
  });
  return focusTile;
};
