"""MLLM providers: one schema, rules, and a real HTTP server on loopback that misbehaves on request."""

import base64
import gzip
import json
import sys
import threading
import time
import types
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import pytest
from comfyui_affect.models import host
from comfyui_affect.models.emotions import GOEMOTIONS, LABELS
from comfyui_affect.models.errors import UserError
from comfyui_affect.models.moodifier import addresses, chat_server, instruction, mllm, rules, words
from comfyui_affect.models.moodifier.instruction import BrokenAnswer, by_rules, parse, plain
from comfyui_affect.nodes.moodifier import AffectMLLMLoader
from PIL import Image

GOOD = {
    "objects": [{"name": "Tree", "attribute": "twisted", "box": [0.1, 0.2, 0.5, 0.9]}],
    "source_prompt": "a tree by a lake",
    "target_prompt": "a twisted tree by a lake in fog",
}


def answer(**more):
    return json.dumps(GOOD | more)


def test_a_good_answer():
    found = parse(f"Sure!\n```json\n{answer()}\n```")
    assert [(c.name, c.attribute, c.box) for c in found.objects] == [("tree", "twisted", (0.1, 0.2, 0.5, 0.9))]
    assert found.source_prompt == "a tree by a lake"
    boxes = lambda *given, size=(500, 400): [
        c.box for c in parse(answer(objects=[{"name": "a", "box": b} for b in given]), size).objects
    ]
    assert boxes([50, 40, 250, 400]) == [(0.1, 0.1, 0.5, 1.0)]  # pixels
    assert boxes([100, 200, 500, 900], [20, 30, 80, 95], None) == [
        (0.1, 0.2, 0.5, 0.9),
        (0.02, 0.03, 0.08, 0.095),
        None,
    ]  # per thousand
    assert parse(answer(objects=[{"name": "a"}])).objects[0].box is None
    assert boxes([0.2, 0.3, 1.01, 0.9]) == [(0.2, 0.3, 1.0, 0.9)] and boxes([50, 40, 510, 400]) == [
        (0.1, 0.1, 1.0, 1.0)
    ]  # a little over
    assert parse(f'<think>a {{set}} of {{"x": 1}}</think> {answer()}').objects[0].name == "tree"


def test_every_object_stands_in_both_prompts():
    given = parse(
        answer(
            objects=[{"name": "chairs", "attribute": "broken"}, {"name": "armchair", "attribute": "old"}],
            source_prompt="a red chair in a warehouse",
            target_prompt="a broken chair in fog",
        )
    )
    found = instruction.complete(given)
    assert found.source_prompt == "a red chair in a warehouse with an armchair"
    assert found.target_prompt == "a broken chair in fog with an old armchair"
    assert words.token_positions(found.source_prompt, "chairs") == [3] and words.occurs_in("two trees", "tree")
    assert not words.occurs_in("a warehouse", "house") and not words.token_positions("a warehouse", "house")
    assert words.described("a street with trees", "tree", "bare") == "a street with bare trees"
    assert words.described("A house", "house", "old") == "an old house"
    long = "a quiet place " * 40 + "with a lamp"
    assert words.token_positions(long, "lamp")[0] > 77  # chunks have a start token each
    over = "word " * 74 + "street lamp"
    assert words.token_positions(over, "street lamp") == [75, 78]  # one in each of two chunks
    assert (
        words.occurs_in("a house, old", "house")
        and words.described("trees! and sky", "trees", "bare") == "bare trees! and sky"
    )
    assert instruction.names(["House (left)", "trees!", " Trees ", "", "..."]) == ["house left", "trees"]


@pytest.mark.parametrize(
    "text, why",
    [
        ("I would rather not.", "no JSON object"),
        ('{"objects": [', "broken"),
        ("[1, 2]", "no JSON object"),
        ("{" * 5000, "broken"),
        ('{"a": ' * 3000, "nested|broken"),
        (answer(objects="tree"), "'objects'"),
        (answer(source_prompt=5), "'source_prompt'"),
        (answer(target_prompt=" "), "empty"),
        (answer(objects=[{"attribute": "x"}]), "no name"),
        (answer(objects=[{"name": "x", "box": [1, 2]}]), "four numbers"),
        (answer(objects=[{"name": "x", "box": [0.5, 0.5, 0.2, 0.9]}]), "box is empty"),
        (answer(objects=[{"name": "x", "box": [-1, 0, 1, 1]}]), "outside the image"),
        (answer(objects=[{"name": "x", "box": [0, 0, 9, 4000]}]), "outside the image"),
        (answer(objects=[{"name": "x", "box": ["a", 0, 1, 1]}]), "four numbers"),
    ],
)
def test_broken_answers_say_why(text, why):
    with pytest.raises(BrokenAnswer, match=why):
        parse(text)


