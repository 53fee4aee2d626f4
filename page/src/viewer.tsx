/** One image in full view: its parameters, what can be done with it, and its neighbors by the arrow keys. */
import { computed, signal, useSignal } from "@preact/signals";
import { useLayoutEffect, useRef } from "preact/hooks";
import { relative } from "./api";
import { Failure } from "./announcements";
import { Compare } from "./compare";
import { Dialog } from "./dialog";
import { field, startFrom, type Edit } from "./draft";
import { reuse, usualOf } from "./fields";
import { Icon, type IconName } from "./icons";
import { jobs, remove } from "./jobs";
import { pictureFrom } from "./pictures";
import { capabilities } from "./server";
import { StoredImage } from "./stored_image";
import { upscale } from "./submission";
import { dimensions, seconds, text, title } from "./words";
import type { Job, JobImage } from "./types";

export interface Shown {
  job: Job;
  image: JobImage;
}

const chosen = signal<{ id: string; index: number } | null>(null);
const all = computed<Shown[]>(() => jobs.value.flatMap((job) => job.images.map((image) => ({ job, image }))));
const at = computed(() => {
  const want = chosen.value;
  return want === null ? -1 : all.value.findIndex(({ job, image }) => job.id === want.id && image.index === want.index);
});

export function show(job: Job, image: JobImage): void {
  chosen.value = { id: job.id, index: image.index };
}

/** Pixels that a finger moves sideways to see the next image. */
const SWIPE = 50;

/** What a request has besides what the list of parameters tells in its own words. */
const ELSEWHERE = ["prompt", "negative_prompt", "width", "height", "n", "seed", "model", "controls", "mask", "image"];

function parameters({ job, image }: Shown): [string, string][] {
  const listed: [string, string][] = [["Model", job.model]];
  if (job.size) listed.push(["Size", dimensions(job.size)]);
  if (image.seed !== null) listed.push(["Seed", String(image.seed)]);
  for (const [name, value] of Object.entries(job.request)) {
    if (ELSEWHERE.includes(name) || typeof value === "object" || value === "") continue;
    if (String(usualOf(name)) === String(value) && !["steps", "guidance_scale", "scheduler"].includes(name)) continue;
    listed.push([name.replaceAll("_", " ").replace(/^./, (first) => first.toUpperCase()), String(value)]);
  }
  const loras = (job.request.loras ?? []) as { name: string; weight: number }[];
  if (loras.length > 0) listed.push(["LoRAs", loras.map(({ name, weight }) => `${name} ${weight}`).join(", ")]);
  if (job.timings.running !== null) listed.push(["Took", seconds(job.timings.running)]);
  return listed;
}

export function Viewer() {
  const shown = all.value[at.value];
  if (shown === undefined) return null;
  return <Open shown={shown} />;
}

