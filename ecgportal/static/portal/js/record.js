/* The record page around its interactive ECG: the first picture gives way to it, the address and the links keep its
   view, and a stretch that was measured there can be annotated here. */
(function () {
  "use strict";

  // What the frame reports; everything else in the address (the filter of the list) stays as it is.
  var VIEW = ["layout", "speed", "gain", "rhythm", "band", "paper", "marks", "signal", "saliency", "window", "centred", "start", "zoom"];

  function withView(search, view) {
    var query = new URLSearchParams(search);
    VIEW.forEach(function (name) { query.delete(name); });
    new URLSearchParams(view).forEach(function (value, name) { query.set(name, value); });
    return query.toString();
  }

  function keep(view) {
    var query = withView(window.location.search, view);
    window.history.replaceState(window.history.state, "", window.location.pathname + (query ? "?" + query : "") + window.location.hash);
    document.querySelectorAll("a[data-keeps-view]").forEach(function (link) {
      var address = new URL(link.href);
      address.search = withView(address.search, view);
      // A 40 Hz filter makes amplitudes wrong; it does not go along to another record.
      if ((link.rel === "next" || link.rel === "prev") && address.searchParams.get("band") === "monitor") {
        address.searchParams.delete("band");
      }
      link.href = address.href;
    });
  }

  function annotate(stretch) {
    var form = document.querySelector("[data-annotate]");
    if (!form) {
      return;
    }
    form.open = true;
    [["t0_s", stretch.t0_s], ["t1_s", stretch.t1_s], ["lead", stretch.lead]].forEach(function (pair) {
      var field = form.querySelector("[name=" + pair[0] + "]");
      if (field && pair[1] !== undefined) {
        field.value = pair[1];
      }
    });
    var text = form.querySelector("[name=text]");
    text.scrollIntoView({ block: "center" });
    text.focus();
  }

  window.addEventListener("message", function (event) {
    var frame = document.querySelector("[data-ecg-frame]");
    var message = event.data;
    if (!frame || event.origin !== window.location.origin || event.source !== frame.contentWindow || !message) {
      return;
    }
    if (message.portal === "ecg-ready") {
      frame.closest("[data-ecg-stage]").classList.add("is-live");
      window.performance.mark("ecg-ready");
    } else if (message.portal === "ecg-view") {
      keep(String(message.query));
    } else if (message.portal === "ecg-height") {
      frame.style.height = Number(message.height) + "px";
    } else if (message.portal === "ecg-annotate") {
      annotate(message);
    }
  });
})();