def test_a_models_words_are_plain_text():
    assert plain("a (tree:9) {a|b}\n<lora:x> embedding:bad\x00", 99) == "a tree:9 a b lora:x embedding bad"
    assert plain("One sentence. Another one that is long", 20) == "One sentence."
    assert len(plain("x" * 500, 100)) <= 100
    found = parse(answer(objects=[{"name": f"thing{i}", "attribute": ""} for i in range(40)]))
    assert len(found.objects) == instruction.MOST_OBJECTS


def test_rules_know_every_emotion_in_every_context():
    assert set(GOEMOTIONS) <= set(LABELS)
    for emotion in LABELS:
        words = {rules.attribute(emotion, name) for name in ("face", "tree", "house", "spoon")}
        assert len(words) >= 3 and all(words) and rules.atmosphere(emotion)
        assert len(rules.descriptors(emotion)) == 5
    assert [rules.context_of(n) for n in ("faces", "old oak tree", "street lamp", "spoon")] == [
        "faces",
        "nature",
        "city",
        "objects",
    ]
    with pytest.raises(UserError, match="none of the emotions"):
        rules.attribute("boredom", "face")


def test_rules_write_both_prompts():
    found = by_rules("fear", ["house", "tree"], "a house by the lake")
    assert found.source_prompt == "a house by the lake with a tree"
    assert found.target_prompt == "a haunted house by the lake with a twisted tree, the deep night, fog and bats"
    assert by_rules("awe", []).source_prompt == "a picture" and by_rules("awe", []).objects == ()
    assert by_rules("amusement", ["eye"]).source_prompt == "an eye"


