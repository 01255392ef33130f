const gallery = document.querySelector(".gallery");
const cards = gallery ? [...gallery.children] : [];
const buttons = [...document.querySelectorAll(".filters button")];

for (const button of buttons) {
  button.addEventListener("click", () => {
    for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
    const wanted = button.dataset.show;
    for (const card of cards) card.hidden = wanted !== "" && !card.dataset.kinds.split(" ").includes(wanted);
  });
}

document.querySelector(".controls select")?.addEventListener("change", (event) => {
  const [key, sign] = event.target.value.split(" ");
  const order = (a, b) => sign * (a.dataset[key] - b.dataset[key]);
  gallery.append(...(key ? [...cards].sort(order) : cards));
});
