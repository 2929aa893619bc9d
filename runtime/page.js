// The live page of deepir-run: what comes in events is shown, what a person does is sent. Labels are only ever text.
"use strict";

const byId = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const SIGNS = { match: "✓", ambiguous: "?", unknown: "✕" };
const WORDS = { match: "match", ambiguous: "ambiguous, one of several", unknown: "unknown" };
const CHANGES = 20;
const HANGING = 10; // seconds without progress after which the picture is shown as old
const LIMITS = { // milliseconds
  silence: 5000, // without an event: the connection is made anew
  answer: 5000, // what is asked for or shown has not come: asked again
  change: 30000, // the server waits for others that change the index, and a large one is slow to write
};

const now = {
  event: null, // the newest event
  frame: null, // the frame whose picture is shown
  frozen: false,
  part: 0, // which box was chosen
  loading: null, // the picture that is on its way
  loadingSince: 0,
  asking: false,
  asked: "",
  heard: 0, // when there was a sign of the server, or it was asked for one
  taken: 0, // when the newest event came
  labels: "",
  curve: null,
  curveOf: "",
  sliding: 0,
  enrolled: [], // keys of the views that can be taken back, the newest last
  changing: false, // the index, by a view enrolled or taken back
};

// --- asking and telling the server

// browsers before 2022 have no such limit, and wait as long as it takes
const within = (milliseconds) => AbortSignal.timeout?.(milliseconds);

// past the browser's cache, where a request waits for an earlier one of the same address
const get = (path) => fetch(path, { cache: "no-store", signal: within(LIMITS.answer) });

async function ask(path) {
  const answer = await get(path);
  if (!answer.ok) throw new Error((await sentence(answer)) || `${path}: ${answer.status}`);
  return answer.json();
}

async function tell(path, what) {
  let answer;
  try {
    answer = await fetch(path, {
      method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(what),
      signal: within(LIMITS.change),
    });
  } catch (error) {
    throw new Error(error.name === "TimeoutError"
      ? "deepir-run has not answered, and may have done it all the same: look before you try again"
      : "deepir-run does not answer: try again in a moment");
  }
  if (!answer.ok) {
    throw Object.assign(new Error((await sentence(answer)) || `refused (${answer.status})`), { status: answer.status });
  }
  return answer.json();
}

async function sentence(answer) {
  try {
    return (await answer.json()).error;
  } catch {
    return "";
  }
}

// --- the stream of events, which comes back by itself

let stream = null;
let tries = 0;

async function connect() {
  const mine = ++tries;
  if (stream) stream.close();
  stream = null;
  now.heard = Date.now();
  let found = null;
  try {
    const answer = await get("state.json");
    if (answer.status === 401) return lock();
    if (answer.ok) found = await answer.json();
  } catch {
    if (mine === tries) retry();
    return;
  }
  // a server that slept answers every try when it wakes, and each stream would hold one of the browser's six connections
  if (mine !== tries) return;
  if (found) take(found);
  stream = new EventSource("events");
  stream.onmessage = (message) => take(JSON.parse(message.data));
  stream.onerror = retry;
}

function retry() {
  now.heard = Math.min(now.heard, Date.now() - LIMITS.silence + 1500);
}

function lock() {
  byId("locked").hidden = false;
  byId("main").hidden = true;
  byId("facts").hidden = true;
  byId("token").focus();
  clearInterval(watch);
}

const watch = setInterval(() => {
  if (Date.now() - now.heard < LIMITS.silence) return;
  document.body.dataset.connection = "lost";
  banner("No connection to deepir-run.", "It has ended or cannot be reached; this page tries again every few seconds.");
  age();
  connect();
}, 1000);

function take(event) {
  now.heard = now.taken = Date.now();
  document.body.dataset.connection = "well";
  now.event = event;
  state(event);
  follow(event);
  labels(event);
  curve(event);
  threshold(event);
  candidates();
}

// --- the picture and the answer

function follow(event) {
  if (now.frozen || !event.frame) return;
  note(event.frame);
  show({ ...event.frame, started: event.report.started });
}

// a program that was started again counts its frames, and its indexes, from the first again
const same = (frame, other) => frame.number === other.number && frame.started === other.started;
const generation = (event) => `${event.report.started}-${event.index_generation}`;

