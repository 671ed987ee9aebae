/* Makes [data-png] write the picture of its figure as a PNG file, with the colours that the page shows. */
(function () {
  "use strict";
  var SCALE = 2;

  // What the style sheet sets is not part of a picture that stands alone.
  function standalone(svg) {
    var copy = svg.cloneNode(true);
    var shown = svg.querySelectorAll("*");
    copy.querySelectorAll("*").forEach(function (each, place) {
      var style = window.getComputedStyle(shown[place]);
      ["fill", "stroke"].forEach(function (name) {
        if (each.hasAttribute(name)) {
          each.setAttribute(name, style[name]);
        }
      });
      if (style.display === "none") {
        each.setAttribute("display", "none");
      }
    });
    var ground = document.createElementNS(svg.namespaceURI, "rect");
    ground.setAttribute("width", "100%");
    ground.setAttribute("height", "100%");
    ground.setAttribute("fill", window.getComputedStyle(svg.closest(".figure")).backgroundColor);
    copy.insertBefore(ground, copy.firstChild);
    return new XMLSerializer().serializeToString(copy);
  }

  function save(blob, name) {
    var link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    window.setTimeout(function () {
      URL.revokeObjectURL(link.href);
    }, 10000);
  }

  function asPng(figure) {
    var svg = figure.querySelector(".figure__body > svg");
    var box = svg.viewBox.baseVal;
    var picture = new Image();
    picture.onload = function () {
      var canvas = document.createElement("canvas");
      canvas.width = box.width * SCALE;
      canvas.height = box.height * SCALE;
      canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
      canvas.toBlob(function (blob) {
        save(blob, (figure.id || "figure") + ".png");
      }, "image/png");
    };
    picture.src = "data:image/svg+xml;charset=utf-8," + encodeURIComponent(standalone(svg));
  }

  document.addEventListener("click", function (event) {
    var button = event.target.closest("[data-png]");
    if (button) {
      asPng(button.closest(".figure"));
    }
  });

  function reveal(root) {
    root.querySelectorAll("[data-png]").forEach(function (button) {
      button.hidden = false;
    });
  }

  document.addEventListener("DOMContentLoaded", function () {
    reveal(document);
  });
  document.addEventListener("htmx:load", function (event) {
    reveal(event.detail.elt);
  });
})();
