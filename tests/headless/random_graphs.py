"""Random prompts and random drawings of them in the UI format, for property tests.

`graphs()` draws a prompt first, and then a workflow that the frontend would turn into this prompt: with reroutes,
primitive nodes, bypassed nodes, subgraphs, muted nodes and notes. The stored values follow ComfyUI's file format as
written down here, not what the converter under test knows of it.
"""

from dataclasses import dataclass, field
from typing import Any

from headless.drawings import link
from hypothesis import strategies as st

# What is connected and stored for each node type: sockets (name, type); widgets (name, type) in the order of the file;
# output types. Socket and widget order follow the node's definition.
KINDS: dict[str, tuple[list[tuple[str, str]], list[tuple[str, str]], list[str]]] = {
    "LoadImage": ([], [("image", "COMBO")], ["IMAGE", "MASK"]),
    "ImageScale": (
        [("image", "IMAGE")],
        [("upscale_method", "COMBO"), ("width", "INT"), ("height", "INT"), ("crop", "COMBO")],
        ["IMAGE"],
    ),
    "SaveImage": ([("images", "IMAGE")], [("filename_prefix", "STRING")], []),
    "CheckpointLoaderSimple": ([], [("ckpt_name", "COMBO")], ["MODEL", "CLIP", "VAE"]),
    "LoraLoader": (
        [("model", "MODEL"), ("clip", "CLIP")],
        [("lora_name", "COMBO"), ("strength_model", "FLOAT"), ("strength_clip", "FLOAT")],
        ["MODEL", "CLIP"],
    ),
    "CLIPTextEncode": ([("clip", "CLIP")], [("text", "STRING")], ["CONDITIONING"]),
    "EmptyLatentImage": ([], [("width", "INT"), ("height", "INT"), ("batch_size", "INT")], ["LATENT"]),
    "KSampler": (
        [("model", "MODEL"), ("positive", "CONDITIONING"), ("negative", "CONDITIONING"), ("latent_image", "LATENT")],
        [
            ("seed", "INT"),
            ("steps", "INT"),
            ("cfg", "FLOAT"),
            ("sampler_name", "COMBO"),
            ("scheduler", "COMBO"),
            ("denoise", "FLOAT"),
        ],
        ["LATENT"],
    ),
    "VAEDecode": ([("samples", "LATENT"), ("vae", "VAE")], [], ["IMAGE"]),
    "PrimitiveInt": ([], [("value", "INT")], ["INT"]),
    "PrimitiveString": ([], [("value", "STRING")], ["STRING"]),
    "Forced": (
        [("text", "STRING"), ("image", "IMAGE")],
        [("seed", "INT"), ("late", "FLOAT"), ("tags", "STRING")],
        ["STRING", "IMAGE"],
    ),
    "OldestFirst": (
        [("mask", "MASK")],
        [("name", "STRING"), ("mode", "COMBO"), ("strength", "FLOAT"), ("extra", "INT")],
        ["STRING"],
    ),
}
CONTROLS = {
    ("KSampler", "seed"): ["randomize"],
    ("PrimitiveInt", "value"): ["fixed"],
    ("Forced", "seed"): ["increment"],
    ("OldestFirst", "mode"): ["fixed", ""],
}
"""Values that the frontend stores after a widget's own."""

UPLOADS = {"LoadImage": ["image"]}
"""Values that the frontend stores at the end."""

VALUES = {
    "INT": st.integers(-(2**53), 2**53),
    "FLOAT": st.floats(-1e6, 1e6, allow_nan=False),
    # Not the characters of {a|b} choices, comments and %...% names, which the frontend replaces.
    "STRING": st.text("ab (:1.3),\n\"'é☃", max_size=12),
    "COMBO": st.sampled_from(["a", "euler", "folder/b.safetensors", "é", ""]),
}


@dataclass
class Graph:
    """A prompt, without titles, and a drawing of it."""

    prompt: dict[str, Any]
    drawing: dict[str, Any]


@dataclass
class _Drawer:
    """Builds a drawing. `pick` and `value` draw from the strategies that `graphs` is given."""

    draw: Any
    drawing: dict[str, Any] = field(
        default_factory=lambda: {"nodes": [], "links": [], "definitions": {"subgraphs": []}, "version": 0.4}
    )
    next_id: int = 1000

    def pick(self, options: list[Any]) -> Any:
        return self.draw(st.sampled_from(options))

    def new_id(self) -> int:
        self.next_id += 1
        return self.next_id

    def node(
        self, kind: str, id: int, inputs: list[dict[str, Any]], outputs: list[str], values: list[Any], mode: int = 0
    ) -> None:
        slots = [{"name": t, "type": t, "links": []} for t in outputs]
        self.drawing["nodes"].append(
            {"id": id, "type": kind, "mode": mode, "inputs": inputs, "outputs": slots, "widgets_values": values}
        )

    def connect(self, source: int, slot: int, target: int, type: str) -> int:
        """Draws a link from an output to a node, at times through other nodes; the id of its last piece."""
        for _ in range(self.pick([0, 0, 0, 1, 2])):
            piece, through = self.new_id(), self.new_id()
            self.drawing["links"].append([piece, source, slot, through, 0, type])
            entry = {"name": "", "type": "*", "link": piece}
            if self.pick([True, False]):
                self.node("Reroute", through, [entry], ["*"], [])
            else:  # a bypassed node of an unknown type passes on the first input of the right type
                other = {"name": "other", "type": "OTHER", "link": None}
                self.node("PackNode", through, [other, entry | {"type": type}], [type], [1, "x"], mode=4)
            source, slot = through, 0
        last = self.new_id()
        self.drawing["links"].append([last, source, slot, target, 0, type])
        return last