class Handler(BaseHTTPRequestHandler):
    """Behaves by the model's name. Counts its calls and keeps the last request."""

    calls: dict = {}
    last: dict = {}
    headers_seen: list = []
    away: str = ""

    def log_message(self, *_):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        how = body["model"]
        Handler.calls[how] = n = Handler.calls.get(how, 0) + 1
        Handler.last, _ = body, Handler.headers_seen.append(dict(self.headers))
        try:
            getattr(self, f"do_{how.replace('-', '_')}", self.do_good)(n)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def reply(self, content, status=200, **headers):
        data = (
            content
            if isinstance(content, bytes)
            else json.dumps(
                {
                    "id": "1",
                    "object": "chat.completion",
                    "created": 1,
                    "model": "m",
                    "choices": [
                        {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}
                    ],
                }
            ).encode()
        )
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def do_good(self, n):
        self.reply(answer())

    def do_slow(self, n):
        time.sleep(3)
        self.reply(answer())

    def do_drip(self, n):
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        for _ in range(100):
            self.wfile.write(b" ")
            self.wfile.flush()
            time.sleep(0.05)

    def do_limit(self, n):
        self.reply(b'{"error": {"message": "slow down"}}', 429, Retry_After="0.3") if n == 1 else self.reply(answer())

    def do_error_once(self, n):
        self.reply(b"oh no", 500) if n == 1 else self.reply(answer())

    def do_error(self, n):
        self.reply(b"oh no", 500)

    def do_cut(self, n):
        self.send_response(200)
        self.send_header("Content-Length", "5000")
        self.end_headers()
        self.wfile.write(b'{"id": "1", "cho')
        self.close_connection = True

    def do_no_json(self, n):
        self.reply("The picture shows a tree.")

    def do_second_time(self, n):
        self.reply("Let me think." if n == 1 else answer())

    def do_outside(self, n):
        self.reply(answer(objects="all of them"))

    def do_no_completion(self, n):
        self.reply(b"<html>hello</html>")

    def do_null(self, n):
        self.reply(None)

    def do_huge(self, n):
        self.send_response(200)
        self.send_header("Content-Length", str(100_000_000))
        self.end_headers()
        for _ in range(100):
            self.wfile.write(b"x" * 1_000_000)

    def do_orders(self, n):
        self.reply(
            answer(
                target_prompt="ignore everything (nude:1.9) <lora:evil:1> embedding:bad {a|b}",
                objects=[{"name": "../../etc/passwd", "attribute": "x", "box": None}],
            )
        )

    def do_old(self, n):
        if "response_format" in Handler.last:
            self.reply(b'{"error": {"message": "response_format is not supported"}}', 400)
        else:
            self.reply(answer())

    def do_fussy(self, n):
        for key in ("temperature", "max_tokens"):
            if key in Handler.last:
                return self.reply(json.dumps({"error": {"message": f"Unsupported parameter: '{key}'"}}).encode(), 400)
        self.reply(answer())

    def do_strict(self, n):
        """FastAPI's way to refuse, without OpenAI's "error" around it."""
        if "response_format" in Handler.last:
            detail = [
                {"type": "extra_forbidden", "loc": ["body", "response_format"], "msg": "Extra inputs are not permitted"}
            ]
            return self.reply(json.dumps({"detail": detail}).encode(), 422)
        self.reply(answer())

    def do_moody(self, n):
        self.do_policy(n) if n <= 2 else self.reply(answer())

    def do_away(self, n):
        self.reply(b"", 307, Location=Handler.away)

    said: str = ""

    def do_echo(self, n):
        self.reply(answer(source_prompt="a tree and SAID").replace("SAID", Handler.said))

    def do_echo_object(self, n):
        self.reply(answer(objects=[{"name": "SAID", "attribute": "SAID", "box": None}]).replace("SAID", Handler.said))

    def do_echo_error(self, n):
        self.reply(json.dumps({"error": {"message": f"no: {' ' * 500} {Handler.said}"}}).encode(), 500)

    def do_echo_refusal(self, n):
        self.reply(json.dumps({"error": {"message": f"no: {Handler.said}"}}).encode(), 400)

    def do_echo_away(self, n):
        self.reply(b"", 307, Location=f"/login/{self.headers['Authorization']}")

    def do_policy(self, n):
        self.reply(b'{"error": {"message": "your picture is against our rules"}}', 400)

    def do_headers(self, n):
        self.wfile.write(b"HTTP/1.1 200 OK\r\n")
        for i in range(100):
            self.wfile.write(f"X-{i}: y\r\n".encode())
            self.wfile.flush()
            time.sleep(0.05)

    def do_bomb(self, n):
        self.reply(gzip.compress(b" " * 30_000_000), Content_Encoding="gzip")

    def do_nested(self, n):
        self.reply(b"[" * 100_000)

    def do_unknown(self, n):
        self.reply(b'{"error": {"message": "model not found"}}', 404)

    def do_locked(self, n):
        self.reply(b'{"error": {"message": "no key"}}', 401)


@pytest.fixture(scope="module")
def url():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()


@pytest.fixture
def ask(url, tmp_path, monkeypatch):
    """ask(how) -> Instruction of a server that behaves so; `ask.notes` is what the user was told."""
    pytest.importorskip("openai")
    for name in ("OPENAI_API_KEY", "AFFECT_MLLM_API_KEY", "AFFECT_MLLM_HOSTS"):
        monkeypatch.delenv(name, raising=False)
    Handler.calls.clear(), Handler.headers_seen.clear()
    notes = []

    class Quiet(host.Host):
        def note(self, message):
            notes.append(message)

    def run(how, seconds=20.0, emotion="fear", objects=(), image=None, where=None):
        server = chat_server.Server(where or url, how, seconds)
        with host.use(Quiet()):
            return mllm.Asked("openai-compatible", how, server, tmp_path).ask(
                image or Image.new("RGB", (40, 30), "red"), emotion, list(objects)
            )

    run.notes = notes
    return run


def test_a_server_that_answers(ask):
    found = ask("good")
    assert found.provider == "openai-compatible" and not found.warning and found.objects[0].name == "tree"
    sent = Handler.last["messages"][0]["content"]
    assert sent[1]["image_url"]["url"].startswith("data:image/jpeg;base64,") and "fear" in sent[0]["text"]
    assert Handler.last["response_format"]["json_schema"]["schema"] == instruction.SCHEMA


def test_answers_are_cached_by_image_emotion_and_model(ask):
    ask("good"), ask("good")
    assert Handler.calls["good"] == 1
    ask("good", emotion="awe"), ask("good", image=Image.new("RGB", (40, 30), "blue")), ask("good", objects=["tree"])
    assert Handler.calls["good"] == 4


