const page = document.body;
const total = Number(page.dataset.total);
const at = (id) => document.getElementById(id);
const forms = { edit: at("edit"), reject: at("reject") };
const done = { accept: "accepted", reject: "rejected", edit: "edited" };
const picks = {
  judge: "picked by the judge",
  rule: "picked by the rule",
  only: "the only chain that was verified",
};
const made = []; // samples decided here, the last one last
let sample = null; // the one that is shown; null while another is on its way
let asked = 0; // counts requests for samples, so that a late reply replaces nothing newer

// ---- showing. Texts are a model's: they go into textContent alone.

async function show(index) {
  const number = ++asked;
  sample = null;
  hideForms();
  history.replaceState(null, "", `#${index + 1}`);
  at("position").textContent = index + 1;
  const found = await load(index);
  if (number !== asked) return;
  if (!found) {
    sample = { index, images: [] };
    at("pictures").replaceChildren();
    for (const id of ["task", "iou", "question", "think", "answer", "tags"]) at(id).textContent = "";
    at("badge").hidden = at("own-reason").hidden = true;
    return;
  }
  sample = found;
  at("task").textContent = sample.task;
  at("iou").textContent = sample.iou === null ? "" : `IoU ${sample.iou.toFixed(2)}`;
  at("question").textContent = sample.question;
  at("answer").textContent = sample.answer;
  at("tags").textContent = `${sample.id} · ${sample.model} · ${picks[sample.pick]}`;
  showPictures(sample.images);
  showDecision();
  window.scrollTo(0, 0);
  page.dataset.shown = index + 1;
  prefetch(index + 1);
}

async function prefetch(index) {
  const reply = index < total ? await fetch(`samples/${index}`).catch(() => null) : null;
  if (!reply?.ok) return;
  const { images } = await reply.json();
  images.forEach((_, number) => (new Image().src = address(index, number)));
}

async function load(index) {
  const reply = await request(`samples/${index}`);
  return reply?.ok ? reply.json() : null;
}

function showDecision() {
  const own = sample.own;
  at("badge").hidden = own === null;
  at("own-reason").hidden = own?.decision !== "reject" || !own.text;
  at("own-reason").textContent = own?.text ?? "";
  at("think").textContent = reasoning();
  at("think-label").textContent = own?.decision === "edit" ? "reasoning, as you edited it" : "reasoning";
  if (own === null) return;
  at("badge").className = `badge ${own.decision}`;
  at("badge").textContent = done[own.decision];
}

const reasoning = () => (sample.own?.decision === "edit" ? sample.own.text : sample.think);

function showPictures(images) {
  const columns = images.length > 9 ? 4 : Math.min(images.length, 3);
  at("pictures").style.setProperty("--columns", columns);
  at("pictures").style.setProperty("--rows", Math.ceil(images.length / columns));
  at("pictures").replaceChildren(...images.map(picture));
}

function picture(image, number) {
  const several = sample.images.length > 1;
  const label = several ? `image ${number + 1}${image.is_target ? ", asked for" : ""}` : "image";
  const figure = make("figure", { class: several && image.is_target ? "picture asked" : "picture" });
  const button = make("button", { type: "button", "aria-label": `${label}: show or hide boxes` });
  const drawing = draw("svg", { viewBox: `0 0 ${image.width} ${image.height}` });
  const source = address(sample.index, number);
  const size = { width: image.width, height: image.height, preserveAspectRatio: "none" };
  const pixels = draw("image", { href: source, ...size, class: image.is_crisp ? "crisp" : "" });
  const problem = make("p", { class: "problem", role: "alert" });
  pixels.addEventListener("error", async () => {
    const reply = await fetch(source).catch(() => null);
    problem.textContent = reply ? (await reply.json()).error : "the image did not arrive";
  });
  drawing.append(pixels, ...boxes(image.truth, "truth"), ...boxes(image.chain, "predicted"));
  button.append(drawing);
  button.addEventListener("click", toggleBoxes);
  figure.append(button, problem);
  if (several) {
    const caption = make("figcaption", {});
    caption.textContent = label;
    figure.append(caption);
  }
  return figure;
}

function boxes(corners, kind) {
  return corners.flatMap(([x1, y1, x2, y2]) =>
    [`halo ${kind}`, kind].map((name) =>
      draw("rect", { class: name, x: x1, y: y1, width: Math.max(x2 - x1, 0), height: Math.max(y2 - y1, 0) }),
    ),
  );
}

const address = (index, number) => {
  const side = Math.ceil(Math.max(screen.width, screen.height) * window.devicePixelRatio);
  return `images/${index}/${number}?side=${side}`;
};
const make = (name, attributes) => dressed(document.createElement(name), attributes);
const draw = (name, attributes) =>
  dressed(document.createElementNS("http://www.w3.org/2000/svg", name), attributes);

