// Gives the AFFECT_ sockets colours of their own, so that a graph shows where the feeling flows.
import { app } from "../../scripts/app.js";

const COLOURS = {
  AFFECT_EMOTION: "#d858c7",
  AFFECT_EMOTION_CLASSIFIER: "#f2a900",
  AFFECT_CLIP_SCORER: "#4fb3bf",
  AFFECT_TIMING_GATE: "#8fbf4f",
  AFFECT_EMOTION_TOKENS: "#b08cff",
  "AFFECT_EMOTION_TOKENS,AFFECT_EMOLAT_CODE": "#b08cff", // a socket that takes either
  AFFECT_REFERENCE_GALLERY: "#d98e5f",
  AFFECT_EMOLAT: "#e0c341",
  AFFECT_EMOLAT_CODE: "#f0dc82",
  AFFECT_MLLM: "#7f9cf5",
  AFFECT_MOODIFY_CLIP: "#5fc9a8",
};

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

app.registerExtension({
  name: "affect.sockets",
  setup() {
    for (const [type, colour] of Object.entries(COLOURS)) {
      withDefault(app.canvas.default_connection_color_byType, type, colour);
      withDefault(LGraphCanvas.link_type_colors, type, colour);
    }
  },
});