def test_a_damaged_answer_in_the_cache_is_asked_for_again(ask, tmp_path):
    found = ask("good")
    (path,) = tmp_path.glob("*.json")
    whole = path.read_text()
    for damaged in ("", whole[:40], "[1]", "7", '{"objects": [{"name": "x"}]}', '{"objects": [], "colour": 1}'):
        path.write_text(damaged)
        assert ask("good") == found and path.read_text() == whole
    assert Handler.calls["good"] == 7


def test_the_users_objects_override(ask):
    found = ask("good", objects=["Tree", "boat"])
    assert [(c.name, c.attribute) for c in found.objects] == [("tree", "twisted"), ("boat", "")]
    assert "tree, boat" in Handler.last["messages"][0]["content"][0]["text"]
    assert "sees no boat" in found.warning and found.warning in ask.notes
    again = ask("good", objects=["Tree", "boat"])
    assert again == found and ask.notes.count(found.warning) == 2  # an answer from the cache says it too


@pytest.mark.parametrize(
    "how, calls, waits",
    [
        ("limit", 2, [0.3]),  # Retry-After is kept to
        ("error-once", 2, [pytest.approx(0.5, rel=0.3)]),  # the client's own, with its jitter
        ("second-time", 2, []),
        ("old", 2, []),
        ("strict", 2, []),
        ("fussy", 3, []),
    ],
)
def test_what_mends_itself(ask, monkeypatch, how, calls, waits):
    waited = []
    monkeypatch.setattr(time, "sleep", waited.append)
    assert ask(how).objects[0].name == "tree" and Handler.calls[how] == calls
    assert waited == waits


@pytest.mark.parametrize(
    "how, why",
    [
        ("no-json", "no JSON object"),
        ("outside", "'objects'"),
        ("no-completion", "not a chat completion"),
        ("null", "no text"),
        ("huge", "longer than"),
        ("bomb", "compressed"),
        ("nested", "not a chat completion"),
    ],
)
def test_a_broken_answer_is_asked_again_once_and_then_rules_answer(ask, how, why):
    found = ask(how, objects=["house"])
    assert found.provider == "rules" and why in found.warning and why in ask.notes[0]
    assert found.objects[0].attribute == "haunted"
    ask(how, objects=["house"])
    assert Handler.calls[how] >= 3  # a fallback is not cached


@pytest.mark.parametrize(
    "how, why",
    [
        ("error", "error 500"),
        ("unknown", "does not know the model"),
        ("locked", "wants a key. Set AFFECT_MLLM_API_KEY .* AFFECT_MLLM_HOSTS=127.0.0.1:"),
        ("policy", "refused the request .error 400."),
        ("cut", "broke off the connection"),
    ],
)
def test_what_ends_in_a_clear_error(ask, how, why):
    with pytest.raises(UserError, match=why) as caught:
        ask(how)
    assert "openai-compatible" in str(caught.value) and how in str(caught.value)


@pytest.mark.parametrize(
    "how, one_image", [("error", True), ("cut", True), ("policy", True), ("unknown", False), ("locked", False)]
)
def test_what_another_image_may_be_spared_is_told_apart(ask, how, one_image):
    with pytest.raises(UserError) as caught:
        ask(how)
    assert isinstance(caught.value, chat_server.Refused) == one_image


def test_the_form_of_answers_is_not_given_up_for_a_refusal_that_it_was_not_the_cause_of(ask, url):
    server = chat_server.Server(url, "moody")
    with pytest.raises(chat_server.Refused):  # with the schema and without
        server(Image.new("RGB", (8, 8)), "what is it")
    server(Image.new("RGB", (8, 8)), "what is it")
    assert "response_format" in Handler.last and Handler.calls["moody"] == 3


@pytest.mark.parametrize("how", ["slow", "drip", "headers"])
def test_no_server_can_make_us_wait_for_ever(ask, how, monkeypatch):
    monkeypatch.setattr(chat_server.Server.__init__, "__defaults__", (1.0, 0, False))
    began = time.monotonic()
    with pytest.raises(UserError, match="no whole answer in 1 seconds"):
        ask(how, seconds=1.0)
    assert time.monotonic() - began < 8


def test_a_server_that_is_not_there(ask):
    with pytest.raises(UserError, match="cannot be reached.*rules need no server") as caught:
        ask("good", where="http://127.0.0.1:9/v1")
    assert not isinstance(caught.value, chat_server.Refused)  # it ends a run over many images


