// Photos: read from files, and drawn with the boxes that are in them.

import { make } from "./api.js";

const SVG = "http://www.w3.org/2000/svg";

function read(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error(`${file.name} cannot be read`));
    reader.readAsDataURL(file);
  });
}

export function sized(url, name) {
  return new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => resolve({ name, url, width: image.naturalWidth, height: image.naturalHeight });
    image.onerror = () => reject(new Error(`${name} is no picture that a browser shows`));
    image.src = url;
  });
}

export async function opened(files) {
  const found = [];
  for (const file of files) found.push(await sized(await read(file), file.name));
  return found;
}

// The photo with boxes over it: {box, kind, label, below}; kind is a class of page.css, and the label goes below.
export function figureOf(photo, boxes) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${photo.width} ${photo.height}`);
  svg.setAttribute("aria-hidden", "true");
  svg.style.height = "auto";
  svg.style.aspectRatio = `${photo.width} / ${photo.height}`;
  for (const { box, kind } of boxes) addBox(svg, box, kind);
  const shown = make("div", { className: "shown" }, make("img", { src: photo.url, alt: photo.name }), svg);
  for (const { box, kind, label, below } of boxes.filter((each) => each.label)) {
    const tag = make("span", { className: `tag ${kind}`, textContent: label, ariaHidden: "true" });
    tag.style.left = `${(100 * Math.max(box[0], 0)) / photo.width}%`;
    tag.style.top = `${(100 * (below ? Math.min(box[3], photo.height) : Math.max(box[1], 0))) / photo.height}%`;
    shown.append(tag);
  }
  const figure = make("figure", {}, shown);
  figure.style.maxWidth = `min(100%, 66vh * ${photo.width / photo.height})`;
  return figure;
}

function addBox(svg, [x1, y1, x2, y2], kind) {
  const rect = document.createElementNS(SVG, "rect");
  rect.setAttribute("class", kind);
  for (const [side, value] of Object.entries({ x: x1, y: y1, width: x2 - x1, height: y2 - y1 })) {
    rect.setAttribute(side, value);
  }
  svg.append(rect);
}

// Lets a box be drawn over a figure; its edges in pixels of the photo go to `then`.
export function drawable(figure, photo, then) {
  const svg = figure.querySelector("svg");
  const at = (event) => {
    const area = svg.getBoundingClientRect();
    const inside = (value, most) => Math.round(Math.min(Math.max(value, 0), most) * 10) / 10;
    return [
      inside(((event.clientX - area.left) / area.width) * photo.width, photo.width),
      inside(((event.clientY - area.top) / area.height) * photo.height, photo.height),
    ];
  };
  figure.classList.add("draws");
  svg.onpointerdown = (event) => {
    event.preventDefault();
    svg.setPointerCapture(event.pointerId);
    const from = at(event);
    svg.onpointermove = (moved) => {
      const to = at(moved);
      const [[x1, x2], [y1, y2]] = [0, 1].map((axis) => [from[axis], to[axis]].sort((a, b) => a - b));
      svg.querySelector(".tool")?.remove();
      then([x1, y1, x2, y2]);
      if (x1 < x2 && y1 < y2) addBox(svg, [x1, y1, x2, y2], "tool");
    };
    svg.onpointerup = () => { svg.onpointermove = null; };
  };
}

// Intersection over union of two boxes.
export function overlap(a, b) {
  const side = (axis) => Math.max(0, Math.min(a[axis + 2], b[axis + 2]) - Math.max(a[axis], b[axis]));
  const area = (box) => (box[2] - box[0]) * (box[3] - box[1]);
  const both = side(0) * side(1);
  return both ? both / (area(a) + area(b) - both) : 0;
}
