"""Running prompts: order, lists, hidden inputs, which results are kept and which nodes run again."""

import math
import weakref

import pytest
from comfyui_affect.models.errors import UserError
from comfyui_affect.workflows.headless.execute import Executor, NodeFailed, signature
from comfyui_affect.workflows.headless.registry import Registry


def node_class(inputs, outputs, function, **attributes):
    return type(
        "N",
        (),
        {
            "INPUT_TYPES": classmethod(lambda cls: inputs),
            "RETURN_TYPES": outputs,
            "FUNCTION": "f",
            "f": function,
            **attributes,
        },
    )


@pytest.fixture
def nodes():
    """Number -> several -> Add -> Show, with a record of calls."""
    calls = []

    def note(name, value):
        calls.append(name)
        return value

    number = node_class({"required": {"value": ("INT", {})}}, ("INT",), lambda self, value: note("Number", (value,)))
    several = node_class(
        {"required": {"count": ("INT", {})}},
        ("INT",),
        lambda self, count: note("Several", (list(range(count)),)),
        OUTPUT_IS_LIST=(True,),
    )
    add = node_class(
        {"required": {"a": ("INT", {}), "b": ("INT", {})}}, ("INT",), lambda self, a, b: note("Add", (a + b,))
    )
    total = node_class(
        {"required": {"a": ("INT", {}), "scale": ("INT", {})}},
        ("INT",),
        lambda self, a, scale: note("Total", (sum(a) * scale[0],)),
        INPUT_IS_LIST=True,
    )
    show = node_class(
        {"required": {"x": ("*", {})}}, (), lambda self, x: note("Show", {"ui": {"text": (x,)}}), OUTPUT_NODE=True
    )
    secret = {"p": "PROMPT", "e": "EXTRA_PNGINFO", "u": "UNIQUE_ID"}
    hidden = node_class(
        {"required": {}, "hidden": secret},
        (),
        lambda self, p, e, u: note("Hidden", {"ui": {"text": [(sorted(p), e, u)]}}),
        OUTPUT_NODE=True,
    )
    fails = node_class({"required": {"x": ("*", {})}}, (), lambda self, x: 1 / 0, OUTPUT_NODE=True)
    refuses = node_class(
        {"required": {}}, (), lambda self: (_ for _ in ()).throw(UserError("Too dark. Brighten it.")), OUTPUT_NODE=True
    )
    registry = Registry(
        {
            "Number": number,
            "Several": several,
            "Add": add,
            "Total": total,
            "Show": show,
            "Hidden": hidden,
            "Fails": fails,
            "Refuses": refuses,
        },
        {},
    )
    return registry, calls


def n(key, **inputs):
    return {"class_type": key, "inputs": inputs}


def test_only_what_outputs_need_runs_and_sources_run_first(nodes, embedded):
    registry, calls = nodes
    prompt = {
        "9": n("Show", x=["5", 0]),
        "5": n("Add", a=["1", 0], b=["1", 0]),
        "1": n("Number", value=4),
        "7": n("Number", value=1),
    }
    results = Executor(registry).run(prompt)
    assert results["9"].ui == {"text": [8]}
    assert calls == ["Number", "Add", "Show"]


def test_a_list_makes_one_call_per_entry_and_the_last_entry_repeats(nodes, embedded):
    registry, calls = nodes
    prompt = {
        "1": n("Several", count=3),
        "2": n("Several", count=2),
        "3": n("Add", a=["1", 0], b=["2", 0]),
        "4": n("Show", x=["3", 0]),
    }
    results = Executor(registry).run(prompt)
    assert results["3"].outputs == [[0, 2, 3]]
    assert results["4"].ui == {"text": [0, 2, 3]}
    assert calls.count("Add") == 3


def test_a_node_that_takes_lists_is_called_once(nodes, embedded):
    registry, calls = nodes
    prompt = {"1": n("Several", count=4), "2": n("Total", a=["1", 0], scale=10), "3": n("Show", x=["2", 0])}
    assert Executor(registry).run(prompt)["3"].ui == {"text": [60]}
    assert calls.count("Total") == 1


def test_hidden_inputs(nodes, embedded):
    registry, _ = nodes
    ui = Executor(registry).run({"4": n("Hidden")}, {"workflow": {}})["4"].ui
    assert ui == {"text": [(["4"], {"workflow": {}}, "4")]}


def test_unchanged_nodes_do_not_run_again(nodes, embedded):
    registry, _ = nodes
    executor = Executor(registry)
    prompt = {
        "1": n("Number", value=4),
        "2": n("Number", value=5),
        "3": n("Add", a=["1", 0], b=["2", 0]),
        "4": n("Show", x=["3", 0]),
    }
    executor.run(prompt)
    assert executor.ran == ["1", "2", "3", "4"]
    again = executor.run(prompt)
    assert executor.ran == [] and again["4"].ui == {"text": [9]}
    prompt["2"]["inputs"]["value"] = 6
    assert executor.run(prompt)["4"].ui == {"text": [10]}
    assert executor.ran == ["2", "3", "4"]
    # Another id with the same content: its result is kept.
    executor.run({"7": n("Number", value=4), "8": n("Show", x=["7", 0])})
    assert executor.ran == ["8"]
    # Results that the last prompt did not use are dropped.
    executor.run(prompt)
    assert executor.ran == ["2", "3", "4"]