function show(frame) {
  if (now.loading && Date.now() - now.loadingSince < LIMITS.answer) return;
  if (now.frame && same(frame, now.frame) && frame.answers.length === now.frame.answers.length) return;
  if (now.loading) now.loading.src = ""; // one that never came: its connection is free again
  const next = new Image();
  now.loading = next;
  now.loadingSince = Date.now();
  next.id = "picture";
  next.onload = () => {
    if (next !== now.loading) return;
    now.loading = null;
    if (now.frozen) return;
    byId("picture").replaceWith(next);
    now.frame = frame;
    draw();
  };
  next.onerror = () => { if (next === now.loading) now.loading = null; };
  next.src = `picture.jpg?frame=${frame.number}`;
}

function draw() {
  const { size, answers } = now.frame;
  byId("frame").style.setProperty("--ratio", size[1] / size[0]);
  now.part = Math.min(now.part, answers.length - 1);
  const answer = answers[now.part];
  byId("picture").alt = `Frame ${now.frame.number}: ${words(answer)}`;
  outline(size, answers);
  verdict(answer);
  byId("freeze").disabled = false;
  enrolButtons();
  candidates();
  mark();
}

function words(answer) {
  return answer.status === "unknown" ? "unknown" : answer.label || (answer.candidates || []).join(" or ") || answer.status;
}

function outline(size, answers) {
  const boxes = byId("boxes");
  boxes.setAttribute("viewBox", `0 0 ${size[1]} ${size[0]}`);
  boxes.setAttribute("preserveAspectRatio", "none");
  boxes.replaceChildren(...answers.filter((answer) => answer.box).map((answer) => {
    const [left, top, right, bottom] = answer.box;
    const chosen = answers.length > 1 && answer === answers[now.part] ? " chosen" : "";
    return drawn("rect", { x: left, y: top, width: right - left, height: bottom - top, class: answer.status + chosen });
  }));
  const parts = byId("parts");
  parts.hidden = answers.length < 2;
  if (parts.hidden) return;
  while (parts.children.length > answers.length) parts.lastChild.remove();
  answers.forEach((answer, number) => {
    const button = parts.children[number] || parts.appendChild(made("button", { type: "button" }));
    button.textContent = `${SIGNS[answer.status]} ${words(answer)}`;
    button.setAttribute("aria-pressed", String(number === now.part));
    button.onclick = () => { now.part = number; draw(); };
  });
}

function verdict(answer) {
  const place = byId("verdict");
  place.dataset.status = answer.status;
  set("status", WORDS[answer.status]);
  const nearest = answer.topk.length ? `most like ${answer.topk[0][0]}` : "—";
  set("label", answer.status === "unknown" ? nearest : words(answer));
  set("similarity", answer.similarity.toFixed(3));
  byId("meter-fill").style.width = share(answer.similarity);
  document.title = `${answer.status === "unknown" ? "unknown" : words(answer)} · deepir`;
}

let spoken = 0;

function note(frame) {
  const answers = frame.answers;
  const statuses = new Set(answers.map((answer) => answer.status));
  const status = ["match", "ambiguous", "unknown"].find((one) => statuses.has(one));
  const text = [...new Set(answers.map(words))].slice(0, 3).join(", ");
  const list = byId("history");
  if (list.firstChild && list.firstChild.dataset.what === `${status} ${text}`) return;
  const entry = made("li", { class: status });
  entry.dataset.what = `${status} ${text}`;
  const moment = new Date(1000 * answers[0].seen_at);
  entry.append(
    made("time", { datetime: moment.toISOString() }, moment.toLocaleTimeString([], { hour12: false })),
    made("b", { "aria-label": status }, SIGNS[status]),
    made("span", { class: "name" }, text),
    made("span", { class: "soft" }, Math.max(...answers.map((answer) => answer.similarity)).toFixed(2)),
  );
  list.prepend(entry);
  while (list.children.length > CHANGES) list.lastChild.remove();
  byId("no-history").hidden = true;
  clearTimeout(spoken);
  spoken = setTimeout(() => set("spoken", `${status}: ${text}`), 800); // a reader is not told what has gone already
}

