// The gallery: any cells, found by words and filters, in any order.

const galleryView = (panel) => {
  const controls = el("div", { class: "controls" });
  const found = el("p", { class: "found", role: "status", "aria-live": "polite" });
  const canvas = el("div", { class: "canvas" });
  const scroller = el("div", { class: "scroller", tabindex: "0", role: "list", "aria-label": "Cells found" }, canvas);
  panel.append(controls, found, scroller);
  let list = new Uint32Array(0);
  let columns = 1;
  let places = null; // index → place in the list, made when an arrow asks for it

  // The place of each value among the others: by number where all are numbers, else as they are listed.
  const orderOf = (values) => {
    const numbers = values.map(Number);
    return numbers.every((value) => Number.isFinite(value)) ? numbers.map((value) => numbers.filter((other) => other < value).length) : values.map((_, place) => place);
  };

  const sorts = () => [
    ["", "in the grid's order"],
    ["completed", "by completion"],
    ["inference", "by inference time"],
    ["latency", "by latency"],
    ...run.axes.map((axis) => [`axis.${axis.name}`, `by ${axis.name}`]),
    ...Object.keys(run.choices).map((name) => [`row.${name}`, `by ${name}`]),
  ];

  // What each cell is sorted by; cells that have none come last whichever way.
  const sortValue = (name) => {
    if (name in { completed: 1, inference: 1, latency: 1 }) return (index) => run[name][index];
    const said = name.startsWith("row.") ? run.choices[name.slice(4)] : null;
    if (said) {
      const order = [-1, ...orderOf(said.words.slice(1))];
      return (index) => order[said.codes[index]];
    }
    const axis = axisNamed(name.slice(5));
    if (!axis) return null;
    const order = orderOf(axis.words);
    return (index) => order[placeOn(axis, index)];
  };

  const tests = () => {
    const wanted = [];
    for (const axis of run.axes) {
      const place = axis.words.indexOf(state[`is.${axis.name}`]);
      if (place >= 0) wanted.push((index) => placeOn(axis, index) === place);
    }
    for (const [name, said] of Object.entries(run.choices)) {
      const code = said.words.indexOf(state[`is.${name}`]);
      if (code > 0) wanted.push((index) => said.codes[index] === code);
    }
    const status = STATUSES.indexOf(state.status);
    if (status >= 0) wanted.push((index) => run.status[index] === status);
    const kind = state.kind ? run.kinds.indexOf(state.kind) : 0;
    if (kind > 0) wanted.push((index) => run.kind[index] === kind);
    if (state.nsfw) wanted.push((index) => (run.nsfw[index] === 1) === (state.nsfw === "yes"));
    if (state.warned) wanted.push((index) => Boolean(run.warned[index]) === (state.warned === "yes"));
    if (state.mark) wanted.push((index) => (marks.get(index) ?? "none") === state.mark);
    return wanted;
  };

  // Every word of the search must be in a cell's prompt or its row's name.
  const wordTest = () => {
    const wanted = (state.q ?? "").toLowerCase().split(/\s+/).filter(Boolean);
    if (!wanted.length) return null;
    const seen = new Map();
    const holds = (text) => wanted.every((word) => text.includes(word));
    return (index) => {
      const row = rowOf(index);
      const word = run.wordOf[index % run.combinations];
      const key = row * 65536 + word;
      if (!seen.has(key)) {
        const said = textsNow(row);
        seen.set(key, holds(`${said?.name ?? ""} ${said?.prompts[word] ?? ""}`.toLowerCase()));
      }
      return seen.get(key);
    };
  };

  let asked = 0;
  const find = async ({ anew = false } = {}) => {
    const mine = (asked += 1);
    if (state.q) {
      await allTexts((done, all) => done < all && mine === asked && (found.textContent = `Loading prompts: ${done} of ${all}`));
      if (mine !== asked) return;
    }
    const all = tests();
    const byWords = wordTest();
    if (byWords) all.push(byWords);
    const some = [];
    for (let index = 0; index < run.cells; index += 1) {
      if (run.status[index] !== EXCLUDED && all.every((test) => test(index))) some.push(index);
    }
    const value = state.sort ? sortValue(state.sort) : null;
    if (value) {
      const sign = state.down === "1" ? -1 : 1;
      some.sort((a, b) => {
        const left = value(a);
        const right = value(b);
        if (left < 0 || right < 0) return (left < 0) - (right < 0) || a - b;
        return sign * (left - right) || a - b;
      });
    } else if (state.down === "1") some.reverse();
    list = Uint32Array.from(some);
    places = null;
    found.textContent = `${count(list.length)} of ${count(total())} cells`;
    if (anew) scroller.scrollTop = 0;
    lay();
  };
  const total = () => run.status.reduce((sum, status) => sum + (status !== EXCLUDED), 0);

  const any = (options) => [["", "any"], ...options];
  const pick = (name) => (value) => setState({ [name]: value }, { step: true });

  const drawControls = () => {
    const search = el("input", { type: "search", value: state.q ?? "", placeholder: "words of the prompt", "aria-label": "Search in prompts", id: "search", oninput: debounced(() => setState({ q: search.value }), 150) });
    const size = el("input", { type: "range", min: GRID.sizes[0], max: GRID.sizes[1], step: 2, value: sizeNow(), "aria-label": "Image size", oninput: () => setState({ size: size.value }) });
    const turn = button(state.down === "1" ? "↓" : "↑", () => setState({ down: state.down === "1" ? null : "1" }, { step: true }), { "aria-label": "Turn the order", title: "Turn the order", class: "small" });
    const present = (code) => run.status.includes(code);
    const filters = [
      choice("Status", any(STATUSES.filter((_, code) => present(code)).map((name) => [name, name])), state.status ?? "", pick("status"), { id: "status" }),
      ...run.axes.filter((axis) => axis.words.length > 1).map((axis) => choice(axis.name, any(axis.words.map((value) => [value, value])), state[`is.${axis.name}`] ?? "", pick(`is.${axis.name}`), { "data-filter": axis.name })),
      ...Object.entries(run.choices).map(([name, said]) => choice(name, any(said.words.slice(1).map((value) => [value, value])), state[`is.${name}`] ?? "", pick(`is.${name}`), { "data-filter": name })),
    ];
    if (run.kinds.length > 1) filters.push(choice("Error", any(run.kinds.slice(1).map((name) => [name, name])), state.kind ?? "", pick("kind"), { id: "kind" }));
    filters.push(
      choice("NSFW", any([["yes", "flagged"], ["no", "not flagged"]]), state.nsfw ?? "", pick("nsfw"), { id: "nsfw" }),
      choice("Warning", any([["yes", "with one"], ["no", "without"]]), state.warned ?? "", pick("warned"), { id: "warned" }),
      choice("Mark", any([["winner", "winners"], ["reject", "rejects"], ["none", "unmarked"]]), state.mark ?? "", pick("mark"), { id: "mark" }),
    );
    const set = Object.keys(state).filter((name) => name.startsWith("is.") || ["status", "kind", "nsfw", "warned", "mark"].includes(name));
    const more = el("details", { class: "filters", open: !narrow.matches || set.length > 0 }, el("summary", { text: set.length ? `Filters (${set.length})` : "Filters" }), el("div", { class: "controls" }, ...filters));
    const clear = set.length || state.q ? button("Clear", () => setState(Object.fromEntries([...set, "q"].map((name) => [name, null])), { step: true }), { class: "small" }) : null;
    const sort = choice("Sort", sorts(), state.sort ?? "", pick("sort"), { id: "sort" });
    controls.replaceChildren(el("label", { class: "field grow" }, el("span", { class: "unseen", text: "Search" }), search), sort, turn, el("label", { class: "field" }, el("span", { text: "Size" }), size), ...(clear ? [clear] : []), more);
  };

  const sizeNow = () => sizeOr(narrow.matches ? 110 : GRID.size + 30);

  const lay = () => {
    // As many as fit at that size, then a little larger, so that they fill the width.
    const width = scroller.clientWidth - (narrow.matches ? 16 : 32);
    columns = Math.max(1, Math.floor((width + GRID.gap) / (sizeNow() + GRID.gap)));
    const size = Math.floor((width + GRID.gap) / columns) - GRID.gap;
    scroller.style.setProperty("--tile", `${size}px`);
    scroller.style.setProperty("--tileheight", `${Math.round(size / run.aspect)}px`);
    rows.lay({ count: Math.ceil(list.length / columns), height: Math.round(size / run.aspect) + 44 });
  };

  const renderRow = (row) => {
    const line = el("div", { class: "galleryrow", role: "presentation" });
    for (const index of list.subarray(row * columns, (row + 1) * columns)) {
      const caption = el("div", { class: "caption" });
      const showCaption = () => caption.replaceChildren(words(promptNow(index), { class: "prompt" }), words(captionOf(index), { class: "facts" }));
      if (textsNow(rowOf(index))) showCaption();
      else textsOf(rowOf(index)).then(showCaption);
      line.append(el("div", { class: "framed", role: "listitem" }, buildTile(index, { role: "button" }), caption));
    }
    return line;
  };
  // A long value leaves room for the others; the tile's own title has it whole.
  const brief = (text) => (text.length > 12 ? `${[...text].slice(0, 11).join("")}…` : text);
  const captionOf = (index) => {
    const time = run.inference[index] >= 0 ? [milliseconds(run.inference[index])] : [];
    return [...run.axes.map((axis) => brief(axis.words[placeOn(axis, index)])), ...time].join(" · ");
  };

  const rows = new Rows(scroller, canvas, { render: renderRow });
  const placeIn = (index) => {
    places ??= new Map(Array.from(list, (other, place) => [other, place]));
    return places.get(index) ?? -1;
  };
  const at = (place) => (place >= 0 && place < list.length ? list[place] : null);

  const move = (index, key) => {
    const fits = Math.max(1, Math.floor(rows.view / rows.height)) * columns;
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, PageUp: -fits, PageDown: fits };
    if (key === "Home") return at(0);
    if (key === "End") return at(list.length - 1);
    return at(placeIn(index) + steps[key]);
  };
  const focusTile = handleTiles(scroller, { move, show: (index) => rows.reveal(Math.floor(placeIn(index) / columns)) });

  let width = 0;
  new ResizeObserver(() => {
    if (scroller.clientWidth && scroller.clientWidth !== width) {
      width = scroller.clientWidth;
      lay();
    }
  }).observe(scroller);

  return {
    draw: () => {
      drawControls();
      return find();
    },
    focusTile,
    // The cell that comes so many places after another one here, or null.
    beside: (index, by) => (placeIn(index) < 0 ? null : at(placeIn(index) + by)),
    update: (before) => {
      const changed = Object.keys({ ...before, ...state }).filter((name) => before[name] !== state[name]);
      if (changed.some((name) => name.startsWith("is.") || ["status", "kind", "nsfw", "warned", "mark", "sort", "down", "q"].includes(name))) {
        if (document.activeElement?.id !== "search") {
          const held = document.activeElement?.id;
          drawControls();
          if (held) byId(held)?.focus();
        }
        find({ anew: true });
      } else if (changed.includes("size")) lay();
    },
  };
};
