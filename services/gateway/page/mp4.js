// Fragmented MP4 with one H.264 track: an init segment, then one fragment per chunk. Pure.

import { withLengths } from "./annexb.js";

export const TIMESCALE = 90000;
const TRACK = 1;
// Sample flags: a key frame depends on nothing; any other depends on those before it.
const KEY_FLAGS = 0x02000000;
const DELTA_FLAGS = 0x01010000;
const UNITY_MATRIX = [0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000];

const u8 = (...values) => Uint8Array.from(values);
const u16 = (...values) => u8(...values.flatMap((value) => [value >> 8, value & 255]));
const u32 = (...values) => {
  const view = new DataView(new ArrayBuffer(values.length * 4));
  values.forEach((value, i) => view.setUint32(i * 4, value));
  return new Uint8Array(view.buffer);
};
const text = (value) => Uint8Array.from(value, (character) => character.charCodeAt(0));
const zeros = (count) => new Uint8Array(count);

export function concat(...parts) {
  const out = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

function box(type, ...parts) {
  const body = concat(...parts);
  return concat(u32(body.length + 8), text(type), body);
}

const full = (type, version, flags, ...parts) => box(type, u32(version * 2 ** 24 + flags), ...parts);

/** What comes before the first fragment, and again whenever the parameter sets change. */
export function initSegment({ sps, pps, width, height }) {
  return concat(
    box("ftyp", text("isom"), u32(0x200), text("isomiso6avc1mp41")),
    box("moov", movieHeader(), track({ sps, pps, width, height }), box("mvex", full("trex", 0, 0, u32(TRACK, 1, 0, 0, 0)))),
  );
}

function movieHeader() {
  return full("mvhd", 0, 0, u32(0, 0, TIMESCALE, 0, 0x10000), u16(0x100), zeros(10), u32(...UNITY_MATRIX), zeros(24), u32(TRACK + 1));
}

function track(of) {
  const header = full("tkhd", 0, 3, u32(0, 0, TRACK, 0, 0), zeros(16), u32(...UNITY_MATRIX, of.width * 65536, of.height * 65536));
  const language = 0x55c4; // "und"
  const media = box(
    "mdia",
    full("mdhd", 0, 0, u32(0, 0, TIMESCALE, 0), u16(language, 0)),
    full("hdlr", 0, 0, u32(0), text("vide"), zeros(12), text("video\0")),
    box("minf", full("vmhd", 0, 1, zeros(8)), box("dinf", full("dref", 0, 0, u32(1), full("url ", 0, 1))), sampleTable(of)),
  );
  return box("trak", header, media);
}

function sampleTable(of) {
  const empty = ["stts", "stsc", "stco"].map((type) => full(type, 0, 0, u32(0)));
  return box("stbl", full("stsd", 0, 0, u32(1), sampleEntry(of)), ...empty, full("stsz", 0, 0, u32(0, 0)));
}

function sampleEntry({ sps, pps, width, height }) {
  const config = box("avcC", u8(1, sps[1], sps[2], sps[3], 0xff, 0xe1), u16(sps.length), sps, u8(1), u16(pps.length), pps);
  const look = concat(u16(width, height), u32(0x480000, 0x480000, 0), u16(1), zeros(32), u16(0x18, 0xffff));
  return box("avc1", zeros(6), u16(1), zeros(16), look, config);
}

/** One fragment: the pictures of `units` (see annexb.js) from `startTicks` on, each lasting `frameTicks`. */
export function mediaSegment({ sequence, startTicks, frameTicks, units }) {
  const samples = units.map((unit) => ({ data: withLengths(unit.nals), flags: unit.key ? KEY_FLAGS : DELTA_FLAGS }));
  const moof = (dataOffset) =>
    box("moof", full("mfhd", 0, 0, u32(sequence)), trackFragment({ startTicks, frameTicks, samples, dataOffset }));
  const size = moof(0).length;
  return concat(moof(size + 8), box("mdat", ...samples.map((sample) => sample.data)));
}

function trackFragment({ startTicks, frameTicks, samples, dataOffset }) {
  const baseIsMoof = 0x20000;
  const fields = 0x000701; // data offset; each sample's duration, size and flags
  const rows = samples.flatMap((sample) => [frameTicks, sample.data.length, sample.flags]);
  return box(
    "traf",
    full("tfhd", 0, baseIsMoof, u32(TRACK)),
    full("tfdt", 1, 0, u32(Math.floor(startTicks / 2 ** 32), startTicks % 2 ** 32)),
    full("trun", 0, fields, u32(samples.length, dataOffset, ...rows)),
  );
}