// --- the candidates

let askedAt = 0;

async function candidates() {
  if (!now.frame || now.asking || Date.now() - askedAt < 250) return;
  const { number, answers, started } = now.frame;
  const what = `${started} ${number} ${now.part} ${answers.length} ${generation(now.event)}`;
  if (what === now.asked) return;
  now.asking = true;
  askedAt = Date.now();
  try {
    list((await ask(`candidates.json?frame=${number}&part=${now.part}&started=${started}`)).candidates, answers[now.part]);
    now.asked = what;
  } catch {
    // the next frame asks again
  }
  now.asking = false;
}

function list(found, answer) {
  const place = byId("candidates");
  const top = answer.status === "match" ? [answer.label] : answer.status === "ambiguous" ? answer.candidates || [] : [];
  found.forEach((one, row) => {
    const key = `${one.key} ${one.label} ${one.picture} ${generation(now.event)}`;
    let entry = place.children[row];
    if (!entry || entry.dataset.key !== key) {
      const fresh = candidate(one);
      fresh.dataset.key = key;
      if (entry) entry.replaceWith(fresh);
      else place.append(fresh);
      entry = fresh;
    }
    entry.className = top.includes(one.label) ? answer.status : "";
    entry.querySelector(".value").textContent = one.similarity.toFixed(3);
    entry.querySelector(".bar i").style.width = share(one.similarity);
  });
  while (place.children.length > found.length) place.lastChild.remove();
  byId("no-candidates").hidden = found.length > 0;
  set("no-candidates", now.event.report.index.items ? "The picture is blank." : "The index is empty: enrol the first view.");
}

function candidate(one) {
  const entry = made("li");
  const bar = made("div", { class: "bar" });
  bar.append(made("i"));
  const name = made("span", { class: "name", title: `${one.label} (view ${one.view})` }, one.label);
  entry.append(one.picture ? thumbnail(one) : placeholder(), name, made("span", { class: "value" }), bar);
  return entry;
}

function thumbnail(one) {
  const picture = made("img", { class: "thumb", alt: `Stored view of ${one.label}` });
  picture.src = `thumbnail/${one.key}.jpg?index=${generation(now.event)}`;
  picture.onerror = () => picture.replaceWith(placeholder());
  return picture;
}

function placeholder() {
  const picture = drawn("svg", { class: "thumb", viewBox: "0 0 24 24", role: "img", "aria-label": "no picture kept" });
  picture.append(
    drawn("rect", { x: 2, y: 4, width: 20, height: 16, rx: 2 }), drawn("circle", { cx: 8, cy: 10, r: 2 }),
    drawn("path", { d: "M3 19l6-5 4 3 4-5 4 4" }),
  );
  return picture;
}

// --- the state of the loop and of the camera

function state(event) {
  const report = event.report;
  const source = report.source;
  set("source", source.name);
  set("rate", report.rate.toFixed(1));
  set("items", report.index.items);
  set("labels", report.index.labels);
  camera(report, event.frame_age_s);
  set("age", now.old !== null ? lasting(now.old) : report.last ? `${Math.round(report.last.age_ms)} ms` : "–");
  stages(report);
  sinks(report.sinks);
  const model = report.model;
  set("model", `${model.backbone} ${model.numerics} on ${model.backend} · ${event.index_file} · deepir ${report.version}` +
    (report.memory_bytes ? ` · ${Math.round(report.memory_bytes / 1e6)} MB` : ""));
  byId("closed").hidden = !event.enrol_closed;
  set("closed", event.enrol_closed);
}

function camera(report, seconds) {
  const source = report.source;
  const status = source.status || (source.live ? "live" : "recording");
  const trouble = source.trouble;
  const bad = status === "lost" || status === "stale" || (status === "connecting" && Boolean(trouble));
  const pill = byId("camera");
  set("camera", status);
  pill.dataset.state = bad ? "bad" : status === "live" || status === "recording" ? "live" : "waiting";
  const since = seconds === null ? "There was no picture yet." : `The picture is ${lasting(seconds)} old.`;
  const still = Math.max(report.stuck_s || 0, report.loop_s); // the model has one picture for so long, or the loop stands
  const hangs = still > HANGING;
  if (hangs) banner("The recognition hangs.", `It has not gone on for ${lasting(still)}. ${since}`);
  else if (status === "stale") banner("The camera gives no new picture.", since);
  else if (bad) banner(status === "lost" ? "The camera is lost." : "The camera is lost, connecting again.",
    `${trouble ? `${capital(trouble.sentence)}. ` : ""}${since}`);
  else if (status === "ended") banner("The camera's stream has ended.", since);
  else byId("banner").hidden = true;
  now.old = bad || hangs || status === "ended" ? seconds : null; // also null before the first picture
  badge();
}

