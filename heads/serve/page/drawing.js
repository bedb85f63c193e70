// The drawing: strokes on a square of side 1, and how they become a picture.

export const SIDE = 512; // Pixels of the picture that is sent; stroke widths are in these.
const MARGIN = 0.1; // Of the frame, around a drawing that fills it.
const MAX_SCALE = 4;
const WHOLE = { scale: 1, x: 0, y: 0 };

export class Drawing {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.strokes = []; // {width, points: [[x, y], ...]}
    this.picture = null; // {file, image}: a picture in place of the strokes.
    this.past = []; // What undo goes back to, each {strokes, picture}.
    this.future = []; // What redo brings again.
  }

  get empty() {
    return this.picture === null && this.strokes.length === 0;
  }

  begin(point, width) {
    this.#keep();
    this.strokes = [...this.strokes, { width, points: [point] }];
    this.draw();
  }

  extend(points) {
    const stroke = this.strokes.at(-1).points;
    for (const point of points) {
      const [x, y] = stroke.at(-1);
      if (point[0] !== x || point[1] !== y) stroke.push(point);
    }
    this.draw();
  }

  clear() {
    if (this.empty) return;
    this.#keep();
    this.strokes = [];
    this.picture = null;
    this.draw();
  }

  show(file, image) {
    this.#keep();
    this.strokes = [];
    this.picture = { file, image };
    this.draw();
  }

  undo() {
    this.#step(this.past, this.future);
  }

  redo() {
    this.#step(this.future, this.past);
  }

  draw() {
    const { canvas, context } = this;
    context.fillStyle = "#fff";
    context.fillRect(0, 0, canvas.width, canvas.height);
    if (this.picture) {
      const { image } = this.picture;
      const scale = Math.min(canvas.width / image.width, canvas.height / image.height);
      const [w, h] = [image.width * scale, image.height * scale];
      context.drawImage(image, (canvas.width - w) / 2, (canvas.height - h) / 2, w, h);
    } else {
      paint(context, this.strokes, canvas.width, WHOLE);
    }
  }

  // The picture to send, {file, frame}: a dropped file as it is, or the strokes as a PNG. What lies at
  // (x, y) of the drawing, in shares of its sides, lies at (x * scale + frame.x, ...) of the file.
  async sent(fill) {
    if (this.picture) return { file: this.picture.file, frame: WHOLE };
    const frame = fill ? filling(this.strokes) : WHOLE;
    const sheet = document.createElement("canvas");
    sheet.width = sheet.height = SIDE;
    const context = sheet.getContext("2d");
    context.fillStyle = "#fff";
    context.fillRect(0, 0, SIDE, SIDE);
    paint(context, this.strokes, SIDE, frame);
    return { file: await new Promise((resolve) => sheet.toBlob(resolve, "image/png")), frame };
  }

  #keep() {
    this.past.push({ strokes: this.strokes, picture: this.picture });
    this.future = [];
  }

  #step(from, to) {
    const state = from.pop();
    if (state === undefined) return;
    to.push({ strokes: this.strokes, picture: this.picture });
    Object.assign(this, state);
    this.draw();
  }
}

// Lays strokes on a canvas; they move and grow, their width stays.
function paint(context, strokes, side, { scale, x, y }) {
  context.strokeStyle = context.fillStyle = "#000";
  context.lineCap = context.lineJoin = "round";
  for (const { width, points } of strokes) {
    const thick = (width * side) / SIDE;
    const at = points.map(([u, v]) => [(u * scale + x) * side, (v * scale + y) * side]);
    context.beginPath();
    if (at.length === 1) {
      context.arc(...at[0], thick / 2, 0, 2 * Math.PI);
      context.fill();
      continue;
    }
    context.lineWidth = thick;
    context.moveTo(...at[0]);
    for (let n = 1; n < at.length - 1; n++) {
      const middle = [(at[n][0] + at[n + 1][0]) / 2, (at[n][1] + at[n + 1][1]) / 2];
      context.quadraticCurveTo(...at[n], ...middle);
    }
    context.lineTo(...at[at.length - 1]);
    context.stroke();
  }
}

// How strokes have to move to fill the frame but for its margin.
function filling(strokes) {
  const points = strokes.flatMap((stroke) => stroke.points);
  const low = [0, 1].map((axis) => points.reduce((m, p) => Math.min(m, p[axis]), 1));
  const high = [0, 1].map((axis) => points.reduce((m, p) => Math.max(m, p[axis]), 0));
  const extent = Math.max(high[0] - low[0], high[1] - low[1], 1e-6);
  const scale = Math.min((1 - 2 * MARGIN) / extent, MAX_SCALE);
  const [x, y] = [0, 1].map((axis) => 0.5 - ((low[axis] + high[axis]) / 2) * scale);
  return { scale, x, y };
}
