// A drawing and one photo beside each other, with points of one found in the other.

import * as server from "./server.js";

const COLOURS = ["#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"];
const MAX_POINTS = 16;
const GRID = 3;
const SVG = "http://www.w3.org/2000/svg";

const at = (id) => document.getElementById(id);

export class Pair {
  constructor(onError) {
    this.onError = onError;
    this.file = null;
    this.size = null;
    this.hit = null;
    this.points = []; // Pixels [x, y] of the file.
    at("own-points").addEventListener("click", (event) => this.#add(event));
    at("forget").addEventListener("click", () => this.#find([]));
    at("spread").addEventListener("click", () => this.#find([], GRID));
  }

  get shown() {
    return this.hit !== null;
  }

  // `size` is the width and height in pixels that the server sees in the file.
  show(file, size, hit) {
    this.hit = hit;
    at("pair-name").textContent = hit.id;
    at("photo").src = server.photo(hit.sha256, 1024);
    this.redraw(file, size, []);
  }

  hide() {
    this.hit = null;
  }

  // Another drawing: the same places in it are looked for again.
  redraw(file, size, points = this.points) {
    if (this.file) URL.revokeObjectURL(at("own").src);
    this.file = file;
    this.size = size;
    at("own").src = URL.createObjectURL(file);
    return this.#find(points);
  }

  #add(event) {
    const box = at("own").getBoundingClientRect();
    const { width, height } = this.size;
    const x = Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1) * width;
    const y = Math.min(Math.max((event.clientY - box.top) / box.height, 0), 1) * height;
    this.#find([...this.points, [x, y]].slice(-MAX_POINTS));
  }

  async #find(points, grid) {
    this.points = points;
    at("forget").disabled = points.length === 0;
    if (points.length === 0 && !grid) return this.#mark([], null);
    const asked = this.hit;
    try {
      const found = await server.match(this.file, asked.sha256, points, grid);
      if (this.hit !== asked || this.points !== points) return; // Something newer was asked.
      this.points = found.points.map((point) => point.sketch);
      at("forget").disabled = false;
      this.#mark(found.points, found.photo);
    } catch (error) {
      this.onError(error);
    }
  }

  #mark(points, photo) {
    dots(at("own-points"), points.map((point) => point.sketch), this.size);
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
function dots(svg, points, size) {
  if (size) svg.setAttribute("viewBox", `0 0 ${size.width} ${size.height}`);
  const radius = size ? Math.max(size.width, size.height) / 42 : 1;
  svg.replaceChildren(
    ...points.map(([x, y], n) => {
      const group = element("g");
      group.append(
        element("circle", {
          cx: x, cy: y, r: radius, fill: COLOURS[n % COLOURS.length],
          stroke: "#fff", "stroke-width": radius / 4,
        }),
        element("text", {
          x, y: y + radius * 0.42, fill: "#fff", "font-size": radius * 1.2,
          "font-weight": 700, "text-anchor": "middle", "font-family": "sans-serif",
        }, `${n + 1}`),
      );
      return group;
    }),
  );
}

function swatch(n) {
  const svg = element("svg", { viewBox: "0 0 10 10", class: "dot" });
  svg.append(element("circle", { cx: 5, cy: 5, r: 5, fill: COLOURS[n % COLOURS.length] }));
  return svg;
}

function element(name, attributes = {}, text = "") {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
}