function age() {
  if (now.event && now.event.frame_age_s !== null) now.old = now.event.frame_age_s + (Date.now() - now.taken) / 1000;
  badge();
}

function badge() {
  document.body.classList.toggle("old", now.old !== null && now.old !== undefined && !now.frozen);
  const text = now.frozen ? "frozen" : now.old === null || now.old === undefined ? "" : `${lasting(now.old)} old`;
  byId("badge").hidden = !text;
  set("badge", text);
}

function banner(what, why) {
  const place = byId("banner");
  const text = `${what} ${why}`;
  if (!place.hidden && place.dataset.text === text) return;
  place.dataset.text = text;
  if (place.children.length === 0) place.append(made("b"), made("span"));
  // only what changed: a screen reader says the first again otherwise, each second
  if (place.children[0].textContent !== what) place.children[0].textContent = what;
  place.children[1].textContent = ` ${why}`;
  place.hidden = false;
}

function stages(report) {
  const last = report.last ? report.last.ms : {};
  const rows = [...Object.keys(report.ms).map((stage) => [stage, last[stage], report.ms[stage]])];
  if (report.age_ms) rows.push(["age", report.last.age_ms, report.age_ms]);
  const longest = Math.max(...rows.map((row) => row[2].p99), 1e-9);
  const place = byId("stages").tBodies[0];
  rows.forEach(([stage, present, often], number) => {
    const row = place.rows[number] || place.appendChild(stageRow());
    row.className = stage === "age" ? "all" : "";
    const texts = [stage, null, milliseconds(present), milliseconds(often.p50), milliseconds(often.p99)];
    texts.forEach((text, column) => { if (text !== null) row.cells[column].textContent = text; });
    row.querySelector("i").style.width = share(often.p50 / longest);
  });
  while (place.rows.length > rows.length) place.lastChild.remove();
}

function stageRow() {
  const row = made("tr");
  const bar = made("div", { class: "bar" });
  bar.append(made("i"));
  const wide = made("td", { class: "wide" });
  wide.append(bar);
  row.append(made("th", { scope: "row" }), wide, made("td"), made("td"), made("td"));
  return row;
}

function sinks(states) {
  const place = byId("sinks");
  const names = Object.keys(states);
  byId("sinks-card").hidden = names.length === 0;
  names.forEach((name, number) => {
    const entry = place.children[number] || place.appendChild(sinkEntry());
    const { sent, waiting, dropped, trouble } = states[name];
    const texts = [name, [`${sent} arrived`, waiting && `${waiting} waiting`, dropped && `${dropped} given up`]
      .filter(Boolean).join(", "), trouble ? `${capital(trouble)}.` : ""];
    texts.forEach((text, part) => { if (entry.children[part].textContent !== text) entry.children[part].textContent = text; });
    entry.lastChild.hidden = !trouble;
  });
}

function sinkEntry() {
  const entry = made("li");
  entry.append(made("b"), made("span", { class: "soft" }), made("p", { class: "fault" }));
  return entry;
}

async function labels(event) {
  const what = generation(event);
  if (what === now.labels) return;
  now.labels = what;
  try {
    const found = (await ask("labels.json")).labels;
    byId("known").replaceChildren(...found.map((label) => made("option", { value: label })));
  } catch {
    now.labels = "";
  }
}

// --- the threshold and its curve

const SPAN = { low: 0, high: 1 };

