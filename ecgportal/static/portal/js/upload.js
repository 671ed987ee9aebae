/* Refines a form that holds a [data-dropzone]: drag and drop, and a list of the chosen files. Without this file, and where the
   zone says nothing else, the form is posted by the browser as it stands.

   With data-resumable (address of the API's root) the files are sent in pieces instead: folders, thousands of files, progress,
   and going on after a broken connection or a reload. data-open: id of an open upload to go on with (optional). The form's own
   address begins an upload when it is posted without files and with "X-Upload: open"; it answers {"ingest": id} or
   {"error": {"message"}}. data-done: where to go then. */
(function () {
  "use strict";

  var UNITS = ["B", "KB", "MB", "GB"];
  var PIECE = 8 * 1024 * 1024;
  var SMALL = 1024 * 1024;
  var GROUP_FILES = 100;
  var AT_A_TIME = 3;
  var NAMED_AT_A_TIME = 2000;
  var SHOWN = 50;
  var LONGEST_WAIT_S = 30;
  var TRIES = 40;

  function size(bytes) {
    var unit = 0;
    while (bytes >= 1000 && unit < UNITS.length - 1) {
      bytes /= 1000;
      unit += 1;
    }
    return (unit === 0 ? bytes : bytes.toFixed(1)) + " " + UNITS[unit];
  }

  function count(number, word) {
    return number.toLocaleString("en") + " " + word + (number === 1 ? "" : "s");
  }

  function wait(seconds) {
    return new Promise(function (done) { window.setTimeout(done, seconds * 1000); });
  }

  /* Every file under a dropped entry, with its path. */
  function walk(entry, folder) {
    return new Promise(function (done) {
      if (entry.isFile) {
        entry.file(function (file) { done([{ file: file, name: folder + file.name }]); }, function () { done([]); });
        return;
      }
      var reader = entry.createReader();
      var found = [];
      (function more() {
        // A reader gives a hundred entries at a time, and none at its end.
        reader.readEntries(function (entries) {
          if (!entries.length) {
            Promise.all(found.map(function (inner) { return walk(inner, folder + entry.name + "/"); }))
              .then(function (lists) { done([].concat.apply([], lists)); });
            return;
          }
          found = found.concat(Array.prototype.slice.call(entries));
          more();
        }, function () { done([]); });
      })();
    });
  }

  function total(files) {
    return files.reduce(function (sum, entry) { return sum + entry.file.size; }, 0);
  }

  /* The chosen files of a zone, as [{file, name, received}], and what is shown of them. */
  function Choice(zone) {
    this.zone = zone;
    this.form = zone.closest("form");
    this.input = zone.querySelector("input[type=file]:not([webkitdirectory])");
    this.folder = zone.querySelector("input[webkitdirectory]");
    this.limit = Number(zone.getAttribute("data-max-bytes")) || 0;
    this.list = zone.querySelector("[data-files]");
    this.told = zone.querySelector("[data-count]");
    this.error = zone.querySelector("[data-error]");
    this.isResumable = zone.hasAttribute("data-resumable");
    this.byName = new Map();
    zone.querySelectorAll("[data-drop-hint]").forEach(function (node) { node.hidden = false; });
    this.listen();
  }

  Choice.prototype.files = function () {
    return Array.from(this.byName.values());
  };

  Choice.prototype.isTooMuch = function () {
    return this.limit > 0 && total(this.files()) > this.limit;
  };

  Choice.prototype.fail = function (sentence) {
    this.error.textContent = sentence;
    this.error.hidden = !sentence;
    if (sentence) {
      this.input.setAttribute("aria-invalid", "true");
    } else {
      this.input.removeAttribute("aria-invalid");
    }
  };

  Choice.prototype.line = function (words, state) {
    var item = document.createElement("li");
    [words, state].forEach(function (text) {
      var part = document.createElement("span");
      part.textContent = text;
      item.append(part);
    });
    this.list.append(item);
    this.list.hidden = false;
    return item;
  };

  Choice.prototype.show = function () {
    var self = this;
    var files = this.files();
    var left = files.filter(function (entry) { return !entry.file.size || entry.received < entry.file.size; });
    this.list.textContent = "";
    this.list.setAttribute("aria-label", "Chosen files");
    left.slice(0, SHOWN).forEach(function (entry) { self.line(entry.name, size(entry.file.size)); });
    this.list.hidden = left.length === 0;
    var words = [];
    if (files.length) {
      words.push(count(files.length, "file") + ", " + size(total(files)));
    }
    if (left.length < files.length) {
      words.push(count(left.length, "file") + " still to be sent");
    }
    if (left.length > SHOWN) {
      words.push("the first " + SHOWN + " are listed");
    }
    this.told.textContent = words.join("; ");
    this.fail(this.isTooMuch()
      ? "The chosen files hold " + size(total(files)) + "; one upload may hold " + size(this.limit) + ". Choose fewer files."
      : "");
  };

  Choice.prototype.add = function (entries) {
    var self = this;
    if (!this.isResumable) {
      // The browser posts what the field holds.
      var held = new DataTransfer();
      var known = this.input.multiple ? Array.from(this.input.files) : [];
      known.concat(entries.map(function (entry) { return entry.file; })).slice(this.input.multiple ? 0 : -1)
        .forEach(function (file) { held.items.add(file); });
      this.input.files = held.files;
      this.replace();
      return;
    }
    entries.forEach(function (entry) {
      if (!/(^|\/)\./.test(entry.name)) {
        self.byName.set(entry.name, { file: entry.file, name: entry.name, received: 0 });
      }
    });
    this.show();
  };

  Choice.prototype.replace = function () {
    this.byName = new Map(Array.from(this.input.files).map(function (file, place) {
      return [place + file.name, { file: file, name: file.name, received: 0 }];
    }));
    this.show();
  };

  Choice.prototype.listen = function () {
    var self = this;
    var zone = this.zone;
    function named(file) {
      return { file: file, name: file.webkitRelativePath || file.name };
    }
    [this.input, this.folder].filter(Boolean).forEach(function (input) {
      input.addEventListener("change", function () {
        if (self.isResumable) {
          self.add(Array.from(input.files).map(named));
        } else {
          self.replace();
        }
      });
    });
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
      var entries = Array.from(event.dataTransfer.items || [], function (item) {
        return self.isResumable && item.webkitGetAsEntry ? item.webkitGetAsEntry() : null;
      }).filter(Boolean);
      if (!entries.length) {
        self.add(Array.from(event.dataTransfer.files).map(named));
        return;
      }
      self.told.textContent = "Looking through what was dropped.";
      Promise.all(entries.map(function (entry) { return walk(entry, ""); })).then(function (lists) {
        self.add([].concat.apply([], lists));
      });
    });
    this.form.addEventListener("submit", function (event) {
      if (self.isTooMuch()) {
        event.preventDefault();
        event.stopImmediatePropagation();
        self.input.focus();
      }
    });
  };

  function setup(zone) {
    if (zone.hasAttribute("data-ready")) {
      return;
    }
    zone.setAttribute("data-ready", "");
    var choice = new Choice(zone);
    if (choice.isResumable) {
      sendInPieces(choice);
    }
  }

  function sendInPieces(choice) {
    var zone = choice.zone;
    var form = choice.form;
    var api = zone.getAttribute("data-resumable");
    var panel = zone.querySelector("[data-progress]");
    var bar = panel.querySelector("progress");
    var text = zone.querySelector("[data-progress-text]");
    var stop = zone.querySelector("[data-stop]");
    var running = null;

    /* One run over the chosen files. */
    function Run() {
      this.sent = 0;
      this.done = 0;
      this.size = total(choice.files());
      this.stopped = false;
      this.requests = new Set();
      this.spoken = 0;
    }

    Run.prototype.progress = function (force) {
      bar.max = Math.max(this.size, 1);
      bar.value = this.sent;
      var now = Date.now();
      if (force || now - this.spoken > 1000) {
        this.spoken = now;
        text.textContent = this.done.toLocaleString("en") + " of " + count(choice.byName.size, "file") + ", " + size(this.sent) + " of " + size(this.size) + " sent";
      }
    };

    /* Only what is on its way is listed: thousands of lines would tell nobody anything. */
    Run.prototype.line = function (words) {
      return choice.line(words, "Sending");
    };

    function tell(item, words) {
      item.lastChild.textContent = words;
    }

    /* One request; rejects with {status, body} where the server answered and with {status: 0} where it did not. */
    Run.prototype.ask = function (method, path, body, headers, onprogress) {
      var self = this;
      return new Promise(function (done, broken) {
        var xhr = new XMLHttpRequest();
        self.requests.add(xhr);
        xhr.open(method, path.charAt(0) === "/" ? path : api + path);
        xhr.setRequestHeader("X-CSRFToken", form.querySelector("[name=csrfmiddlewaretoken]").value);
        Object.keys(headers || {}).forEach(function (name) { xhr.setRequestHeader(name, headers[name]); });
        if (onprogress) {
          xhr.upload.addEventListener("progress", function (step) { onprogress(step.loaded); });
        }
        xhr.addEventListener("loadend", function () {
          self.requests.delete(xhr);
          var answer = null;
          try {
            answer = JSON.parse(xhr.responseText);
          } catch (problem) {
            answer = null;
          }
          if (xhr.status >= 200 && xhr.status < 300) {
            done(answer);
          } else {
            broken({ status: xhr.status, body: answer });
          }
        });
        xhr.send(body === undefined ? null : body);
      });
    };

    Run.prototype.json = function (path, value) {
      return this.ask("POST", path, JSON.stringify(value), { "Content-Type": "application/json" });
    };

    /* Do it, and again after a pause while the network or the server is away. */
    Run.prototype.persist = function (once) {
      var self = this;
      var tries = 0;
      return (function attempt() {
        if (self.stopped) {
          return Promise.reject({ stopped: true });
        }
        return once(tries).catch(function (problem) {
          var passing = problem.status === 0 || problem.status === 408 || problem.status === 429 || problem.status >= 500;
          if (self.stopped || !passing || tries >= TRIES) {
            throw problem;
          }
          tries += 1;
          var pause = Math.min(Math.pow(2, tries - 1), LONGEST_WAIT_S);
          self.spoken = Date.now() + pause * 1000;
          text.textContent = "The connection is lost; trying again in " + count(pause, "second") + ". What has arrived is kept.";
          return wait(pause).then(attempt);
        });
      })();
    };

    Run.prototype.begin = function () {
      var open = zone.getAttribute("data-open");
      if (open) {
        return Promise.resolve(open);
      }
      var data = new FormData(form);
      data.delete(choice.input.name);
      if (choice.folder) {
        data.delete(choice.folder.name);
      }
      return this.ask("POST", new URL(form.action).pathname, data, { "X-Upload": "open" }).then(function (answer) {
        zone.setAttribute("data-open", answer.ingest);
        return answer.ingest;
      });
    };

    Run.prototype.declare = function (ingest) {
      var self = this;
      var entries = choice.files();
      var groups = [];
      for (var start = 0; start < entries.length; start += NAMED_AT_A_TIME) {
        groups.push(entries.slice(start, start + NAMED_AT_A_TIME));
      }
      return groups.reduce(function (before, group) {
        return before.then(function () {
          return self.persist(function () {
            return self.json("ingests/" + ingest + "/files/", {
              files: group.map(function (entry) { return { name: entry.name, size: entry.file.size }; })
            });
          });
        }).then(function (rows) {
          rows.forEach(function (told, place) {
            group[place].id = told.id;
            group[place].received = told.received;
            self.sent += told.received;
            if (told.received === told.size) {
              self.done += 1;
            }
          });
          self.progress();
        });
      }, Promise.resolve());
    };

    /* Many small files in one request. */
    Run.prototype.together = function (ingest, group) {
      var self = this;
      var bytes = group.reduce(function (sum, entry) { return sum + entry.file.size; }, 0);
      var last = group[group.length - 1].name;
      var item = this.line(group.length === 1 ? last : count(group.length, "file") + ", " + group[0].name + " to " + last);
      return this.persist(function () {
        var before = self.sent;
        var data = new FormData();
        group.forEach(function (entry) {
          data.append("names", entry.name);
          data.append("files", entry.file, entry.file.name);
        });
        return self.ask("POST", "ingests/" + ingest + "/files/", data).catch(function (problem) {
          self.sent = before;
          throw problem;
        });
      }).then(function () {
        self.sent += bytes;
        self.done += group.length;
        group.forEach(function (entry) { entry.received = entry.file.size; });
        item.remove();
        self.progress();
      });
    };

    /* One large file, piece by piece. */
    Run.prototype.apart = function (entry) {
      var self = this;
      var item = this.line(entry.name);
      function piece() {
        if (entry.received >= entry.file.size) {
          self.done += 1;
          item.remove();
          self.progress();
          return Promise.resolve();
        }
        return self.persist(function (tries) {
          var where = tries
            ? self.ask("GET", "upload-files/" + entry.id + "/").then(function (told) {
              self.sent += told.received - entry.received;
              entry.received = told.received;
            })
            : Promise.resolve();
          return where.then(function () {
            var start = entry.received;
            var before = self.sent;
            return self.ask("PATCH", "upload-files/" + entry.id + "/", entry.file.slice(start, start + PIECE), {
              "Content-Type": "application/octet-stream",
              "Upload-Offset": String(start)
            }, function (loaded) {
              bar.value = before + loaded;
              tell(item, Math.floor(100 * (start + loaded) / entry.file.size) + " % of " + size(entry.file.size));
            }).then(function (told) {
              self.sent += told.received - start;
              entry.received = told.received;
              self.progress();
            }).catch(function (problem) {
              if (problem.status === 409 && problem.body && problem.body.error.fields.received) {
                self.sent += Number(problem.body.error.fields.received) - entry.received;
                entry.received = Number(problem.body.error.fields.received);
                return;
              }
              throw problem;
            });
          });
        }).then(piece);
      }
      return piece();
    };

    Run.prototype.send = function (ingest) {
      var self = this;
      var work = [];
      var group = [];
      var bytes = 0;
      choice.list.textContent = "";
      choice.list.setAttribute("aria-label", "Files on their way");
      choice.told.textContent = count(choice.byName.size, "file") + ", " + size(self.size);
      choice.files().forEach(function (entry) {
        if (entry.received === entry.file.size && entry.file.size) {
          return;
        }
        if (entry.file.size > SMALL) {
          work.push(function () { return self.apart(entry); });
          return;
        }
        if (entry.file.size === 0 && entry.id) {
          // Nothing has to be sent of an empty file.
          return;
        }
        group.push(entry);
        bytes += entry.file.size;
        if (group.length === GROUP_FILES || bytes > PIECE) {
          work.push(self.together.bind(self, ingest, group));
          group = [];
          bytes = 0;
        }
      });
      if (group.length) {
        work.push(self.together.bind(self, ingest, group));
      }
      function next() {
        var task = work.shift();
        return task ? task().then(next) : Promise.resolve();
      }
      var lines = [];
      for (var number = 0; number < AT_A_TIME; number += 1) {
        lines.push(next());
      }
      return Promise.all(lines);
    };

    Run.prototype.abort = function () {
      this.stopped = true;
      this.requests.forEach(function (xhr) { xhr.abort(); });
    };

    function busy(on) {
      panel.hidden = !on;
      form.querySelectorAll("button, input, select").forEach(function (control) {
        if (control !== stop && control.type !== "hidden") {
          control.disabled = on;
        }
      });
    }

    function sentence(problem) {
      if (problem.body && problem.body.error) {
        var fields = problem.body.error.fields || {};
        return [problem.body.error.message].concat(Object.keys(fields).map(function (name) { return fields[name]; })).join(" ");
      }
      return "The upload stopped (status " + (problem.status || 0) + "). What has arrived is kept; press Upload to go on.";
    }

    form.addEventListener("submit", function (event) {
      if (!choice.byName.size) {
        return;
      }
      event.preventDefault();
      var run = running = new Run();
      choice.fail("");
      var begun = run.begin();
      busy(true);
      text.textContent = "Sending " + size(run.size);
      begun.then(function (ingest) {
        return run.declare(ingest).then(function () {
          return run.send(ingest);
        }).then(function () {
          run.progress(true);
          return run.persist(function () { return run.json("ingests/" + ingest + "/finish/", {}); });
        });
      }).then(function (answer) {
        window.removeEventListener("beforeunload", warn);
        window.location.assign(zone.getAttribute("data-done").replace("00000000-0000-0000-0000-000000000000", answer.ingest));
      }).catch(function (problem) {
        run.abort();
        busy(false);
        running = null;
        choice.show();
        choice.fail(problem.stopped || run.stoppedByHand
          ? "Stopped. What has arrived is kept; press Upload to go on."
          : sentence(problem));
        choice.input.focus();
      });
    });

    if (stop) {
      stop.addEventListener("click", function () {
        if (running) {
          running.stoppedByHand = true;
          running.abort();
        }
      });
    }

    function warn(event) {
      if (running) {
        event.preventDefault();
      }
    }
    window.addEventListener("beforeunload", warn);
  }

  function all() {
    document.querySelectorAll("[data-dropzone]").forEach(setup);
  }
  document.addEventListener("DOMContentLoaded", all);
  document.addEventListener("htmx:load", all);
})();
