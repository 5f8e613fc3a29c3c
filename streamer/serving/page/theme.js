/** Light or dark: as the system has it, until the button says otherwise. Runs before the first paint, so not a module. */
"use strict";

(() => {
  const NEXT = { system: "light", light: "dark", dark: "system" };

  function stored() {
    try {
      const theme = localStorage.getItem("theme");
      return theme in NEXT ? theme : "system";
    } catch {
      return "system"; // a browser that keeps nothing for this page
    }
  }

  function apply(theme) {
    document.documentElement.dataset.theme = theme;
    dispatchEvent(new Event("themechange"));
  }

  function describe(button, theme) {
    button.setAttribute("aria-label", `Theme: ${theme}`);
    button.title = `Theme: ${theme}`;
    button.querySelector("use").setAttribute("href", `#icon-${theme}`);
  }

  apply(stored());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => dispatchEvent(new Event("themechange")));
  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    describe(button, document.documentElement.dataset.theme);
    button.addEventListener("click", () => {
      const theme = NEXT[document.documentElement.dataset.theme];
      try {
        localStorage.setItem("theme", theme);
      } catch {
        // it holds for this visit
      }
      apply(theme);
      describe(button, theme);
    });
  });
})();