async function curve(event) {
  const what = `${generation(event)} ${event.threshold_stored}`;
  if (what === now.curveOf) return;
  now.curveOf = what;
  try {
    const found = await ask("calibration.json");
    if (found.status === "computing") {
      setTimeout(() => { now.curveOf = ""; }, 500);
      if (!now.curve) set("passes", "The curve is being computed.");
      return;
    }
    now.curve = found.status === "ready" ? found : null;
    document.querySelector(".legend .own").hidden = !(now.curve && now.curve.own);
    if (!now.curve) set("passes", `${capital(found.reason)}.`);
    span();
    plot();
    threshold(event);
  } catch {
    setTimeout(() => { now.curveOf = ""; }, 1000);
  }
}

function span() {
  const points = now.curve ? now.curve.points : [[0], [1]];
  const value = now.event.report.index.threshold;
  const ends = [points[0][0], points[points.length - 1][0], ...(value === null ? [] : [value])];
  SPAN.low = Math.max(-1, Math.floor(20 * Math.min(...ends)) / 20 - 0.05);
  SPAN.high = Math.min(1, Math.ceil(20 * Math.max(...ends)) / 20 + 0.05);
  const slider = byId("slider");
  slider.min = SPAN.low;
  slider.max = SPAN.high;
}

const across = (similarity) => 640 * Math.min(1, Math.max(0, (similarity - SPAN.low) / (SPAN.high - SPAN.low)));
const down = (part) => 8 + 124 * (1 - part);

function plot() {
  const place = byId("plot");
  const parts = [];
  for (const part of [0, 0.5, 1]) {
    parts.push(drawn("line", { class: "grid", x1: 0, x2: 640, y1: down(part), y2: down(part) }));
  }
  for (const part of [0.5, 1]) parts.push(drawn("text", { x: 640, y: down(part) + 20, "text-anchor": "end" }, `${100 * part} %`));
  for (const [place, end] of [[SPAN.low, "start"], [(SPAN.low + SPAN.high) / 2, "middle"], [SPAN.high, "end"]]) {
    parts.push(drawn("text", { x: across(place), y: 160, "text-anchor": end }, place.toFixed(2)));
  }
  if (now.curve) {
    for (const [column, name] of [[2, "own"], [1, "strangers"]]) {
      const points = now.curve.points.filter((point) => point[column] !== null);
      const path = points.map((point) => `${across(point[0]).toFixed(1)} ${down(point[column]).toFixed(1)}`).join("L");
      if (path) parts.push(drawn("path", { class: name, d: `M${path}` }));
    }
  }
  parts.push(drawn("line", { class: "mark", id: "plot-mark", y1: 2, y2: 134 }), drawn("path", { class: "now", id: "plot-now" }));
  place.replaceChildren(...parts);
  mark();
}

function mark() {
  const line = byId("plot-mark");
  if (!line || !now.event) return;
  const value = chosen();
  line.setAttribute("visibility", value === null ? "hidden" : "visible");
  if (value !== null) for (const end of ["x1", "x2"]) line.setAttribute(end, across(value));
  if (!now.frame) return;
  const x = across(now.frame.answers[now.part].similarity);
  byId("plot-now").setAttribute("d", `M${x} 118l9 16h-18z`);
}

function threshold(event) {
  const value = event.report.index.threshold;
  set("threshold", value === null ? "none" : value.toFixed(3));
  byId("meter-mark").hidden = value === null;
  if (value !== null) byId("meter-mark").style.left = share(value);
  byId("slider").disabled = false;
  byId("own").disabled = event.threshold_auto;
  byId("keep").disabled = event.threshold_auto || value === event.threshold_stored;
  if (!byId("plot-mark")) {
    span();
    plot();
  }
  if (!now.sliding && value !== null) byId("slider").value = value;
  if (!now.sliding) passes(value);
  mark();
}

function passes(value) {
  if (!now.curve || value === null) return;
  const point = now.curve.points.find((one) => one[0] >= value - 1e-9) || [value, 0, 0];
  const own = point[2] === null || !now.curve.own ? "" : `${percent(point[2])} of own views and `;
  set("passes", `At ${value.toFixed(3)}, ${own}${percent(point[1])} of strangers pass.`);
}

let sending = 0;

