/** The models: which are installed and loaded, what they take, and how a new one comes. */
import { signal, useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { Failure, announce } from "./announcements";
import { call, get, retried } from "./api";
import { Dialog } from "./dialog";
import { isOpen } from "./jobs";
import { markStale, pause, readCapabilities } from "./server";
import { bytes, dimensions, seconds } from "./words";
import type { Conversion, InstalledModel, Models as ModelList } from "./types";

const BUSY_MS = 1000;
const IDLE_MS = 4000;
const list = signal<ModelList | null>(null);
const conversions = signal<readonly Conversion[]>([]);

async function refresh(): Promise<void> {
  const before = list.value?.models.length;
  [list.value, { conversions: conversions.value }] = await Promise.all([
    get<ModelList>("models"),
    get<{ conversions: Conversion[] }>("models/conversions"),
  ]);
  if (before !== undefined && before !== list.value.models.length) {
    announce(before < list.value.models.length ? "A model was added" : "A model was deleted");
    await readCapabilities();
    markStale();
  }
}

export function Models({ onClose }: { onClose: () => void }) {
  useEffect(() => {
    let shown = true;
    void (async () => {
      while (shown) {
        await refresh().catch(retried);
        await pause(conversions.value.some(isOpen) ? BUSY_MS : IDLE_MS);
      }
    })();
    return () => (shown = false);
  }, []);
  const failed = conversions.value.filter((each) => each.status === "failed").slice(0, 3);
  return (
    <Dialog title="Models" class="large" onClose={onClose}>
      <ul class="models">
        {list.value?.models.map((model) => (
          <Entry key={model.name} model={model} />
        ))}
      </ul>
      {(conversions.value.some(isOpen) || failed.length > 0) && (
        <ul class="models" aria-label="Conversions">
          {[...conversions.value.filter(isOpen), ...failed].map((conversion) => (
            <Running key={conversion.id} conversion={conversion} />
          ))}
        </ul>
      )}
      <Add />
    </Dialog>
  );
}

function Entry({ model }: { model: InstalledModel }) {
  const busy = useSignal("");
  const failed = useSignal("");
  const asking = useSignal(false);
  const act = (what: string, path: string, method: string) => async () => {
    busy.value = what;
    failed.value = "";
    try {
      await call(path, { method });
      await refresh();
    } catch (error) {
      failed.value = (error as Error).message;
    }
    busy.value = "";
    asking.value = false;
  };
  return (
    <li>
      <div>
        <p class="title">
          {model.name} {model.default && <span class="badge">default</span>} {model.loaded && <span class="badge on">loaded</span>}
        </p>
        <p class="about">
          {model.family} · {model.sizes.map(dimensions).join(", ")} · {bytes(model.disk_bytes)} on disk · {bytes(model.memory.together)} in memory
          {model.jobs > 0 && ` · ${model.jobs} ${model.jobs === 1 ? "job" : "jobs"}`}
        </p>
        <Failure text={failed.value} />
      </div>
      <div class="buttons">
        {model.loaded ? (
          <button type="button" disabled={busy.value !== ""} onClick={act("Unloading", `${model.url}/unload`, "POST")} aria-label={`Unload ${model.name}`}>
            {busy.value || "Unload"}
          </button>
        ) : (
          <button type="button" disabled={busy.value !== ""} onClick={act("Loading", `${model.url}/load`, "POST")} aria-label={`Load ${model.name}`}>
            {busy.value || "Load"}
          </button>
        )}
        {!model.default && !asking.value && (
          <button type="button" onClick={() => (asking.value = true)} aria-label={`Delete ${model.name}`}>
            Delete
          </button>
        )}
        {asking.value && (
          <button type="button" class="danger" onClick={act("Deleting", model.url, "DELETE")}>
            Delete {bytes(model.disk_bytes)} for good
          </button>
        )}
      </div>
    </li>
  );
}

function Running({ conversion }: { conversion: Conversion }) {
  const { progress, error, status } = conversion;
  const failed = useSignal("");
  const cancel = () => call(conversion.url, { method: "DELETE" }).then(refresh).catch((refused: Error) => (failed.value = refused.message));
  return (
    <li>
      <div>
        <p class="title">{conversion.model}</p>
        <p class="about">
          {status === "queued" && "waiting for the conversion before it"}
          {progress && isOpen(conversion) && `${progress.stage} ${progress.item}`}
          {progress?.eta_s != null && isOpen(conversion) && ` · ${seconds(progress.eta_s)} left`}
        </p>
        {status === "running" && <progress max={1} value={progress?.fraction ?? undefined} aria-label={`Progress of ${conversion.model}`} />}
        {(error || failed.value) && <p class="refused">{error?.message ?? failed.value}</p>}
      </div>
      {isOpen(conversion) && (
        <button type="button" onClick={() => void cancel()} aria-label={`Cancel the conversion of ${conversion.model}`}>
          Cancel
        </button>
      )}
    </li>
  );
}

function Add() {
  const source = useSignal("");
  const name = useSignal("");
  const sizes = useSignal("");
  const refused = useSignal("");
  const convert = async () => {
    const sides = sizes.value.split(/[\s,]+/).filter(Boolean).map((size) => size.split(/[x×]/).map(Number));
    const json = {
      source: source.value.trim(),
      ...(name.value.trim() && { name: name.value.trim() }),
      ...(sides.length > 0 && { sizes: sides.map(([width, height]) => ({ width, height: height ?? width })) }),
    };
    try {
      await call("models", { method: "POST", json });
      refused.value = "";
      source.value = name.value = sizes.value = "";
      announce("The model is being fetched and converted");
      await refresh();
    } catch (error) {
      refused.value = (error as Error).message;
    }
  };
  const checkpoints = list.value?.checkpoints ?? [];
  return (
    <form
      class="stack add"
      noValidate
      onSubmit={(event) => {
        event.preventDefault();
        void convert();
      }}
    >
      <h3>Add a model</h3>
      <p class="about">
        From the Hugging Face hub, as owner/name, also with @revision or /file.safetensors; or a checkpoint that lies in the folder “checkpoints” of the server's data.
      </p>
      <div class="field">
        <label for="source">Source</label>
        <input id="source" list="checkpoints" placeholder="stabilityai/sd-turbo" required value={source.value} onInput={(event) => (source.value = event.currentTarget.value)} />
        <datalist id="checkpoints">
          {checkpoints.map((each) => (
            <option key={each} value={each} />
          ))}
        </datalist>
      </div>
      <div class="grid">
        <div class="field">
          <label for="model-name">Name</label>
          <input id="model-name" placeholder="the source's own" value={name.value} onInput={(event) => (name.value = event.currentTarget.value)} />
        </div>
        <div class="field">
          <label for="model-sizes">Sizes</label>
          <input id="model-sizes" placeholder="512x512, 512x768" value={sizes.value} onInput={(event) => (sizes.value = event.currentTarget.value)} />
        </div>
      </div>
      <Failure text={refused.value} />
      <button type="submit">Download and convert</button>
    </form>
  );
}
