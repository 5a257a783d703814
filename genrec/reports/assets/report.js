"use strict";
// All of it is convenience: without a script the page says the same.
(() => {
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const isDark = () => root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  if (button) {
    button.hidden = false;
    button.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; });
  }
  for (const toggle of document.querySelectorAll("button[data-series]")) {
    toggle.addEventListener("click", () => {
      const isShown = toggle.getAttribute("aria-pressed") === "true";
      toggle.setAttribute("aria-pressed", String(!isShown));
      for (const mark of toggle.closest("figure").querySelectorAll(`svg [data-series="${CSS.escape(toggle.dataset.series)}"]`)) {
        mark.classList.toggle("hidden", isShown);
      }
    });
  }
  for (const group of document.querySelectorAll("[data-choices]")) {
    const panels = [...group.children].filter((child) => child.dataset.choice);
    const bar = document.createElement("div");
    bar.className = "legend choices";
    const choose = (wanted) => {
      panels.forEach((panel) => panel.classList.toggle("hidden", panel.dataset.choice !== wanted));
      [...bar.children].forEach((own) => own.setAttribute("aria-pressed", String(own.textContent === wanted)));
    };
    for (const panel of panels) {
      const own = document.createElement("button");
      own.textContent = panel.dataset.choice;
      own.addEventListener("click", () => choose(panel.dataset.choice));
      bar.append(own);
    }
    group.prepend(bar);
    choose(panels[0].dataset.choice);
  }
  const tip = document.createElement("div");
  tip.id = "tip";
  document.body.append(tip);
  const show = (event) => {
    const mark = event.target.closest("svg [data-tip]");
    tip.style.display = mark ? "block" : "none";
    if (!mark) return;
    tip.textContent = mark.dataset.tip;
    const width = tip.offsetWidth;
    tip.style.left = `${Math.min(event.clientX + 12, innerWidth - width - 8)}px`;
    tip.style.top = `${Math.max(event.clientY - 36, 8)}px`;
  };
  document.addEventListener("pointermove", show);
  document.addEventListener("pointerdown", show);
})();
