// The page: tools, what is asked while one draws, and how answers are shown.

import { Drawing } from "./drawing.js";
import { Pair } from "./pair.js";
import * as server from "./server.js";

const THUMBNAIL = 320;
const SVG = "http://www.w3.org/2000/svg";
const at = (id) => document.getElementById(id);

const canvas = at("canvas");
const drawing = new Drawing(canvas);
const pair = new Pair(complain);
let can = { segments: false, matches: false };

// ---- Asking: one question at a time, the latest drawing next. ----------------------------------

let asking = false;
let changed = false;
let round = 0; // Answers of an earlier one are not shown any more.

function ask() {
  changed = true;
  refresh();
  if (!asking) answerAll();
}

async function answerAll() {
  asking = true;
  while (changed) {
    changed = false;
    round += 1;
    if (drawing.empty) {
      showNothing();
      continue;
    }
    at("results").classList.add("stale");
    const began = performance.now();
    try {
      const file = await drawing.file(at("fit").checked);
      const found = await server.look(file, at("count").value);
      at("error").hidden = true;
      showHits(found, file);
      showClasses(found.classes);
      if (pair.shown) pair.redraw(file, found.sketch);
      const seconds = (performance.now() - began) / 1000;
      at("status").textContent = `${found.hits.length} photos in ${seconds.toFixed(2)} s`;
    } catch (error) {
      complain(error);
      at("status").textContent = "";
    }
    at("results").classList.remove("stale");
  }
  asking = false;
}

function showNothing() {
  at("hits").replaceChildren();
  at("guesses").hidden = true;
  at("hint").hidden = false;
  at("status").textContent = "";
  leavePair();
}

function showHits({ hits, sketch }, file) {
  at("hint").hidden = hits.length > 0;
  const items = hits.map((hit) => {
    const item = document.createElement("li");
    const button = item.appendChild(document.createElement("button"));
    button.disabled = !can.matches;
    button.title = can.matches ? `${hit.id}: see which point is which` : hit.id;
    const frame = button.appendChild(document.createElement("span"));
    frame.className = "frame";
    const image = frame.appendChild(new Image());
    image.alt = hit.id;
    image.decoding = "sync"; // Or the grid would flicker while one draws.
    image.onerror = () => frame.classList.add("missing");
    image.src = server.photo(hit.sha256, THUMBNAIL);
    const caption = button.appendChild(document.createElement("span"));
    caption.className = "caption";
    caption.append(span("name", short(hit.id)), span("figure", hit.similarity.toFixed(3)));
    button.addEventListener("click", () => enterPair(file, sketch, hit));
    return item;
  });
  at("hits").replaceChildren(...items);
  showMasks(hits, items, file);
}

async function showMasks(hits, items, file) {
  if (!can.segments || !at("masks").checked) return;
  const mine = round;
  for (const [n, hit] of hits.entries()) {
    if (mine !== round || changed || !at("masks").checked) return;
    try {
      const blob = await server.mask(file, hit.sha256);
      const image = new Image();
      image.className = "mask";
      image.alt = "";
      image.onload = () => URL.revokeObjectURL(image.src);
      image.src = URL.createObjectURL(blob);
      items[n].querySelector(".frame").append(image);
    } catch (error) {
      complain(error);
      return;
    }
  }
}

function showClasses(classes) {
  at("guesses").hidden = !classes;
  at("classes").replaceChildren(
    ...(classes || []).map(({ name, probability }) => {
      const item = document.createElement("li");
      const bar = document.createElementNS(SVG, "svg");
      bar.setAttribute("class", "share");
      bar.setAttribute("preserveAspectRatio", "none");
      bar.setAttribute("viewBox", "0 0 1 1");
      const share = bar.appendChild(document.createElementNS(SVG, "rect"));
      share.setAttribute("width", probability);
      share.setAttribute("height", 1);
      item.append(bar, span("name", name), span("figure", `${(100 * probability).toFixed(1)} %`));
      return item;
    }),
  );
}

// "photo/mushroom/000228.png" becomes "mushroom/000228"; the whole is in the title.
function short(id) {
  return id.replace(/\.[^./]+$/, "").split("/").slice(-2).join("/");
}

