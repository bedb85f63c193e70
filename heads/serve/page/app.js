// The page: tools, what is asked while one draws, and how answers are shown.

import { at, span, svg } from "./dom.js";
import { Drawing } from "./drawing.js";
import { Pair } from "./pair.js";
import * as server from "./server.js";

const THUMBNAIL = 320;

const canvas = at("canvas");
const drawing = new Drawing(canvas);
const pair = new Pair(complain);
let can = { segments: false, matches: false };

// ---- Asking: one question at a time, the latest drawing next. ----------------------------------

const BUSY_MS = 1000; // Until a busy server is asked again.

let asking = false;
let changed = false;
let round = 0; // Answers of an earlier one are not shown any more.
let answer = null; // {sent, hits, items}: what is shown.

function ask() {
  changed = true;
  at("error").hidden = true;
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
      const { picture } = drawing;
      const sent = { ...(await drawing.sent(at("fit").checked)), picture };
      const found = await server.look(sent.file, at("count").value);
      sent.size = found.sketch;
      at("error").hidden = true;
      at("results").classList.remove("stale");
      showHits(found.hits, sent);
      showClasses(found.classes);
      if (pair.shown) pair.redraw(sent);
      const seconds = (performance.now() - began) / 1000;
      at("status").textContent = `${found.hits.length} photos in ${seconds.toFixed(2)} s`;
    } catch (error) {
      complain(error);
      at("status").textContent = "";
      if (error.busy) {
        await new Promise((resolve) => setTimeout(resolve, BUSY_MS));
        changed = true;
      }
    }
  }
  asking = false;
}

function showNothing() {
  answer = null;
  at("results").classList.remove("stale");
  at("hits").replaceChildren();
  at("guesses").hidden = true;
  at("hint").hidden = false;
  at("status").textContent = "";
  leavePair();
}

function showHits(hits, sent) {
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
    button.addEventListener("click", () => enterPair(sent, hit, button));
    return item;
  });
  at("hits").replaceChildren(...items);
  answer = { sent, hits, items };
  showMasks();
}

// Photo by photo, until there is something newer to do.
async function showMasks() {
  if (!can.segments || !answer) return;
  const { sent, hits, items } = answer;
  const mine = round;
  let failed = false;
  for (const [n, hit] of hits.entries()) {
    if (mine !== round || changed || pair.shown || !at("masks").checked) return;
    const frame = items[n].querySelector(".frame");
    if (frame.querySelector(".mask")) continue;
    try {
      const blob = await server.mask(sent.file, hit.sha256);
      const image = new Image();
      image.className = "mask";
      image.alt = "";
      image.onload = () => URL.revokeObjectURL(image.src);
      image.src = URL.createObjectURL(blob);
      frame.append(image);
    } catch (error) {
      if (!failed) complain(error); // The other photos may have theirs.
      failed = true;
    }
  }
}

function showClasses(classes) {
  at("guesses").hidden = !classes;
  at("classes").replaceChildren(
    ...(classes || []).map(({ name, probability }) => {
      const item = document.createElement("li");
      const bar = svg("svg", { class: "share", preserveAspectRatio: "none", viewBox: "0 0 1 1" });
      bar.append(svg("rect", { width: probability, height: 1 }));
      item.append(bar, span("name", name), span("figure", `${(100 * probability).toFixed(1)} %`));
      return item;
    }),
  );
}

// "photo/mushroom/000228.png" becomes "mushroom/000228"; the whole is in the title.
function short(id) {
  return id.replace(/\.[^./]+$/, "").split("/").slice(-2).join("/");
}

function complain(error) {
  at("error").textContent = error.message;
  at("error").hidden = false;
}

// ---- One photo beside the drawing. -------------------------------------------------------------

let entered = null; // The button that was clicked, to give the focus back.

function enterPair(sent, hit, button) {
  entered = button;
  at("results").hidden = true;
  at("pair").hidden = false;
  pair.show(sent, hit);
  at("back").focus();
}

function leavePair() {
  if (!pair.shown) return;
  pair.hide();
  at("pair").hidden = true;
  at("results").hidden = false;
  entered.focus();
  showMasks();
}

// ---- Drawing. ----------------------------------------------------------------------------------

function place(event) {
  const box = canvas.getBoundingClientRect();
  const x = (event.clientX - box.left) / box.width;
  const y = (event.clientY - box.top) / box.height;
  return [Math.min(Math.max(x, 0), 1), Math.min(Math.max(y, 0), 1)];
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
    // A copy: the file may change, or go, before it is sent.
    const copy = new File([await file.arrayBuffer()], file.name, { type: file.type });
    const image = await decoded(copy);
    pen = null; // A stroke that is being drawn ends here.
    drawing.show(copy, image);
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
  at("undo").disabled = drawing.past.length === 0;
  at("redo").disabled = drawing.future.length === 0;
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
  const key = event.key.toLowerCase();
  if (!(event.ctrlKey || event.metaKey) || !["z", "y"].includes(key)) return;
  event.preventDefault();
  step(event.shiftKey || key === "y" ? "redo" : "undo");
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
  const { file } = await drawing.sent(at("fit").checked);
  link.href = URL.createObjectURL(file);
  link.download = file.name ?? "sketch.png";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
});
for (const name of ["fit", "count"]) at(name).addEventListener("change", ask);
at("masks").addEventListener("change", () => {
  document.body.classList.toggle("bare", !at("masks").checked);
  showMasks();
});
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
