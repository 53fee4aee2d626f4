/** The API's answers, as far as the page reads them; docs/api.md and /openapi.json have all of them. */

export interface Size {
  width: number;
  height: number;
}

export type Status = "queued" | "running" | "succeeded" | "failed" | "cancelled";

export interface JobImage {
  index: number;
  seed: number | null;
  url: string;
  flagged: boolean;
}

export interface Progress {
  image: number;
  step: number;
  steps: number;
  fraction: number;
}

export interface Job {
  id: string;
  status: Status;
  model: string;
  url: string;
  task: string | null;
  size: Size | null;
  request: Record<string, unknown>;
  position: number | null;
  paused: string | null;
  eta: number | null;
  progress: Progress | null;
  notes: string[];
  images: JobImage[];
  error: { code: string; message: string } | null;
  created: number;
  timings: { running: number | null };
}

export interface JobsPage {
  jobs: Job[];
  next: number | null;
}

export interface Ability {
  available: boolean;
  needs: string | null;
}

export interface Defaults extends Size {
  steps: number;
  guidance_scale: number;
  scheduler: string;
  strength: number;
}

export interface Model {
  name: string;
  family: string;
  sizes: Size[];
  tasks: Record<string, Ability>;
  abilities: Record<string, Ability>;
  controlnets: string[];
  adapters: string[];
  refiners: string[];
  clip_skip: number;
  defaults: Defaults;
}

export type Range = [number, number];

export interface Capabilities {
  version: string;
  model: Model | null;
  models: Model[];
  schedulers: string[];
  sigmas: Record<string, string[]>;
  preprocessors: { name: string; about: string }[];
  upscalers: { name: string; scale: number | null }[];
  formats: string[];
  rngs: string[];
  limits: Record<string, Range | number | Record<string, Range>>;
}

export interface Readiness {
  ready: boolean;
  state: string;
  network: string | null;
  fraction: number | null;
  message: string | null;
}

export interface InstalledModel {
  name: string;
  url: string;
  default: boolean;
  loaded: boolean;
  jobs: number;
  family: string;
  sizes: Size[];
  disk_bytes: number;
  memory: { together: number };
}

export interface Conversion {
  id: string;
  url: string;
  status: Status;
  model: string;
  progress: { stage: string; item: string; fraction: number | null; eta_s: number | null } | null;
  error: { code: string; message: string } | null;
  created: number;
}

export interface Models {
  models: InstalledModel[];
  checkpoints: string[];
}

export interface Addon {
  name: string;
  url: string;
  families: string[];
  /** The names of the models that it fits. */
  models: string[];
}

export interface Lora extends Addon {
  words: string[];
  few_step: { steps: number; guidance_scale: number; scheduler: string } | null;
}

export interface Embedding extends Addon {
  words: string[];
  vectors: number;
}

export interface Tokens {
  tokens: number;
  limit: number;
}

/** The request that an image tells. */
export interface Told {
  text: string | null;
  task: string | null;
  fields: Record<string, unknown>;
  /** The fields of the images that the request had. */
  images: string[];
  /** The installed model that it names; null if it is not installed. */
  model: string | null;
  named: string | null;
  /** What no field has, in sentences. */
  unused: string[];
}
