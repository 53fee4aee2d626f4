/** The page: its header, the form beside the queue and the gallery, and what lies over them. */
import { signal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { Announcements } from "./announcements";
import { isAddonFile, upload } from "./addons";
import { reachable } from "./api";
import { startFrom } from "./draft";
import { Form } from "./form";
import { Gallery } from "./gallery";
import { Icon } from "./icons";
import { trouble } from "./jobs";
import { Login } from "./login";
import { Models } from "./models";
import { dropped, mayBeImage, type Picture } from "./pictures";
import { Queue } from "./queue";
import { model, readiness } from "./server";
import { Settings } from "./settings";
import { Viewer } from "./viewer";

const opened = signal<"models" | "settings" | null>(null);
const dragging = signal(false);
const wrong = signal("");

/** Shows what matters before anything else: the server is away, or not ready yet. */
function Banner() {
  const state = readiness.value;
  if (!reachable.value) return <p class="banner" role="status">The server does not answer; trying again…</p>;
  if (trouble.value) return <p class="banner bad" role="alert">{trouble.value}</p>;
  if (wrong.value) return <p class="banner" role="alert">{wrong.value}</p>;
  if (state === null || state.ready) return null;
  if (state.state === "failed") return <p class="banner bad" role="alert">The model cannot be loaded: {state.message}</p>;
  if (state.state === "paused") return <p class="banner bad" role="alert">Paused: {state.message}</p>;
  return (
    <div class="banner">
      <p role="status">
        Preparing the model: {state.state} {state.network}
      </p>
      <progress max={1} value={state.fraction ?? undefined} aria-label="Preparing the model" />
    </div>
  );
}

/** An image that is dropped or pasted anywhere is the one to start from; a LoRA or an embedding is the server's. */
function useDrops(): void {
  useEffect(() => {
    const take = (from: Promise<Picture>) =>
      from.then(
        (picture) => {
          wrong.value = "";
          startFrom(picture);
        },
        (error: Error) => (wrong.value = error.message),
      );
    const isDialog = () => document.querySelector("dialog[open]") !== null;
    const over = (event: DragEvent) => {
      if (!mayBeImage(event.dataTransfer)) return;
      event.preventDefault();
      if (!isDialog()) dragging.value = true;
    };
    const leave = (event: DragEvent) => {
      if (event.relatedTarget === null) dragging.value = false;
    };
    const drop = (event: DragEvent) => {
      if (!mayBeImage(event.dataTransfer)) return;
      event.preventDefault();
      if (isDialog()) return;
      const addons = [...(event.dataTransfer?.files ?? [])].filter(isAddonFile);
      if (addons.length === 0) return void take(dropped(event.dataTransfer));
      wrong.value = "";
      void Promise.all(addons.map(upload)).catch((error: Error) => (wrong.value = error.message));
    };
    const end = () => void (dragging.value = false);
    const paste = (event: ClipboardEvent) => {
      // Office programs add a picture of the text that they copy.
      const isText = event.target instanceof Element && event.target.matches("textarea, input") && event.clipboardData?.types.includes("text/plain");
      if (!isDialog() && !isText && event.clipboardData?.files.length) void take(dropped(event.clipboardData));
    };
    document.addEventListener("dragover", over);
    document.addEventListener("dragleave", leave);
    document.addEventListener("drop", end, true); // an input for an image takes it, and lets it go no further
    document.addEventListener("drop", drop);
    document.addEventListener("paste", paste);
  }, []);
}

export function App() {
  useDrops();
  const close = () => (opened.value = null);
  return (
    <>
      <a class="skip" href="#gallery">
        Skip to the images
      </a>
      <header class="top">
        <img src="icon.svg" alt="" width="28" height="28" />
        <h1>Anemone</h1>
        <span class="about">{model.value?.name}</span>
        <nav aria-label="Panels">
          <button type="button" class="plain" onClick={() => (opened.value = "models")}>
            <Icon name="model" />
            Models
          </button>
          <button type="button" class="plain" onClick={() => (opened.value = "settings")}>
            <Icon name="gear" />
            Settings
          </button>
        </nav>
      </header>
      <Banner />
      <main class={dragging.value ? "dragging" : ""}>
        <Form />
        <div class="results">
          <Queue />
          <Gallery />
        </div>
      </main>
      {opened.value === "models" && <Models onClose={close} />}
      {opened.value === "settings" && <Settings onClose={close} />}
      <Viewer />
      <Login />
      <Announcements />
    </>
  );
}
