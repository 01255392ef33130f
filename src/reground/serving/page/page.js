// The page: photos and a phrase go to /v1/ground, and boxes are drawn where they are.

import { api, make, themed } from "./api.js";
import { COPIES } from "./copies.js";
import { drawable, figureOf, opened, overlap, sized } from "./photos.js";

const $ = (id) => document.getElementById(id);
const EDGES = ["x1", "y1", "x2", "y2"];
const KINDS = ["found", "found other"]; // strokes of the first model's boxes, and of the second's
const FIRST = ["first", "first other"]; // those of their first thoughts
const SAME = 0.5; // the overlap from which two boxes point at one thing
let photos = []; // {name, url, width, height}
let target = 0; // the photo to point in
let last = null; // {asked, answers: [{model, answer} or {model, error}], photos, target}
const history = [];

// ---- photos --------------------------------------------------------------------------------------

async function take(files) {
  try {
    const found = await opened(files);
    if (found.length) show(found);
  } catch (error) {
    say(error.message, true);
  }
}

function show(found, place = found.length - 1) {
  photos = found;
  target = place;
  last = null;
  for (const edge of EDGES) $(edge).value = "";
  $("answer").hidden = true;
  say("");
  draw();
}

function draw() {
  $("photos").replaceChildren(...photos.map((photo, number) => {
    const boxes = number === target && edges() ? [{ box: edges(), kind: "tool" }] : [];
    boxes.push(...firstIn(number), ...foundIn(number));
    const figure = figureOf(photo, boxes);
    if (boxes.some(({ kind }) => kind.startsWith("found"))) figure.classList.add("answered");
    if (number === target && $("tool").open) drawable(figure, photo, setEdges);
    const caption = make("figcaption", {}, `${photo.name}, ${photo.width} × ${photo.height}`);
    if (photos.length > 1) caption.append(make("br"), choice(number));
    figure.append(caption);
    return figure;
  }));
  showKey();
}

// The boxes of every answer in a photo; those that the other model does not have are filled.
function foundIn(number) {
  return answered().flatMap(({ answer, place }) => answer.image !== number ? [] : answer.boxes.map((each, rank) => {
    const parts = [last.answers.length > 1 ? "AB"[place] : "", answer.boxes.length > 1 ? rank + 1 : ""].join("");
    const label = [parts, each.score?.toFixed(2)].filter(Boolean).join(" · ");
    return { box: each.box, kind: `${KINDS[place]}${differs(answer, each, place) ? " alone" : ""}`, label };
  }));
}

// Where first thoughts pointed, before a detector's box was seen; below the answers, which may be the same.
function firstIn(number) {
  return answered().flatMap(({ answer, place }) => answer.image !== number ? []
    : (answer.first || []).map(({ box }) => ({ box, kind: FIRST[place], label: `${letter(place)}first thought`, below: true })));
}

function letter(place) {
  return last.answers.length > 1 ? `${"AB"[place]} · ` : "";
}

function answered() {
  const all = last ? last.answers.map((each, place) => ({ ...each, place })) : [];
  return all.filter(({ answer }) => answer);
}

// Whether the other model, if one was asked, answered without such a box.
function differs(answer, { box }, place) {
  const others = answered().filter((each) => each.place !== place);
  return others.some((other) => other.answer.image !== answer.image
    || !other.answer.boxes.some((each) => overlap(each.box, box) >= SAME));
}

function choice(number) {
  const radio = make("input", {
    type: "radio", name: "target", checked: number === target,
    onchange: () => { target = number; draw(); },
  });
  return make("label", {}, radio, " point in this one");
}

function showKey() {
  const isPair = last && last.answers.length > 1;
  const rows = isPair
    ? last.answers.map(({ model }, place) => [KINDS[place], `${"AB"[place]}: ${model}`])
    : [["found", "answer"]];
  rows.push(...answered().filter(({ answer }) => answer.first?.length)
    .map(({ place }) => [FIRST[place], `${isPair ? `${"AB"[place]}: ` : ""}first thought`]));
  if (isPair) rows.push(["alone", "filled: the other has no such box"]);
  if (edges() || $("tool").open) rows.push(["tool", "detector's box"]);
  $("key").replaceChildren(...rows.map(([kind, text]) =>
    make("li", {}, make("span", { className: `stroke ${kind}` }), text)));
  $("key").hidden = !photos.length;
}

