/** A mask as the strokes that made it, so that every one of them can be undone. */

export interface Point {
  x: number;
  y: number;
}

interface Stroke {
  kind: "paint" | "erase";
  size: number;
  points: Point[];
}

type Change = Stroke | { kind: "invert" } | { kind: "clear" };

/** How strokes look while they are painted, seen on white and on black; the server gets white on black. */
const COLOR = "#e5307a";

export class Strokes {
  private changes: Change[] = [];

  constructor(
    readonly width: number,
    readonly height: number,
  ) {}

  get isEmpty(): boolean {
    const last = this.changes.at(-1);
    return last === undefined || last.kind === "clear";
  }

  begin(kind: Stroke["kind"], size: number, point: Point): void {
    this.changes.push({ kind, size, points: [point] });
  }

  /** Go on with the last stroke. */
  extend(point: Point): void {
    const last = this.changes.at(-1);
    if (last !== undefined && "points" in last) last.points.push(point);
  }

  invert(): void {
    this.changes.push({ kind: "invert" });
  }

  clear(): void {
    if (!this.isEmpty) this.changes.push({ kind: "clear" });
  }

  undo(): void {
    this.changes.pop();
  }

  /** Draw all of it on a canvas of the mask's size; what is not painted is transparent. */
  draw(on: CanvasRenderingContext2D): void {
    on.globalCompositeOperation = "source-over";
    on.clearRect(0, 0, this.width, this.height);
    on.fillStyle = on.strokeStyle = COLOR;
    on.lineCap = on.lineJoin = "round";
    const from = this.changes.findLastIndex((change) => change.kind === "clear");
    for (const change of this.changes.slice(from + 1)) this.apply(on, change);
  }

  private apply(on: CanvasRenderingContext2D, change: Change): void {
    if (change.kind === "clear") return;
    if (change.kind === "invert") {
      on.globalCompositeOperation = "source-out"; // painted where nothing was, nothing where it was
      on.fillRect(0, 0, this.width, this.height);
      return;
    }
    on.globalCompositeOperation = change.kind === "paint" ? "source-over" : "destination-out";
    on.lineWidth = change.size;
    on.beginPath();
    const [first, ...others] = change.points;
    on.moveTo(first!.x, first!.y);
    for (const { x, y } of others) on.lineTo(x, y);
    on.stroke();
    // A click is a dot: a line without length is not drawn.
    on.beginPath();
    on.arc(first!.x, first!.y, change.size / 2, 0, 2 * Math.PI);
    on.fill();
  }

  /** Return the mask as the API takes it, a PNG that is white where it is painted; null if nothing is. */
  async toBlob(): Promise<Blob | null> {
    if (this.isEmpty) return null;
    const canvas = new OffscreenCanvas(this.width, this.height);
    const on = canvas.getContext("2d")!;
    this.draw(on as unknown as CanvasRenderingContext2D);
    for (const [how, color] of [["source-in", "#fff"], ["destination-over", "#000"]] as const) {
      on.globalCompositeOperation = how;
      on.fillStyle = color;
      on.fillRect(0, 0, this.width, this.height);
    }
    return canvas.convertToBlob({ type: "image/png" });
  }
}