byId("slider").oninput = () => {
  clearTimeout(sending);
  clearTimeout(now.sliding);
  now.sliding = setTimeout(() => {
    now.sliding = 0;
    threshold(now.event); // so that it never shows a value that Keep would not keep
  }, 1500);
  passes(Number(byId("slider").value));
  mark();
  sending = setTimeout(() => judge({ value: Number(byId("slider").value) }), 120);
};
byId("own").onclick = () => judge({ value: "auto" });
byId("keep").onclick = () => judge({ value: chosen(), keep: true });

// what the slider shows while it is moved, of which no event tells yet
function chosen() {
  return now.sliding ? Number(byId("slider").value) : now.event.report.index.threshold;
}

async function judge(what) {
  clearTimeout(sending); // what the slider was about to send would undo this
  try {
    const done = await tell("threshold", what);
    if (what.value === "auto") {
      clearTimeout(now.sliding);
      now.sliding = 0;
    }
    say("kept", done.kept ? "Kept for every later run." : done.auto ? "As the index says." : "For this run only.", true);
  } catch (error) {
    say("kept", error.message, false);
  }
}

// --- freezing and enrolling

byId("freeze").onclick = async () => {
  if (now.frozen) return thaw();
  const frame = now.frame;
  now.frozen = true;
  freezeButton();
  try {
    await tell("hold", { frame: frame.number, started: frame.started });
  } catch (error) {
    thaw();
    say("enrolled", error.message, false);
  }
};

function thaw() {
  now.frozen = false;
  freezeButton();
  if (now.event) follow(now.event);
}

function freezeButton() {
  byId("freeze").textContent = now.frozen ? "Go on" : "Freeze";
  byId("freeze").setAttribute("aria-pressed", String(now.frozen));
  badge();
}

byId("enrol").onsubmit = async (submitted) => {
  submitted.preventDefault();
  const label = byId("new-label").value.trim();
  if (!label || !now.frame) return;
  changing(true);
  try {
    const { number: frame, started } = now.frame;
    const done = await tell("enrol", { label, frame, started, part: now.part });
    now.enrolled.push(done.key);
    say("enrolled", `Enrolled: ${done.label} has ${done.views} ${done.views === 1 ? "view" : "views"} now.`, true);
  } catch (error) {
    say("enrolled", capital(error.message), false);
  }
  changing(false);
};

byId("undo").onclick = async () => {
  changing(true);
  try {
    await tell("undo", { key: now.enrolled.at(-1) });
    now.enrolled.pop();
    say("enrolled", "Taken back.", true);
  } catch (error) {
    if (error.status === 400) now.enrolled.pop(); // it is gone already: the ones before can still be taken back
    say("enrolled", capital(error.message), false);
  }
  changing(false);
};

// one change at a time: pressed twice, a button would send the same one again before the first is answered
function changing(under) {
  now.changing = under;
  enrolButtons();
}

function enrolButtons() {
  byId("enrol-button").disabled = now.changing || !now.event || Boolean(now.event.enrol_closed);
  byId("undo").disabled = now.changing;
  byId("undo").hidden = now.enrolled.length === 0;
}

byId("locked").onsubmit = (submitted) => {
  submitted.preventDefault();
  location.search = `?token=${encodeURIComponent(byId("token").value.trim())}`;
};

// --- small things

function set(id, text) {
  const place = byId(id);
  if (place.textContent !== String(text)) place.textContent = text;
}

function say(id, text, fine) {
  set(id, text);
  byId(id).classList.toggle("fault", !fine);
  byId(id).classList.toggle("fine", fine);
}

function made(name, attributes = {}, text = null) {
  return filled(document.createElement(name), attributes, text);
}

function drawn(name, attributes = {}, text = null) {
  return filled(document.createElementNS(SVG, name), attributes, text);
}

function filled(element, attributes, text) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== null) element.textContent = text;
  return element;
}

const share = (part) => `${(100 * Math.min(1, Math.max(0, part))).toFixed(1)}%`;
const percent = (part) => `${(100 * part).toFixed(part > 0 && part < 0.1 ? 1 : 0)} %`;
const milliseconds = (value) => (value === undefined ? "–" : `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`);
const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

function lasting(seconds) {
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  return seconds < 7200 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3600)} h`;
}

// the cookie holds the token from now on: it must not stay in the address, the history and what is copied from there
if (location.search.includes("token=")) history.replaceState(null, "", location.pathname);
connect();
