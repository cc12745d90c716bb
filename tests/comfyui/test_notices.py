"""What a run has to say stands on the node that says it, in both renderers, and stays there when the run is over."""

import itertools
import json
import shutil

import pytest
from frontend import RENDERERS, browser
from graphs import node

pytest.importorskip("selenium", reason="selenium is not installed")
if not (shutil.which("chromium") and shutil.which("chromedriver")):
    pytest.skip("chromium and chromedriver are not installed", allow_module_level=True)

SHOWN = """
return [...document.querySelectorAll("[data-affect-notice]")].map(e => {
  const box = e.getBoundingClientRect();
  const top = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
  return [e.dataset.affectNotice, e.textContent, box.height > 5 && e.contains(top)];
});
"""
SEEDS = itertools.count()  # what one renderer has run would be cached for the other
NOTHING = "The mask covers nothing: the image is as it was."


@pytest.fixture(scope="module")
def page(comfy):
    with browser(comfy) as opened:
        yield opened


@pytest.fixture(params=RENDERERS)
def drawn(page, request):
    if request.param == "nodes2" and page.version < (1, 40):
        pytest.skip("this frontend has no Nodes 2.0 yet")
    page.render(request.param)
    return page


def _masked(value: float, seed: int) -> dict:
    """A transfer inside a mask of that value: 0 covers nothing."""
    return {
        "1": node("AffectExampleImage", picture="scene"),
        "2": node("SolidMask", value=value, width=128, height=128),
        "3": node(
            "AffectDenseNetGramTransfer",
            image=["1", 0],
            reference=["1", 0],
            iterations=1,
            content_weight=1.0,
            sentiment_weight=1e6,
            seed=seed,
            mask=["2", 0],
            network="tiny-densenet",
            solver="adam",
        ),
        "4": node("PreviewImage", images=["3", 0]),
    }


def _guided(seed: int) -> dict:
    """MUSE at intensity 0, which appends nothing: its guider says so while ComfyUI's own sampler node runs."""
    return {
        "1": node("AffectTinyModelLoader"),
        "2": node("CLIPTextEncode", clip=["1", 1], text="a house"),
        "3": node("AffectEmotionClassifierLoader", classifier="tiny-a", clip_model="tiny"),
        "4": node("AffectEmotion", emotion="awe", intensity=0.0),
        "5": node(
            "AffectEmotionTokenOptimizer",
            model=["1", 0],
            positive=["2", 0],
            negative=["2", 0],
            vae=["1", 2],
            emotion=["4", 0],
            classifier=["3", 0],
            cfg=2.0,
            n_tokens=1,
            learning_rate=0.01,
            max_inner_steps=1,
            stop_loss=0.0001,
            inherent_weight=0.0005,
            similar_weight=0.0015,
            seed=seed,
        ),
        "6": node("RandomNoise", noise_seed=seed),
        "7": node("KSamplerSelect", sampler_name="euler"),
        "8": node("BasicScheduler", model=["1", 0], scheduler="normal", steps=1, denoise=1.0),
        "9": node("EmptyLatentImage", width=128, height=128, batch_size=1),
        "10": node(
            "SamplerCustomAdvanced",
            noise=["6", 0],
            guider=["5", 0],
            sampler=["7", 0],
            sigmas=["8", 0],
            latent_image=["9", 0],
        ),
        "11": node("VAEDecode", samples=["10", 0], vae=["1", 2]),
        "12": node("PreviewImage", images=["11", 0]),
    }


def test_a_notice_stands_on_its_node_until_the_node_has_nothing_more_to_say(drawn):
    drawn.open_prompt(_masked(0.0, next(SEEDS)))
    height = drawn.boxes()["3"][3]
    drawn.run()
    assert drawn.script(SHOWN) == [["3", NOTHING, True]]
    assert drawn.boxes()["3"][3] > height
    saved = drawn.script("return app.graph.serialize().nodes.find(n => n.id == 3).widgets_values")
    assert NOTHING not in str(saved)
    assert NOTHING not in str(drawn.ask("const done = arguments[0]; app.graphToPrompt().then(p => done(p.output))"))
    drawn.run()  # from the cache: the node does not run, and what it said holds
    assert drawn.script(SHOWN) == [["3", NOTHING, True]]
    drawn.ask(
        "const done = arguments[0]; app.loadGraphData(app.graph.serialize(), false, false).then(() => done())"
    )  # undo does so
    drawn.settle()
    assert drawn.script(SHOWN) == [["3", NOTHING, True]]
    drawn.script("app.graph.getNodeById(2).widgets.find(w => w.name === 'value').value = 1")
    drawn.run()
    assert drawn.script(SHOWN) == []
    assert drawn.script("return app.graph.getNodeById(3).widgets.some(w => w.name === 'affect_notice')") is False


def test_a_guider_speaks_through_the_sampler_that_runs_it(drawn):
    drawn.open_prompt(_guided(next(SEEDS)))
    drawn.run()
    assert drawn.script(SHOWN) == [["10", "The intensity is 0: no tokens were appended.", True]]


def test_the_command_prints_what_a_servers_nodes_have_to_say(comfy, tmp_path, capsys):
    from comfyui_affect.workflows.headless.cli import main

    (tmp_path / "w.json").write_text(json.dumps(_masked(0.0, next(SEEDS))))
    assert (
        main(["run", str(tmp_path / "w.json"), "--server", comfy.server.url, "--output-dir", str(tmp_path / "out")])
        == 0
    )
    assert NOTHING in capsys.readouterr().err
