// Gives the AFFECT_ sockets colours of their own, so that a graph shows where the feeling flows.
import { app } from "../../scripts/app.js";

const COLOURS = {
  AFFECT_EMOTION: "#d858c7",
  AFFECT_EMOTION_CLASSIFIER: "#f2a900",
  AFFECT_CLIP_SCORER: "#4fb3bf",
  AFFECT_TIMING_GATE: "#8fbf4f",
  AFFECT_EMOTION_TOKENS: "#b08cff",
  AFFECT_REFERENCE_GALLERY: "#d98e5f",
  AFFECT_EMOLAT: "#e0c341",
  AFFECT_EMOLAT_CODE: "#f0dc82",
  AFFECT_MLLM: "#7f9cf5",
  AFFECT_MOODIFY_CLIP: "#5fc9a8",
  AFFECT_GRADE: "#e8837a",
};

// The classic canvas looks a socket's type up whole: one that takes either of two is a type of its own there.
const EITHER = { "AFFECT_EMOTION_TOKENS,AFFECT_EMOLAT_CODE": COLOURS.AFFECT_EMOTION_TOKENS };

// The frontend writes an empty string over every type that the user's palette does not name, each time the palette
// loads. So these entries answer an empty string with our colour; a palette that names the type still wins.
function withDefault(colours, type, fallback) {
  let chosen = colours[type] || fallback;
  Object.defineProperty(colours, type, {
    get: () => chosen,
    set: (colour) => { chosen = colour || fallback; },
    enumerable: true,
    configurable: true,
  });
}

// Nodes 2.0 draws sockets by CSS variables, which the palette sets on the root element itself and so over this sheet.
function addVariables() {
  const sheet = document.createElement("style");
  const rules = Object.entries(COLOURS).map(([type, colour]) => `--color-datatype-${type}: ${colour};`);
  sheet.textContent = `:root { ${rules.join(" ")} }`;
  document.head.append(sheet);
}

app.registerExtension({
  name: "comfyui-affect.sockets",
  setup() {
    addVariables();
    for (const [type, colour] of Object.entries({ ...COLOURS, ...EITHER })) {
      withDefault(app.canvas.default_connection_color_byType, type, colour);
      withDefault(LGraphCanvas.link_type_colors, type, colour);
    }
  },
});
