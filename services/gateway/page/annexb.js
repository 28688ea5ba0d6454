// H.264 Annex-B, as it comes in a chunk: NAL units behind start codes. Pure; used by both players.

const NAL = { SLICE: 1, IDR: 5, SPS: 7, PPS: 8, DELIMITER: 9 };

const typeOf = (nal) => nal[0] & 0x1f;
const isSlice = (nal) => typeOf(nal) === NAL.SLICE || typeOf(nal) === NAL.IDR;
// first_mb_in_slice is 0, coded as the single bit 1, only in the first slice of a picture.
const beginsPicture = (nal) => isSlice(nal) && (nal[1] & 0x80) !== 0;

/** The NAL units of `bytes`, without start codes; views, not copies. */
export function nalUnits(bytes) {
  const starts = [];
  for (let i = 0; i + 2 < bytes.length; i++) {
    if (bytes[i + 2] > 1) i += 2;
    else if (bytes[i] === 0 && bytes[i + 1] === 0 && bytes[i + 2] === 1) starts.push((i += 2) + 1);
  }
  return starts
    .map((start, k) => {
      let end = k + 1 < starts.length ? starts[k + 1] - 3 : bytes.length;
      while (end > start && bytes[end - 1] === 0) end--;
      return bytes.subarray(start, end);
    })
    .filter((nal) => nal.length > 0);
}

/** One entry per picture: `{nals, key}`. Parameter sets and SEI belong to the picture that follows them. */
export function accessUnits(bytes) {
  const units = [];
  let nals = [];
  for (const nal of nalUnits(bytes)) {
    const hasPicture = nals.some(isSlice);
    if (hasPicture && (!isSlice(nal) || beginsPicture(nal))) {
      units.push(nals);
      nals = [];
    }
    nals.push(nal);
  }
  if (nals.some(isSlice)) units.push(nals);
  return units.map((of) => ({ nals: of, key: of.some((nal) => typeOf(nal) === NAL.IDR) }));
}

/** NAL units with start codes again, for a decoder that reads Annex-B. */
export function withStartCodes(nals) {
  return joined(nals, (view, at) => view.setUint32(at, 1));
}

/** NAL units behind their lengths, as MP4 samples hold them; parameter sets stay out. */
export function withLengths(nals) {
  const inSample = nals.filter((nal) => ![NAL.SPS, NAL.PPS, NAL.DELIMITER].includes(typeOf(nal)));
  return joined(inSample, (view, at, nal) => view.setUint32(at, nal.length));
}

function joined(nals, writePrefix) {
  const out = new Uint8Array(nals.reduce((sum, nal) => sum + 4 + nal.length, 0));
  const view = new DataView(out.buffer);
  let at = 0;
  for (const nal of nals) {
    writePrefix(view, at, nal);
    out.set(nal, at + 4);
    at += 4 + nal.length;
  }
  return out;
}

/** `{sps, pps}` of the first parameter sets in these units; undefined where there is none. */
export function parameterSets(units) {
  const all = units.flatMap((unit) => unit.nals);
  return { sps: all.find((nal) => typeOf(nal) === NAL.SPS), pps: all.find((nal) => typeOf(nal) === NAL.PPS) };
}

class Bits {
  #bytes;
  #at = 0;
  constructor(nal) {
    // 00 00 03 is an escaped 00 00.
    this.#bytes = nal.filter((byte, i) => !(byte === 3 && i > 1 && nal[i - 1] === 0 && nal[i - 2] === 0));
  }
  bit() {
    const byte = this.#bytes[this.#at >> 3];
    if (byte === undefined) throw new RangeError("the sequence parameter set ends too early");
    return (byte >> (7 - (this.#at++ & 7))) & 1;
  }
  bits(count) {
    let value = 0;
    for (let i = 0; i < count; i++) value = value * 2 + this.bit();
    return value;
  }
  unsigned() {
    let zeros = 0;
    while (this.bit() === 0) if (++zeros > 31) throw new RangeError("a number in the sequence parameter set is too long");
    return 2 ** zeros - 1 + this.bits(zeros);
  }
  signed() {
    const value = this.unsigned();
    return value % 2 ? (value + 1) / 2 : -value / 2;
  }
}

const PROFILES_WITH_CHROMA = [100, 110, 122, 244, 44, 83, 86, 118, 128];

/** `{width, height, codec}` of a sequence parameter set: what a player needs before the first picture. */
export function parseSps(sps) {
  const bits = new Bits(sps.subarray(1));
  const [profile, constraints, level] = [bits.bits(8), bits.bits(8), bits.bits(8)];
  bits.unsigned();
  const chroma = PROFILES_WITH_CHROMA.includes(profile) ? readChroma(bits) : 1;
  bits.unsigned();
  skipPictureOrder(bits);
  bits.unsigned();
  bits.bit();
  const widthMbs = bits.unsigned() + 1;
  const heightUnits = bits.unsigned() + 1;
  const fieldFactor = bits.bit() ? 1 : 2;
  if (fieldFactor === 2) bits.bit();
  bits.bit();
  const [left, right, top, bottom] = bits.bit() ? Array.from({ length: 4 }, () => bits.unsigned()) : [0, 0, 0, 0];
  const cropX = chroma === 1 || chroma === 2 ? 2 : 1;
  const cropY = (chroma === 1 ? 2 : 1) * fieldFactor;
  return {
    width: widthMbs * 16 - (left + right) * cropX,
    height: heightUnits * 16 * fieldFactor - (top + bottom) * cropY,
    codec: `avc1.${[profile, constraints, level].map((value) => value.toString(16).padStart(2, "0")).join("")}`,
  };
}

function readChroma(bits) {
  const chroma = bits.unsigned();
  if (chroma === 3) bits.bit();
  bits.unsigned();
  bits.unsigned();
  bits.bit();
  if (bits.bit()) for (let list = 0; list < (chroma === 3 ? 12 : 8); list++) if (bits.bit()) skipScaling(bits, list < 6 ? 16 : 64);
  return chroma;
}

function skipScaling(bits, size) {
  let last = 8;
  let next = 8;
  for (let i = 0; i < size && next !== 0; i++) {
    next = (last + bits.signed() + 256) % 256;
    if (next !== 0) last = next;
  }
}

function skipPictureOrder(bits) {
  const kind = bits.unsigned();
  if (kind === 0) bits.unsigned();
  if (kind !== 1) return;
  bits.bit();
  bits.signed();
  bits.signed();
  for (let i = bits.unsigned(); i > 0; i--) bits.signed();
}