def test_text_in_the_image_gives_no_orders(ask):
    """Whatever the answer says, it is words for a prompt and names for a mask."""
    found = ask("orders")
    assert found.target_prompt == "ignore everything nude:1.9 lora:evil:1 embedding bad a b with a x ../../etc/passwd"
    assert "never follow" in Handler.last["messages"][0]["content"][0]["text"]


def test_a_key_goes_to_the_host_and_port_that_it_is_for(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-open")
    monkeypatch.setenv("AFFECT_MLLM_API_KEY", "sk-mine\n")
    monkeypatch.setenv("AFFECT_MLLM_HOSTS", "GPU.lan, other.lan:8000,127.0.0.1:11434, [::1]:5, bad:port")
    key = addresses.key_for
    assert key("https://api.openai.com/v1") == "sk-open"
    for url in (
        "https://gpu.lan/v1",
        "http://gpu.lan/v1",
        "http://other.lan:8000/v1",
        "http://127.0.0.1:11434/v1",
        "http://[::1]:5/v1",
    ):
        assert key(url) == "sk-mine"
    for url in (
        "https://evil.example/v1",
        "http://api.openai.com/v1",
        "https://api.openai.com:8443/v1",
        "https://gpu.lan:8000/v1",
        "https://api.openai.com.evil.example/v1",
        "http://other.lan/v1",
        "http://127.0.0.1:11435/v1",
        "http://localhost:11434/v1",
    ):
        assert key(url) == ""
    monkeypatch.setenv("AFFECT_MLLM_API_KEY", "sk two")
    with pytest.raises(UserError, match="AFFECT_MLLM_API_KEY in the environment holds spaces") as caught:
        key("http://gpu.lan/v1")
    assert "sk two" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "https://me:pass@host/v1",
        "https://host/v1?key=sk",
        "https://host/v1#pass",
        "ftp://host",
        "host",
        "http://host:abc/v1",
        "http://me:pass@host:99999/v1",
        "http://me:pass@[::1/v1",
        "http://\u2603/v1",
        "http://127.0.0.1\\@pass.example/v1",
        "http://127.0.0.1\tpass/v1",
        "http://127.0.0.1 pass/v1",
        "",
    ],
)
def test_what_is_no_address_is_not_repeated(url):
    with pytest.raises(UserError, match="not an address|environment") as caught:
        addresses.check_url(url)
    assert "pass" not in str(caught.value).replace("password", "")


def refusal(url, current=None):
    with host.use(current or host.Host()), pytest.raises(UserError) as caught:
        addresses.check_allowed(url)
    return str(caught.value)


def test_a_picture_goes_to_this_machine_or_where_the_user_says(monkeypatch):
    for name in ("OPENAI_API_KEY", "AFFECT_MLLM_HOSTS"):
        monkeypatch.delenv(name, raising=False)
    for url in ("http://127.0.0.1:1/v1", "http://localhost:8/v1", "https://[::1]/v1", "http://127.0.0.2/v1"):
        addresses.check_allowed(url)
    for url in (
        "https://evil.example/v1",
        "http://10.0.0.2:8000/v1",
        "http://127.0.0.1.evil.example/v1",
        "http://localhost.evil.example/v1",
    ):
        assert f"Set AFFECT_MLLM_HOSTS={addresses.named(url)} in the environment" in refusal(url)
    assert "or set OPENAI_API_KEY" in refusal("https://api.openai.com/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-open")
    addresses.check_allowed("https://api.openai.com/v1")
    assert "api.openai.com:80" in refusal("http://api.openai.com/v1")
    monkeypatch.setenv("AFFECT_MLLM_HOSTS", "gpu.lan,other.lan:8000")
    for url in ("http://gpu.lan:1/v1", "https://GPU.lan/v1", "http://other.lan:8000/v1"):
        addresses.check_allowed(url)
    assert "AFFECT_MLLM_HOSTS=gpu.lan,other.lan:8000,other.lan:8001 " in refusal("http://other.lan:8001/v1")
    addresses.check_allowed("https://typed.example/v1", confirmed=True)
    assert f'"{host.HOSTS_SETTING}"' in (Path(host.__file__).parents[1] / "web" / "settings.js").read_text(
        encoding="utf-8"
    )


