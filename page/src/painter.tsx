/** Paints strokes over an image with a mouse, a finger, a pen or the keyboard. */
import { useEffect, useRef, useState } from "preact/hooks";
import { Icon } from "./icons";
import type { Picture } from "./pictures";
import type { Point, Strokes } from "./strokes";

interface Props {
  picture: Picture;
  strokes: Strokes;
  onDone: () => void;
}

const MOVES: Record<string, [number, number]> = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export function Painter({ picture, strokes, onDone }: Props) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const drawing = useRef(false);
  const pointer = useRef<number | null>(null); // that paints now; a second finger or the palm does not
  const [share, setShare] = useState(12); // the brush, in percent of the image's shorter side
  const [erasing, setErasing] = useState(false);
  const [cursor, setCursor] = useState<Point | null>(null);
  const [, redraw] = useState(0);
  const size = Math.max(1, (share / 100) * Math.min(picture.width, picture.height));

  const draw = () => {
    strokes.draw(canvas.current!.getContext("2d")!);
    redraw((times) => times + 1);
  };
  useEffect(draw, []);

  const at = (event: PointerEvent): Point => {
    const box = canvas.current!.getBoundingClientRect();
    return {
      x: ((event.clientX - box.left) / box.width) * picture.width,
      y: ((event.clientY - box.top) / box.height) * picture.height,
    };
  };
  const kind = erasing ? "erase" : "paint";
  const change = (how: () => void) => () => {
    if (pointer.current !== null) return;
    how();
    draw();
  };

  const onKeyDown = (event: KeyboardEvent) => {
    const here = cursor ?? { x: picture.width / 2, y: picture.height / 2 };
    const move = MOVES[event.key];
    if (pointer.current !== null) return;
    if (event.key === "z" && (event.ctrlKey || event.metaKey)) strokes.undo();
    else if (move !== undefined) {
      const step = event.shiftKey ? 1 : size / 2;
      const there = {
        x: Math.min(picture.width, Math.max(0, here.x + move[0] * step)),
        y: Math.min(picture.height, Math.max(0, here.y + move[1] * step)),
      };
      setCursor(there);
      if (drawing.current) strokes.extend(there);
    } else if (event.key === " " || event.key === "Enter") {
      drawing.current = !drawing.current;
      setCursor(here);
      if (drawing.current) strokes.begin(kind, size, here);
    } else return;
    event.preventDefault();
    draw();
  };

  return (
    <div class="painter">
      <div class="canvas" style={{ aspectRatio: `${picture.width} / ${picture.height}`, "--ratio": picture.width / picture.height }}>
        <img src={picture.url} alt="" draggable={false} />
        <canvas
          ref={canvas}
          width={picture.width}
          height={picture.height}
          tabIndex={0}
          role="application"
          aria-label="The mask. Arrow keys move the brush; Space puts it down and lifts it."
          onKeyDown={onKeyDown}
          onBlur={() => (drawing.current = false)}
          onPointerDown={(event) => {
            if (event.button !== 0 || pointer.current !== null) return;
            canvas.current!.setPointerCapture(event.pointerId);
            pointer.current = event.pointerId;
            drawing.current = false;
            strokes.begin(kind, size, at(event));
            draw();
          }}
          onPointerLeave={() => setCursor(null)}
          onPointerMove={(event) => {
            if (event.pointerType !== "touch") setCursor(at(event));
            if (event.pointerId !== pointer.current) return;
            for (const each of event.getCoalescedEvents?.() ?? [event]) strokes.extend(at(each));
            draw();
          }}
          onLostPointerCapture={(event) => {
            if (event.pointerId === pointer.current) pointer.current = null;
          }}
        />
        {cursor && (
          <span
            class="brush"
            style={{
              left: `${(100 * cursor.x) / picture.width}%`,
              top: `${(100 * cursor.y) / picture.height}%`,
              width: `${(100 * size) / picture.width}%`,
            }}
          />
        )}
      </div>
      <div class="tools" role="toolbar" aria-label="Mask">
        <label>
          Brush
          <input type="range" min={1} max={50} value={share} onInput={(event) => setShare(Number(event.currentTarget.value))} />
        </label>
        <button type="button" aria-pressed={erasing} onClick={() => setErasing(!erasing)}>
          Eraser
        </button>
        <button type="button" onClick={change(() => strokes.undo())}>
          <Icon name="undo" />
          Undo
        </button>
        <button type="button" onClick={change(() => strokes.invert())}>
          Invert
        </button>
        <button type="button" onClick={change(() => strokes.clear())} disabled={strokes.isEmpty}>
          Clear
        </button>
        <button type="button" class="main" onClick={onDone}>
          Done
        </button>
      </div>
    </div>
  );
}
