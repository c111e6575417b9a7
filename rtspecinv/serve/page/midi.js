// MIDI in: notes are pens at the playhead, the modulation wheel smears, the pitch wheel moves the pitch.

const BEND = 2; // semitones

/**
 * Carry out a MIDI message, given as bytes.
 *
 * onnote(number, velocity): velocity 0 to 1, 0 when the note ends. onsmear(amount), onpitch(semitones).
 */
export function obey([status, first, second], { onnote, onsmear, onpitch }) {
  const kind = status & 0xf0;
  if (kind === 0x90) onnote(first, second / 127);
  else if (kind === 0x80) onnote(first, 0);
  else if (kind === 0xb0 && first === 1) onsmear((second / 127) * 0.99);
  else if (kind === 0xb0 && first === 123) for (let note = 0; note < 128; note++) onnote(note, 0);
  else if (kind === 0xe0) onpitch(BEND * ((second * 128 + first) / 8192 - 1));
}

/** Receive from all inputs, including those that are connected later. Returns the present number of inputs. */
export async function listen(handlers) {
  if (!navigator.requestMIDIAccess) throw new Error("This browser has no Web MIDI: Chrome, Edge and Firefox have it");
  const access = await navigator.requestMIDIAccess();
  const attach = () => access.inputs.forEach((input) => {
    input.onmidimessage = ({ data }) => obey(data, handlers);
  });
  access.onstatechange = attach;
  attach();
  return access.inputs.size;
}

export const frequencyOfNote = (number) => 440 * 2 ** ((number - 69) / 12);
