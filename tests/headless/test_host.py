"""The embedded host: bars, notes, folders."""

from comfyui_affect.models import host as hosts
from comfyui_affect.workflows.headless.host import EmbeddedHost


def test_bars_nest_may_be_closed_twice_and_are_silent_without_a_terminal(capsys):
    host = EmbeddedHost()
    outer, inner = host.progress(2, "nodes"), host.progress(3, "steps")
    inner.update(2)
    inner.text("loss 0.1")
    host.note("cropped")
    inner.close()
    inner.close()
    outer.update()
    assert host._depth == 1
    outer.close()
    assert host._depth == 0
    assert capsys.readouterr() == ("", "cropped\n")


def test_models_come_from_the_option_or_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("AFFECT_MODELS_DIR", str(tmp_path / "env"))
    assert EmbeddedHost().models_dirs("vae") == [tmp_path / "env" / "vae"]
    assert EmbeddedHost(models_dir=tmp_path / "own").models_dirs("vae") == [tmp_path / "own" / "vae"]
    assert EmbeddedHost().list_files("vae") == []


def test_algorithms_find_the_host_in_use(tmp_path):
    with hosts.use(EmbeddedHost(tmp_path)) as host:
        assert hosts.current() is host and hosts.current().input_dir == tmp_path
    assert hosts.current() is not host
