// The viewer of a page: NiiVue's canvas, and the page's own buttons around it. Everything comes out
// of the page itself: the block #viewer-data has two NIfTI files in base64 and what they mean.
import { Niivue, SHOW_RENDER, SLICE_TYPE } from "@niivue/niivue";

const VIEWS = {
  planes: SLICE_TYPE.MULTIPLANAR,
  axial: SLICE_TYPE.AXIAL,
  coronal: SLICE_TYPE.CORONAL,
  sagittal: SLICE_TYPE.SAGITTAL,
  solid: SLICE_TYPE.RENDER,
};
const SCAN = 0;
const LABELS = 1;
const byId = (id) => document.getElementById(id);

function bytes(base64) {
  const text = atob(base64);
  const array = new Uint8Array(text.length);
  for (let n = 0; n < text.length; n++) array[n] = text.charCodeAt(n);
  return array.buffer;
}

/** Colours by value; an organ that is switched off is transparent. */
function colours(organs, hidden) {
  const all = [{ value: 0, title: "", rgb: [0, 0, 0] }, ...organs];
  return {
    I: all.map((each) => each.value),
    R: all.map((each) => each.rgb[0]),
    G: all.map((each) => each.rgb[1]),
    B: all.map((each) => each.rgb[2]),
    A: all.map((each) => (each.value === 0 || hidden.has(each.value) ? 0 : 255)),
    labels: all.map((each) => each.title),
  };
}

class Viewer {
  constructor(data) {
    this.data = data;
    this.hidden = new Set();
    this.labelsShown = true;
    this.nv = new Niivue({
      logLevel: "warn",
      loadingText: "",
      isRadiologicalConvention: true,
      sagittalNoseLeft: true,
      dragAndDropEnabled: false,
      multiplanarShowRender: SHOW_RENDER.NEVER,
      show3Dcrosshair: true,
      // At least a pixel, where a patient fills a third of the page.
      crosshairWidth: 1.6,
      crosshairWidthUnit: "mm",
      crosshairColor: [1, 0.85, 0.2, 0.9],
      fontColor: [0.9, 0.93, 0.96, 1],
      tileMargin: 4,
    });
    this.nv.onLocationChange = (place) => this.tell(place);
  }

  async open() {
    await this.nv.attachToCanvas(byId("viewer-canvas"));
    await this.nv.loadFromArrayBuffer(bytes(this.data.scan), "scan.nii.gz");
    await this.nv.loadFromArrayBuffer(bytes(this.data.labels), "labels.nii.gz");
    this.listen();
    this.recolour();
    this.window(byId("viewer-window").value);
    this.opacity();
    this.nv.setSliceType(VIEWS[byId("viewer-view").value]);
    if (this.data.organs.length) this.goTo(this.data.organs[0].centre_mm);
  }

  listen() {
    for (const button of document.querySelectorAll("[data-organ]")) {
      const organ = this.data.organs[Number(button.dataset.organ)];
      button.addEventListener("click", () => this.choose(button, organ));
    }
    for (const box of document.querySelectorAll("[data-shown]")) {
      const { value } = this.data.organs[Number(box.dataset.shown)];
      box.addEventListener("change", () => {
        this.hidden[box.checked ? "delete" : "add"](value);
        this.recolour();
      });
    }
    const on = (id, act) => byId(id).addEventListener("input", (event) => act(event.target));
    on("viewer-scan", () => this.opacity());
    on("viewer-labels", () => this.opacity());
    on("viewer-opacity", () => this.opacity());
    on("viewer-edges", (box) => this.nv.setAtlasOutline(box.checked ? 1 : 0));
    on("viewer-window", (list) => this.window(list.value));
    on("viewer-view", (list) => this.nv.setSliceType(VIEWS[list.value]));
    ["x", "y", "z"].forEach((axis, n) =>
      on(`viewer-${axis}`, (slider) => {
        const mm = [...this.nv.frac2mm(this.nv.scene.crosshairPos).slice(0, 3)];
        mm[n] = Number(slider.value) * (n < 2 ? -1 : 1);
        this.goTo(mm);
      }),
    );
  }

  choose(button, organ) {
    for (const each of document.querySelectorAll("[data-organ]")) each.removeAttribute("aria-current");
    button.setAttribute("aria-current", "true");
    if (organ.window) {
      byId("viewer-window").value = organ.window;
      this.window(organ.window);
    }
    this.goTo(organ.centre_mm);
  }

  /** Move the crosshair to a place in NIfTI's millimetres: to the right, front and head. */
  goTo(mm) {
    this.nv.scene.crosshairPos = this.nv.mm2frac(mm);
    this.nv.drawScene();
    this.nv.createOnLocationChange();
  }

  recolour() {
    this.nv.volumes[LABELS].setColormapLabel(colours(this.data.organs, this.hidden));
    this.nv.updateGLVolume();
  }

  opacity() {
    const share = Number(byId("viewer-opacity").value) / 100;
    this.nv.setOpacity(SCAN, byId("viewer-scan").checked ? 1 : 0);
    this.nv.setOpacity(LABELS, byId("viewer-labels").checked ? share : 0);
  }

  window(name) {
    const scan = this.nv.volumes[SCAN];
    [scan.cal_min, scan.cal_max] = this.data.windows[name];
    this.nv.updateGLVolume();
  }

  /** Say where the crosshair is, in the page's own system: to the left, back and head. */
  tell(place) {
    const lps = [-place.mm[0], -place.mm[1], place.mm[2]].map(Math.round);
    ["x", "y", "z"].forEach((axis, n) => (byId(`viewer-${axis}`).value = lps[n]));
    const value = place.values[LABELS]?.value ?? 0;
    const organ = this.data.organs.find((each) => each.value === Math.round(value));
    const hu = Math.round(place.values[SCAN].value);
    const words = `x ${lps[0]}, y ${lps[1]}, z ${lps[2]} mm: ${hu} HU, ${organ?.title ?? "no organ"}`;
    byId("viewer-place").textContent = words.replaceAll("-", "\u2212");
  }
}

async function start() {
  const block = byId("viewer-data");
  const viewer = new Viewer(JSON.parse(block.textContent));
  block.remove();
  try {
    await viewer.open();
    byId("viewer").dataset.state = "open";
  } catch (error) {
    byId("viewer").dataset.state = "closed";
    byId("viewer-place").textContent =
      `The viewer did not start (${error?.message ?? error?.type ?? error}); it needs WebGL 2. The pictures below show the same.`;
  }
}

start();
