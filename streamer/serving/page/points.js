/** The points of the map, and which of them is near a place. */

const CELLS = 128; // a side; 50,000 points are three a cell
const HEADER_BYTES = 8;
export const UNLABELLED = 65535;

/** Points as the server sends them, sorted into the cells of a grid over [-1, 1] x [-1, 1]. */
export class Points {
  #ids;
  #idsFrom;

  /** Read the answer of /api/map: uint32 n and label count, then n ids less `idsFrom`, n x, n y, n label numbers. */
  constructor(bytes, idsFrom = 0) {
    const [n, labelCount] = new Uint32Array(bytes, 0, 2);
    this.count = n;
    this.labelCount = labelCount;
    this.#ids = new Uint32Array(bytes, HEADER_BYTES, n);
    this.#idsFrom = idsFrom;
    this.x = new Float32Array(bytes, HEADER_BYTES + 4 * n, n);
    this.y = new Float32Array(bytes, HEADER_BYTES + 8 * n, n);
    this.labels = new Uint16Array(bytes, HEADER_BYTES + 12 * n, n);
    this.order = shuffled(n);
    this.#sort();
  }

  /** The id of a point's photo. */
  id(point) {
    return this.#idsFrom + this.#ids[point];
  }

  /** The nearest point for which `wanted(point)` holds within an ellipse of these radii, or -1. */
  nearest([x, y], [across, down], wanted = () => true) {
    let [best, bestSquare] = [-1, 1];
    const [left, right, last] = [cell(x - across), cell(x + across), cell(y + down)];
    for (let row = cell(y - down); row <= last; row++) {
      const end = this.starts[row * CELLS + right + 1];
      for (let place = this.starts[row * CELLS + left]; place < end; place++) {
        const point = this.sorted[place];
        const square = ((this.x[point] - x) / across) ** 2 + ((this.y[point] - y) / down) ** 2;
        if (square < bestSquare && wanted(point)) [best, bestSquare] = [point, square];
      }
    }
    return best;
  }

  /** How many points have each label: the last of the labelCount + 1 numbers is of those without one. */
  perLabel() {
    const totals = new Uint32Array(this.labelCount + 1);
    for (const label of this.labels) totals[Math.min(label, this.labelCount)]++;
    return totals;
  }

  /** A counting sort: the points of a row's neighbouring cells lie side by side in `sorted`. */
  #sort() {
    const cells = new Uint16Array(this.count);
    this.starts = new Uint32Array(CELLS * CELLS + 1);
    for (let point = 0; point < this.count; point++) {
      cells[point] = cell(this.y[point]) * CELLS + cell(this.x[point]);
      this.starts[cells[point] + 1]++;
    }
    for (let place = 0; place < CELLS * CELLS; place++) this.starts[place + 1] += this.starts[place];
    this.sorted = new Uint32Array(this.count);
    const next = this.starts.slice();
    for (let point = 0; point < this.count; point++) this.sorted[next[cells[point]]++] = point;
  }
}

function cell(coordinate) {
  return Math.min(CELLS - 1, Math.max(0, Math.floor(((coordinate + 1) / 2) * CELLS)));
}

/** The order of drawing: by chance, the same each time, so that no label lies on top of the others. */
function shuffled(n) {
  const order = Uint32Array.from({ length: n }, (_, point) => point);
  let state = 1;
  for (let place = n - 1; place > 0; place--) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    const other = Math.floor((state / 2 ** 32) * (place + 1));
    [order[place], order[other]] = [order[other], order[place]];
  }
  return order;
}
