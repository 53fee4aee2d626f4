/** An image of a job: read again where that fails, such as while the server restarts, and forgotten where it is gone. */
import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { retried } from "./api";
import { lookAgain } from "./jobs";
import { pause } from "./server";
import type { Job } from "./types";

const AGAIN_MS = 2000;
const MOST = 5;

interface Props {
  job: Job;
  src: string;
  alt: string;
  loading?: "lazy";
}

export function StoredImage({ job, ...shown }: Props) {
  const failures = useSignal(0);
  useEffect(() => void (failures.value = 0), [shown.src]);
  const again = async () => {
    await lookAgain(job).catch(retried); // waits for a login, if one is what is missing
    await pause(AGAIN_MS * failures.value);
    failures.value += 1;
  };
  if (failures.value > MOST) return <span class="lost">The server cannot give this image: {shown.alt}</span>;
  return <img key={failures.value} {...shown} onError={() => void again()} />;
}