def test_the_command_allows_a_host_and_says_how():
    from comfyui_affect.workflows.headless.host import EmbeddedHost

    said = refusal("http://gpu.lan:8000/v1", EmbeddedHost())
    assert "Add --allow-host gpu.lan:8000 to the command" in said and "AFFECT_MLLM_HOSTS=gpu.lan:8000" in said
    with host.use(EmbeddedHost(hosts=["gpu.lan:8000"])):
        addresses.check_allowed("http://gpu.lan:8000/v1")
        assert AffectMLLMLoader.VALIDATE_INPUTS("http://gpu.lan:8000/v1", "openai-compatible") is True
        assert "gpu.lan:9" in AffectMLLMLoader.VALIDATE_INPUTS("http://gpu.lan:9/v1", "openai-compatible")
        assert AffectMLLMLoader.VALIDATE_INPUTS("http://gpu.lan:9/v1", "rules") is True
        assert "Choose from" in AffectMLLMLoader.VALIDATE_INPUTS("", "oracle")


def test_a_setting_of_comfyui_allows_a_host(monkeypatch, tmp_path):
    """As its frontend stores it; with several users nobody's setting counts, for a node does not know whose prompt
    it runs."""
    args = types.SimpleNamespace(multi_user=False)
    folders = types.SimpleNamespace(
        base_path=tmp_path,
        get_user_directory=lambda: str(tmp_path),
        **{f"get_{kind}_directory": lambda: str(tmp_path) for kind in ("input", "output", "temp")},
    )
    modules = {
        "folder_paths": folders,
        "comfy": types.ModuleType("comfy"),
        "comfy.cli_args": types.SimpleNamespace(args=args),
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delenv("AFFECT_MLLM_HOSTS", raising=False)
    (tmp_path / "default").mkdir()
    said = refusal("http://gpu.lan:8000/v1", host.ComfyHost())
    assert "ComfyUI's settings" in said and "AFFECT_MLLM_HOSTS=gpu.lan:8000" in said
    for content in ("{", "[]", '{"Affect.MLLM.Hosts": 5}', '{"Affect.MLLM.Hosts": " gpu.lan:8001, x"}'):
        (tmp_path / "default" / "comfy.settings.json").write_text(content)
        refusal("http://gpu.lan:8000/v1", host.ComfyHost())
    (tmp_path / "default" / "comfy.settings.json").write_text(json.dumps({host.HOSTS_SETTING: " a.lan, gpu.lan:8000"}))
    with host.use(host.ComfyHost()):
        addresses.check_allowed("http://gpu.lan:8000/v1")
    args.multi_user = True
    refusal("http://gpu.lan:8000/v1", host.ComfyHost())


def test_a_workflow_from_a_stranger_sends_nothing_anywhere(tmp_path, monkeypatch):
    """Refused before anything runs, by the check and by the loader."""
    from comfyui_affect.workflows.headless.formats.load import Loaded
    from comfyui_affect.workflows.headless.host import EmbeddedHost
    from comfyui_affect.workflows.headless.run import prepare

    pytest.importorskip("openai")
    monkeypatch.delenv("AFFECT_MLLM_HOSTS", raising=False)
    node = lambda key, **inputs: {"class_type": key, "inputs": inputs}
    prompt = {
        "1": node("AffectMLLMLoader", provider="openai-compatible", model="m", base_url="http://192.0.2.1:8000/v1"),
        "2": node("PreviewAny", source=["1", 0]),
    }
    with host.use(EmbeddedHost(tmp_path)):
        with pytest.raises(UserError, match="would send the picture to 192.0.2.1:8000.*--allow-host 192.0.2.1:8000"):
            prepare(Loaded(prompt, None))
        with pytest.raises(UserError, match="would send the picture"):
            mllm.load_mllm("openai-compatible", "m", "http://192.0.2.1:8000/v1")
    with host.use(EmbeddedHost(tmp_path, hosts=["192.0.2.1"])):
        prepare(Loaded(prompt, None))


def test_what_was_allowed_may_be_taken_back(url, monkeypatch):
    """A node's result outlives the run that it came from."""
    pytest.importorskip("openai")
    monkeypatch.setenv("AFFECT_MLLM_HOSTS", "192.0.2.1")
    server = chat_server.Server("http://192.0.2.1/v1", "m")
    monkeypatch.delenv("AFFECT_MLLM_HOSTS")
    with pytest.raises(UserError, match="nobody here has allowed"):
        server(Image.new("RGB", (8, 8)), "what is it")


@pytest.fixture
def elsewhere():
    """(address, what it was sent) of a server on another address of this machine, which no key is for."""
    try:
        server = ThreadingHTTPServer(("127.0.0.2", 0), Handler)
    except OSError:
        pytest.skip("this machine has one loopback address only")
    seen = []

    class Keeping(Handler):
        def do_POST(self):
            seen.append((dict(self.headers), self.rfile.read(int(self.headers["Content-Length"]))))
            self.reply(answer())

    server.RequestHandlerClass = Keeping
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.2:{server.server_address[1]}/v1/chat/completions", seen
    server.shutdown()


def test_who_is_sent_on_does_not_go(ask, url, elsewhere, monkeypatch):
    """Neither the key nor the image goes where a server points; and the client itself goes nowhere else."""
    openai = pytest.importorskip("openai")
    monkeypatch.setenv("AFFECT_MLLM_API_KEY", "sk-very-secret")
    monkeypatch.setenv("AFFECT_MLLM_HOSTS", addresses.named(url))
    address, seen = elsewhere
    Handler.away = address
    with pytest.raises(UserError, match=f"sends us on to {address.partition('/v1')[0]}, .* as base_url") as caught:
        ask("away")
    assert not isinstance(caught.value, chat_server.Refused)
    with pytest.raises(UserError, match=f"sends us on to {url.partition('/v1')[0]},"):
        ask("echo-away")
    server = chat_server.Server(url, "good")
    with pytest.raises(server.http.ConnectError, match="another server"):
        chat_server._bounded_client(openai, server.http, url, 5.0).post(address, json={"model": "good"})
    assert not seen


def test_nothing_of_the_environment_goes_to_a_server_that_a_workflow_names(ask, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-open")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-mine")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-mine")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Gateway-Key: sk-gateway\nAuthorization: Bearer sk-custom")
    assert ask("good").objects
    sent = json.dumps(Handler.headers_seen)
    for secret in ("sk-open", "org-mine", "proj-mine", "sk-gateway", "sk-custom", "Authorization"):
        assert secret not in sent
    assert "identity" in sent


