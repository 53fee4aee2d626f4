/** Sends what the form holds as a job. */
import { effect, signal } from "@preact/signals";
import { announce } from "./announcements";
import { ApiError, AWAY, call, reachable } from "./api";
import { controls, edit, field, mask, palette, source, style } from "./draft";
import { filled } from "./fields";
import { add } from "./jobs";
import { markStale } from "./server";
import type { Picture } from "./pictures";
import type { Job } from "./types";

/** What is wrong with the request, shown at the field it names. */
export const refused = signal<{ message: string; field: string | null } | null>(null);
effect(() => {
  if (reachable.value && refused.peek()?.message === AWAY) refused.value = null;
});
export const submitting = signal(false);

/** Return the task that the form asks for. */
export function task(): string {
  if (source.value === null) return "txt2img";
  if (edit.value === "img2img" && field("prompt").value.trim() === "") return "variations";
  return edit.value;
}

function files(): Record<string, Blob> {
  const found: Record<string, Blob> = {};
  const add = (name: string, picture: Picture | null) => {
    if (picture !== null) found[name] = picture.file;
  };
  add("image", source.value);
  add("palette_image", palette.value);
  add("adapter_image", style.value);
  if (source.value !== null && edit.value === "inpaint" && mask.value !== null) found.mask = mask.value;
  for (const control of controls.value) add(`control_${control.id}`, control.image.value);
  return found;
}

const TEXTS = ["net", "preprocessor"];

function controlItems(): Record<string, unknown>[] {
  return controls.value.map((control) => {
    const set = Object.entries(control.values).filter(([, { value }]) => value !== "");
    const values = set.map(([name, { value }]) => [name, TEXTS.includes(name) ? value : Number(value)] as const);
    return { ...Object.fromEntries(values), ...(control.image.value === null ? {} : { image: `control_${control.id}` }) };
  });
}

async function submit(): Promise<Job> {
  const [values, attached] = [filled(), files()];
  const headers = { Prefer: "respond-async", "Idempotency-Key": crypto.getRandomValues(new Uint32Array(4)).join("-") };
  const path = task();
  if (Object.keys(attached).length === 0 && controls.value.length === 0) {
    return call<Job>(path, { method: "POST", json: { prompt: "", ...values }, headers });
  }
  const form = new FormData();
  for (const [name, value] of Object.entries({ prompt: "", ...values })) {
    form.append(name, typeof value === "object" ? JSON.stringify(value) : String(value));
  }
  if (controls.value.length > 0) form.append("controls", JSON.stringify(controlItems()));
  for (const [name, file] of Object.entries(attached)) form.append(name, file, name);
  return call<Job>(path, { method: "POST", form, headers });
}

/** Submit the form; what the server refuses is in `refused`. */
export async function generate(): Promise<void> {
  refused.value = null;
  submitting.value = true;
  try {
    if (task() === "inpaint" && mask.value === null) {
      throw new ApiError(422, "no_mask", "Paint the part of the image that is to be painted again", "mask");
    }
    const job = await submit();
    announce(job.position ? `Queued behind ${job.position}` : "Started");
    add(job);
  } catch (error) {
    const at = error instanceof ApiError ? error.field : null;
    refused.value = { message: (error as Error).message, field: at };
    if (error instanceof ApiError && error.status >= 503) markStale();
  }
  submitting.value = false;
}

/** Enlarge an image that is in the gallery. */
export async function upscale(image: Blob, upscaler: string, scale: string): Promise<void> {
  const form = new FormData();
  form.append("image", image, "image");
  form.append("upscaler", upscaler);
  form.append("scale", scale);
  add(await call<Job>("upscale", { method: "POST", form, headers: { Prefer: "respond-async" } }));
  announce("The image is being enlarged");
}
