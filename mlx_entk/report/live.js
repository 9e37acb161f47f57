"use strict";
// The kernel that is picked stands in the address, so that it outlasts a reload; a browser keeps the
// place of a page that reloads itself.
const main = document.querySelector("main");
const pick = document.getElementById("kernel");
const sections = [...document.querySelectorAll("[data-kernel]")];
function show() {
  for (const section of sections) section.hidden = section.dataset.kernel !== pick.value;
}
if (pick) {
  const wanted = new URLSearchParams(location.hash.slice(1)).get("kernel");
  if ([...pick.options].some((option) => option.value === wanted)) pick.value = wanted;
  pick.addEventListener("change", () => {
    history.replaceState(null, "", `#kernel=${encodeURIComponent(pick.value)}`);
    show();
  });
  show();
}
const age = document.getElementById("age");
const live = document.querySelector("[data-reload]");
function ago() {
  const seconds = Math.max(0, Math.round(Date.now() / 1000 - Number(age.dataset.written)));
  const text = seconds < 120 ? `${seconds} s` : seconds < 7200 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3600)} h`;
  age.textContent = `Written ${text} ago.`;
}
ago();
setInterval(ago, 1000);
if (live) {
  const again = () => {
    // Not under a reader's hands, and not where nobody looks.
    if (document.hidden || document.activeElement === pick) setTimeout(again, 1000);
    else location.reload();
  };
  setTimeout(again, 1000 * Number(live.dataset.reload));
}
