/** Two images over each other, divided where the slider stands. */
import { useSignal } from "@preact/signals";
import { relative } from "./api";
import { Icon } from "./icons";
import { title } from "./words";
import type { Shown } from "./viewer";

interface Props {
  one: Shown;
  others: readonly Shown[];
  from: Shown;
}

const same = (a: Shown, b: Shown) => a.job.id === b.job.id && a.image.index === b.image.index;

export function Compare({ one, others, from }: Props) {
  const other = useSignal(from);
  const divided = useSignal(50);
  const rest = others.filter((each) => !same(each, one));
  const at = rest.findIndex((each) => same(each, other.value));
  const step = (by: number) => () => (other.value = rest[at + by] ?? other.value);
  return (
    <div class="compare">
      <div class="pair" style={{ "--divided": `${divided.value}%` }}>
        <img src={relative(one.image.url)} alt={`Left: ${title(one.job)}`} />
        <img src={relative(other.value.image.url)} alt={`Right: ${title(other.value.job)}`} />
      </div>
      <label class="divider">
        <span class="unseen">Where the two images are divided</span>
        <input type="range" min={0} max={100} value={divided.value} onInput={(event) => (divided.value = Number(event.currentTarget.value))} />
      </label>
      <div class="tools">
        <button type="button" onClick={step(-1)} disabled={at <= 0}>
          <Icon name="left" />
          Newer
        </button>
        <span class="about">
          {one.image.seed ?? "enlarged"} | {other.value.image.seed ?? "enlarged"}
        </span>
        <button type="button" onClick={step(1)} disabled={at >= rest.length - 1}>
          Older
          <Icon name="right" />
        </button>
      </div>
    </div>
  );
}
