/* Colour scheme of a figure's frame: that of the page around it, else the system's. */
window.dash_clientside = Object.assign({}, window.dash_clientside, {
  portal: {
    scheme: function () {
      var chosen = null;
      try {
        chosen = window.parent.document.documentElement.dataset.theme;
      } catch (error) {
        chosen = null;
      }
      var system = window.matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
      var scheme = chosen === "dark" || chosen === "light" ? chosen : system;
      if (document.documentElement.dataset.theme === scheme) {
        return window.dash_clientside.no_update;
      }
      document.documentElement.dataset.theme = scheme;
      return scheme;
    },
  },
});
