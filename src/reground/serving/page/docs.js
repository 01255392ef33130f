// A page of /openapi.json: every address with what it takes and gives, and a form to try it.

import { api, make, themed } from "./api.js";

let description = null;
const $ = (id) => document.getElementById(id);
const named = (schema) => schema.$ref?.split("/").at(-1);
const resolved = (schema) => (schema.$ref ? description.components.schemas[named(schema)] : schema);
const content = (holder) => holder?.content?.["application/json"]?.schema;

// ---- schemas in words ----------------------------------------------------------------------------

// What a value is, as text and links to the schemas that it names.
function typeOf(schema) {
  if (schema.$ref) return [make("a", { href: `#${named(schema)}`, textContent: named(schema) })];
  if (schema.anyOf) return schema.anyOf.flatMap((each, place) => [place ? " or " : "", ...typeOf(each)]);
  if (schema.enum) return [schema.enum.map((each) => JSON.stringify(each)).join(", ")];
  if ("const" in schema) return [JSON.stringify(schema.const)];
  if (schema.prefixItems) return [`list of ${schema.prefixItems.length} `, ...typeOf(schema.prefixItems[0]), "s"];
  if (schema.items) return ["list of ", ...typeOf(schema.items)];
  return [schema.type || "anything"];
}

const LIMITS = {
  minimum: "at least", exclusiveMinimum: "above", maximum: "at most", exclusiveMaximum: "below",
  minLength: "letters, at least", maxLength: "letters, at most", minItems: "items, at least", maxItems: "items, at most",
};

function limits(schema) {
  const own = Object.entries(LIMITS).filter(([name]) => name in schema && !schema.prefixItems)
    .map(([name, words]) => `${words} ${schema[name]}`);
  const inner = (schema.anyOf || []).map((each) => limits(each).slice(1, -1)).filter(Boolean);
  const usual = schema.default === undefined || schema.default === null ? [] : [`default ${JSON.stringify(schema.default)}`];
  const all = [...own, ...inner, ...usual].join("; ");
  return all && `(${all})`;
}

function table(caption, rows) {
  const body = rows.map(({ name, schema, isNeeded, about }) => make("tr", {},
    make("th", { scope: "row" }, make("code", { textContent: name }),
      isNeeded ? make("span", { className: "needed", textContent: " needed" }) : ""),
    make("td", {}, ...typeOf(schema)),
    make("td", {}, [about || schema.description, limits(schema)].filter(Boolean).join(" "))));
  return make("div", { className: "scroll", tabIndex: 0, role: "region", ariaLabel: caption },
    make("table", {}, make("tbody", {}, ...body)));
}

function fields(name, schema) {
  return table(name, Object.entries(schema.properties || {}).map(([field, own]) => (
    { name: field, schema: own, isNeeded: (schema.required || []).includes(field) })));
}

// A value that fits: the schema's own example, or what is needed of it.
function example(schema) {
  if (schema.examples) return schema.examples[0];
  if (schema.default !== undefined) return schema.default;
  const real = resolved(schema);
  if (real !== schema) return example(real);
  if (schema.anyOf) return example(schema.anyOf[0]);
  if (schema.enum) return schema.enum[0];
  if (schema.type === "array") return schema.items ? [example(schema.items)] : [];
  if (schema.type !== "object") return { string: "text", integer: 1, number: 1, boolean: true }[schema.type] ?? null;
  const wanted = Object.entries(schema.properties || {}).filter(([name, own]) =>
    own.examples || (schema.required || []).includes(name));
  return Object.fromEntries(wanted.map(([name, own]) => [name, example(own)]));
}

// ---- addresses -----------------------------------------------------------------------------------

function route(path, method, operation) {
  const body = content(operation.requestBody);
  const article = make("article", { id: operation.operationId },
    make("h2", {}, badge(method), path),
    make("p", { textContent: [operation.summary, operation.description].filter(Boolean).join(". ") }));
  const parameters = operation.parameters || [];
  if (parameters.length) {
    article.append(make("h3", { textContent: "Parameters" }), table(`Parameters of ${path}`, parameters.map((each) => (
      { name: each.name, schema: each.schema, isNeeded: each.required, about: each.description }))));
  }
  if (body) {
    article.append(make("h3", {}, "Takes ", ...typeOf(body)), fields(`What ${path} takes`, resolved(body)));
  }
  const rows = Object.entries(operation.responses).map(([status, { description: about, ...own }]) => (
    { name: status, schema: content(own) || { type: "text" }, about }));
  article.append(
    make("details", {}, make("summary", { textContent: "Gives" }), table(`What ${path} gives`, rows)),
    make("details", {}, make("summary", { textContent: "Try it" }), tries(path, method, parameters, body)),
  );
  return article;
}

const badge = (method) => make("span", { className: "method", textContent: `${method.toUpperCase()} ` });

// A form that sends a request, and shows what came back.
function tries(path, method, parameters, body) {
  const inputs = parameters.map(({ name, schema, examples }) => {
    const value = examples ? Object.values(examples)[0].value : example(schema);
    return { name, input: make("input", { name, value: [value].flat().join(", ") }), isList: resolved(schema).type === "array" };
  });
  const area = body && make("textarea", { value: JSON.stringify(example(body), null, 2), spellcheck: false });
  const shown = make("pre", { tabIndex: 0, role: "status", ariaLabel: "What came back", hidden: true });
  const form = make("form", { className: "tries" },
    ...inputs.map(({ name, input, isList }) => make("label", {}, isList ? `${name}, with commas between` : name, input)),
    ...(area ? [make("label", {}, "Body", area)] : []),
    make("button", { type: "submit", textContent: "Send" }), shown);
  form.onsubmit = async (event) => {
    event.preventDefault();
    const query = new URLSearchParams(inputs.flatMap(({ name, input, isList }) =>
      (isList ? input.value.split(",") : [input.value]).map((each) => [name, each.trim()])));
    const address = path.slice(1) + (inputs.length ? `?${query}` : "");
    shown.hidden = false;
    shown.textContent = "…";
    try {
      const response = await api(address, { method: method.toUpperCase(), ...(area ? { body: area.value } : {}) });
      shown.textContent = `${response.status} ${response.statusText}\n${pretty(await response.text())}`;
    } catch {
      shown.textContent = "The server does not answer; is it still running?";
    }
  };
  return form;
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

// ---- beginning -----------------------------------------------------------------------------------

async function begin() {
  const response = await api("openapi.json");
  description = await response.json();
  if (!response.ok) return ($("status").textContent = description.error);
  $("about").textContent = description.info.description;
  const operations = Object.entries(description.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({ path, method, operation })));
  const schemas = Object.entries(description.components.schemas);
  $("list").append(
    ...operations.map(({ path, method, operation }) =>
      make("li", {}, make("a", { href: `#${operation.operationId}` }, badge(method), path))),
    ...schemas.map(([name]) => make("li", {}, make("a", { href: `#${name}`, textContent: name }))),
  );
  $("routes").replaceChildren(
    ...operations.map(({ path, method, operation }) => route(path, method, operation)),
    ...schemas.map(([name, schema]) => make("article", { id: name }, make("h2", { textContent: name }),
      make("p", { textContent: schema.description || "" }), fields(name, schema))),
  );
  if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();
}

themed($("theme"));
begin().catch(() => { $("status").textContent = "The server does not answer; is it still running?"; });