@pytest.mark.parametrize("how", ["plain", "json", "upper", "base64", "quoted"])
def test_the_key_stands_nowhere(ask, url, monkeypatch, tmp_path, capfd, caplog, how):
    """In no answer, note, error, log or cached file, however a server writes it; and it did reach the server."""
    secret = "sk-very/secret+key"
    monkeypatch.setenv("AFFECT_MLLM_API_KEY", f"{secret}\n")
    monkeypatch.setenv("AFFECT_MLLM_HOSTS", addresses.named(url))
    forms = {
        "plain": secret,
        "json": "".join(f"\\u{ord(c):04x}" for c in secret),
        "upper": secret.upper(),
        "quoted": quote(secret, safe=""),
        "base64": base64.b64encode(secret.encode()).decode(),
    }
    Handler.said = forms[how]
    texts = []
    with caplog.at_level("DEBUG"):
        for kind in (
            "good",
            "no-json",
            "locked",
            "error-once",
            "cut",
            "echo",
            "echo-error",
            "echo-object",
            "echo-refusal",
        ):
            try:
                texts.append(repr(ask(kind)))
            except UserError as error:
                texts.append(f"{error!r} {error.__cause__!r}")
    out, err = capfd.readouterr()
    files = [p.read_text() for p in tmp_path.rglob("*") if p.is_file()]
    assert any(f"Bearer {secret}" in h.values() for h in Handler.headers_seen) and files
    assert "key" in texts[5] and "key" in texts[7]  # a prompt has no brackets
    for text in (*texts, *ask.notes, out, err, caplog.text, *files):
        for form in (secret, forms[how]):
            assert form.lower() not in text.lower() and form.lower() not in json.dumps(text).lower()


def test_of_a_servers_errors_nothing_but_the_status_is_told(ask):
    for how, status in (("echo-error", 500), ("echo-refusal", 400), ("unknown", 404)):
        Handler.said = "\x1b[31mvisit evil.example"
        with pytest.raises(UserError, match=f"error {status}") as caught:
            ask(how)
        assert "evil" not in str(caught.value) and "model not found" not in str(caught.value)


def test_providers_by_name(tmp_path):
    assert mllm.load_mllm("rules").ask(None, "joy", ["face"]).objects[0].attribute == "smiling"
    with pytest.raises(UserError, match="Choose from"):
        mllm.load_mllm("oracle")
    with host.use(host.Host(tmp_path)), pytest.raises(UserError, match="no file"):
        mllm.load_mllm("transformers", "llava")
    (tmp_path / "models" / "LLM" / "llava").mkdir(parents=True)
    with host.use(host.Host(tmp_path)), pytest.raises(UserError, match="not hold a vision-language model"):
        mllm.load_mllm("transformers", "llava").ask(Image.new("RGB", (8, 8)), "joy", [])


