// Gives the AFFECT_ sockets colours of their own, so that a graph shows where the feeling flows.
import { app } from "../../scripts/app.js";

const COLOURS = {
  AFFECT_EMOTION: "#d858c7",
  AFFECT_EMOTION_CLASSIFIER: "#f2a900",
  AFFECT_CLIP_SCORER: "#4fb3bf",
  AFFECT_TIMING_GATE: "#8fbf4f",
  AFFECT_EMOTION_TOKENS: "#b08cff",
};

app.registerExtension({
  name: "affect.sockets",
  setup() {
    for (const [type, colour] of Object.entries(COLOURS)) {
      app.canvas.default_connection_color_byType[type] = colour;
      LGraphCanvas.link_type_colors[type] = colour;
    }
  },
});
