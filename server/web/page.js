"use strict";

const $ = (id) => document.getElementById(id);
const form = $("form");
const pause = (ms) => new Promise((resume) => setTimeout(resume, ms));
const POLL = 300;
let first = null; // the image to start from
let job = null; // the path of the running job
let login = null; // resolves after the login; several requests may wait for it

// Scripts cannot see the login's cookie, so the page remembers that it has logged in.
function remember(isLoggedIn) {
  if (isLoggedIn) localStorage.setItem("login", "open");
  else localStorage.removeItem("login");
  $("logout").hidden = !isLoggedIn;
}

async function ask(path, options) {
  const answer = await fetch(path, options);
  if (answer.status === 401) {
    login ||= askForKey();
    await login;
    return ask(path, options);
  }
  const body = await answer.json();
  if (!answer.ok && !("ready" in body)) throw new Error(body.error.message);
  return body;
}

function askForKey() {
  remember(false);
  $("login").hidden = false;
  $("key").focus();
  return new Promise((resolve) => {
    $("login").onsubmit = async (event) => {
      event.preventDefault();
      const headers = { "Content-Type": "application/json" };
      const body = JSON.stringify({ key: $("key").value.trim() });
      const answer = await fetch("api/v1/session", { method: "POST", headers, body }).catch(() => null);
      if (!answer?.ok) {
        $("refused").textContent = answer ? (await answer.json()).error.message : "The server does not answer";
        return;
      }
      $("refused").textContent = "";
      $("key").value = "";
      $("login").hidden = true;
      remember(true);
      login = null;
      resolve();
    };
  });
}

function field(name, limits, preset) {
  const input = form.elements[name];
  if (limits) [input.min, input.max] = limits;
  if (preset !== undefined) input.value = preset;
}

async function prepare() {
  await ask("api/v1/capabilities"); // logs in first: without the key, /readyz says little
  for (;;) {
    const readiness = await ask("readyz");
    if (readiness.state === "failed") throw new Error(`The model cannot be loaded: ${readiness.message}`);
    if (readiness.ready) break;
    const preparing = `Preparing the model: ${readiness.state} ${readiness.network || ""}`;
    progress(readiness.fraction, readiness.state === "paused" ? `Paused: ${readiness.message}` : preparing);
    await pause(POLL);
  }
  progress(null, "");
  const { model, defaults, schedulers, limits } = await ask("api/v1/capabilities");
  $("model").textContent = model.name;
  field("steps", limits.steps, defaults.steps);
  field("guidance_scale", limits.guidance_scale, defaults.guidance_scale);
  field("n", limits.n);
  field("strength", null, defaults.strength);
  form.elements.seed.max = limits.seed[1];
  form.elements.scheduler.replaceChildren(...schedulers.map((name) => new Option(name)));
  form.elements.scheduler.value = defaults.scheduler;
  const sizes = model.sizes.map(({ width, height }) => new Option(`${width} × ${height}`, `${width}x${height}`));
  form.elements.size.replaceChildren(...sizes);
  $("go").disabled = false;
}

function progress(fraction, text) {
  $("bar").hidden = !text;
  if (fraction === null) $("bar").removeAttribute("value");
  else $("bar").value = fraction;
  $("status").textContent = text;
}

function settings() {
  const { size, ...fields } = Object.fromEntries(new FormData(form));
  [fields.width, fields.height] = size.split("x");
  if (!first) delete fields.strength;
  for (const [name, value] of Object.entries(fields)) {
    if (value === "") delete fields[name];
    else if (!["prompt", "negative_prompt", "scheduler"].includes(name)) fields[name] = Number(value);
  }
  return fields;
}

function submit() {
  const headers = { Prefer: "respond-async" };
  if (!first) {
    headers["Content-Type"] = "application/json";
    return ask("api/v1/txt2img", { method: "POST", headers, body: JSON.stringify(settings()) });
  }
  const body = new FormData();
  for (const [name, value] of Object.entries(settings())) body.append(name, value);
  body.append("image", first);
  return ask("api/v1/img2img", { method: "POST", headers, body });
}

function show(image, request) {
  const figure = document.createElement("figure");
  const link = Object.assign(document.createElement("a"), { href: image.url, target: "_blank" });
  const caption = document.createElement("figcaption");
  caption.textContent = `${request.prompt} · seed ${image.seed}`;
  link.append(Object.assign(new Image(), { src: image.url, alt: request.prompt }));
  figure.append(link, caption);
  $("images").prepend(figure);
}

function describe({ status, position, paused, progress: at }) {
  if (paused) return `Paused: ${paused}`;
  if (status === "queued") return position ? `Waiting: ${position} ahead` : "Waiting";
  return at ? `Image ${at.image + 1}, step ${at.step} of ${at.steps}` : "Starting";
}

async function generate() {
  let current = await submit();
  job = current.url;
  $("stop").hidden = false;
  for (let shown = 0; ; await pause(POLL), current = await ask(job)) {
    for (; shown < current.images.length; shown++) show(current.images[shown], current.request);
    if (current.status === "failed") throw new Error(current.error.message);
    if (!["queued", "running"].includes(current.status)) return;
    progress(current.progress ? current.progress.fraction : null, describe(current));
  }
}

async function attempt(work) {
  $("error").textContent = "";
  $("go").disabled = true;
  try {
    await work();
    $("go").disabled = false;
  } catch (error) {
    $("error").textContent = error instanceof TypeError ? "The server does not answer; is it running?" : error.message;
    $("go").disabled = !form.elements.size.value; // without sizes the preparation failed
  }
  $("stop").hidden = true;
  job = null;
  progress(null, "");
}

function start(file) {
  if ($("first").src) URL.revokeObjectURL($("first").src);
  first = file || null;
  $("first").hidden = $("from").hidden = !first;
  $("hint").hidden = Boolean(first);
  if (first) $("first").src = URL.createObjectURL(first);
  else $("first").removeAttribute("src");
  $("file").value = "";
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  attempt(generate);
});
$("stop").addEventListener("click", () => job && ask(job, { method: "DELETE" }).catch((error) => ($("error").textContent = error.message)));
$("logout").addEventListener("click", async () => {
  const answer = await fetch("api/v1/session", { method: "DELETE" }).catch(() => null);
  if (answer?.ok) location.reload(); // which asks for the key
  else $("error").textContent = "Logging out failed: the login is still open";
});
$("file").addEventListener("change", () => start($("file").files[0]));
$("remove").addEventListener("click", () => start(null));
for (const name of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", name === "dragenter" || name === "dragover");
    if (name === "drop" && event.dataTransfer.files[0]) start(event.dataTransfer.files[0]);
  });
}
attempt(prepare);
remember(localStorage.getItem("login") !== null); // last: it throws where the browser stores nothing