// ---- a detector's box ----------------------------------------------------------------------------

function edges() {
  const values = EDGES.map((name) => $(name).valueAsNumber);
  return values.every(Number.isFinite) && values[0] < values[2] && values[1] < values[3] ? values : null;
}

function setEdges(values) {
  EDGES.forEach((name, place) => { $(name).value = values[place]; });
}

// ---- asking --------------------------------------------------------------------------------------

function say(text, isBad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", isBad);
}

async function ask() {
  if (!photos.length) return say("Choose a photo first.", true);
  const asked = { images: photos.map((photo) => photo.url), text: $("text").value, target_image: target, first: true };
  const given = $("tool").open && edges();
  if (given) asked.tool_boxes = [given];
  const names = [$("first").value, ...($("compare").checked ? [$("second").value] : [])];
  const entry = { asked, photos, target };
  $("go").disabled = true;
  say(names.length > 1 ? "Both models look …" : "The model looks …");
  try {
    const heard = names.length > 1 ? () => {} : told;
    const answers = await Promise.all(names.map((model) => ground({ ...asked, model }, heard)));
    if (answers.every(({ error }) => error)) return say(answers[0].error, true);
    last = { ...entry, answers };
    remember(last);
    tell();
  } catch {
    say("The server does not answer; is it still running?", true);
  } finally {
    $("go").disabled = false;
  }
}

async function ground(asked, heard) {
  const body = JSON.stringify({ ...asked, stream: true });
  const response = await api("v1/ground", { method: "POST", body });
  const answer = response.ok ? await streamed(response, heard) : await response.json();
  if (response.ok && !answer.error) return { model: asked.model, answer };
  return { model: asked.model, error: answer.error || `status ${response.status}` };
}

// The answer at the end of a stream of events; `heard` gets the text so far.
async function streamed(response, heard) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let [rest, text, last] = ["", "", { error: "The server broke off its answer." }];
  for (let read = await reader.read(); !read.done; read = await reader.read()) {
    const events = (rest + read.value).split("\n\n");
    rest = events.pop();
    for (const each of events) {
      const data = JSON.parse(each.slice(each.indexOf("data: ") + 6));
      if (!each.startsWith("event: text\n")) last = data;
      else heard((text += data.text));
    }
  }
  return last;
}

function told(text) {
  const shown = text.replace(/<[^<>]*>/g, " ").replace(/<\/?\w*$/, ""); // without half a tag
  say(shown.trim() || "The model looks …");
}

// ---- answers -------------------------------------------------------------------------------------

const WORDS = {
  no_answer: "The model gave no answer.",
  unparsable: "The answer spells no box.",
  out_of_bounds: "The answer lies outside the photo.",
  degenerate: "The answer's box is empty.",
};

function verdict({ status, boxes, tool }) {
  if (status !== "ok") return WORDS[status];
  if (!boxes.length) return "Nothing found: the model says that the photo shows no such thing.";
  if (tool && tool.length) {
    const best = Math.max(...tool.map((each) => overlap(each.box, boxes[0].box)));
    return best > 0.9 ? "The detector's box is kept." : "The detector's box is corrected.";
  }
  return boxes.length === 1 ? "One box" : `${boxes.length} boxes`;
}

function tell() {
  const times = answered().map(({ answer: { timings } }) => Math.round(timings.waited_ms + timings.model_ms));
  say(times.map((each) => `${each} ms`).join(" and "));
  $("answer").hidden = false;
  const isPair = last.answers.length > 1;
  document.querySelector("main").classList.toggle("compares", isPair);
  $("compared").textContent = isPair ? comparison() : "";
  $("cards").replaceChildren(...last.answers.map(card));
  draw();
  document.querySelector(".stage").scrollIntoView({ block: "nearest" });
}

function comparison() {
  const [a, b] = answered();
  if (!b) return "Only one of the two models answered.";
  const boxes = [a, b].map(({ answer }) => answer.boxes);
  if (!boxes.flat().length) return "Neither model shows a box.";
  const isSplit = [a, b].some(({ answer, place }) => answer.boxes.some((each) => differs(answer, each, place)));
  const isOneEach = boxes.every((each) => each.length === 1) && a.answer.image === b.answer.image;
  const shared = isOneEach ? ` (IoU ${overlap(boxes[0][0].box, boxes[1][0].box).toFixed(2)})` : "";
  return isSplit ? `The models differ${shared}.` : `The models agree${shared}.`;
}