function span(className, text) {
  const made = document.createElement("span");
  made.className = className;
  made.textContent = text;
  return made;
}

function complain(error) {
  at("error").textContent =
    error instanceof TypeError ? "The server does not answer: is it still running?" : error.message;
  at("error").hidden = false;
}

// ---- One photo beside the drawing. -------------------------------------------------------------

function enterPair(file, size, hit) {
  at("results").hidden = true;
  at("pair").hidden = false;
  pair.show(file, size, hit);
}

function leavePair() {
  pair.hide();
  at("pair").hidden = true;
  at("results").hidden = false;
}

// ---- Drawing. ----------------------------------------------------------------------------------

function place(event) {
  const box = canvas.getBoundingClientRect();
  return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
}

let pen = null; // The pointer that draws.

canvas.addEventListener("pointerdown", (event) => {
  if (event.button !== 0 || pen !== null) return;
  if (drawing.picture) {
    complain(new Error("A picture is shown; clear it to draw."));
    return;
  }
  pen = event.pointerId;
  canvas.setPointerCapture(pen);
  drawing.begin(place(event), Number(at("width").value));
  ask();
});
canvas.addEventListener("pointermove", (event) => {
  if (event.pointerId !== pen) return;
  const events = event.getCoalescedEvents?.() ?? [];
  drawing.extend((events.length ? events : [event]).map(place));
  ask();
});
for (const end of ["pointerup", "pointercancel"]) {
  canvas.addEventListener(end, (event) => {
    if (event.pointerId !== pen) return;
    pen = null;
    ask();
  });
}

async function drop(file) {
  try {
    const image = await decoded(file);
    drawing.show(file, image);
    ask();
  } catch {
    complain(new Error(`${file.name}: is no picture that can be shown`));
  }
}

async function decoded(file) {
  const image = new Image();
  image.src = URL.createObjectURL(file);
  try {
    await image.decode();
  } finally {
    URL.revokeObjectURL(image.src);
  }
  return image;
}

const sheet = at("sheet");
for (const kind of ["dragenter", "dragover"]) {
  addEventListener(kind, (event) => {
    event.preventDefault();
    sheet.classList.add("over");
  });
}
addEventListener("dragleave", (event) => event.relatedTarget || sheet.classList.remove("over"));
addEventListener("drop", (event) => {
  event.preventDefault();
  sheet.classList.remove("over");
  const [file] = event.dataTransfer.files;
  if (file) drop(file);
});
addEventListener("paste", (event) => {
  const [file] = event.clipboardData.files;
  if (file) drop(file);
});

// ---- Tools. ------------------------------------------------------------------------------------

function refresh() {
  at("undo").disabled = drawing.done.length === 0;
  at("redo").disabled = drawing.undone.length === 0;
  at("clear").disabled = at("save").disabled = drawing.empty;
  at("invitation").hidden = !drawing.empty;
}

function step(name) {
  if (pen !== null) return;
  drawing[name]();
  ask();
}

for (const name of ["undo", "redo", "clear"]) at(name).addEventListener("click", () => step(name));
addEventListener("keydown", (event) => {
  if (!(event.ctrlKey || event.metaKey) || event.key.toLowerCase() !== "z") return;
  event.preventDefault();
  step(event.shiftKey ? "redo" : "undo");
});
at("width").addEventListener("input", () => {
  at("width-value").textContent = at("width").value;
});
at("file").addEventListener("change", () => {
  const [file] = at("file").files;
  at("file").value = "";
  if (file) drop(file);
});
at("save").addEventListener("click", async () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await drawing.file(false));
  link.download = "sketch.png";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
});
for (const name of ["fit", "count", "masks"]) at(name).addEventListener("change", ask);
at("back").addEventListener("click", leavePair);

// ---- Beginning. --------------------------------------------------------------------------------

drawing.draw();
refresh();
try {
  can = await server.about();
  at("about").textContent =
    `${can.photos.toLocaleString("en")} photos · ${can.run} · ${can.backbone}`;
  at("masks-choice").hidden = !can.segments;
} catch (error) {
  complain(error);
}
