// An input that is newer than a saved workflow has the value there that runs as the workflow did (`absent` in its
// options), not the default of a node that is added today. The headless converter does the same.
import { app } from "../../scripts/app.js";

const absentOf = (nodeData) =>
  Object.entries({ ...nodeData.input?.required, ...nodeData.input?.optional })
    .filter(([, spec]) => spec[1]?.absent !== undefined)
    .map(([name, spec]) => [name, spec[1].absent]);

const known = {}; // node type -> its newer inputs

// Whether the widget's value is in the file: values are a list in the order of the widgets, or have their names.
function stored(node, name, values) {
  if (values && !Array.isArray(values)) return name in values;
  const places = node.widgets.filter((widget) => widget.serialize !== false).map((widget) => widget.name);
  return places.indexOf(name) < (values?.length ?? 0);
}

app.registerExtension({
  name: "comfyui-affect.absent",
  beforeRegisterNodeDef(nodeType, nodeData) {
    const newer = nodeData.category?.startsWith("affect") ? absentOf(nodeData) : [];
    if (!newer.length) return;
    known[nodeData.name] = newer;
    const onConfigure = nodeType.prototype.onConfigure;
    nodeType.prototype.onConfigure = function (saved) {
      for (const [name, value] of newer) {
        const widget = this.widgets?.find((w) => w.name === name);
        if (widget && !stored(this, name, saved.widgets_values)) widget.value = value;
      }
      onConfigure?.call(this, saved);
    };
  },
  setup() {
    // A prompt (an API file, or a picture that carries one alone) becomes nodes with today's defaults.
    const load = app.loadApiJson;
    if (typeof load !== "function") return;
    app.loadApiJson = function (prompt, ...more) {
      for (const node of Object.values(prompt ?? {}))
        for (const [name, value] of known[node?.class_type] ?? []) if (!(name in (node.inputs ?? {}))) (node.inputs ??= {})[name] = value;
      return load.call(this, prompt, ...more);
    };
  },
});
