/** What the form holds: a text for each of the request's fields, "" for the model's default; and the images. */
import { computed, signal, type Signal } from "@preact/signals";
import { chosenModel } from "./server";
import { keep, recall } from "./storage";
import type { Picture } from "./pictures";

export type Edit = "img2img" | "inpaint" | "outpaint";

const STORED = "draft";
const remembered = readDraft();
const fields = new Map<string, Signal<string>>();

const TYPING_MS = 300;
let unwritten: ReturnType<typeof setTimeout> | undefined;

function readDraft(): Record<string, string> {
  try {
    const stored = Object.entries(JSON.parse(recall(STORED) ?? "{}") as object);
    return Object.fromEntries(stored.filter(([, value]) => typeof value === "string"));
  } catch {
    return {}; // spoiled by something else: the page is to open
  }
}

function write(): void {
  clearTimeout(unwritten);
  const set = [...fields].map(([name, { value }]) => [name, value] as const).filter(([, value]) => value !== "");
  keep(STORED, JSON.stringify(Object.fromEntries(set)));
}

function changed(): void {
  clearTimeout(unwritten);
  unwritten = setTimeout(write, TYPING_MS);
}

addEventListener("pagehide", write);

/** Return the form's field with this name of the API. */
export function field(name: string): Signal<string> {
  let found = fields.get(name);
  if (found === undefined) {
    found = name === "model" ? chosenModel : signal("");
    if (remembered[name] !== undefined) found.value = remembered[name];
    fields.set(name, found);
    found.subscribe(changed);
  }
  return found;
}

for (const name of ["model", ...Object.keys(remembered)]) field(name);
if (recall(STORED) === null) field("prompt").value = "a red circle on a blue background";

/** A LoRA with its weights, "" for the usual ones. */
export interface ChosenLora {
  name: string;
  weight: string;
  text_weight?: string;
}

/** Kept in a field, so that they are remembered as the others are. */
export const chosenLoras = computed<readonly ChosenLora[]>(() => {
  try {
    const list: unknown = JSON.parse(field("loras").value || "[]");
    return Array.isArray(list) ? list.filter((each): each is ChosenLora => typeof each?.name === "string" && typeof each?.weight === "string") : [];
  } catch {
    return [];
  }
});

export function chooseLoras(list: readonly ChosenLora[]): void {
  field("loras").value = list.length > 0 ? JSON.stringify(list) : "";
}

/** The image to start from, and what is done to it. */
export const source = signal<Picture | null>(null);
export const edit = signal<Edit>("img2img");
/** The mask of `source` that was painted: white where it is painted again. */
export const mask = signal<Blob | null>(null);
export const palette = signal<Picture | null>(null);
export const style = signal<Picture | null>(null);

/** A control map, or an image of which a preprocessor makes one. */
export interface Control {
  id: number;
  image: Signal<Picture | null>;
  /** By the names of a control's fields. */
  values: Record<string, Signal<string>>;
}
export const controls = signal<readonly Control[]>([]);

let controlsMade = 0;

export function addControl(preprocessor: string): void {
  const names = ["net", "weight", "start", "end", "low_threshold", "high_threshold"];
  const values = Object.fromEntries(names.map((name) => [name, signal("")]));
  const control = { id: ++controlsMade, image: signal<Picture | null>(null), values: { ...values, preprocessor: signal(preprocessor) } };
  controls.value = [...controls.value, control];
}

export function removeControl(control: Control): void {
  controls.value = controls.value.filter((each) => each !== control);
}

/** Take an image as the one to start from. */
export function startFrom(picture: Picture | null, how: Edit = edit.value): void {
  mask.value = null;
  for (const side of SIDES) field(`extend_${side}`).value = "";
  source.value = picture;
  edit.value = how;
}

export const SIDES = ["left", "right", "top", "bottom"] as const;
