// Finding and making parts of the page.

const SVG = "http://www.w3.org/2000/svg";

export const at = (id) => document.getElementById(id);

export function span(className, text) {
  const made = document.createElement("span");
  made.className = className;
  made.textContent = text;
  return made;
}

// A part of a drawing in the page.
export function svg(name, attributes = {}, text = "") {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
}
