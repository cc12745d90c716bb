// Which other machines a workflow's MLLM may be sent pictures on: the person at the browser says, never a workflow.
// Read by models/host.py from ComfyUI's stored settings, under the same id.
import { app } from "../../scripts/app.js";

app.registerExtension({
  name: "comfyui-affect.settings",
  settings: [{
    id: "Affect.MLLM.Hosts",
    category: ["Affect", "MLLM", "Hosts"],
    name: "Servers that may be sent pictures",
    tooltip: "Hosts by commas, such as gpu.lan or gpu.lan:8000. A workflow whose Load MLLM names another machine is refused. " +
      "This machine is always allowed.",
    type: "text",
    defaultValue: "",
  }],
});
