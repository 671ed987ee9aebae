/* Colour scheme of a figure's frame (that of the page around it, else the system's), and what is drawn on a map. */
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
    // The corners of a lasso or box as "x,y;x,y;...", few enough for an address; the points inside stay here.
    area: function (selected) {
      var lasso = selected && selected.lassoPoints;
      var box = selected && selected.range;
      var xs = lasso ? lasso.x : box ? [box.x[0], box.x[1], box.x[1], box.x[0]] : [];
      var ys = lasso ? lasso.y : box ? [box.y[0], box.y[0], box.y[1], box.y[1]] : [];
      var step = Math.max(1, Math.ceil(xs.length / 60));
      var corners = [];
      for (var k = 0; k < xs.length; k += step) {
        corners.push(Number(xs[k]).toPrecision(5) + "," + Number(ys[k]).toPrecision(5));
      }
      return corners.join(";");
    },
  },
});