function card({ model, answer, error }, place) {
  const card = $("card").content.cloneNode(true).firstElementChild;
  const part = (name) => card.querySelector(`.${name}`);
  const isPair = last.answers.length > 1;
  part("who").hidden = !isPair;
  part("stroke").className = `stroke ${KINDS[place]}`;
  part("name").textContent = `${"AB"[place]}: ${model}`;
  part("verdict").textContent = error || verdict(answer);
  part("verdict").classList.toggle("bad", Boolean(error));
  part("copies").hidden = Boolean(error);
  if (error) return card;
  part("boxes").append(...answer.boxes.map((each) => item(answer, each, place)));
  const thought = answer.first?.map(({ box }) => `\n${edgesOf(box)}`).join("") || "";
  const parts = {
    [answer.rethink ? "First thought" : "Reasoning"]: answer.think && answer.think + thought,
    "After the detector's box": answer.rethink,
    "What it wrote": answer.text,
  };
  part("reasons").append(...Object.entries(parts).filter(([, text]) => text).flatMap(([name, text]) =>
    [make("dt", { textContent: name }), make("dd", { textContent: text, tabIndex: 0 })]));
  for (const button of card.querySelectorAll("[data-copy]")) {
    button.onclick = () => copy(COPIES[button.dataset.copy]({ ...last, answer }));
  }
  return card;
}

function edgesOf(box) {
  return box.map((value) => Math.round(value)).join(", ");
}

function item(answer, each, place) {
  const found = make("li", {}, edgesOf(each.box));
  if (each.score !== null) found.append(make("span", { className: "score", textContent: `  score ${each.score.toFixed(2)}` }));
  if (differs(answer, each, place)) found.append(make("span", { className: "badge", textContent: "differs" }));
  return found;
}

function remember(entry) {
  history.unshift(entry);
  history.splice(20);
  $("earlier").hidden = false;
  $("history").replaceChildren(...history.map((each) => make("li", {}, make(
    "button",
    { type: "button", onclick: () => recall(each) },
    make("img", { src: each.photos[each.target].url, alt: "" }),
    make("span", { textContent: each.asked.text }),
  ))));
}

function recall(entry) {
  show(entry.photos, entry.target);
  $("text").value = entry.asked.text;
  if (entry.asked.tool_boxes) setEdges(entry.asked.tool_boxes[0]);
  last = entry;
  tell();
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    say("Copied.");
  } catch {
    say("The browser does not let pages copy here.", true);
  }
}

// ---- beginning -----------------------------------------------------------------------------------

async function begin() {
  const [models, examples] = await Promise.all(
    [api("v1/models"), fetch("page/examples.json")].map(async (response) => (await response).json()),
  );
  const names = models.data.map((each) => each.id);
  $("model").textContent = names.join(", ");
  for (const select of [$("first"), $("second")]) {
    select.append(...names.map((name) => make("option", { textContent: name })));
  }
  $("models").hidden = names.length < 2;
  if (names.length > 1) $("second").value = names[1];
  $("examples").replaceChildren(...examples.map(({ name, images, text, target_image: place, about }) => {
    const pick = async () => {
      show(await Promise.all(images.map((url, number) => sized(url, `${name} ${number + 1}`))), place);
      $("text").value = text;
      $("text").focus();
      say(about);
    };
    return make("button", { type: "button", textContent: name, title: about, onclick: pick });
  }));
}

$("form").onsubmit = (event) => { event.preventDefault(); ask(); };
$("files").onchange = (event) => take(event.target.files);
$("tool").ontoggle = draw;
$("compare").onchange = () => { $("with").hidden = !$("compare").checked; };
$("unbox").onclick = () => { for (const edge of EDGES) $(edge).value = ""; draw(); };
for (const edge of EDGES) $(edge).oninput = draw;
document.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) take(event.clipboardData.files);
});
document.addEventListener("dragover", (event) => { event.preventDefault(); $("drop").classList.add("over"); });
document.addEventListener("dragleave", () => $("drop").classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  $("drop").classList.remove("over");
  take(event.dataTransfer.files);
});
themed($("theme"));
begin().catch(() => say("The server does not answer; is it still running?", true));
