/** The request's fields: what each is called, what it takes, and when it applies. A new one costs a line here. */
import { chooseLoras, chosenLoras, controls, edit, field, palette, SIDES, source, style, type Edit } from "./draft";
import { capabilities, model } from "./server";

type Kind = "whole" | "real" | "choice" | "switch";

export interface FieldSpec {
  /** Its name in the API. */
  name: string;
  label: string;
  kind: Kind;
  /** Whether the request may have it now; always if left out. */
  applies?: () => boolean;
  choices?: () => readonly string[];
  /** What it is if left empty, shown in its place. */
  usual?: () => string | number | undefined;
  step?: number;
  about?: string;
}

const painting = () => source.value !== null && edit.value === "inpaint";
const extending = () => source.value !== null && edit.value === "outpaint";
const hires = () => source.value === null;
const twice = () => hires() && field("hires_scale").value !== "";
const refined = () => field("refiner").value !== "";

/** Fields that stand in the form itself. */
export const STEPS: FieldSpec = { name: "steps", label: "Steps", kind: "whole", usual: () => model.value?.defaults.steps };
export const GUIDANCE: FieldSpec = {
  name: "guidance_scale", label: "Guidance", kind: "real", step: 0.5, usual: () => model.value?.defaults.guidance_scale,
};
export const COUNT: FieldSpec = { name: "n", label: "Images", kind: "whole", usual: () => 1 };
export const SCHEDULER: FieldSpec = {
  name: "scheduler", label: "Scheduler", kind: "choice", choices: () => capabilities.value?.schedulers ?? [],
  usual: () => model.value?.defaults.scheduler,
};
export const SIGMAS: FieldSpec = {
  name: "sigmas", label: "Noise levels", kind: "choice", usual: () => "automatic",
  choices: () => capabilities.value?.sigmas[field("scheduler").value || (model.value?.defaults.scheduler ?? "")] ?? [],
};
const STRENGTH: FieldSpec = {
  name: "strength", label: "Strength", kind: "real", step: 0.05, applies: () => source.value !== null,
  usual: () => (edit.value === "img2img" ? (field("prompt").value.trim() ? model.value?.defaults.strength : 0.6) : 1),
  about: "0 keeps it, 1 replaces it",
};
const EXTENSIONS: FieldSpec[] = SIDES.map((side) => ({
  name: `extend_${side}`, label: side.charAt(0).toUpperCase() + side.slice(1), kind: "whole", step: 8, usual: () => 0, applies: extending,
}));

interface Section {
  title: string;
  fields: FieldSpec[];
}

/** Of the image to start from, by what is done to it. */
export const EDITING: Record<Edit, FieldSpec[]> = {
  img2img: [STRENGTH],
  inpaint: [
    STRENGTH,
    { name: "mask_blur", label: "Soft edge, pixels", kind: "real", step: 1, applies: painting, usual: () => 4 },
    {
      name: "mask_fill", label: "Start from", kind: "choice", applies: painting, usual: () => "original",
      choices: () => ["original", "fill", "noise", "nothing"],
    },
    { name: "only_masked", label: "Full detail for the painted part", kind: "switch", applies: painting },
    {
      name: "mask_padding", label: "Surroundings, pixels", kind: "whole", usual: () => 32,
      applies: () => painting() && field("only_masked").value === "true",
    },
  ],
  outpaint: [...EXTENSIONS, STRENGTH, { name: "feather", label: "Blend, pixels", kind: "whole", applies: extending, usual: () => 16 }],
};

/** The section that has images, too. */
export const COLORS = "Colors and style";

