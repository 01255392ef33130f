// Requests with the server's key, which is asked for where it takes one and kept for this tab.

export async function api(path, options = {}) {
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

export function themed(button) {
  button.onclick = () => {
    const root = document.documentElement;
    const system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
    root.dataset.theme = (root.dataset.theme || system) === "dark" ? "light" : "dark";
  };
}

// An element with properties, and what it holds; texts go in as text alone.
export function make(name, properties = {}, ...children) {
  const { className, ...others } = properties;
  const element = Object.assign(document.createElement(name), others);
  if (className) element.className = className;
  element.append(...children);
  return element;
}
