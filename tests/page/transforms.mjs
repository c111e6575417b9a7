// node transforms.mjs FOLDER_OF_THE_PAGE < frames and settings in JSON; prints frames in JSON.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const folder = pathToFileURL(`${process.argv[2]}/`);
const { Freeze, Pitch, Smear } = await import(new URL("transforms.js", folder));
const { magnitudesOf } = await import(new URL("microphone.js", folder));

const { frames, pitches, amounts, samples } = JSON.parse(readFileSync(0));
const run = (transform, settings) => frames.map((frame, i) => {
  Object.assign(transform, settings(i));
  return [...transform.apply(Float64Array.from(frame))];
});
console.log(JSON.stringify({
  pitch: pitches.map((ratio) => run(new Pitch(), () => ({ ratio }))),
  smear: amounts.map((amount) => run(new Smear(), () => ({ amount }))),
  freeze: run(new Freeze(), (i) => ({ on: i > 1 && i < 4 })),
  magnitudes: [...magnitudesOf(samples)],
}));