function Open({ shown }: { shown: Shown }) {
  const comparing = useSignal(false);
  const asking = useSignal(false);
  const failed = useSignal("");
  const busy = useSignal(false);
  const zoomed = useSignal(false);
  const sides = useRef<HTMLDivElement>(null);
  const touched = useRef<{ x: number; y: number } | null>(null);
  const { job, image } = shown;
  const [before, after] = [all.value[at.value - 1], all.value[at.value + 1]];
  const close = () => (chosen.value = null);
  const go = (to: Shown | undefined) => {
    if (to === undefined) return;
    asking.value = false;
    failed.value = "";
    show(to.job, to.image);
  };
  /** Show a neighbor of what is shown now, which may be another image than when this was rendered. */
  const step = (by: number) => go(all.value[at.value + by]);
  // At once, for the keys that follow; on the document: what had the focus may be gone, such as the button of a deleted image.
  useLayoutEffect(() => {
    const onKey = (event: KeyboardEvent) => {
      if (comparing.value || event.target instanceof HTMLInputElement || event.target instanceof HTMLSelectElement) return;
      if (event.key === "ArrowLeft") step(-1);
      if (event.key === "ArrowRight") step(1);
    };
    document.addEventListener("keydown", onKey);
    return () => document.removeEventListener("keydown", onKey);
  }, []);
  /** Do something that may fail, and close the view unless it does. */
  const and = (work: () => Promise<unknown> | void, stay = false) => async () => {
    busy.value = true;
    try {
      await work();
      if (!stay) {
        close();
        document.getElementById("form")?.scrollIntoView();
      }
    } catch (error) {
      failed.value = (error as Error).message;
    }
    busy.value = false;
  };
  const use = (how: Edit) => and(async () => startFrom(await pictureFrom(image), how));
  const settings = () => {
    const installed = capabilities.value?.models.some(({ name }) => name === job.model);
    reuse({ ...job.request, seed: image.seed, n: 1, model: installed ? job.model : "" });
    startFrom(null);
  };
  const action = (icon: IconName, label: string, work: () => void, more = {}) => (
    <button type="button" onClick={work} disabled={busy.value} {...more}>
      <Icon name={icon} />
      {label}
    </button>
  );
  const name = `${job.id}-${image.index}`;
  return (
    <Dialog title={title(job)} head={`${at.value + 1} of ${all.value.length}`} class="full" onClose={close}>
      <div class="view">
        {comparing.value && (before ?? after) !== undefined ? (
          <Compare one={shown} others={all.value} from={(after ?? before)!} />
        ) : (
          <div
            class={zoomed.value ? "stage zoomed" : "stage"}
            ref={sides}
            onTouchStart={({ touches }) => (touched.current = touches.length === 1 ? { x: touches[0]!.clientX, y: touches[0]!.clientY } : null)}
            onTouchEnd={(event) => {
              const [from, to] = [touched.current, event.changedTouches[0]];
              touched.current = null;
              if (from === null || to === undefined || zoomed.value) return;
              const way = to.clientX - from.x;
              // Rather sideways than down: that is scrolling.
              if (Math.abs(way) > Math.max(SWIPE, 2 * Math.abs(to.clientY - from.y))) step(way > 0 ? -1 : 1);
            }}
          >
            <button type="button" class="plain side" aria-disabled={before === undefined} onClick={() => step(-1)} aria-label="The newer image">
              <Icon name="left" />
            </button>
            <button
              type="button"
              class="zoom"
              aria-pressed={zoomed.value}
              aria-label="Every pixel as a pixel of the screen"
              onClick={() => (zoomed.value = !zoomed.value)}
            >
              <StoredImage job={job} src={relative(image.url)} alt={title(job)} />
            </button>
            <button type="button" class="plain side" aria-disabled={after === undefined} onClick={() => step(1)} aria-label="The older image" autofocus>
              <Icon name="right" />
            </button>
          </div>
        )}
        <aside class="stack">
          <p class="prompt" dir="auto">{text(job, "prompt") || title(job)}</p>
          {text(job, "negative_prompt") && <p class="about">Not in the image: <bdi>{text(job, "negative_prompt")}</bdi></p>}
          <div class="actions">
            {job.task !== "upscale" && action("reuse", "Reuse settings", and(settings))}
            {image.seed !== null && action("lock", "Reuse seed", and(() => void (field("seed").value = String(image.seed))))}
            {action("image", "Use this", use("img2img"))}
            {action("brush", "Paint a part", use("inpaint"))}
            {action("extend", "Extend", use("outpaint"))}
            {action("compare", "Compare", () => (comparing.value = !comparing.value), {
              disabled: all.value.length < 2, "aria-pressed": comparing.value,
            })}
            <a class="button" href={relative(image.url)} download={`anemone-${name}`}>
              <Icon name="download" />
              Download
            </a>
            {action("trash", "Delete", () => (asking.value = true))}
          </div>
          {asking.value && (
            <div class="question" role="alert">
              <p>{job.images.length > 1 ? `Delete this job and its ${job.images.length} images?` : "Delete this image?"} It cannot be brought back.</p>
              <button
                type="button"
                class="danger"
                onClick={and(async () => {
                  const to = all.value.slice(at.value).find((each) => each.job.id !== job.id) ?? all.value.slice(0, at.value).findLast((each) => each.job.id !== job.id);
                  await remove(job);
                  asking.value = false;
                  if (to === undefined) return close();
                  go(to);
                  sides.current?.querySelector("button")?.focus(); // the button that had the focus is gone
                }, true)}
              >
                Delete
              </button>
              <button type="button" onClick={() => (asking.value = false)}>
                Keep
              </button>
            </div>
          )}
          <Enlarge onUpscale={(upscaler, scale) => and(async () => upscale((await pictureFrom(image)).file, upscaler, scale))()} />
          <Failure text={failed.value} />
          {job.notes.length > 0 && (
            <ul class="notes">
              {job.notes.map((note) => (
                <li key={note}>{note}</li>
              ))}
            </ul>
          )}
          <dl class="parameters">
            {parameters(shown).map(([label, value]) => (
              <div key={label}>
                <dt>{label}</dt>
                <dd>{value}</dd>
              </div>
            ))}
          </dl>
        </aside>
      </div>
    </Dialog>
  );
}

function Enlarge({ onUpscale }: { onUpscale: (upscaler: string, scale: string) => void }) {
  const upscalers = capabilities.value?.upscalers ?? [];
  const upscaler = useSignal(upscalers[0]?.name ?? "");
  const scale = useSignal("2");
  return (
    <div class="enlarge">
      <select aria-label="Upscaler" value={upscaler.value} onChange={(event) => (upscaler.value = event.currentTarget.value)}>
        {upscalers.map(({ name }) => (
          <option key={name}>{name}</option>
        ))}
      </select>
      <select aria-label="Times as large" value={scale.value} onChange={(event) => (scale.value = event.currentTarget.value)}>
        {["2", "3", "4"].map((each) => (
          <option key={each} value={each}>
            {each}×
          </option>
        ))}
      </select>
      <button type="button" onClick={() => onUpscale(upscaler.value, scale.value)}>
        <Icon name="enlarge" />
        Upscale
      </button>
    </div>
  );
}
