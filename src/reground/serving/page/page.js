// The page: photos and a phrase go to /v1/ground, and boxes are drawn where they are.

const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const EDGES = ["x1", "y1", "x2", "y2"];
let photos = []; // {name, url, width, height}
let target = 0; // the photo to point in
let last = null; // {asked, answer, photos, target}
const history = [];

// ---- photos --------------------------------------------------------------------------------------

function readFile(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error(`${file.name} cannot be read`));
    reader.readAsDataURL(file);
  });
}

function sides(url, name) {
  return new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => resolve({ name, url, width: image.naturalWidth, height: image.naturalHeight });
    image.onerror = () => reject(new Error(`${name} is no picture that a browser shows`));
    image.src = url;
  });
}

async function take(files) {
  try {
    const found = [];
    for (const file of files) found.push(await sides(await readFile(file), file.name));
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
  const answer = last && last.answer;
  $("photos").replaceChildren(...photos.map((photo, number) => {
    const figure = document.createElement("figure");
    const image = Object.assign(new Image(), { src: photo.url, alt: photo.name });
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", `0 0 ${photo.width} ${photo.height}`);
    svg.setAttribute("aria-hidden", "true");
    if (answer && answer.image === number && answer.boxes.length) {
      figure.className = "answered";
      for (const each of answer.boxes) svg.append(rectangle(each.box, "found"));
    }
    if (number === target) {
      const given = edges();
      if (given) svg.append(rectangle(given, "tool"));
      if ($("tool").open) drawable(figure, svg, photo);
    }
    const caption = document.createElement("figcaption");
    caption.append(`${photo.name}, ${photo.width} × ${photo.height}`);
    if (photos.length > 1) caption.append(document.createElement("br"), choice(number));
    figure.append(image, svg, caption);
    svg.style.height = "auto";
    svg.style.aspectRatio = `${photo.width} / ${photo.height}`;
    figure.style.maxWidth = `min(100%, 70vh * ${photo.width / photo.height})`;
    return figure;
  }));
}

function choice(number) {
  const label = document.createElement("label");
  const radio = Object.assign(document.createElement("input"), {
    type: "radio", name: "target", checked: number === target,
    onchange: () => { target = number; draw(); },
  });
  label.append(radio, " point in this one");
  return label;
}

function rectangle([x1, y1, x2, y2], kind) {
  const rect = document.createElementNS(SVG, "rect");
  rect.setAttribute("class", kind);
  for (const [name, value] of Object.entries({ x: x1, y: y1, width: x2 - x1, height: y2 - y1 })) {
    rect.setAttribute(name, value);
  }
  return rect;
}

// ---- a detector's box ----------------------------------------------------------------------------

function edges() {
  const values = EDGES.map((name) => $(name).valueAsNumber);
  return values.every(Number.isFinite) && values[0] < values[2] && values[1] < values[3] ? values : null;
}

function drawable(figure, svg, photo) {
  figure.classList.add("draws");
  const at = (event) => {
    const area = svg.getBoundingClientRect();
    const inside = (value, most) => Math.round(Math.min(Math.max(value, 0), most) * 10) / 10;
    return [
      inside(((event.clientX - area.left) / area.width) * photo.width, photo.width),
      inside(((event.clientY - area.top) / area.height) * photo.height, photo.height),
    ];
  };
  svg.onpointerdown = (event) => {
    event.preventDefault();
    svg.setPointerCapture(event.pointerId);
    const from = at(event);
    svg.onpointermove = (moved) => {
      const to = at(moved);
      const corners = [0, 1].map((axis) => [from[axis], to[axis]].sort((a, b) => a - b));
      [$("x1").value, $("x2").value] = corners[0];
      [$("y1").value, $("y2").value] = corners[1];
      svg.querySelector(".tool")?.remove();
      const given = edges();
      if (given) svg.append(rectangle(given, "tool"));
    };
    svg.onpointerup = () => { svg.onpointermove = null; };
  };
}

// ---- asking --------------------------------------------------------------------------------------

function say(text, isBad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", isBad);
}

// A request with the server's key, which is asked for where it takes one and kept for this tab.
async function api(path, options = {}) {
  const headers = { "Content-Type": "application/json" };
  const key = sessionStorage.getItem("key");
  if (key) headers.Authorization = `Bearer ${key}`;
  const response = await fetch(path, { ...options, headers });
  if (response.status !== 401) return response;
  const given = prompt("This server takes a key:");
  if (!given) return response;
  sessionStorage.setItem("key", given);
  return api(path, options);
}

async function ask() {
  if (!photos.length) return say("Choose a photo first.", true);
  const asked = { images: photos.map((photo) => photo.url), text: $("text").value, target_image: target };
  const given = $("tool").open && edges();
  if (given) asked.tool_boxes = [given];
  $("go").disabled = true;
  say("The model looks …");
  try {
    const body = JSON.stringify({ ...asked, stream: true });
    const response = await api("v1/ground", { method: "POST", body });
    const answer = response.ok ? await streamed(response, told) : await response.json();
    if (!response.ok || answer.error) return say(answer.error || `status ${response.status}`, true);
    last = { asked, answer, photos, target };
    remember(last);
    tell();
  } catch {
    say("The server does not answer; is it still running?", true);
  } finally {
    $("go").disabled = false;
  }
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
  say(text.replace(/<[^<>]*>/g, " ").trim() || "The model looks …");
}

const WORDS = {
  no_answer: "The model gave no answer.",
  unparsable: "The answer spells no box.",
  out_of_bounds: "The answer lies outside the photo.",
  degenerate: "The answer's box is empty.",
};

function verdict({ status, boxes, tool }) {
  if (status !== "ok") return WORDS[status];
  if (!boxes.length) return "Nothing there.";
  if (tool && tool.length) {
    const best = Math.max(...tool.map((each) => overlap(each.box, boxes[0].box)));
    return best > 0.9 ? "The detector's box is kept." : "The detector's box is corrected.";
  }
  return boxes.length === 1 ? "One box" : `${boxes.length} boxes`;
}

function overlap(a, b) {
  const side = (axis) => Math.max(0, Math.min(a[axis + 2], b[axis + 2]) - Math.max(a[axis], b[axis]));
  const area = (box) => (box[2] - box[0]) * (box[3] - box[1]);
  const both = side(0) * side(1);
  return both / (area(a) + area(b) - both);
}

function tell() {
  const { answer } = last;
  const { timings } = answer;
  say(`${Math.round(timings.waited_ms + timings.model_ms)} ms`);
  $("answer").hidden = false;
  $("verdict").textContent = verdict(answer);
  $("boxes").replaceChildren(...answer.boxes.map((each) => {
    const item = document.createElement("li");
    const score = document.createElement("span");
    score.className = "score";
    if (each.score !== null) score.textContent = `  score ${each.score.toFixed(2)}`;
    item.append(each.box.map((value) => Math.round(value)).join(", "), score);
    return item;
  }));
  const parts = { Reasoning: answer.think, "After the detector's box": answer.rethink, "What it wrote": answer.text };
  $("reasons").replaceChildren(...Object.entries(parts).filter(([, text]) => text).flatMap(([name, text]) => {
    const term = Object.assign(document.createElement("dt"), { textContent: name });
    return [term, Object.assign(document.createElement("dd"), { textContent: text, tabIndex: 0 })];
  }));
  draw();
}

function remember(entry) {
  history.unshift(entry);
  history.splice(20);
  $("earlier").hidden = false;
  $("history").replaceChildren(...history.map((each) => {
    const item = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = each.asked.text;
    button.onclick = () => {
      show(each.photos, each.target);
      $("text").value = each.asked.text;
      const given = each.asked.tool_boxes;
      if (given) EDGES.forEach((name, place) => { $(name).value = given[0][place]; });
      last = each;
      tell();
    };
    item.append(button);
    return item;
  }));
}

// ---- copying -------------------------------------------------------------------------------------

const COPIES = {
  json: ({ answer }) => JSON.stringify(answer, null, 2),
  coco: ({ answer, asked }) => JSON.stringify({
    images: [{ id: 1, file_name: photos[answer.image].name, width: answer.width, height: answer.height }],
    categories: [{ id: 1, name: asked.text }],
    annotations: answer.boxes.map(({ box: [x1, y1, x2, y2], score }, place) => ({
      id: place + 1, image_id: 1, category_id: 1, bbox: [x1, y1, x2 - x1, y2 - y1],
      area: (x2 - x1) * (y2 - y1), iscrowd: 0, score,
    })),
  }, null, 2),
  curl: ({ asked }) => [
    `base64 -w0 PHOTO | jq -R --arg text '${asked.text.replaceAll("'", "'\\''")}' \\`,
    `  '{images: ["data:image/jpeg;base64," + .], text: $text}' \\`,
    `  | curl ${new URL("v1/ground", location.href)} -H 'Content-Type: application/json' -d @-`,
  ].join("\n"),
  python: ({ asked }) => [
    "import base64, httpx",
    "",
    'photo = base64.b64encode(open("PHOTO", "rb").read()).decode()',
    `asked = {"images": ["data:image/jpeg;base64," + photo], "text": ${JSON.stringify(asked.text)}}`,
    `answer = httpx.post("${new URL("v1/ground", location.href)}", json=asked, timeout=120).json()`,
    'print(answer["boxes"])',
  ].join("\n"),
};

async function copy(kind) {
  const text = COPIES[kind](last);
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
  $("model").textContent = models.data.map((each) => each.id).join(", ");
  $("examples").replaceChildren(...examples.map(({ name, images, text, target_image: place }) => {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: name });
    button.onclick = async () => {
      show(await Promise.all(images.map((url, number) => sides(url, `${name} ${number + 1}`))), place);
      $("text").value = text;
      $("text").focus();
    };
    return button;
  }));
}

$("form").onsubmit = (event) => { event.preventDefault(); ask(); };
$("files").onchange = (event) => take(event.target.files);
$("tool").ontoggle = draw;
$("unbox").onclick = () => { for (const edge of EDGES) $(edge).value = ""; draw(); };
for (const edge of EDGES) $(edge).oninput = draw;
for (const button of document.querySelectorAll("[data-copy]")) button.onclick = () => copy(button.dataset.copy);
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
$("theme").onclick = () => {
  const root = document.documentElement;
  const isDark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = isDark ? "light" : "dark";
};
begin().catch(() => say("The server does not answer; is it still running?", true));
