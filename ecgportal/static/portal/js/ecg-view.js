/* Tools and keys of the interactive ECG: settings from and to the address, zoom and pan, cross-hair, caliper.

   The figure's axes are millimetres of paper (y upwards negative); layout.meta.cells says which lead lies where. */
(function () {
  "use strict";

  var NAMES = ["layout", "speed", "gain", "rhythm", "band", "paper", "marks", "signal", "saliency", "window", "centred", "start"];
  var DEFAULTS = { layout: "3x4+rhythm", speed: "25", gain: "10", rhythm: "II", band: "none", paper: "pink", marks: "none",
    signal: "original", saliency: "none", window: "10", centred: "0", start: "0" };
  var graph = null;
  var layer = null;
  var region = null;
  var caliper = null;
  var shownLead = -1;
  var stop = -1;
  var view = "";

  function byId(id) { return document.getElementById(id); }

  function tell(message) {
    if (window.parent !== window) {
      window.parent.postMessage(message, window.location.origin);
    }
  }

  function set(id, props) { window.dash_clientside.set_props(id, props); }

  /* Settings ------------------------------------------------------------------------------------------------- */

  function zoomKey(values) { return values.layout + "|" + Number(values.speed) + "|" + Number(values.window); }

  function settings(search) {
    var held = Array.prototype.slice.call(arguments, 1);
    var query = new URLSearchParams(search || "");
    var values = {};
    // The layout that this record is shown in where nobody chose one.
    DEFAULTS.layout = query.get("usual") || DEFAULTS.layout;
    held[0] = DEFAULTS.layout;
    var out = NAMES.map(function (name, place) {
      var given = query.get(name);
      // A plus sign that was not escaped arrives as a blank.
      var value = given === null ? held[place] : name === "layout" ? given.replace(/ /g, "+") : given;
      if (name === "start") {
        value = Number(value) || 0;
      }
      values[name] = value;
      return value;
    });
    var parts = (query.get("zoom") || "").split(",").map(Number);
    var zoom = parts.length === 4 && parts.every(isFinite)
      ? { key: zoomKey(values), x: parts.slice(0, 2), y: parts.slice(2) } : null;
    return out.concat([zoom]);
  }

  function keep() {
    var values = {};
    var query = new URLSearchParams();
    Array.prototype.slice.call(arguments).slice(0, NAMES.length).forEach(function (value, place) {
      values[NAMES[place]] = String(value === null || value === undefined ? "" : value);
    });
    NAMES.forEach(function (name) {
      if (values[name] !== "" && values[name] !== DEFAULTS[name]) {
        query.set(name, values[name]);
      }
    });
    view = query.toString();
    told();
    return zoomKey(values);
  }

  /* The page around the frame keeps the view in its address and in its links. */
  function told() {
    var zoom = !graph || whole() ? "" : zoomed();
    tell({ portal: "ecg-view", query: view + (zoom ? (view ? "&" : "") + "zoom=" + zoom : "") });
  }

  window.dash_clientside = Object.assign({}, window.dash_clientside, {
    portal: Object.assign({}, (window.dash_clientside || {}).portal, { settings: settings, keep: keep }),
  });

  /* Geometry ------------------------------------------------------------------------------------------------- */

  var paper = window.ecgPaper;
  var meta = paper.meta;
  var toPx = paper.toPx;
  var toMm = paper.toMm;
  var current = paper.current;
  var whole = paper.whole;

  function cellAt(point) {
    var best = null;
    meta().cells.forEach(function (cell) {
      if (point.x < cell.x0_mm || point.x > cell.x0_mm + cell.width_mm) {
        return;
      }
      if (!best || Math.abs(point.y - cell.y0_mm) < Math.abs(point.y - best.y0_mm)) {
        best = cell;
      }
    });
    return best;
  }

  function timeAt(cell, x) { return cell.t0_s + (x - cell.x0_mm) / meta().speed_mm_s; }
  function placeOf(cell, t) { return cell.x0_mm + (t - cell.t0_s) * meta().speed_mm_s; }
  function voltsAt(cell, y) { return cell.level_mv + cell.sign * (y - cell.y0_mm) / meta().gain_mm_mv; }
  function heightOf(cell, mv) { return cell.y0_mm + cell.sign * (mv - cell.level_mv) * meta().gain_mm_mv; }

  function traceOf(cell) {
    return graph._fullData.find(function (trace) {
      return trace.meta && trace.meta.lead === cell.lead && trace.meta.row === cell.row;
    });
  }

  /* Return the signal's height at a place, or null where nothing was recorded. */
  function signalAt(cell, x) {
    var trace = traceOf(cell);
    var y = trace && trace.y;
    if (!y || !y.length) {
      return null;
    }
    var k = 0;
    if (trace.x && trace.x.length) {
      var low = 0;
      var high = trace.x.length - 1;
      while (low < high) {
        k = (low + high) >> 1;
        if (trace.x[k] < x) { low = k + 1; } else { high = k; }
      }
      k = low;
    } else {
      k = Math.round((x - trace.x0) / trace.dx);
    }
    return k >= 0 && k < y.length && isFinite(y[k]) ? y[k] : null;
  }

  /* Going to a place ----------------------------------------------------------------------------------------- */

  function zoomed() {
    var part = paper.ranges();
    return part.x.concat(part.y).map(function (v) { return v.toFixed(1); }).join(",");
  }

  function showAll() {
    shownLead = -1;
    paper.showAll();
    say("Whole page");
  }

  function focusLead(place) {
    var cells = meta().cells.filter(function (cell) { return !cell.rhythm; });
    // Down the columns, as leads are counted: I, II, III, then aVR.
    cells.sort(function (a, b) { return a.x0_mm - b.x0_mm || b.y0_mm - a.y0_mm; });
    shownLead = ((place % cells.length) + cells.length) % cells.length;
    var cell = cells[shownLead];
    paper.show({ x: cell.x0_mm + cell.width_mm / 2, y: cell.y0_mm + 2 }, cell.width_mm + 4);
    say("Lead " + cell.label + (cell.state === "missing" ? ", not recorded" : cell.state === "empty" ? ", no samples" : ""));
  }

  function cycle(id, by) {
    var select = byId(id);
    var next = (select.selectedIndex + by + select.options.length) % select.options.length;
    set(id, { value: select.options[next].value });
    say(select.labels[0].firstChild.textContent + " " + select.options[next].text);
  }

  function moveWindow(share, end) {
    var m = meta();
    var start = end === undefined ? m.start_s + share * m.window_s : end;
    start = Math.min(Math.max(0, start), Math.max(0, m.duration_s - m.window_s));
    set("start", { value: Math.round(start * 1000) / 1000 });
    say("From " + start.toFixed(1) + " s");
  }

  /* Go to the next or previous annotation, also outside the window. */
  function nextStop(by) {
    var stops = (meta().stops || []).slice().sort(function (a, b) { return a[0] - b[0]; });
    if (!stops.length) {
      say("No annotations here");
      return;
    }
    stop = ((stop < 0 && by < 0 ? 0 : stop) + by + stops.length) % stops.length;
    var t = stops[stop][0];
    say("Annotation " + (stop + 1) + " of " + stops.length + ": " + stops[stop][1] + ", at " + t.toFixed(2) + " s");
    var m = meta();
    if (t < m.start_s || t > m.start_s + m.window_s) {
      moveWindow(0, t - m.window_s / 2);
      return;
    }
    var cell = m.cells.find(function (each) { return t >= each.t0_s && t <= each.t1_s; });
    if (cell) {
      paper.show({ x: placeOf(cell, t), y: current().centre.y }, Math.min(current().width, 120));
    }
  }

  /* Words ---------------------------------------------------------------------------------------------------- */

  var speaking = 0;
  function say(words) {
    window.clearTimeout(speaking);
    // A live region that changes at every step of a drag would never fall silent.
    speaking = window.setTimeout(function () { byId("measured").textContent = words; }, 400);
  }

  function mv(value) { return (value < 0 ? "−" : "") + Math.abs(value).toFixed(2) + " mV"; }

  function measure() {
    var m = meta();
    var dt = Math.abs(caliper.b.x - caliper.a.x) / m.speed_mm_s;
    var dv = voltsAt(caliper.cell, caliper.b.y) - voltsAt(caliper.cell, caliper.a.y);
    return {
      ms: dt * 1000, mv: dv, rate: dt > 0 ? 60 / dt : null,
      words: (dt * 1000).toFixed(0) + " ms · " + mv(dv) + (dt >= 0.1 ? " · " + (60 / dt).toFixed(0) + " /min" : ""),
    };
  }

  /* Caliper and cross-hair ----------------------------------------------------------------------------------- */

  function line(left, top, width, height, name) {
    var each = document.createElement("div");
    each.className = name;
    each.style.left = left + "px";
    each.style.top = top + "px";
    each.style.width = Math.max(0, width) + "px";
    each.style.height = Math.max(0, height) + "px";
    layer.append(each);
    return each;
  }

  function paint() {
    if (!layer || !graph || !graph._fullLayout || !graph._fullLayout.xaxis || !meta()) {
      return;
    }
    layer.textContent = "";
    var box = paper.box();
    layer.style.left = box.left + "px";
    layer.style.top = box.top + "px";
    layer.style.width = box.width + "px";
    layer.style.height = box.height + "px";
    if (hair) {
      var at = toPx(hair);
      line(at.x - box.left, 0, 1, box.height, "hair");
      line(0, at.y - box.top, box.width, 1, "hair");
    }
    if (!caliper) {
      return;
    }
    var p = toPx(caliper.a);
    var q = toPx(caliper.b);
    var left = Math.min(p.x, q.x) - box.left;
    var top = Math.min(p.y, q.y) - box.top;
    line(left, 0, 1, box.height, "caliper-line");
    line(Math.max(p.x, q.x) - box.left, 0, 1, box.height, "caliper-line");
    line(left, top, Math.abs(q.x - p.x), Math.abs(q.y - p.y), "caliper-box");
    if (caliper.march && Math.abs(q.x - p.x) >= 4) {
      for (var x = Math.max(p.x, q.x) + Math.abs(q.x - p.x); x < box.left + box.width; x += Math.abs(q.x - p.x)) {
        line(x - box.left, 0, 1, box.height, "caliper-march");
      }
      for (x = Math.min(p.x, q.x) - Math.abs(q.x - p.x); x > box.left; x -= Math.abs(q.x - p.x)) {
        line(x - box.left, 0, 1, box.height, "caliper-march");
      }
    }
    ["a", "b"].forEach(function (name) {
      var c = toPx(caliper[name]);
      line(c.x - box.left - 6, c.y - box.top - 6, 12, 12, "caliper-corner" + (caliper.active === name ? " is-active" : ""));
    });
    var label = line(left, top - 24, 0, 0, "caliper-label");
    label.textContent = measure().words;
    label.style.width = label.style.height = "auto";
    label.style.left = Math.min(left, Math.max(0, box.width - label.offsetWidth)) + "px";
    label.style.top = (top - label.offsetHeight - 4 >= 0 ? top - label.offsetHeight - 4 : top + Math.abs(q.y - p.y) + 4) + "px";
  }

  var hair = null;
  function crossHair(event) {
    if (!graph || !meta()) {
      return;
    }
    var point = toMm(event);
    var part = paper.ranges();
    var inside = point.x >= part.x[0] && point.x <= part.x[1] && point.y >= part.y[0] && point.y <= part.y[1];
    hair = inside && event.type !== "pointerleave" ? point : null;
    var cell = hair && cellAt(point);
    if (cell) {
      var height = signalAt(cell, point.x);
      byId("reading").textContent = cell.label + ": " + timeAt(cell, point.x).toFixed(3) + " s, cursor " + mv(voltsAt(cell, point.y)) +
        (height === null ? "" : ", signal " + mv(voltsAt(cell, height)));
    } else {
      byId("reading").textContent = "";
    }
    window.requestAnimationFrame(paint);
  }

  function pressed(name, on) {
    document.querySelector("[data-tool=" + name + "]").setAttribute("aria-pressed", on ? "true" : "false");
  }

  function toggleCaliper() {
    if (caliper) {
      caliper = null;
      pressed("march", false);
      say("Caliper put away");
    } else {
      var now = current();
      var cell = cellAt(now.centre) || meta().cells[0];
      var x = Math.min(Math.max(now.centre.x, cell.x0_mm + 1), cell.x0_mm + cell.width_mm - 1);
      var half = Math.min(10, now.width / 6);
      var y = signalAt(cell, x);
      y = y === null ? cell.y0_mm : y;
      caliper = { cell: cell, a: { x: x - half, y: y }, b: { x: x + half, y: y + Math.min(10, now.height / 4) }, active: "b", march: false };
    }
    pressed("caliper", !!caliper);
    graph.classList.toggle("measures", !!caliper);
    fields();
    fit();
    moved();
  }

  function moved() {
    window.requestAnimationFrame(paint);
    if (!caliper) {
      return;
    }
    var m = measure();
    say("Lead " + caliper.cell.label + ": " + m.words);
    graph.dataset.caliper = JSON.stringify({ ms: m.ms, mv: m.mv, rate: m.rate, lead: caliper.cell.lead });
    ["a", "b"].forEach(function (name) {
      put("caliper-t-" + name, timeAt(caliper.cell, caliper[name].x).toFixed(3));
      put("caliper-v-" + name, voltsAt(caliper.cell, caliper[name].y).toFixed(3));
    });
    put("caliper-lead", String(meta().cells.indexOf(caliper.cell)));
  }

  function put(id, value) {
    var field = byId(id);
    if (field && field !== document.activeElement) {
      field.value = value;
    }
  }

  /* Numeric entry: the same caliper by numbers. */
  function fields() {
    var box = byId("caliper-fields");
    box.textContent = "";
    if (!caliper) {
      return;
    }
    function labelled(words, control) {
      var label = document.createElement("label");
      label.className = "choice choice--short";
      var name = document.createElement("span");
      name.textContent = words;
      label.append(name, control);
      box.append(label);
    }
    var lead = document.createElement("select");
    lead.id = "caliper-lead";
    meta().cells.forEach(function (cell, place) {
      lead.add(new Option(cell.label + (cell.rhythm ? " (strip)" : ""), String(place)));
    });
    labelled("Lead", lead);
    [["t-a", "First (s)", 0.001], ["t-b", "Second (s)", 0.001], ["v-a", "First (mV)", 0.01], ["v-b", "Second (mV)", 0.01]]
      .forEach(function (row) {
        var input = document.createElement("input");
        input.type = "number";
        input.id = "caliper-" + row[0];
        input.step = row[2];
        labelled(row[1], input);
      });
    box.onchange = function (event) {
      var cell = meta().cells[Number(lead.value)];
      var changed = cell !== caliper.cell;
      var first = Number(byId("caliper-t-a").value);
      if (!changed && (first < cell.t0_s || first > cell.t1_s)) {
        // Another time of the same row is shown by its neighbour.
        cell = meta().cells.find(function (each) {
          return each.row === cell.row && first >= each.t0_s && first <= each.t1_s;
        }) || cell;
      }
      caliper.cell = cell;
      ["a", "b"].forEach(function (name) {
        var t = Number(byId("caliper-t-" + name).value);
        var v = Number(byId("caliper-v-" + name).value);
        caliper[name] = { x: placeOf(cell, changed ? Math.min(Math.max(t, cell.t0_s), cell.t1_s) : t), y: heightOf(cell, v) };
      });
      moved();
      event.stopPropagation();
    };
  }

  function annotate() {
    var stretch = { portal: "ecg-annotate" };
    if (caliper) {
      var times = [timeAt(caliper.cell, caliper.a.x), timeAt(caliper.cell, caliper.b.x)].sort(function (a, b) { return a - b; });
      stretch.t0_s = Math.max(0, times[0]).toFixed(3);
      stretch.t1_s = Math.min(times[1], meta().duration_s).toFixed(3);
      stretch.lead = caliper.cell.lead;
    }
    tell(stretch);
  }

  var drag = null;
  function down(event) {
    if (!caliper || event.button > 0) {
      return;
    }
    var point = toMm(event);
    var near = ["a", "b"].find(function (name) {
      var c = toPx(caliper[name]);
      var p = toPx(point);
      return Math.hypot(c.x - p.x, c.y - p.y) < 16;
    });
    if (near) {
      caliper.active = near;
    } else {
      caliper.cell = cellAt(point) || caliper.cell;
      caliper.a = point;
      caliper.b = { x: point.x, y: point.y };
      caliper.active = "b";
    }
    drag = event.pointerId;
    layer.setPointerCapture(drag);
    region.focus({ preventScroll: true });
    event.preventDefault();
    moved();
  }

  function dragged(event) {
    if (drag === null || event.pointerId !== drag) {
      return;
    }
    caliper[caliper.active] = toMm(event);
    moved();
  }

  function up(event) {
    if (event.pointerId === drag) {
      drag = null;
    }
  }

  /* Keys and buttons ----------------------------------------------------------------------------------------- */

  function download() {
    window.Plotly.downloadImage(graph, {
      format: "png", filename: "ecg", scale: 3, width: graph.clientWidth, height: graph.clientHeight,
    });
  }

  function fullScreen() {
    if (document.fullscreenElement) {
      document.exitFullscreen();
    } else if (document.documentElement.requestFullscreen) {
      document.documentElement.requestFullscreen();
    }
  }

  function march() {
    if (!caliper) {
      toggleCaliper();
    }
    caliper.march = !caliper.march;
    pressed("march", caliper.march);
    moved();
  }

  var TOOLS = {
    in: function () { paper.zoom(1 / 1.5); }, out: function () { paper.zoom(1.5); }, whole: showAll,
    left: function () { onward(-1); }, right: function () { onward(1); },
    caliper: toggleCaliper, march: march, mark: annotate, png: download, full: fullScreen,
  };

  /* Move by half of what is shown; on a whole page of a long recording, by half a window. */
  function onward(sign) {
    if (whole() && meta().duration_s > meta().window_s) {
      moveWindow(0.5 * sign);
    } else {
      paper.pan(sign * current().width / 2, 0);
    }
  }

  var ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

  function key(event) {
    if (!graph || !meta() || event.ctrlKey || event.metaKey || event.altKey) {
      return;
    }
    var name = event.key;
    var by = event.shiftKey ? -1 : 1;
    var arrow = ARROWS[name];
    if (arrow && caliper) {
      var step = event.shiftKey ? 2.5 : 0.25;
      caliper[caliper.active] = { x: caliper[caliper.active].x + arrow[0] * step, y: caliper[caliper.active].y + arrow[1] * step };
      moved();
    } else if (arrow) {
      paper.pan(arrow[0] * (event.shiftKey ? 25 : 5), arrow[1] * (event.shiftKey ? 25 : 5));
    } else if (name === "+" || name === "=") {
      paper.zoom(1 / 1.5);
    } else if (name === "-") {
      paper.zoom(1.5);
    } else if (name === "0") {
      showAll();
    } else if (/^[1-9]$/.test(name)) {
      focusLead(Number(name) - 1);
    } else if (/^l$/i.test(name)) {
      focusLead(shownLead + (shownLead < 0 && by < 0 ? 0 : by));
    } else if (/^s$/i.test(name)) {
      cycle("speed", by);
    } else if (/^g$/i.test(name)) {
      cycle("gain", by);
    } else if (/^c$/i.test(name)) {
      toggleCaliper();
    } else if (/^m$/i.test(name)) {
      march();
    } else if (/^a$/i.test(name)) {
      annotate();
    } else if (/^n$/i.test(name)) {
      nextStop(1);
    } else if (/^b$/i.test(name)) {
      nextStop(-1);
    } else if (name === "PageDown" || name === "PageUp") {
      moveWindow(name === "PageDown" ? 1 : -1);
    } else if (name === "Home" || name === "End") {
      moveWindow(0, name === "Home" ? 0 : meta().duration_s);
    } else if (caliper && (name === "Enter" || name === " ")) {
      caliper.active = caliper.active === "a" ? "b" : "a";
      moved();
      say(caliper.active === "a" ? "First corner" : "Second corner");
    } else if (caliper && name === "Escape") {
      toggleCaliper();
    } else {
      return;
    }
    event.preventDefault();
  }

  // Opened settings, the caliper's fields and the overview take room; the paper keeps its size.
  document.addEventListener("toggle", function () {
    if (graph && meta()) {
      fit();
    }
  }, true);

  document.addEventListener("click", function (event) {
    var button = event.target.closest && event.target.closest("[data-tool]");
    if (button && graph && meta()) {
      TOOLS[button.dataset.tool]();
    }
  });

  /* The frame gets the height at which the whole page fits its width. */
  function fit() {
    var m = meta();
    var size = graph._fullLayout._size;
    var around = document.querySelector(".frame").scrollHeight - region.clientHeight;
    var height = graph.clientWidth - size.l - size.r;
    // A page of one row is lower than a figure may become.
    var least = parseFloat(getComputedStyle(graph.parentElement).minHeight) || 0;
    height = Math.max(height * m.height_mm / m.width_mm + size.t + size.b, least) + around;
    tell({ portal: "ecg-height", height: Math.round(Math.min(Math.max(height, 480), 1800)) });
  }

  var fitted = "";
  function plotted() {
    var m = meta();
    if (!m) {
      return;
    }
    paint();
    var shape = m.width_mm + "x" + m.height_mm + "x" + graph.clientWidth;
    if (shape !== fitted) {
      fitted = shape;
      if (caliper) {
        toggleCaliper();
      }
      fit();
    }
    if (!graph.dataset.ready) {
      graph.dataset.ready = "1";
      tell({ portal: "ecg-ready" });
      set("drawn", { data: true });
      told();
    }
  }

  function rested() {
    var key = zoomKey({ layout: byId("layout").value, speed: byId("speed").value, window: byId("window").value });
    var part = paper.ranges();
    var zoom = whole() ? null : { key: key, x: part.x, y: part.y };
    set("zoom", { data: zoom });
    if (meta().thinned) {
      set("detail", { data: zoom });
    }
    told();
  }

  function attach(found) {
    graph = found;
    layer = byId("layer");
    region = byId("paper-region");
    graph.on("plotly_afterplot", plotted);
    var inner = layer.parentElement;
    inner.addEventListener("pointermove", crossHair);
    inner.addEventListener("pointerleave", crossHair);
    paper.take(graph, inner, {
      moved: paint, rested: rested, measures: function () { return !!caliper; }, pinched: function () { drag = null; },
    });
    layer.addEventListener("pointerdown", down);
    layer.addEventListener("pointermove", dragged);
    layer.addEventListener("pointerup", up);
    layer.addEventListener("pointercancel", up);
    graph.addEventListener("dblclick", function () { if (!caliper) { showAll(); } });
    region.addEventListener("keydown", function (event) {
      if (event.target === region || region.contains(event.target)) {
        key(event);
      }
    });
    plotted();
  }

  function attachOverview(found) {
    found.dataset.attached = "1";
    if (graph && meta()) {
      fit();
    }
    found.on("plotly_click", function (event) {
      moveWindow(0, event.points[0].x - meta().window_s / 2);
    });
    found.on("plotly_relayout", function (change) {
      var x0 = change["xaxis.range[0]"];
      if (x0 !== undefined) {
        set("span", { data: [x0, change["xaxis.range[1]"]] });
      }
    });
    found.addEventListener("dblclick", function () { set("span", { data: null }); });
  }

  var watch = new MutationObserver(function () {
    var found = document.querySelector("#ecg .js-plotly-plot");
    if (found && found._fullLayout && found._fullLayout.xaxis && found !== graph && found.on && window.Plotly) {
      attach(found);
    }
    var strip = document.querySelector("#overview .js-plotly-plot");
    if (strip && strip.on && !strip.dataset.attached) {
      attachOverview(strip);
    }
  });
  watch.observe(document, { childList: true, subtree: true });
})();