/** What the foldable part of the form has. */
export const MORE: Section[] = [
  {
    title: "Second, larger pass",
    fields: [
      { name: "hires_scale", label: "Times as large", kind: "real", step: 0.5, applies: hires, about: "Above 1; empty: no second pass" },
      {
        name: "hires_upscaler", label: "Enlarged by", kind: "choice", applies: twice, usual: () => "lanczos",
        choices: () => ["latent", ...(capabilities.value?.upscalers ?? []).map((each) => each.name)],
      },
      { name: "hires_steps", label: "Its steps", kind: "whole", applies: twice, usual: () => field("steps").value || model.value?.defaults.steps },
      { name: "hires_strength", label: "Its strength", kind: "real", step: 0.05, applies: twice },
    ],
  },
  {
    title: "Refiner",
    fields: [
      {
        name: "refiner", label: "Model", kind: "choice", usual: () => "none", choices: () => model.value?.refiners ?? [],
        applies: () => (model.value?.refiners.length ?? 0) > 0,
      },
      { name: "refiner_switch", label: "Takes over after", kind: "real", step: 0.05, applies: refined },
    ],
  },
  {
    title: COLORS,
    fields: [
      { name: "palette_strength", label: "Palette strength", kind: "real", step: 0.05, usual: () => 1, applies: () => palette.value !== null },
      {
        name: "adapter", label: "IP-Adapter", kind: "choice", choices: () => model.value?.adapters ?? [],
        usual: () => model.value?.adapters[0], applies: () => style.value !== null && (model.value?.adapters.length ?? 0) > 1,
      },
      { name: "adapter_scale", label: "Style strength", kind: "real", step: 0.05, usual: () => 1, applies: () => style.value !== null },
    ],
  },
  {
    title: "Guidance",
    fields: [
      { name: "guidance_rescale", label: "Rescale", kind: "real", step: 0.05, usual: () => 0 },
      { name: "guidance_first_sigma", label: "From noise level", kind: "real", step: 0.1 },
      { name: "guidance_last_sigma", label: "To noise level", kind: "real", step: 0.1 },
    ],
  },
  {
    title: "Prompt and noise",
    fields: [
      { name: "prompt_syntax", label: "Prompt syntax", kind: "choice", choices: () => ["a1111", "plain"], usual: () => "a1111" },
      { name: "clip_skip", label: "CLIP skip", kind: "whole", usual: () => 1, applies: () => (model.value?.clip_skip ?? 1) > 1 },
      { name: "variation_seed", label: "Variation seed", kind: "whole" },
      { name: "variation_strength", label: "Variation strength", kind: "real", step: 0.05, usual: () => 0 },
      { name: "rng", label: "Random numbers", kind: "choice", choices: () => capabilities.value?.rngs ?? [], usual: () => "torch" },
    ],
  },
  {
    title: "Queue and file",
    fields: [
      { name: "priority", label: "Priority", kind: "choice", choices: () => ["high", "normal", "low"], usual: () => "normal" },
      { name: "format", label: "Format", kind: "choice", choices: () => capabilities.value?.formats ?? [], usual: () => "png" },
      {
        name: "quality", label: "Quality", kind: "whole", applies: () => ["jpeg", "webp"].includes(field("format").value),
      },
    ],
  },
];

const ALL: FieldSpec[] = [
  ...new Set([STEPS, GUIDANCE, COUNT, SCHEDULER, SIGMAS, ...Object.values(EDITING).flat(), ...MORE.flatMap((section) => section.fields)]),
];
const TEXTS = ["prompt", "negative_prompt", "model"];
const WHOLE = ["seed", "width", "height"];

/** The names of all fields that a job's settings may fill. */
const NAMES = [...TEXTS, ...WHOLE, ...ALL.map((spec) => spec.name)];

/** Go back to the model's defaults; the prompts and the images stay. */
export function reset(): void {
  for (const name of NAMES) if (!TEXTS.includes(name)) field(name).value = "";
  controls.value = [];
  chooseLoras([]);
}

/** Fill the form with a job's settings; fields that it does not have, or that are as usual, are emptied. */
export function reuse(request: Record<string, unknown>): void {
  for (const name of NAMES) {
    const value = request[name];
    const isPlain = typeof value === "string" || typeof value === "number" || typeof value === "boolean";
    field(name).value = isPlain && String(value) !== String(usualOf(name)) ? String(value) : "";
  }
  const loras = Array.isArray(request.loras) ? (request.loras as { name: string; weight: number; text_weight?: number | null }[]) : [];
  chooseLoras(
    loras.map(({ name, weight, text_weight: text }) => ({ name, weight: weight === 1 ? "" : String(weight), ...(text == null ? {} : { text_weight: String(text) }) })),
  );
}

/** Return what a field is if it is left empty; undefined if the model or the request decides. */
export const usualOf = (name: string) => ALL.find((spec) => spec.name === name)?.usual?.();

/** Return the fields that are filled and apply, with the types of the API. */
export function filled(): Record<string, unknown> {
  const values: Record<string, unknown> = {};
  for (const name of TEXTS) if (field(name).value !== "") values[name] = field(name).value;
  for (const name of WHOLE) if (field(name).value !== "") values[name] = Number(field(name).value);
  for (const { name, kind, applies } of ALL) {
    const { value } = field(name);
    if (value === "" || applies?.() === false) continue;
    if (kind === "switch") {
      if (value === "true") values[name] = true;
    } else values[name] = kind === "choice" ? value : Number(value);
  }
  if (chosenLoras.value.length > 0) {
    values.loras = chosenLoras.value.map(({ name, ...weights }) => {
      const set = Object.entries(weights).filter(([, weight]) => weight !== "");
      return { name, ...Object.fromEntries(set.map(([which, weight]) => [which, Number(weight)])) };
    });
  }
  if (extending()) for (const name of ["width", "height"]) delete values[name];
  return values;
}