function dressed(node, attributes) {
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

function toggleBoxes() {
  const bare = page.classList.toggle("bare");
  at("boxes").setAttribute("aria-pressed", String(!bare));
  say(bare ? "boxes hidden" : "boxes shown");
}

function say(text, bad = false) {
  at("status").textContent = text;
  at("status").classList.toggle("bad", bad);
}

// ---- deciding.

async function request(path, options) {
  let reply;
  try {
    reply = await fetch(path, options);
  } catch {
    say("No answer: is `reground teach review` still running? Nothing was stored.", true);
    return null;
  }
  if (!reply.ok) say((await reply.json()).error, true);
  return reply;
}

async function decide(decision, text = null) {
  const { index, call } = sample;
  const before = sample;
  sample = null; // nothing else is decided before this is stored
  const body = JSON.stringify({ call, decision, text });
  const headers = { "Content-Type": "application/json" };
  const reply = await request(`samples/${index}`, { method: "POST", headers, body });
  sample = before;
  if (reply?.status === 409) {
    const why = at("status").textContent;
    say(""); // until the chain is there: who reads why may decide
    await show(index);
    say(why, true);
  }
  if (!reply?.ok) return;
  const { next, left } = await reply.json();
  at("judged").textContent = total - left;
  at("progress").value = total - left;
  if (decision === "undo") {
    made.splice(0, made.length, ...made.filter((each) => each !== index));
    sample.own = null;
    showDecision();
    say(`${index + 1} of ${total}: taken back`);
    return;
  }
  made.push(index);
  if (next === null) return leave("results");
  const wasOpen = isOpen();
  await show(next);
  if (wasOpen) at("question").focus();
  say(`${index + 1} ${done[decision]}; now ${next + 1} of ${total}`);
}

async function undo() {
  if (sample.own === null || sample.own === undefined) {
    if (!made.length) return say("nothing to take back");
    await show(made.at(-1));
  }
  if (sample?.own) await decide("undo");
}

function leave(where) {
  hideForms();
  location.assign(where);
}

function openForm(name, text) {
  for (const form of Object.values(forms)) form.hidden = form !== forms[name];
  const area = at(`${name}-text`);
  area.value = text;
  area.focus();
}

function closeForm() {
  hideForms();
  at("question").focus();
}

function hideForms() {
  for (const form of Object.values(forms)) form.hidden = true;
}

const isOpen = () => Object.values(forms).some((form) => !form.hidden);

function move(step) {
  const index = sample.index + step;
  if (index < 0) return say("this is the first chain");
  if (index >= total) return leave("results");
  return show(index).then(() => sample?.call && say(`${index + 1} of ${total}`));
}

const judgeable = (action) => () => (sample.call ? action() : say("no chain is shown", true));
const actions = {
  a: judgeable(() => decide("accept")),
  r: judgeable(() => openForm("reject", sample.own?.decision === "reject" ? sample.own.text ?? "" : "")),
  e: judgeable(() => openForm("edit", reasoning())),
  u: undo,
  b: toggleBoxes,
  ArrowLeft: () => move(-1),
  ArrowRight: () => move(1),
  "?": () => at("help").showModal(),
};

function act(key) {
  if (!Object.hasOwn(actions, key) || at("help").open) return false;
  if (isOpen()) say("store or cancel the open text first");
  else if (sample !== null) actions[key]();
  return true;
}

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && isOpen()) return closeForm();
  if (event.target.matches("textarea, input")) {
    const isSaving = event.key === "Enter" && (event.ctrlKey || event.metaKey);
    if (isSaving) event.target.form.requestSubmit();
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (act(key)) event.preventDefault();
});

for (const button of document.querySelectorAll("[data-key]"))
  button.addEventListener("click", () => act(button.dataset.key));
for (const button of document.querySelectorAll(".cancel")) button.addEventListener("click", closeForm);
for (const [name, form] of Object.entries(forms))
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (sample !== null) decide(name, at(`${name}-text`).value);
  });
at("boxes").addEventListener("click", toggleBoxes);
at("help-button").addEventListener("click", () => at("help").showModal());
window.addEventListener("beforeunload", (event) => isOpen() && event.preventDefault());
window.addEventListener("hashchange", () => show(here() ?? 0));

function here() {
  const number = Number(location.hash.slice(1));
  return Number.isInteger(number) && number >= 1 && number <= total ? number - 1 : null;
}

const first = page.dataset.first;
if (here() === null && first === "") location.replace("results");
else show(here() ?? Number(first));