@st.composite
def graphs(draw: Any) -> Graph:
    """Random acyclic graphs of up to six nodes of `KINDS`."""
    drawer = _Drawer(draw)
    prompt: dict[str, Any] = {}
    outputs: list[tuple[int, int, str, str]] = []  # (drawn id, slot, id in the prompt, type)
    for id in range(1, draw(st.integers(1, 6)) + 1):
        kind = drawer.pick(sorted(KINDS))
        wrapped = drawer.pick([False, False, True])
        key = f"{id}:1" if wrapped else str(id)
        given, links = _inputs(drawer, kind, outputs)
        prompt[key] = {"class_type": kind, "inputs": given}
        (_draw_wrapped if wrapped else _draw_node)(drawer, id, kind, given, links)
        outputs += [(id, slot, key, type) for slot, type in enumerate(KINDS[kind][2])]
    if drawer.pick([True, False]):
        drawer.node("Note", drawer.new_id(), [], [], ["{a|b} // %x%"])
        drawer.node(
            "SaveImage", drawer.new_id(), [{"name": "images", "type": "IMAGE", "link": None}], [], ["x"], mode=2
        )
    drawer.drawing["nodes"].sort(key=lambda node: draw(st.integers(0, 9)))
    return Graph(prompt, drawer.drawing)


def _inputs(
    drawer: _Drawer, kind: str, outputs: list[tuple[int, int, str, str]]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(a node's inputs in the prompt, input name -> the drawn output that it is linked to, for those that are)."""
    sockets, widgets, _ = KINDS[kind]
    given: dict[str, Any] = {}
    links: dict[str, Any] = {}
    for name, type in [*sockets, *widgets]:
        is_widget = (name, type) in widgets
        sources = [o for o in outputs if o[3] == type]
        if sources and drawer.pick([True, False, False] if is_widget else [True, True, False]):
            links[name] = drawer.pick(sources)
            given[name] = [links[name][2], links[name][1]]
        elif is_widget:
            given[name] = drawer.draw(VALUES[type])
    return given, links


def _draw_node(drawer: _Drawer, id: int, kind: str, given: dict[str, Any], links: dict[str, Any]) -> None:
    sockets, widgets, outputs = KINDS[kind]
    slots, values = [], []
    for name, type in sockets:
        piece = drawer.connect(*links[name][:2], id, type) if name in links else None
        slots.append({"name": name, "type": type, "link": piece})
    for name, type in widgets:
        stored = drawer.draw(VALUES[type])  # a widget that is linked keeps a value, which is not used
        slot = {"name": name, "type": type, "link": None, "widget": {"name": name}}
        if name in links:
            slots.append(slot | {"link": drawer.connect(*links[name][:2], id, type)})
        elif drawer.pick([True, False, False]):
            slots.append(slot | {"link": _draw_primitive(drawer, id, type, given[name])})
        else:
            stored = given[name]
            slots += [slot] * drawer.pick([0, 1])  # older frontends left the inputs of unlinked widgets out
        values += [stored, *CONTROLS.get((kind, name), [])]
    drawer.node(kind, id, slots, outputs, values + UPLOADS.get(kind, []))


def _draw_primitive(drawer: _Drawer, target: int, type: str, value: Any) -> int:
    """A PrimitiveNode, which writes its value over a widget; the id of its link."""
    piece, primitive = drawer.new_id(), drawer.new_id()
    drawer.node("PrimitiveNode", primitive, [], [type], [value, "fixed"])
    drawer.drawing["links"].append([piece, primitive, 0, target, 0, type])
    return piece


def _draw_wrapped(drawer: _Drawer, id: int, kind: str, given: dict[str, Any], links: dict[str, Any]) -> None:
    """The node as the only one inside a subgraph. Linked inputs and some widgets are inputs of the subgraph."""
    sockets, widgets, outputs = KINDS[kind]
    inner_slots, inner_values, border, inner_links, slots, values = [], [], [], [], [], []
    for name, type in [*sockets, *widgets]:
        is_widget = (name, type) in widgets
        promoted = name in links or (is_widget and drawer.pick([True, False]))
        slot = {"name": name, "type": type, "link": None} | ({"widget": {"name": name}} if is_widget else {})
        if promoted:
            slot["link"] = len(border) + 1
            inner_links.append(link(slot["link"], -10, len(border), 1, len(inner_slots), type))
            border.append({"name": f"outer {name}", "type": type, "linkIds": [slot["link"]]})
            piece = drawer.connect(*links[name][:2], id, type) if name in links else None
            slots.append({"name": f"outer {name}", "type": type, "link": piece})
            values += [given[name] if name not in links else drawer.draw(VALUES[type])] if is_widget else []
        inner_slots.append(slot)
        if is_widget:
            stored = drawer.draw(VALUES[type]) if promoted else given[name]
            inner_values += [stored, *CONTROLS.get((kind, name), [])]
    exits = [{"name": type, "type": type, "linkIds": [100 + i]} for i, type in enumerate(outputs)]
    inner_links += [link(100 + i, 1, i, -20, i, type) for i, type in enumerate(outputs)]
    inner = {"id": 1, "type": kind, "mode": 0, "inputs": inner_slots, "outputs": []}
    definition = {"id": f"subgraph {id}", "name": "S", "inputs": border, "outputs": exits, "links": inner_links}
    definition["nodes"] = [inner | {"widgets_values": inner_values + UPLOADS.get(kind, [])}]
    drawer.drawing["definitions"]["subgraphs"].append(definition)
    drawer.node(f"subgraph {id}", id, slots, outputs, values)
