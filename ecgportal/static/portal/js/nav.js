/* Menus close on Escape and on a click elsewhere; the current item of a scrolling navigation comes into view;
   finished background work is announced once; a lost connection is shown while polling fails. */
(function () {
  "use strict";

  function closeMenus(except) {
    document.querySelectorAll("details.menu[open]").forEach(function (menu) {
      if (menu !== except) {
        menu.open = false;
      }
    });
  }

  document.addEventListener("click", function (event) {
    closeMenus(event.target.closest("details.menu"));
  });

  document.addEventListener("keydown", function (event) {
    if (event.key !== "Escape") {
      return;
    }
    var menu = document.querySelector("details.menu[open]");
    if (menu) {
      menu.open = false;
      menu.querySelector("summary").focus();
    }
  });

  document.addEventListener("focusin", function (event) {
    closeMenus(event.target.closest("details.menu"));
  });

  document.addEventListener("DOMContentLoaded", function () {
    document.querySelectorAll(".project-nav [aria-current], .tabs [aria-current]").forEach(function (link) {
      var box = link.closest(".project-nav, .tabs");
      box.scrollLeft = link.offsetLeft - (box.clientWidth - link.offsetWidth) / 2;
    });
    var summary = document.querySelector(".error-summary");
    if (summary) {
      summary.focus();
    }
  });

  var announced = {};

  function announce(root) {
    var live = document.getElementById("live");
    if (!live || !root.querySelectorAll) {
      return;
    }
    var found = Array.prototype.slice.call(root.querySelectorAll("[data-announce]"));
    if (root.hasAttribute && root.hasAttribute("data-announce")) {
      found.push(root);
    }
    found.forEach(function (element) {
      var text = element.getAttribute("data-announce");
      var known = announced[element.id];
      announced[element.id] = text;
      if (known !== undefined && known !== text) {
        live.textContent = text;
      }
    });
  }

  function offline(lost) {
    var note = document.getElementById("offline");
    if (note) {
      note.hidden = !lost;
    }
  }

  document.addEventListener("DOMContentLoaded", function () {
    announce(document.body);
  });
  document.addEventListener("htmx:load", function (event) {
    announce(event.target);
  });
  document.addEventListener("htmx:sendError", function () {
    offline(true);
  });
  document.addEventListener("htmx:afterRequest", function (event) {
    if (event.detail.xhr && event.detail.xhr.status > 0) {
      offline(false);
    }
  });
})();
