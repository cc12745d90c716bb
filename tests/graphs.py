"""Parts of prompts that several tests draw with."""


def node(key, **inputs):
    return {"class_type": key, "inputs": inputs}


def half_mask():
    """The left half of 64 x 64, as node 32."""
    return {
        "30": node("SolidMask", value=0.0, width=64, height=64),
        "31": node("SolidMask", value=1.0, width=32, height=64),
        "32": node("MaskComposite", destination=["30", 0], source=["31", 0], x=0, y=0, operation="add"),
    }
