/** The queue: what runs and what waits, of every client. */
import { effect, useSignal } from "@preact/signals";
import { Failure } from "./announcements";
import { cancel, live, open } from "./jobs";
import { readiness } from "./server";
import { seconds, title } from "./words";
import type { Job } from "./types";

function state(job: Job): string {
  if (job.paused) return "paused";
  if (job.status === "queued") return job.position ? `${job.position} ahead` : "next";
  const told = live.value.get(job.id) ?? job.progress;
  if (told === null || told === undefined) return "starting";
  const images = Number(job.request.n ?? 1);
  return `${images > 1 ? `image ${told.image + 1} of ${images}, ` : ""}step ${told.step} of ${told.steps}`;
}

export function fraction(job: Job): number | null {
  return (live.value.get(job.id) ?? job.progress)?.fraction ?? null;
}

function Entry({ job }: { job: Job }) {
  const failed = useSignal("");
  const cancelling = useSignal(false);
  const eta = live.value.get(job.id)?.eta ?? job.eta;
  const preview = live.value.get(job.id)?.preview;
  const stop = async () => {
    cancelling.value = true;
    try {
      await cancel(job);
    } catch (error) {
      failed.value = (error as Error).message;
      cancelling.value = false;
    }
  };
  return (
    <li>
      <span class="thumb">{preview && <img src={preview} alt="" />}</span>
      <div>
        <p class="title" dir="auto">{title(job)}</p>
        <p class="about">
          {state(job)}
          {eta !== null && !job.paused && ` · ${seconds(eta)} left`}
        </p>
        {job.status === "running" && <progress max={1} value={fraction(job) ?? 0} aria-label={`Progress of ${title(job)}`} />}
        {failed.value && <p class="refused">{failed.value}</p>}
      </div>
      <button type="button" onClick={() => void stop()} disabled={cancelling.value} aria-label={`Cancel: ${title(job)}`}>
        {cancelling.value ? "Cancelling" : "Cancel"}
      </button>
    </li>
  );
}

// Seen in the browser's tabs while another one is in front.
effect(() => {
  const running = open.value.find((job) => job.status === "running");
  const done = running === undefined ? null : fraction(running);
  document.title = done === null ? "Anemone" : `${Math.round(100 * done)} % · Anemone`;
});

export function Queue() {
  const jobs = open.value;
  const failed = useSignal("");
  const sure = useSignal(false);
  if (jobs.length === 0) return null;
  const stop = async () => {
    const ends = await Promise.allSettled(jobs.map(cancel));
    failed.value = ends.find((end) => end.status === "rejected")?.reason.message ?? "";
  };
  const paused = jobs.find((job) => job.paused)?.paused ?? (readiness.value?.state === "paused" ? readiness.value.message : null);
  return (
    <section id="queue" aria-label="Queue">
      <header>
        <h2>
          Queue <span class="count">{jobs.length}</span>
        </h2>
        {jobs.length > 1 && !sure.value && (
          <button type="button" class="plain" onClick={() => (sure.value = true)}>
            Cancel all
          </button>
        )}
        {jobs.length > 1 && sure.value && (
          <span class="actions" role="group" aria-label="Cancel the jobs of other browsers and programs, too?">
            <span class="about">Those of other browsers and programs, too?</span>
            <button type="button" onClick={() => void stop().then(() => (sure.value = false))}>
              Cancel {jobs.length} jobs
            </button>
            <button type="button" class="plain" autofocus onClick={() => (sure.value = false)}>
              Keep them
            </button>
          </span>
        )}
      </header>
      {paused && <p class="refused">Paused: {paused}</p>}
      <Failure text={failed.value} />
      <ul>
        {jobs.map((job) => (
          <Entry key={job.id} job={job} />
        ))}
      </ul>
    </section>
  );
}
