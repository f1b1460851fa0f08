"use strict";
for (const box of document.querySelectorAll(".search")) {
  const edits = [...box.nextElementSibling.children];
  const texts = edits.map((edit) => {
    const said = [...edit.querySelectorAll("summary, .texts, .small")];
    return said.map((each) => each.textContent).join(" ").toLowerCase();
  });
  const input = box.querySelector("input");
  const output = box.querySelector("output");
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    edits.forEach((edit, number) => {
      edit.hidden = !words.every((word) => texts[number].includes(word));
      shown += edit.hidden ? 0 : 1;
    });
    output.textContent = `${shown} of ${edits.length} edits`;
  });
  box.hidden = false;
}
let folded = []; // printed unfolded, since paper has nothing to click; folded again afterwards
addEventListener("beforeprint", () => {
  folded = [...document.querySelectorAll("details:not([open])")];
  for (const each of folded) each.open = true;
});
addEventListener("afterprint", () => {
  for (const each of folded) each.open = false;
});
