// Shows the rows of a long list that are in sight, and no others. Rows are of one height.

// Browsers place nothing reliably beyond some ten million pixels: a longer list is scrolled in proportion.
const MOST_PIXELS = 8e6;
const SPARE_ROWS = 2;

class Rows {
  // `render(row)` makes a row's element; `onmove(first)` hears which row is the first in sight.
  constructor(scroller, canvas, { render, onmove }) {
    Object.assign(this, { scroller, canvas, render, onmove, count: 0, height: 1, top: 0, shown: new Map() });
    scroller.addEventListener("scroll", () => this.draw(), { passive: true });
    new ResizeObserver(() => this.draw()).observe(scroller);
  }

  // `top` are the pixels above the first row that scroll with the list.
  lay({ count: rows, height, top = 0 }) {
    Object.assign(this, { count: rows, height, top });
    this.isWhole = rows * height <= MOST_PIXELS;
    this.canvas.style.height = `${Math.min(rows * height, MOST_PIXELS)}px`;
    this.forget();
  }

  forget() {
    for (const node of this.shown.values()) node.remove();
    this.shown.clear();
    this.draw();
  }

  get view() {
    return Math.max(1, this.scroller.clientHeight - this.top);
  }

  // The first row in sight, with its fraction.
  get first() {
    if (this.isWhole) return this.scroller.scrollTop / this.height;
    const share = this.scroller.scrollTop / Math.max(1, MOST_PIXELS - this.view);
    return Math.min(1, share) * (this.count - this.view / this.height);
  }

  draw() {
    const first = Math.max(0, this.first);
    const begin = Math.max(0, Math.floor(first) - SPARE_ROWS);
    const end = Math.min(this.count, Math.ceil(first + this.view / this.height) + SPARE_ROWS);
    for (const [row, node] of this.shown) {
      if (row >= begin && row < end) continue;
      if (node.contains(document.activeElement)) this.scroller.focus({ preventScroll: true });
      node.remove();
      this.shown.delete(row);
    }
    for (let row = begin; row < end; row += 1) {
      let node = this.shown.get(row);
      if (!node) {
        node = this.render(row);
        this.shown.set(row, node);
        this.canvas.append(node);
        node.style.height = `${this.height}px`;
        node.style.top = `${row * this.height}px`;
      }
      if (!this.isWhole) node.style.top = `${(row - first) * this.height + this.scroller.scrollTop}px`;
    }
    this.onmove?.(Math.floor(first + 0.01));
  }

  // Bring a row into sight: to the top, or only as far as needed.
  reveal(row, { toTop = false } = {}) {
    const first = this.first;
    const fits = Math.max(1, this.view / this.height);
    let wanted = first;
    if (toTop || row < first) wanted = row;
    else if (row + 1 > first + fits) wanted = row + 1 - fits;
    if (wanted === first && !toTop) return;
    const share = wanted / Math.max(1e-9, this.count - this.view / this.height);
    this.scroller.scrollTop = this.isWhole ? wanted * this.height : share * (MOST_PIXELS - this.view);
    this.draw();
  }
}