def test_equal_text_and_number_are_not_the_same_input(nodes, embedded):
    registry, _ = nodes
    executor = Executor(registry)
    assert executor.run({"1": n("Show", x=1)})["1"].ui == {"text": [1]}
    assert executor.run({"1": n("Show", x="1")})["1"].ui == {"text": ["1"]}


def test_is_changed_decides_whether_a_node_runs_again(nodes, embedded):
    registry, calls = nodes
    stamp = ["a"]
    kind = registry.get("Number").cls
    kind.IS_CHANGED = classmethod(lambda cls, value: stamp[0])
    executor = Executor(registry)
    prompt = {"1": n("Number", value=4), "2": n("Show", x=["1", 0])}
    executor.run(prompt)
    executor.run(prompt)
    assert executor.ran == []
    stamp[0] = "b"
    executor.run(prompt)
    assert executor.ran == ["1", "2"]
    stamp[0] = float("nan")
    executor.run(prompt)
    executor.run(prompt)
    assert executor.ran == ["1", "2"]


def test_a_failure_names_its_node_and_keeps_earlier_results(nodes, embedded):
    registry, _ = nodes
    executor = Executor(registry)
    prompt = {"1": n("Number", value=4), "2": {**n("Fails", x=["1", 0]), "_meta": {"title": "Bad one"}}}
    with pytest.raises(NodeFailed, match=r"Node 2 'Bad one' \(Fails\) failed: ZeroDivisionError") as caught:
        executor.run(prompt)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    executor.run({"1": n("Number", value=4), "3": n("Show", x=["1", 0])})
    assert executor.ran == ["3"]
    with pytest.raises(NodeFailed, match=r"failed: Too dark. Brighten it.$"):
        executor.run({"5": n("Refuses")})


def test_a_wrong_number_of_outputs_is_an_error(nodes, embedded):
    registry, _ = nodes
    registry.get("Number").cls.f = lambda self, value: (1, 2)
    with pytest.raises(NodeFailed, match="returned 2 outputs and declares 1"):
        Executor(registry).run({"1": n("Number", value=1), "2": n("Show", x=["1", 0])})


def test_only_the_wanted_nodes_run(nodes):
    registry, calls = nodes
    prompt = {
        "1": n("Number", value=3),
        "2": n("Add", a=["1", 0], b=1),
        "3": n("Show", x=["2", 0]),
        "4": n("Fails", x=1),
    }
    executor = Executor(registry)
    assert executor.run(prompt, ends=["2"])["2"].outputs == [[4]] and calls == ["Number", "Add"]
    assert executor.run(prompt, ends=["1"])["1"].outputs == [[3]] and executor.ran == []


def test_passing_results_are_let_go_when_nothing_needs_them():
    """The first of four is gone when the third runs; a series then takes the memory of one picture."""

    class Thing:
        pass

    alive, made = [], []

    def pass_on(self, x):
        alive.append([ref() is not None for ref in made])
        thing = Thing()
        made.append(weakref.ref(thing))
        return (thing,)

    step = node_class({"required": {"x": ("*", {})}}, ("THING",), pass_on)
    executor = Executor(Registry({"Step": step}, {}))
    prompt = {"1": n("Step", x=0)} | {str(i): n("Step", x=[str(i - 1), 0]) for i in (2, 3, 4)}
    results = executor.run(prompt, ends=["4"], passing=prompt)
    assert list(results) == ["4"]
    assert alive == [[], [True], [False, True], [False, False, True]]
    del results
    assert [ref() is not None for ref in made] == [False] * 4
    executor.run(prompt, ends=["4"], passing=prompt)
    assert executor.ran == ["1", "2", "3", "4"]
    executor.run(prompt, ends=["4"], passing=["4"])  # the others are kept for the next
    assert [ref() is not None for ref in made[-4:]] == [True, True, True, False]
    executor.run(prompt, ends=["4"], passing=["4"])
    assert executor.ran == ["4"]


def test_a_signature_is_the_same_each_time_and_follows_what_a_node_depends_on(nodes):
    registry, _ = nodes
    restless = node_class(
        {"required": {"x": ("INT", {})}}, ("INT",), None, IS_CHANGED=classmethod(lambda cls, x: math.nan)
    )
    registry = registry.with_type("Restless", restless, "Restless")
    prompt = {"1": n("Restless", x=1), "2": n("Add", a=["1", 0], b=1), "3": n("Number", value=1)}
    first = signature(prompt, "2", registry)
    prompt["3"]["inputs"]["value"] = 2
    assert signature(prompt, "2", registry) == first
    prompt["1"]["inputs"]["x"] = 2
    assert signature(prompt, "2", registry) != first
