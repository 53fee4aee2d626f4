/** The seed: drawn anew for every job, or locked to that of the last one. */
import { field } from "./draft";
import { Icon } from "./icons";
import { Labelled, refusal } from "./inputs";
import { jobs } from "./jobs";
import { range } from "./server";

export function SeedField() {
  const seed = field("seed");
  const last = jobs.value.find((job) => typeof job.request.seed === "number")?.request.seed;
  const locked = seed.value !== "";
  return (
    <Labelled name="seed" label="Seed">
      <div class="joined">
        <input
          id="seed"
          type="number"
          inputMode="numeric"
          min={-1}
          max={range("seed")?.[1]}
          placeholder="random"
          value={seed.value}
          onInput={(event) => (seed.value = event.currentTarget.value)}
          {...refusal("seed")}
        />
        <button
          type="button"
          class="plain"
          aria-pressed={locked}
          aria-label="Keep the seed of the last image"
          title={locked ? "The seed is kept: draw a new one each time" : "Keep the seed of the last image"}
          disabled={!locked && last === undefined}
          onClick={() => (seed.value = locked ? "" : String(last))}
        >
          <Icon name={locked ? "lock" : "dice"} />
        </button>
      </div>
    </Labelled>
  );
}
