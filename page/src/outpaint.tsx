/** Handles at the image's sides: pulled outwards, they say how much is added there. The numbers stand in fields as well. */
import { useRef, useState } from "preact/hooks";
import { field, SIDES } from "./draft";
import { range } from "./server";
import type { Picture } from "./pictures";

type Side = (typeof SIDES)[number];
/** Extensions that a handle gives are multiples of this. */
const GRID = 8;
const OUTWARDS: Record<Side, [number, number]> = { left: [-1, 0], right: [1, 0], top: [0, -1], bottom: [0, 1] };

export function Outpaint({ picture }: { picture: Picture }) {
  const stage = useRef<HTMLDivElement>(null);
  const [scale, setScale] = useState<number | null>(null); // pixels of the screen a pixel, kept while a handle is pulled
  const pulled = useRef<{ side: Side; from: number; x: number; y: number } | null>(null);
  const extent = (side: Side) => Number(field(`extend_${side}`).value) || 0;
  const most = range("extend_left")?.[1] ?? 2048;
  const set = (side: Side, pixels: number) => {
    const rounded = Math.min(most, Math.max(0, Math.round(pixels / GRID) * GRID));
    field(`extend_${side}`).value = rounded === 0 ? "" : String(rounded);
  };

  const [left, right, top, bottom] = SIDES.map(extent) as [number, number, number, number];
  const width = left + picture.width + right;
  const height = top + picture.height + bottom;
  const room = { width: stage.current?.clientWidth ?? 340, height: 260 };
  // A third stays free around, to pull the handles into.
  const fit = Math.min(room.width / width, room.height / height) * 0.7;
  const shown = scale ?? fit;

  const handle = (side: Side) => {
    const [dx, dy] = OUTWARDS[side];
    return (
      <button
        key={side}
        type="button"
        class={`handle ${side}`}
        role="slider"
        aria-label={`Extend at the ${side}`}
        aria-orientation={dx === 0 ? "vertical" : "horizontal"}
        aria-valuemin={0}
        aria-valuemax={most}
        aria-valuenow={extent(side)}
        aria-valuetext={`${extent(side)} pixels`}
        onPointerDown={(event) => {
          if (event.button !== 0 || pulled.current !== null) return;
          event.currentTarget.setPointerCapture(event.pointerId);
          pulled.current = { side, from: extent(side), x: event.clientX, y: event.clientY };
          setScale(shown);
        }}
        onPointerMove={(event) => {
          const start = pulled.current;
          if (start?.side !== side) return;
          const way = (event.clientX - start.x) * dx + (event.clientY - start.y) * dy;
          set(side, start.from + way / shown);
        }}
        onLostPointerCapture={() => {
          if (pulled.current?.side !== side) return;
          pulled.current = null;
          setScale(null);
        }}
        onKeyDown={(event) => {
          const end = { Home: 0, End: most }[event.key];
          if (end !== undefined) {
            event.preventDefault();
            return set(side, end);
          }
          const outwards = { ArrowRight: dx, ArrowLeft: -dx, ArrowDown: dy, ArrowUp: -dy }[event.key];
          if (!outwards) return;
          event.preventDefault();
          set(side, extent(side) + outwards * GRID * (event.shiftKey ? 8 : 1));
        }}
      />
    );
  };

  return (
    <div class="outpaint" ref={stage}>
      <div class="frame" style={{ width: `${width * shown}px`, height: `${height * shown}px` }}>
        <img
          src={picture.url}
          alt="The image to extend"
          draggable={false}
          style={{ left: `${left * shown}px`, top: `${top * shown}px`, width: `${picture.width * shown}px`, height: `${picture.height * shown}px` }}
        />
        {SIDES.map(handle)}
      </div>
      <p class="about">
        {width} × {height}
      </p>
    </div>
  );
}
