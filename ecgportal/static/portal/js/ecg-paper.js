/* The paper of the interactive ECG: what lies where on the screen, and moving it by keys, mouse and fingers.

   The figure's axes are millimetres of paper (y upwards negative). Drawing tens of thousands of samples takes longer than a
   hand waits, so a move is shown at once by transforms of what is drawn, true to scale with the grid and the names of the
   leads; once the paper rests, Plotly draws it anew in the detail of the new scale. */
window.ecgPaper = (function () {
  "use strict";

  var REST_MS = 200;
  var FEWEST_MM = 8;
  var graph = null;
  var names = null;
  var listener = {};
  // What the screen shows, {x: [mm, mm], y: [mm, mm]}; null while it is what Plotly has drawn.
  var shown = null;
  var frame = 0;
  var resting = 0;

  function meta() { return graph && graph.layout && graph.layout.meta; }

  function drawn() {
    var full = graph._fullLayout;
    return { x: full.xaxis.range.map(Number), y: full.yaxis.range.map(Number) };
  }

  function ranges() { return shown || drawn(); }

  /* Where a part of the paper lies in the graph, in px: as large as fits, in the middle, squares square. */
  function boxOf(part) {
    var size = graph._fullLayout._size;
    var wide = part.x[1] - part.x[0];
    var high = part.y[1] - part.y[0];
    var scale = Math.min(size.w / wide, size.h / high);
    return {
      left: size.l + (size.w - wide * scale) / 2, top: size.t + (size.h - high * scale) / 2,
      width: wide * scale, height: high * scale, scale: scale,
    };
  }

  function box() { return boxOf(ranges()); }

  function toPx(point) {
    var part = ranges();
    var at = boxOf(part);
    return { x: at.left + (point.x - part.x[0]) * at.scale, y: at.top + (part.y[1] - point.y) * at.scale };
  }

  function toMm(place) {
    var part = ranges();
    var at = boxOf(part);
    var edge = graph.getBoundingClientRect();
    return {
      x: part.x[0] + (place.clientX - edge.left - at.left) / at.scale, y: part.y[1] - (place.clientY - edge.top - at.top) / at.scale,
    };
  }

  function current() {
    var part = ranges();
    return {
      centre: { x: (part.x[0] + part.x[1]) / 2, y: (part.y[0] + part.y[1]) / 2 },
      width: part.x[1] - part.x[0], height: part.y[1] - part.y[0],
    };
  }

  function whole() {
    var part = ranges();
    var m = meta();
    return !m || (part.x[0] <= 0.5 && part.x[1] >= m.width_mm - 0.5 && part.y[0] <= -m.height_mm + 0.5 && part.y[1] >= -0.5);
  }

  /* Moves ---------------------------------------------------------------------------------------------------- */

  /* Show the part of the paper around a centre, in the proportions of the frame. */
  function show(centre, width) {
    var size = graph._fullLayout._size;
    var m = meta();
    width = Math.max(FEWEST_MM, width);
    var height = width * size.h / size.w;
    if (width >= m.width_mm && height >= m.height_mm) {
      showAll();
      return;
    }
    var x = clamp(centre.x, width, 0, m.width_mm);
    var y = clamp(centre.y, height, -m.height_mm, 0);
    move({ x: [x - width / 2, x + width / 2], y: [y - height / 2, y + height / 2] });
  }

  function showAll() { move({ x: [0, meta().width_mm], y: [-meta().height_mm, 0] }); }

  function clamp(middle, span, low, high) {
    return span >= high - low ? (low + high) / 2 : Math.min(Math.max(middle, low + span / 2), high - span / 2);
  }

  function zoom(factor, around) {
    var now = current();
    var fixed = around || now.centre;
    var width = Math.max(FEWEST_MM, now.width * factor);
    factor = width / now.width;
    show({ x: fixed.x + (now.centre.x - fixed.x) * factor, y: fixed.y + (now.centre.y - fixed.y) * factor }, width);
  }

  function pan(dx, dy) {
    var now = current();
    show({ x: now.centre.x + dx, y: now.centre.y + dy }, now.width);
  }

  function move(part) {
    shown = part;
    frame = frame || window.requestAnimationFrame(function () {
      frame = 0;
      transform();
      listener.moved();
    });
    window.clearTimeout(resting);
    resting = window.setTimeout(rest, REST_MS);
  }

  function rest() {
    if (held()) {
      resting = window.setTimeout(rest, REST_MS);
      return;
    }
    var part = shown;
    if (frame) {
      window.cancelAnimationFrame(frame);
      frame = 0;
    }
    release();
    shown = null;
    window.Plotly.relayout(graph, { "xaxis.range": part.x, "yaxis.range": part.y }).then(listener.rested);
  }

  /* Transforms ----------------------------------------------------------------------------------------------- */

  function all(selector) { return graph.querySelectorAll(selector); }

  function layers() { return all(".cartesianlayer .overplot > .xy > g"); }

  function clips() { return all(".clips .plotclip > rect, .clips .axesclip[id$=xy] > rect"); }

  function transform() {
    if (!shown) {
      return;
    }
    var from = drawn();
    var was = boxOf(from);
    var now = boxOf(shown);
    var scale = now.scale / was.scale;
    // A place p of what is drawn, in px of the graph, belongs to p * scale + (dx, dy).
    var dx = now.left - was.left * scale + (from.x[0] - shown.x[0]) * now.scale;
    var dy = now.top - was.top * scale + (shown.y[1] - from.y[1]) * now.scale;
    all(".shapelayer path").forEach(function (each) {
      each.setAttribute("transform", "translate(" + dx + "," + dy + ") scale(" + scale + ")");
    });
    // The traces are placed from the corner of what is drawn.
    var inner = "translate(" + (dx + was.left * (scale - 1)) + "," + (dy + was.top * (scale - 1)) + ") scale(" + scale + ")";
    layers().forEach(function (each) { each.setAttribute("transform", inner); });
    clips().forEach(function (each) {
      var own = each.parentNode.classList.contains("plotclip");
      each.setAttribute("x", now.left - (own ? was.left : 0));
      each.setAttribute("y", now.top - (own ? was.top : 0));
      each.setAttribute("width", now.width);
      each.setAttribute("height", now.height);
    });
    label(now);
  }

  /* Hand what was transformed back to Plotly as it left it. */
  function release() {
    var was = boxOf(drawn());
    all(".shapelayer path").forEach(function (each) { each.removeAttribute("transform"); });
    layers().forEach(function (each) { each.removeAttribute("transform"); });
    clips().forEach(function (each) {
      var own = each.parentNode.classList.contains("plotclip");
      each.setAttribute("x", own ? 0 : was.left);
      each.setAttribute("y", own ? 0 : was.top);
      each.setAttribute("width", was.width);
      each.setAttribute("height", was.height);
    });
    all(".annotation").forEach(function (each) { each.style.visibility = ""; });
    names.textContent = "";
  }

  /* Names of leads and annotations keep their size; those that come into view were not drawn before. */
  function label(now) {
    all(".annotation").forEach(function (each) {
      // Those of the page, such as the footer, stay.
      each.style.visibility = graph.layout.annotations[Number(each.dataset.index)].xref === "x" ? "hidden" : "";
    });
    names.textContent = "";
    names.style.left = now.left + "px";
    names.style.top = now.top + "px";
    names.style.width = now.width + "px";
    names.style.height = now.height + "px";
    (graph.layout.annotations || []).forEach(function (each) {
      if (each.xref !== "x" || each.x < shown.x[0] || each.x > shown.x[1] || each.y < shown.y[0] || each.y > shown.y[1]) {
        return;
      }
      var at = toPx(each);
      var words = document.createElement("span");
      words.style.left = at.x - now.left + "px";
      words.style.top = at.y - now.top + "px";
      words.style.font = each.font.size + "px " + graph._fullLayout.font.family;
      words.style.color = each.font.color;
      words.className = each.yanchor === "bottom" ? "above" : "beside";
      words.append.apply(words, read(each.text));
      names.append(words);
    });
  }

  /* Return the parts of a text of the figure, bold and italic as Plotly shows them, as nodes that hold nothing but text. */
  function read(text) {
    var parsed = new DOMParser().parseFromString(text, "text/html").body;
    return Array.prototype.map.call(parsed.childNodes, function (part) {
      var name = part.nodeName.toLowerCase();
      var own = document.createElement(name === "b" || name === "i" ? name : "span");
      own.textContent = part.textContent;
      return own;
    });
  }

  /* Mouse and fingers ---------------------------------------------------------------------------------------- */

  var grip = null;
  var pinch = null;

  function held() { return !!grip || !!pinch; }

  function hold(event) {
    if (event.pointerType === "touch" || event.button > 0 || !meta() || listener.measures()) {
      return;
    }
    grip = { id: event.pointerId, x: event.clientX, y: event.clientY, moved: false };
  }

  function drag(event) {
    if (!grip || event.pointerId !== grip.id) {
      return;
    }
    if (!grip.moved && Math.hypot(event.clientX - grip.x, event.clientY - grip.y) < 3) {
      return;
    }
    grip.moved = true;
    graph.classList.add("is-held");
    var scale = box().scale;
    pan((grip.x - event.clientX) / scale, (event.clientY - grip.y) / scale);
    grip.x = event.clientX;
    grip.y = event.clientY;
  }

  function drop(event) {
    if (grip && event.pointerId === grip.id) {
      grip = null;
      graph.classList.remove("is-held");
    }
  }

  function fingers(event) {
    var a = event.touches[0];
    var b = event.touches[1];
    return {
      middle: { clientX: (a.clientX + b.clientX) / 2, clientY: (a.clientY + b.clientY) / 2 },
      apart: Math.max(10, Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY)),
    };
  }

  /* Plotly would lay a cover over the whole document at the first touch or press and keep all that follows for itself. */
  function alone(event) { event.stopPropagation(); }

  /* One finger scrolls the page, as everywhere; two move and zoom the paper. */
  function touch(event) {
    alone(event);
    if (event.touches.length !== 2 || !meta()) {
      pinch = null;
      return;
    }
    event.preventDefault();
    listener.pinched();
    var now = fingers(event);
    pinch = { point: toMm(now.middle), apart: now.apart };
  }

  function spread(event) {
    if (!pinch || event.touches.length !== 2) {
      return;
    }
    event.preventDefault();
    var now = fingers(event);
    var width = Math.max(FEWEST_MM, current().width * pinch.apart / now.apart);
    var factor = width / current().width;
    // The point of the paper between the fingers stays between them.
    var under = toMm(now.middle);
    var centre = current().centre;
    show({ x: pinch.point.x + (centre.x - under.x) * factor, y: pinch.point.y + (centre.y - under.y) * factor }, width);
    // At an edge the paper stays and the fingers go on.
    pinch = { point: toMm(now.middle), apart: now.apart };
  }

  function lift(event) {
    if (event.touches.length < 2) {
      pinch = null;
    }
  }

  /* Turning the wheel scrolls the page; with Ctrl, and by pinching on a touch pad, it zooms the paper. */
  function wheel(event) {
    if ((!event.ctrlKey && !event.metaKey) || !meta()) {
      return;
    }
    event.preventDefault();
    zoom(Math.exp(Math.max(-60, Math.min(60, event.deltaY)) / 200), toMm(event));
  }

  /* Take over a graph inside an element. told: moved(), rested(), measures() whether the caliper has the mouse, pinched(). */
  function take(found, inner, told) {
    graph = found;
    listener = told;
    names = document.createElement("div");
    names.className = "layer names";
    names.setAttribute("aria-hidden", "true");
    inner.append(names);
    inner.addEventListener("wheel", wheel, { passive: false });
    inner.addEventListener("pointerdown", hold);
    window.addEventListener("pointermove", drag);
    window.addEventListener("pointerup", drop);
    window.addEventListener("pointercancel", drop);
    inner.addEventListener("touchstart", touch, { passive: false, capture: true });
    inner.addEventListener("mousedown", alone, true);
    inner.addEventListener("touchmove", spread, { passive: false });
    inner.addEventListener("touchend", lift);
    inner.addEventListener("touchcancel", lift);
    // A figure that arrives during a move is drawn where Plotly thinks the paper is.
    graph.on("plotly_afterplot", transform);
  }

  return {
    take: take, meta: meta, ranges: ranges, box: box, toPx: toPx, toMm: toMm, current: current, whole: whole,
    show: show, showAll: showAll, zoom: zoom, pan: pan,
  };
})();
