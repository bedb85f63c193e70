// A drawing and one photo beside each other, with points of one found in the other.

import { at, svg } from "./dom.js";
import * as server from "./server.js";

const COLOURS = ["#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"];
const MAX_POINTS = 16;
const GRID = 3;

export class Pair {
  constructor(onError) {
    this.onError = onError;
    this.sent = null; // {file, frame, size, picture}: what the server was given.
    this.hit = null;
    this.points = []; // [x, y] in shares of the drawing's sides, wherever its frame is.
    this.round = 0; // Answers to an earlier question are not shown any more.
    at("own-points").addEventListener("click", (event) => this.#add(event));
    at("forget").addEventListener("click", () => this.#find([]));
    at("spread").addEventListener("click", () => this.#find([], GRID));
  }

  get shown() {
    return this.hit !== null;
  }

  // `sent.size` is the width and height in pixels that the server sees in the file.
  show(sent, hit) {
    this.hit = hit;
    this.points = [];
    at("pair-name").textContent = hit.id;
    at("photo").src = server.photo(hit.sha256, 1024);
    this.redraw(sent);
  }

  hide() {
    this.hit = null;
    this.round += 1;
  }

  // Another drawing: the same places of it are looked for again; those of a picture are its own.
  redraw(sent) {
    if (this.sent) URL.revokeObjectURL(at("own").src);
    if (this.sent && this.sent.picture !== sent.picture) this.points = [];
    this.sent = sent;
    at("own").src = URL.createObjectURL(sent.file);
    at("own").style.aspectRatio = `${sent.size.width} / ${sent.size.height}`;
    return this.#find(this.points);
  }

  #add(event) {
    const box = at("own").getBoundingClientRect();
    const { frame } = this.sent;
    const x = Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1);
    const y = Math.min(Math.max((event.clientY - box.top) / box.height, 0), 1);
    const point = [(x - frame.x) / frame.scale, (y - frame.y) / frame.scale];
    this.#find([...this.points, point].slice(-MAX_POINTS));
  }

  async #find(points, grid) {
    const mine = ++this.round;
    const { file, frame, size } = this.sent;
    const pixels = points
      .map(([x, y]) => [(x * frame.scale + frame.x) * size.width, (y * frame.scale + frame.y) * size.height])
      .filter(([x, y]) => 0 <= x && x <= size.width && 0 <= y && y <= size.height);
    this.points = points;
    at("forget").disabled = points.length === 0;
    if (pixels.length === 0 && !grid) return this.#mark([], null);
    try {
      const found = await server.match(file, this.hit.sha256, pixels, grid);
      if (mine !== this.round) return;
      if (grid) {
        this.points = found.points.map(({ sketch: [x, y] }) => [
          (x / size.width - frame.x) / frame.scale,
          (y / size.height - frame.y) / frame.scale,
        ]);
      }
      at("forget").disabled = false;
      this.#mark(found.points, found.photo);
    } catch (error) {
      if (mine !== this.round) return;
      this.#mark([], null);
      this.onError(error);
    }
  }

  #mark(points, photo) {
    dots(at("own-points"), points.map((point) => point.sketch), this.sent.size);
    dots(at("photo-points"), points.map((point) => point.photo), photo);
    at("points").hidden = points.length === 0;
    const rows = points.map((point, n) => {
      const row = document.createElement("tr");
      const [name, ...numbers] = [0, 1, 2, 3].map(() => row.insertCell());
      name.append(swatch(n), `${n + 1}`);
      numbers[0].textContent = point.sketch.map((v) => v.toFixed(0)).join(", ");
      numbers[1].textContent = point.photo.map((v) => v.toFixed(0)).join(", ");
      numbers[2].textContent = point.similarity.toFixed(3);
      return row;
    });
    at("points").tBodies[0].replaceChildren(...rows);
  }
}

// Numbered points over a picture of `size` pixels.
function dots(over, points, size) {
  if (size) over.setAttribute("viewBox", `0 0 ${size.width} ${size.height}`);
  const radius = size ? Math.max(size.width, size.height) / 42 : 1;
  over.replaceChildren(
    ...points.map(([x, y], n) => {
      const group = svg("g");
      group.append(
        svg("circle", {
          cx: x, cy: y, r: radius, fill: COLOURS[n % COLOURS.length],
          stroke: "#fff", "stroke-width": radius / 4,
        }),
        svg("text", {
          x, y: y + radius * 0.42, fill: "#fff", "font-size": radius * 1.2,
          "font-weight": 700, "text-anchor": "middle", "font-family": "sans-serif",
        }, `${n + 1}`),
      );
      return group;
    }),
  );
}

function swatch(n) {
  const dot = svg("svg", { viewBox: "0 0 10 10", class: "dot" });
  dot.append(svg("circle", { cx: 5, cy: 5, r: 5, fill: COLOURS[n % COLOURS.length] }));
  return dot;
}
