/* Applies the kept theme before the first paint, and turns [data-theme-toggle] into a button that cycles
   through system, light and dark. Loaded without defer in <head>, so that no page flashes. */
(function () {
  "use strict";
  var KEY = "portal-theme";
  var ORDER = ["system", "light", "dark"];
  var root = document.documentElement;

  function kept() {
    try {
      var value = window.localStorage.getItem(KEY);
      return ORDER.indexOf(value) > 0 ? value : "system";
    } catch (error) {
      return "system"; // Storage is refused in some private windows; the system theme still holds.
    }
  }

  function keep(theme) {
    try {
      if (theme === "system") {
        window.localStorage.removeItem(KEY);
      } else {
        window.localStorage.setItem(KEY, theme);
      }
    } catch (error) {
      return;
    }
  }

  function apply(theme) {
    if (theme === "system") {
      root.removeAttribute("data-theme");
    } else {
      root.setAttribute("data-theme", theme);
    }
  }

  function describe(button, theme) {
    var next = ORDER[(ORDER.indexOf(theme) + 1) % ORDER.length];
    button.hidden = false;
    button.setAttribute("data-state", theme);
    button.setAttribute("aria-label", "Colour theme: " + theme + ". Change to " + next + ".");
    button.title = "Colour theme: " + theme;
    button.querySelectorAll("[data-theme-icon]").forEach(function (icon) {
      icon.hidden = icon.getAttribute("data-theme-icon") !== theme;
    });
  }

  var current = kept();
  apply(current);

  document.addEventListener("DOMContentLoaded", function () {
    var buttons = document.querySelectorAll("[data-theme-toggle]");
    buttons.forEach(function (button) {
      describe(button, current);
      button.addEventListener("click", function () {
        current = ORDER[(ORDER.indexOf(current) + 1) % ORDER.length];
        keep(current);
        apply(current);
        buttons.forEach(function (each) {
          describe(each, current);
        });
        document.dispatchEvent(new CustomEvent("portal:theme", { detail: { theme: current } }));
      });
    });
  });

  window.addEventListener("storage", function (event) {
    if (event.key === KEY) {
      current = kept();
      apply(current);
      document.querySelectorAll("[data-theme-toggle]").forEach(function (button) {
        describe(button, current);
      });
    }
  });
})();
