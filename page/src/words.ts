/** Numbers as people read them, and what a job is called. */
import type { Job, Size } from "./types";

export function seconds(value: number): string {
  if (value < 1) return "under a second";
  if (value < 90) return `${Math.round(value)} s`;
  return `${Math.round(value / 60)} min`;
}

export function bytes(value: number): string {
  return value < 1e9 ? `${Math.round(value / 1e6)} MB` : `${(value / 1e9).toFixed(1)} GB`;
}

export const dimensions = ({ width, height }: Size) => `${width} × ${height}`;

/** Return a text of the request, or "". */
export function text(job: Job, name: string): string {
  const value = job.request[name];
  return typeof value === "string" ? value : "";
}

/** What is read aloud of a prompt, which may have thousands of characters. */
const SHORT = 200;

/** Return the beginning of a job's prompt, or what it does if it has none. */
export function title(job: Job): string {
  const prompt = text(job, "prompt");
  if (prompt.length > SHORT) return `${prompt.slice(0, SHORT)}…`;
  return prompt || (job.task === "upscale" ? "Enlarged image" : "An image without a prompt");
}
