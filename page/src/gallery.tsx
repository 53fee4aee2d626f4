/** The gallery: every image that the server keeps, the newest first, with places for those that are being made. */
import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { relative } from "./api";
import { Failure } from "./announcements";
import { Icon } from "./icons";
import { jobs, live, loaded, more, next, remove } from "./jobs";
import { fraction } from "./queue";
import { show } from "./viewer";
import { StoredImage } from "./stored_image";
import { title } from "./words";
import type { Job, JobImage, Size } from "./types";

const UNKNOWN: Size = { width: 1, height: 1 };

/** Return the address of a small file of an image, for a card. */
const card = (image: JobImage) => `${relative(image.url)}?format=webp&quality=85`;

const shape = (job: Job) => {
  const { width, height } = job.size ?? UNKNOWN;
  return { "--ratio": String(Math.min(2.4, Math.max(0.5, width / height))) };
};

function Card({ job, image }: { job: Job; image: JobImage }) {
  return (
    <li style={shape(job)}>
      <button type="button" class="card" onClick={() => show(job, image)}>
        <StoredImage job={job} src={card(image)} alt={image.flagged ? `Blurred by the safety checker: ${title(job)}` : title(job)} loading="lazy" />
        <span class="caption" dir="auto" aria-hidden="true">
          {title(job)}
        </span>
      </button>
    </li>
  );
}

function Place({ job, index }: { job: Job; index: number }) {
  const told = live.value.get(job.id);
  const isNow = job.status === "running" && (told?.image ?? job.images.length) === index;
  const done = fraction(job);
  return (
    <li style={shape(job)}>
      <div class={isNow ? "card place now" : "card place"}>
        {isNow && told?.preview && <img src={told.preview} alt={`Preview of ${title(job)}`} />}
        {isNow && done !== null && <span class="percent">{Math.round(100 * done)} %</span>}
      </div>
    </li>
  );
}

function Failed({ job }: { job: Job }) {
  const kept = useSignal("");
  return (
    <li class="failure" style={{ "--ratio": "1" }}>
      <div class="card">
        <strong>It failed</strong>
        <p>{job.error?.message}</p>
        <p class="about" dir="auto">{title(job)}</p>
        <button type="button" onClick={() => void remove(job).catch((error: Error) => (kept.value = error.message))} aria-label={`Remove the failed job: ${title(job)}`}>
          Remove
        </button>
        <Failure text={kept.value} />
      </div>
    </li>
  );
}

function cards(job: Job) {
  const made = job.images.map((image) => <Card key={`${job.id} ${image.index}`} job={job} image={image} />);
  if (job.status === "running") {
    const all = typeof job.request.n === "number" ? job.request.n : 1;
    for (let index = made.length; index < all; index++) made.push(<Place key={`${job.id} ${index}`} job={job} index={index} />);
  } else if (job.status === "failed") made.push(<Failed key={job.id} job={job} />);
  return made;
}

/** Reads on when it comes into view; a button too, for the keyboard. */
function More() {
  const end = useRef<HTMLButtonElement>(null);
  const failed = useSignal("");
  const read = () => more().catch((error: Error) => (failed.value = error.message));
  useEffect(() => {
    const observer = new IntersectionObserver((entries) => entries.some((entry) => entry.isIntersecting) && void read());
    observer.observe(end.current!);
    return () => observer.disconnect();
  }, [next.value]);
  return (
    <div class="end">
      <button ref={end} type="button" onClick={() => void read()}>
        Older images
      </button>
      {failed.value && <p class="refused">{failed.value}</p>}
    </div>
  );
}

export function Gallery() {
  const all = jobs.value.flatMap(cards);
  return (
    <section id="gallery" aria-label="Gallery">
      {all.length === 0 && loaded.value && (
        <div class="empty">
          <Icon name="image" />
          <h2>Nothing here yet</h2>
          <p>Say what you want to see, and press Generate. Images stay on the server and appear here.</p>
        </div>
      )}
      <ul class="cards">{all}</ul>
      {next.value !== null && <More />}
    </section>
  );
}
