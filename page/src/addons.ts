/** The LoRAs and embeddings of the server: which there are, which of them the model takes, and new ones. */
import { effect, signal } from "@preact/signals";
import { announce } from "./announcements";
import { call, get, retried } from "./api";
import { capabilities, markStale, readCapabilities } from "./server";
import type { Addon, Embedding, Lora, Model } from "./types";

export const loras = signal<readonly Lora[]>([]);
export const embeddings = signal<readonly Embedding[]>([]);
/** Files that cannot be used, with the reason. */
export const damaged = signal<Record<string, string>>({});

async function read(): Promise<void> {
  const [some, others] = await Promise.all([
    get<{ loras: Lora[]; damaged: Record<string, string> }>("loras"),
    get<{ embeddings: Embedding[]; damaged: Record<string, string> }>("embeddings"),
  ]);
  loras.value = some.loras;
  embeddings.value = others.embeddings;
  damaged.value = { ...some.damaged, ...others.damaged };
}

// They come and go with what the server can do.
effect(() => {
  if (capabilities.value !== null) read().catch(retried);
});

export const fits = (addon: Addon, model: Model | null) => model === null || addon.models.includes(model.name);

const SUFFIX = ".safetensors";
const OF_EMBEDDINGS = ["emb_params", "clip_l", "clip_g"];
const LONGEST_HEADER = 1e8;

export const isAddonFile = (file: File) => file.name.endsWith(SUFFIX);

/** Return whether a file has an embedding's tensors; what cannot be read is left to the server's words. */
async function isEmbedding(file: Blob): Promise<boolean> {
  try {
    const length = Number(new DataView(await file.slice(0, 8).arrayBuffer()).getBigUint64(0, true));
    if (length > LONGEST_HEADER) return false;
    const names = Object.keys(JSON.parse(await file.slice(8, 8 + length).text()) as object).filter((name) => name !== "__metadata__");
    return names.length === 1 || (names.length > 0 && names.every((name) => OF_EMBEDDINGS.includes(name)));
  } catch {
    return false;
  }
}

/** Send a LoRA or an embedding to the server; throws an Error that says what is wrong with it. */
export async function upload(file: File): Promise<void> {
  if (!isAddonFile(file)) throw new Error(`${file.name} is not a ${SUFFIX} file, as LoRAs and embeddings are accepted`);
  const name = file.name.slice(0, -SUFFIX.length);
  const [kind, word] = (await isEmbedding(file)) ? ["embeddings", "embedding"] : ["loras", "LoRA"];
  await call(`${kind}?name=${encodeURIComponent(name)}`, { method: "POST", file });
  await readCapabilities();
  markStale();
  announce(`The ${word} ${name} was added`);
}
