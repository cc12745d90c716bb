"""The subcommands other than `run` and `check`, and mistakes on the command line."""

import json
import os
import subprocess
import sys
import types

import pytest
from comfyui_affect import training
from comfyui_affect.workflows.headless.commands import models as command_models


def test_nodes_are_listed_and_described(affect):
    assert "KSampler" in affect("nodes").out
    described = json.loads(affect("nodes", "KSampler", "--json").out)["KSampler"]
    seed = next(i for i in described["inputs"] if i["name"] == "seed")
    assert seed["max"] == 0xFFFFFFFFFFFFFFFF
    assert described["outputs"] == [{"name": "LATENT", "type": "LATENT"}]
    assert "sampler_name" in affect("nodes", "KSampler").out
    answer = affect("nodes", "KSamplr")
    assert answer.code == 2 and "Did you mean 'KSampler'?" in answer.err


def test_models_are_listed_and_fetched(affect, workspace, monkeypatch):
    import numpy as np
    from safetensors.numpy import save_file

    requests = []

    def download(repository, file):
        requests.append((repository, file))
        save_file({"a": np.zeros(1, np.float32)}, workspace / "cached")
        return str(workspace / "cached")

    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(hf_hub_download=download))
    monkeypatch.setattr(command_models, "_reach_hub", lambda wanted: None)
    answer = affect("models", "get", "vae-ft-mse", "--json")
    path = json.loads(answer.out)["path"]
    assert answer.code == 0 and os.path.isfile(path) and len(requests) == 1
    assert affect("models", "get", "vae-ft-mse").code == 0
    assert len(requests) == 1  # it exists already and is not fetched again
    assert json.loads(affect("models", "list", "--json").out)["found"]["vae"] == [os.path.basename(path)]
    assert affect("models", "get", "nothing").code == 2


def test_other_commands_come_from_their_registries(affect, monkeypatch):
    seen = []
    module = types.ModuleType("of_nothing", "Trains nothing.")
    module.add_arguments = lambda parser: parser.add_argument("--steps", type=int)
    module.main = lambda args: seen.append(args.steps) or 0
    monkeypatch.setitem(sys.modules, "comfyui_affect.training.of_nothing", module)
    monkeypatch.setattr(training, "COMMANDS", {"nothing": ("training.of_nothing", "train nothing")})
    assert affect("train", "nothing", "--steps", "3").code == 0 and seen == [3]
    assert "train nothing" in affect("train", "--help").out
    answer = affect("train", "nothin")
    assert answer.code == 2 and "Did you mean 'nothing'?" in answer.err
    assert affect("train").code == 2


def test_the_help_does_not_import_torch():
    code = (
        "import sys; from comfyui_affect.workflows.headless.cli import parser; parser().format_help(); "
        "sys.exit(any(m in sys.modules for m in ('torch', 'numpy', 'PIL', 'diffusers')))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_without_a_network_the_hub_is_asked_only_once(affect, workspace, monkeypatch):
    import huggingface_hub
    import huggingface_hub.utils

    asked = []

    def head(url, **_):
        asked.append(url)
        raise OSError("no route")

    monkeypatch.setattr(huggingface_hub.utils, "get_session", lambda: types.SimpleNamespace(head=head))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_: pytest.fail("its retries take half a minute"))
    answer = affect("models", "get", "sd15")
    assert (
        answer.code == 2
        and "The model hub cannot be reached" in answer.err
        and asked[0] in answer.err
        and len(asked) == 1
    )
    assert "checkpoints/v1-5-pruned-emaonly.safetensors" in answer.err


@pytest.mark.parametrize(
    "words, said",
    [
        (["run", "w.json", "--ouput-dir", "x"], "Did you mean '--output-dir'?"),
        (["run", "w.json", "--sevrer=x"], "Did you mean '--server'?"),
        (["rnu", "w.json"], "Did you mean 'run'?"),
        (["models", "gte"], "Did you mean 'get'?"),
        (["run"], "arguments are missing: WORKFLOW"),
        (["run", "a.json", "b.json"], "'b.json' is one too many"),
        (["run", "a.json", "--set"], "expected one argument"),
        (["run", "a.json", "--choice-seed", "x"], "invalid int value"),
        (["models", "list", "--jsn"], "Did you mean '--json'?"),
        (["demo", "--phto", "x"], "Did you mean '--photo'?"),
        (["data", "moodscenes", "--szie", "64"], "Did you mean '--size'?"),
        (["models", "get", "sdlx"], "Did you mean 'sdxl'?"),
        (["nodes", "KSampelr"], "Did you mean 'KSampler'?"),
        ([], "arguments are missing"),
    ],
)
def test_mistakes_on_the_command_line_get_a_sentence_with_the_nearest_name(affect, workspace, words, said):
    answer = affect(*words)
    assert answer.code == 2 and said in answer.err and answer.out == "" and len(answer.err.splitlines()) == 1
    assert os.listdir(workspace) == ["input"]


def test_mistakes_are_reported_as_json_on_request(affect):
    answer = affect("run", "--json", "--ouput-dir", "x", "w.json")
    assert (
        answer.code == 2
        and json.loads(answer.out)["status"] == "invalid"
        and "--output-dir" in json.loads(answer.out)["error"]
    )
