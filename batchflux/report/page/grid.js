// The grid: prompts down, one axis across, another nested within it, the rest held still by sliders.

const GRID = { sizes: [72, 360], size: 150, fitted: [110, 230], gap: 6 };

// A size that the user has chosen, else `usual`, within bounds.
const sizeOr = (usual) => Math.min(GRID.sizes[1], Math.max(GRID.sizes[0], Number(state.size) || usual));
const MOST_COLUMNS_AT_FIRST = 12;

const narrow = window.matchMedia("(max-width: 640px)");

const gridView = (panel) => {
  const controls = el("div", { class: "controls" });
  const head = el("div", { class: "gridhead", role: "rowgroup" });
  const canvas = el("div", { class: "canvas", role: "rowgroup" });
  const scroller = el("div", { class: "scroller", tabindex: "0", role: "grid", "aria-label": "Cells: prompts down, axis across" }, head, canvas);
  panel.append(controls, scroller);
  let plan = null;
  let columnsInSight = [0, 0];

  const first = run.axes.find((axis) => axis.name !== "seed" && axis.words.length > 1) ?? run.axes[0];
  const second = run.axes.find((axis) => axis !== first && first && axis.words.length * first.words.length <= MOST_COLUMNS_AT_FIRST);

  // Which axis has which part in it, as the address says.
  const readPlan = () => {
    const across = axisNamed(state.across) ?? first ?? null;
    const wanted = state.nest === "-" ? null : (axisNamed(state.nest) ?? (state.across ? null : second) ?? null);
    const nest = wanted === across ? null : wanted;
    const still = run.axes.filter((axis) => axis !== across && axis !== nest);
    const offset = still.reduce((sum, axis) => sum + axis.stride * placeOf(axis), 0);
    const outer = across ? across.words.map((_, place) => place) : [0];
    const inner = nest ? nest.words.map((_, place) => place) : [0];
    const columns = outer.flatMap((place) =>
      inner.map((other) => offset + (across ? place * across.stride : 0) + (nest ? other * nest.stride : 0)),
    );
    const label = narrow.matches ? 0 : 230;
    // Few columns fill the window's width.
    const fitting = Math.floor((scroller.clientWidth - label - 16) / columns.length) - GRID.gap;
    const size = sizeOr(narrow.matches ? GRID.fitted[0] : Math.min(GRID.fitted[1], Math.max(GRID.fitted[0], fitting)));
    const height = Math.round(size / run.aspect) + GRID.gap + (narrow.matches ? 40 : 0);
    return { across, nest, still, columns, inner: inner.length, size, label, height };
  };
  const placeOf = (axis) => Math.max(0, axis.words.indexOf(state[`at.${axis.name}`]));

  const drawControls = () => {
    const names = run.axes.map((axis) => [axis.name, axis.name]);
    const size = el("input", { type: "range", min: GRID.sizes[0], max: GRID.sizes[1], step: 2, value: plan.size, "aria-label": "Image size", oninput: () => setState({ size: size.value }) });
    const nodes = [];
    if (plan.across) nodes.push(choice("Across", names, plan.across.name, (across) => setState({ across, nest: across === plan.nest?.name ? plan.across.name : (plan.nest?.name ?? "-") }, { step: true }), { id: "across" }));
    if (run.axes.length > 1) {
      const others = names.filter(([name]) => name !== plan.across.name);
      nodes.push(choice("Within", [["-", "nothing"], ...others], plan.nest?.name ?? "-", (nest) => setState({ nest, across: plan.across.name }, { step: true }), { id: "nest" }));
    }
    for (const axis of plan.still) {
      if (axis.words.length < 2) continue;
      const name = words(axis.words[placeOf(axis)], { class: "value" });
      const slider = el("input", { type: "range", min: 0, max: axis.words.length - 1, value: placeOf(axis), "data-axis": axis.name, "aria-label": axis.name, "aria-valuetext": axis.words[placeOf(axis)] });
      slider.addEventListener("input", () => {
        name.textContent = axis.words[slider.value];
        slider.setAttribute("aria-valuetext", axis.words[slider.value]);
        setState({ [`at.${axis.name}`]: axis.words[slider.value] });
      });
      nodes.push(el("label", { class: "field" }, el("span", { text: axis.name }), slider, name));
    }
    nodes.push(el("label", { class: "field" }, el("span", { text: "Size" }), size));
    controls.replaceChildren(...nodes);
  };

  const drawHead = () => {
    const step = plan.size + GRID.gap;
    const corner = (text) => el("div", { class: "corner", role: "columnheader", style: { width: `${plan.label}px` } }, el("span", text ? { text } : { text: "prompts", class: "unseen" }));
    const names = (axis, width, places) =>
      places.map((place) => el("div", { class: "colhead", role: "columnheader", style: { width: `${width}px` }, title: `${axis.name} ${axis.words[place]}` }, el("span", { class: "axisname", text: axis.name }), words(axis.words[place])));
    const lines = [];
    if (plan.across) lines.push(el("div", { class: "headline", role: "row" }, corner(`${count(run.rows)} prompts`), ...names(plan.across, step * plan.inner, plan.across.words.map((_, place) => place))));
    if (plan.nest) lines.push(el("div", { class: "headline inner", role: "row" }, corner(""), ...plan.across.words.flatMap(() => names(plan.nest, step, plan.nest.words.map((_, place) => place)))));
    head.replaceChildren(...lines);
    const width = plan.label + step * plan.columns.length + GRID.gap;
    head.style.width = `${width}px`;
    canvas.style.width = `${width}px`;
    scroller.setAttribute("aria-rowcount", run.rows);
    scroller.setAttribute("aria-colcount", plan.columns.length);
  };

  // Very many columns are drawn as the rows are: those in sight.
  const findColumns = () => {
    const step = plan.size + GRID.gap;
    const begin = Math.max(0, Math.floor((scroller.scrollLeft - plan.label) / step) - 2);
    const end = Math.min(plan.columns.length, Math.ceil((scroller.scrollLeft + scroller.clientWidth) / step) + 2);
    return plan.columns.length <= 40 ? [0, plan.columns.length] : [begin, end];
  };

  const renderRow = (row) => {
    const [begin, end] = columnsInSight;
    const step = plan.size + GRID.gap;
    const label = el("div", { class: "rowhead", role: "rowheader", style: { width: narrow.matches ? `${Math.min(scroller.clientWidth - 16, 600)}px` : `${plan.label}px` } });
    const showLabel = () => {
      const said = textsNow(row);
      const text = rowLabel(row);
      label.title = text;
      label.replaceChildren(words(said.name, { class: "rowname" }), words(text, { class: "prompt" }));
    };
    if (textsNow(row)) showLabel();
    else textsOf(row).then(showLabel);
    const tiles = el("div", { class: "tiles", style: { "padding-left": `${begin * step}px` } });
    for (let column = begin; column < end; column += 1) {
      const index = row * run.combinations + plan.columns[column];
      tiles.append(buildTile(index, { role: "gridcell", "aria-colindex": column + 1 }));
    }
    return el("div", { class: "gridrow", role: "row", "aria-rowindex": row + 1 }, label, tiles);
  };

  const keepRow = debounced((row) => state.view === undefined && setState({ row: row || null }), 250);
  const rows = new Rows(scroller, canvas, { render: renderRow, onmove: (row) => keepRow(row) });

  const show = (index) => {
    rows.reveal(rowOf(index));
    const step = plan.size + GRID.gap;
    const left = plan.columns.indexOf(index % run.combinations) * step;
    if (left < scroller.scrollLeft) scroller.scrollLeft = left;
    else if (plan.label + left + step > scroller.scrollLeft + scroller.clientWidth) scroller.scrollLeft = plan.label + left + step - scroller.clientWidth;
  };

  const move = (index, key) => {
    const fits = Math.max(1, Math.floor(rows.view / rows.height));
    const steps = { ArrowUp: -1, ArrowDown: 1, PageUp: -fits, PageDown: fits };
    const column = plan.columns.indexOf(index % run.combinations);
    const row = rowOf(index);
    if (key in steps) return Math.min(run.rows - 1, Math.max(0, row + steps[key])) * run.combinations + plan.columns[column];
    const to = { ArrowLeft: column - 1, ArrowRight: column + 1, Home: 0, End: plan.columns.length - 1 }[key];
    return to < 0 || to >= plan.columns.length ? null : row * run.combinations + plan.columns[to];
  };
  const focusTile = handleTiles(scroller, { move, show });

  const draw = ({ keepControls = false } = {}) => {
    const row = plan ? Math.floor(rows.first + 0.01) : Number(state.row) || 0;
    plan = readPlan();
    scroller.style.setProperty("--tile", `${plan.size}px`);
    scroller.style.setProperty("--tileheight", `${Math.round(plan.size / run.aspect)}px`);
    if (!keepControls) drawControls();
    drawHead();
    columnsInSight = findColumns();
    rows.lay({ count: run.rows, height: plan.height, top: head.offsetHeight });
    if (row) rows.reveal(row, { toTop: true });
  };

  scroller.addEventListener("scroll", () => {
    const [begin, end] = findColumns();
    if (begin === columnsInSight[0] && end === columnsInSight[1]) return;
    columnsInSight = [begin, end];
    rows.forget();
  });
  narrow.addEventListener("change", () => plan && draw());

  return {
    draw,
    focusTile,
    update: (before) => {
      const changed = Object.keys({ ...before, ...state }).filter((name) => before[name] !== state[name]);
      const mine = changed.filter((name) => ["across", "nest", "size"].includes(name) || name.startsWith("at."));
      if (mine.length) draw({ keepControls: mine.every((name) => name === "size" || name.startsWith("at.")) && scroller.ownerDocument.activeElement?.type === "range" });
    },
    // The lightbox's arrows go along the axis that is across here.
    axis: () => plan?.nest ?? plan?.across ?? null,
  };
};