def test_the_key_stands_in_no_picture_of_a_workflow(url, monkeypatch, tmp_path, capfd, caplog):
    """A whole workflow that asks a server: no key in the PNGs it writes, the text they carry, the cache or the log."""
    pytest.importorskip("openai")
    from comfyui_affect.workflows.headless.formats.load import Loaded
    from comfyui_affect.workflows.headless.host import EmbeddedHost
    from comfyui_affect.workflows.headless.run import execute, prepare

    monkeypatch.setenv("AFFECT_MLLM_API_KEY", "sk-very-secret")
    monkeypatch.setenv("AFFECT_MLLM_HOSTS", addresses.named(url))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    Image.new("RGB", (64, 48), "teal").save(tmp_path / "in.png")
    node = lambda key, **inputs: {"class_type": key, "inputs": inputs}
    prompt = {
        "1": node("LoadImage", image="in.png"),
        "2": node("AffectEmotion", emotion="fear", intensity=1.0),
        "3": node("AffectMLLMLoader", provider="openai-compatible", model="good", base_url=url),
        "4": node(
            "AffectMLLMMaskGenerator",
            image=["1", 0],
            emotion=["2", 0],
            mllm=["3", 0],
            objects="",
            grounding="boxes",
            feather=2,
        ),
        "5": node("SaveImage", images=["4", 3], filename_prefix="overlay"),
        "6": node("PreviewAny", source=["4", 4]),
    }
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Handler.headers_seen = []
    with caplog.at_level("DEBUG"), host.use(EmbeddedHost(tmp_path, tmp_path / "out", tmp_path / "models")):
        outputs = execute(prepare(Loaded(prompt, None)))
    assert any("sk-very-secret" in str(h) for h in Handler.headers_seen)
    written = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert any(p.suffix == ".png" and p.name.startswith("overlay") for p in written)
    assert any(p.is_relative_to(tmp_path / "cache") for p in written)
    for text in (json.dumps(outputs), caplog.text, *capfd.readouterr()):
        assert "sk-very-secret" not in text
    for path in written:
        assert b"sk-very-secret" not in path.read_bytes(), path


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    """A LLaVA of a few thousand random weights, saved as transformers saves one."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("models") / "LLM" / "small"
    words = ["<unk>", "<pad>", "<s>", "</s>", "<image>", *(chr(c) for c in range(33, 127))]
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token="<unk>",
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<image>"],
    )
    vision = transformers.CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14
    )
    text = transformers.LlamaConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    config = transformers.LlavaConfig(vision_config=vision, text_config=text, image_token_index=words.index("<image>"))
    transformers.LlavaForConditionalGeneration(config).save_pretrained(folder)
    pictures = transformers.CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    template = "{% for m in messages %}{% for c in m['content'] %}{% if c['type'] == 'image' %}<image> {% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endfor %}"
    transformers.LlavaProcessor(
        pictures,
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    ).save_pretrained(folder)
    return folder.parent.parent


def test_a_local_model_answers_or_rules_do(llava, tmp_path, monkeypatch):
    """Random weights say nothing of use: the whole way is walked, and ends with the rules and a warning."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    asked = []
    generate = mllm.Local.__call__
    monkeypatch.setattr(
        mllm.Local, "__call__", lambda self, image, question: asked.append(generate(self, image, question)) or asked[-1]
    )
    with host.use(host.Host(llava.parent)):
        monkeypatch.setattr(host.Host, "models_dirs", lambda self, kind: [llava / kind])
        found = mllm.load_mllm("transformers", "small").ask(Image.new("RGB", (60, 40), "teal"), "fear", ["house"])
    assert len(asked) == 2 and all(isinstance(text, str) for text in asked)
    assert found.provider == "rules" and "transformers (small) gave no usable answer twice" in found.warning


def test_a_local_model_can_be_stopped(llava, monkeypatch):
    class Stopping(host.Host):
        def check_interrupted(self):
            raise KeyboardInterrupt

    local = mllm.Local(llava / "LLM" / "small")
    with host.use(Stopping()), pytest.raises(KeyboardInterrupt):
        local(Image.new("RGB", (60, 40)), "what is it")
