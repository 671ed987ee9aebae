/* Refines a form that holds a [data-dropzone]: drag and drop, a list of the chosen files, upload progress.
   Without this file the form is posted by the browser as it stands.

   The page that is answered takes the place of <main>. Uploads of ECGs, which may be large, are sent by resumable.js. */
(function () {
  "use strict";

  var UNITS = ["B", "KB", "MB", "GB"];

  function size(bytes) {
    var unit = 0;
    while (bytes >= 1000 && unit < UNITS.length - 1) {
      bytes /= 1000;
      unit += 1;
    }
    return (unit === 0 ? bytes : bytes.toFixed(1)) + " " + UNITS[unit];
  }

  function total(files) {
    return Array.prototype.reduce.call(files, function (sum, file) { return sum + file.size; }, 0);
  }

  function setup(zone) {
    if (zone.hasAttribute("data-ready")) {
      return;
    }
    zone.setAttribute("data-ready", "");
    var input = zone.querySelector("input[type=file]");
    var form = zone.closest("form");
    var list = zone.querySelector("[data-files]");
    var count = zone.querySelector("[data-count]");
    var hint = zone.querySelector("[data-drop-hint]");
    var error = zone.querySelector("[data-error]");
    var bar = zone.querySelector("progress");
    var text = zone.querySelector("[data-progress-text]");
    var panel = zone.querySelector("[data-progress]");
    var limit = Number(zone.getAttribute("data-max-bytes")) || 0;
    var shown = 50;
    if (hint) {
      hint.hidden = false;
    }

    function fail(sentence) {
      error.textContent = sentence;
      error.hidden = !sentence;
      if (sentence) {
        input.setAttribute("aria-invalid", "true");
      } else {
        input.removeAttribute("aria-invalid");
      }
    }

    function show() {
      list.textContent = "";
      Array.prototype.slice.call(input.files, 0, shown).forEach(function (file) {
        var item = document.createElement("li");
        var name = document.createElement("span");
        var bytes = document.createElement("span");
        name.textContent = file.name;
        bytes.textContent = size(file.size);
        item.append(name, bytes);
        list.append(item);
      });
      list.hidden = input.files.length === 0;
      var words = input.files.length === 1 ? "1 file" : input.files.length + " files";
      count.textContent = input.files.length ? words + ", " + size(total(input.files)) +
        (input.files.length > shown ? "; the first " + shown + " are listed" : "") : "";
      fail(limit && total(input.files) > limit
        ? "The chosen files hold " + size(total(input.files)) + "; one upload may hold " + size(limit) + ". Choose fewer files."
        : "");
    }

    ["dragenter", "dragover"].forEach(function (name) {
      zone.addEventListener(name, function (event) {
        event.preventDefault();
        zone.classList.add("is-over");
      });
    });
    zone.addEventListener("dragleave", function (event) {
      if (!zone.contains(event.relatedTarget)) {
        zone.classList.remove("is-over");
      }
    });
    zone.addEventListener("drop", function (event) {
      event.preventDefault();
      zone.classList.remove("is-over");
      var dropped = Array.prototype.slice.call(event.dataTransfer.files);
      if (!dropped.length) {
        return;
      }
      var chosen = new DataTransfer();
      (input.multiple ? Array.prototype.slice.call(input.files).concat(dropped) : dropped.slice(0, 1))
        .forEach(function (file) { chosen.items.add(file); });
      input.files = chosen.files;
      show();
    });
    input.addEventListener("change", show);

    function busy(on) {
      panel.hidden = !on;
      form.querySelectorAll("button").forEach(function (button) { button.disabled = on; });
    }

    function replaceMain(xhr) {
      var page = new DOMParser().parseFromString(xhr.responseText, "text/html");
      var main = page.querySelector("main");
      if (!main) {
        busy(false);
        fail("The upload was not taken (status " + xhr.status + "). Nothing was stored; try again.");
        return;
      }
      document.title = page.title;
      document.querySelector("main").replaceWith(document.adoptNode(main));
      if (xhr.responseURL && xhr.responseURL !== window.location.href) {
        window.history.pushState(null, "", xhr.responseURL);
      }
      if (window.htmx) {
        window.htmx.process(document.querySelector("main"));
      }
      document.querySelectorAll("[data-dropzone]").forEach(setup);
      var target = document.querySelector(".error-summary") || document.querySelector("main");
      target.focus();
    }

    form.addEventListener("submit", function (event) {
      if (!input.files.length) {
        return;
      }
      event.preventDefault();
      if (limit && total(input.files) > limit) {
        input.focus();
        return;
      }
      var xhr = new XMLHttpRequest();
      xhr.open("POST", form.getAttribute("action") || window.location.href);
      xhr.setRequestHeader("X-Requested-With", "XMLHttpRequest");
      xhr.upload.addEventListener("progress", function (step) {
        if (!step.lengthComputable) {
          return;
        }
        bar.max = step.total;
        bar.value = step.loaded;
        text.textContent = step.loaded < step.total
          ? size(step.loaded) + " of " + size(step.total) + " sent"
          : "All sent. The server is checking the files.";
      });
      xhr.addEventListener("load", function () { replaceMain(xhr); });
      xhr.addEventListener("error", function () {
        busy(false);
        fail("The connection was lost before all files had arrived. Check the network and send them again.");
      });
      xhr.addEventListener("abort", function () { busy(false); });
      fail("");
      var data = new FormData(form, event.submitter || undefined);
      busy(true);
      text.textContent = "Sending " + size(total(input.files));
      xhr.send(data);
    });
  }

  function all() {
    document.querySelectorAll("[data-dropzone]").forEach(setup);
  }
  document.addEventListener("DOMContentLoaded", all);
  document.addEventListener("htmx:load", all);
})();
