// Read a DICOM SEG with the code that OHIF reads it with, and print what it saw, as JSON:
//   node read_seg.mjs SEG FOLDER_OF_ITS_CT_SLICES
// {"<SOPInstanceUID of a slice>": {"<segment>": voxels, ...}, ...}

import fs from "node:fs";
import path from "node:path";

// The viewer's packages look for a browser at import, but need none to read.
globalThis.window ??= globalThis;
globalThis.self ??= globalThis;
globalThis.document ??= { createElement: () => ({ getContext: () => null, style: {} }) };
const say = console.log;
console.log = console.info = console.debug = console.warn = () => {};

const dcmjs = (await import("dcmjs")).default;
const { metaData, init } = await import("@cornerstonejs/core");
const { adaptersSEG } = await import("@cornerstonejs/adapters");

function read(file) {
  const bytes = fs.readFileSync(file);
  const buffer = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);
  const found = dcmjs.data.DicomMessage.readFile(buffer);
  return { buffer, data: dcmjs.data.DicomMetaDictionary.naturalizeDataset(found.dict) };
}

const [segFile, folder] = process.argv.slice(2);
const slices = fs
  .readdirSync(folder)
  .map((name) => read(path.join(folder, name)).data)
  .sort((a, b) => a.ImagePositionPatient[2] - b.ImagePositionPatient[2]);
const byId = new Map(slices.map((one) => [`slice:${one.SOPInstanceUID}`, one]));

function modules(kind, id) {
  const one = byId.get(id);
  if (!one) return undefined;
  const orientation = one.ImageOrientationPatient.map(Number);
  switch (kind) {
    case "instance":
      return one;
    case "generalImageModule":
      return { sopInstanceUID: one.SOPInstanceUID };
    case "generalSeriesModule":
      return { seriesInstanceUID: one.SeriesInstanceUID, modality: one.Modality };
    case "sopCommonModule":
      return { sopInstanceUID: one.SOPInstanceUID, sopClassUID: one.SOPClassUID };
    case "imagePixelModule":
      return { bitsAllocated: 16, bitsStored: 16, samplesPerPixel: 1, highBit: 15,
        photometricInterpretation: "MONOCHROME2", pixelRepresentation: 1 };
    case "imagePlaneModule":
      return {
        rows: one.Rows, columns: one.Columns,
        rowPixelSpacing: Number(one.PixelSpacing[0]), columnPixelSpacing: Number(one.PixelSpacing[1]),
        pixelSpacing: one.PixelSpacing.map(Number),
        imageOrientationPatient: orientation,
        rowCosines: orientation.slice(0, 3), columnCosines: orientation.slice(3),
        imagePositionPatient: one.ImagePositionPatient.map(Number),
        frameOfReferenceUID: one.FrameOfReferenceUID,
      };
    default:
      return undefined;
  }
}

metaData.addProvider(modules, 10000);
try { init(); } catch { /* no graphics here */ }
const ids = [...byId.keys()];
const { buffer } = read(segFile);
const result = await adaptersSEG.Cornerstone3D.Segmentation.createFromDICOMSegBuffer(ids, buffer, {
  metadataProvider: { get: modules },
});
const counts = {};
for (const layer of result.labelMapImages) {
  for (const image of Array.isArray(layer) ? layer : [layer]) {
    const uid = String(image.referencedImageId).replace("slice:", "");
    const pixels = image.voxelManager?.getScalarData?.() ?? image.getPixelData();
    for (const value of pixels) {
      if (value) {
        counts[uid] ??= {};
        counts[uid][value] = (counts[uid][value] ?? 0) + 1;
      }
    }
  }
}
say(JSON.stringify(counts));
process.exit(0);
