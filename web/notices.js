// Shows what a run has to say on the node that says it: a file that was skipped, an input that has no effect, a gate
// that never opened. ComfyUI itself has no place for such a sentence but the server's log.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const MESSAGE = "affect_notice"; // the server's, of models/host.py
const KEY = "affect_notices"; // among a node's outputs, where the frontend keeps them as it keeps pictures
const WIDGET = "affect_notice";
const LARGEST = 120; // pixels; what is longer scrolls
const MARGIN = 6; // around the box, on its widget

const STYLE = {
  boxSizing: "border-box", padding: "6px 8px", overflowY: "auto", whiteSpace: "pre-wrap", overflowWrap: "anywhere",
  font: "11px/1.4 sans-serif", color: "var(--input-text, #ddd)", background: "var(--comfy-input-bg, #222)",
  borderLeft: "3px solid #f2a900", borderRadius: "4px", userSelect: "text",
};

const outputsOf = (node) => {
  const id = node.graph && app.graph && node.graph !== (app.rootGraph ?? app.graph) ? `${node.graph.id}:${node.id}` : `${node.id}`;
  return { id, all: app.nodeOutputs?.[id] };
};

// "7", or "12:7" for node 7 inside of the subgraph that node 12 is.
function nodeAt(executionId) {
  let graph = app.rootGraph ?? app.graph;
  let node = null;
  for (const part of String(executionId).split(":")) {
    node = graph?.getNodeById(part);
    graph = node?.subgraph;
  }
  return node;
}

function heightOf(element, width) {
  const probe = element.cloneNode(true);
  Object.assign(probe.style, { position: "absolute", visibility: "hidden", width: `${width}px`, height: "auto" });
  document.body.append(probe);
  const height = probe.offsetHeight;
  probe.remove();
  return Math.min(height, LARGEST);
}

function hide(node) {
  const widget = node.widgets?.find((w) => w.name === WIDGET);
  if (!widget) return;
  const { before, after } = widget.affectHeights;
  node.removeWidget(widget);
  if (Math.abs(node.size[1] - after) < 1) node.setSize([node.size[0], before]); // unless somebody resized it since
}

function show(node, notices) {
  hide(node);
  if (!notices?.length) return;
  const element = document.createElement("div");
  Object.assign(element.style, STYLE);
  element.textContent = [...new Set(notices)].join("\n");
  element.dataset.affectNotice = node.id;
  const height = heightOf(element, node.size[0] - 2 * MARGIN);
  const widget = node.addDOMWidget(WIDGET, WIDGET, element, {
    serialize: false, // neither into the prompt,
    hideOnZoom: false, // it is to be noticed in a graph that is seen from afar
    hideInPanel: true,
    margin: MARGIN,
    getMinHeight: () => height + 2 * MARGIN,
    getMaxHeight: () => height + 2 * MARGIN,
    getValue: () => element.textContent,
    setValue: () => {},
  });
  widget.serialize = false; // nor into the workflow
  const before = node.size[1];
  node.setSize([node.size[0], Math.max(before, node.computeSize()[1])]);
  widget.affectHeights = { before, after: node.size[1] };
  node.setDirtyCanvas?.(true, true);
}

app.registerExtension({
  name: "comfyui-affect.notices",
  setup() {
    // Handed on as an output of the node, it is merged with the node's others, and outlives undo and a change of tabs.
    api.addEventListener(MESSAGE, ({ detail }) =>
      api.dispatchCustomEvent("executed", { ...detail, display_node: detail.node, output: { [KEY]: [detail.text] }, merge: true }));
    api.addEventListener("executing", ({ detail }) => {
      const node = detail == null ? null : nodeAt(detail);
      if (!node) return;
      const { id, all } = outputsOf(node);
      if (all?.[KEY]) {
        const { [KEY]: told, ...others } = all;
        app.nodeOutputs[id] = others;
      }
      hide(node);
    });
  },
  nodeCreated(node) {
    const onExecuted = node.onExecuted;
    node.onExecuted = function (output, ...more) {
      onExecuted?.call(this, output, ...more);
      if (output?.[KEY]) show(this, outputsOf(this).all?.[KEY] ?? output[KEY]);
    };
  },
  loadedGraphNode(node) {
    show(node, outputsOf(node).all?.[KEY]);
  },
  onNodeOutputsUpdated(outputs) {
    for (const node of app.graph?._nodes ?? []) show(node, outputs?.[outputsOf(node).id]?.[KEY]);
  },
});
