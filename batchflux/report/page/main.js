// Puts the page together: tabs, summary, and the view that the address asks for.

const TABS = [
  ["grid", "Grid", gridView],
  ["gallery", "Gallery", galleryView],
  ["sweep", "Sweep", sweepView],
];
const viewNow = () => (TABS.some(([name]) => name === state.view) ? state.view : "grid");

const showSummary = () => {
  const counts = new Array(256).fill(0);
  for (const status of run.status) counts[status] += 1;
  const parts = [`${count(run.cells - counts[EXCLUDED])} cells`];
  STATUSES.forEach((name, code) => counts[code] && parts.push(`${count(counts[code])} ${name}`));
  parts.push(`${dollars(run.spent)}${run.rehearsal ? " of play money" : ""}`);
  byId("summary").replaceChildren(...parts.map((text) => el("span", { text })));
  byId("summary").title = `This page was made ${moment(run.made)}`;
};

const showPicks = () => {
  const all = [...marks.values()];
  const winners = all.filter((mark) => mark === "winner").length;
  const picks = byId("picks");
  picks.textContent = `★ ${count(winners)}  ✕ ${count(all.length - winners)}`;
  picks.disabled = !all.length && !Object.keys(strangers).length;
  picks.setAttribute("aria-label", `${picks.textContent}: download picks.csv, ${winners} winners, ${all.length - winners} rejects`);
};

const start = async () => {
  showTheme();
  byId("tools").append(
    button("★ 0  ✕ 0", downloadPicks, { id: "picks", title: "Download picks.csv (w marks a winner, x a reject)" }),
    button("◐", turnTheme, { "aria-label": "Light or dark", title: "Light or dark" }),
  );
  try {
    await openRun();
  } catch (error) {
    byId("main").append(el("p", { class: "notice", text: `${error.message}: the folder beside this page must lie where the page lies. batchflux report makes both anew.` }));
    return;
  }
  showSummary();
  const views = {};
  const tablist = document.querySelector(".tabs");
  for (const [name, words_, make] of TABS) {
    const tab = button(words_, () => setState({ view: name === "grid" ? null : name }, { step: true }), { role: "tab", id: `tab-${name}`, "aria-controls": `view-${name}` });
    const panel = el("section", { class: "view", id: `view-${name}`, role: "tabpanel", "aria-labelledby": `tab-${name}`, hidden: true });
    tablist.append(tab);
    byId("main").append(panel);
    views[name] = make(panel);
  }
  tablist.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by) return;
    const place = TABS.findIndex(([name]) => name === viewNow());
    byId(`tab-${TABS.at((place + by) % TABS.length)[0]}`).click();
    byId(`tab-${viewNow()}`).focus();
  });

  const drawn = new Set();
  const showView = () => {
    const now = viewNow();
    for (const [name] of TABS) {
      byId(`view-${name}`).hidden = name !== now;
      const tab = byId(`tab-${name}`);
      tab.setAttribute("aria-selected", String(name === now));
      tab.tabIndex = name === now ? 0 : -1;
    }
    if (!drawn.has(now)) {
      drawn.add(now);
      return views[now].draw();
    }
    return undefined;
  };
  // A view that isn't in sight is drawn anew when it comes into sight: it may have missed what changed.
  onState((_, before) => {
    const now = viewNow();
    if ((before.view ?? "grid") !== now) {
      drawn.delete(now);
      showView();
    } else views[now].update(before);
    if (before.cell !== state.cell || before.with !== state.with || before.mode !== state.mode || before.along !== state.along) followLightbox(views);
  });
  onMarks(showPicks);
  startLightbox(views);
  // The same views of newer data, where they are.
  const refresh = async (folder) => {
    await turnTo(folder);
    await textsOf(Math.min(run.rows - 1, Number(state.row) || 0));
    await openMarks();
    showSummary();
    showPicks();
    drawn.clear();
    await showView();
  };
  await textsOf(Math.min(run.rows - 1, Number(state.row) || 0));
  await showView();
  document.documentElement.dataset.ready = "true";
  await openMarks();
  showPicks();
  for (const tile of document.querySelectorAll(".tile")) showMark(tile, Number(tile.dataset.index));
  if (viewNow() === "gallery" && state.mark) views.gallery.draw();
  if (state.cell) followLightbox(views);
  if (document.documentElement.dataset.live === "true") startNow(refresh);
};

start();
