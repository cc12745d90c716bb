"""Our conversion against the frontend's over the official templates. AFFECT_TEMPLATES names their folder and
AFFECT_ANSWERS a file that `corpus.py record` has written; without them this is left out."""

import os
from pathlib import Path

import pytest
from comfyui import corpus

TEMPLATES, ANSWERS = os.environ.get("AFFECT_TEMPLATES"), os.environ.get("AFFECT_ANSWERS")


@pytest.mark.skipif(not (TEMPLATES and ANSWERS), reason="AFFECT_TEMPLATES and AFFECT_ANSWERS name no corpus")
def test_the_official_templates_become_the_prompts_that_the_frontend_queues():
    found = corpus.compare(Path(TEMPLATES), Path(ANSWERS))
    corpus.report(found)
    total = sum(len(found[key]) for key in ("equal", "different", "refused"))
    assert total and not found["refused"]
    assert len(found["equal"]) >= 0.98 * total
