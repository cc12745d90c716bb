"""The house of docs/architecture.md, read from the source: which file imports which (also inside functions, and for
types alone), where choices are defined, how long files and functions are."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

ORDER = (
    ("tiny",),
    ("muse", "moodifier", "emolat", "reference", "gram", "grade"),
    ("diffusion",),
    ("classifiers", "scorers"),  # former places of two loaders
    ("networks",),
    ("metrics", "plots", "pictures", "pickled", "configurations", "bundled", "waiting"),
    ("files",),
    ("host",),
    ("tensors", "emotions", "foreign", "catalogue"),
    ("errors",),
)
"""The rooms (folders and files) of models/. A room imports only rooms of lines below its own."""

BETWEEN_METHODS = {
    ("emolat", "muse"): "an EmoLat code may start MUSE's tokens, and is handed over as EmotionTokens",
    ("emolat", "grade"): "on a photograph the network's change becomes a grade",
    ("grade", "gram"): "the transfer on a grade's surface compares the same Gram matrices as the paper's",
}
"""Methods that use another method's public room (its package, none of its files), with the reason."""

COMFYUI = {"comfy", "comfy_execution", "comfy_extras", "execution", "folder_paths", "latent_preview", "nodes", "server"}
"""ComfyUI's top-level modules."""

LONGEST_FILE, LONGEST_FUNCTION = 400, 60
KNOWN_LONG: dict[str, str] = {}
"""Functions of more than 60 lines, "file:function" -> why they stay in one piece."""


def package_files(folder: str) -> list[Path]:
    return sorted(path for path in (ROOT / folder).rglob("*.py") if "__pycache__" not in path.parts)


def module(path: Path) -> tuple[str, ...]:
    """("models", "muse", "run"); a package's `__init__` has the package's name."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


MODULES = {module(path): path for path in package_files("models")}


def imports(path: Path, types: bool = True) -> list[tuple[str, ...]]:
    """The modules that a file imports: of this package from its root on, of others after "/". Off `types`: less those
    under `if TYPE_CHECKING`."""
    package = module(path) if path.name == "__init__.py" else module(path)[:-1]
    found: list[tuple[str, ...]] = []
    tree = ast.parse(path.read_text(encoding="utf-8"))
    checking = [n for n in ast.walk(tree) if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    skipped = set() if types else {inner for n in checking for inner in ast.walk(n)}
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            found += [("/", *alias.name.split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.append(("/", *node.module.split(".")))
        elif isinstance(node, ast.ImportFrom):
            base = (*package[: len(package) - node.level + 1], *(node.module or "").split("."))
            base = tuple(part for part in base if part)
            for alias in node.names:
                inner = (*base, alias.name)
                found.append(inner if inner in MODULES else base)
    return found


def line_of(room: str) -> int:
    line = next((i for i, rooms in enumerate(ORDER) if room in rooms), None)
    assert line is not None, f"models/{room} is new: give it its line in ORDER"
    return line


def against_the_arrows(path: Path) -> list[str]:
    """What a file of models/ imports and must not."""
    room = module(path)[1] if len(module(path)) > 1 else ""
    wrong = []
    for target in imports(path):
        if target[0] == "/":
            continue
        if target[0] != "models":
            wrong.append(f"{'.'.join(module(path))} imports {'.'.join(target)}")
            continue
        if len(target) < 2 or target[1] == room:
            continue
        below = line_of(target[1]) > line_of(room)
        public = (room, target[1]) in BETWEEN_METHODS and len(target) == 2
        if not below and not public:
            wrong.append(f"{'.'.join(module(path))} imports {'.'.join(target)}")
    return wrong


def test_every_room_has_its_line():
    rooms = {name[1] for name in MODULES if len(name) > 1}
    assert rooms == {room for rooms in ORDER for room in rooms}


def test_imports_in_models_follow_the_arrows():
    assert [wrong for path in MODULES.values() for wrong in against_the_arrows(path)] == []


def test_reasons_between_methods_are_needed():
    used = {(name[1], t[1]) for name, path in MODULES.items() if len(name) > 1 for t in imports(path) if len(t) > 1}
    assert set(BETWEEN_METHODS) <= used


def test_an_import_against_the_arrows_is_found(tmp_path, monkeypatch):
    """The check itself, on a file that breaks every rule: up, sideways, into another method's files, out of models/."""
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    path = tmp_path / "models" / "networks" / "bad.py"
    path.parent.mkdir(parents=True)
    path.write_text("def f():\n    from ..diffusion import protocol\n    from ...nodes import layouts\n")
    assert against_the_arrows(path) == [
        "models.networks.bad imports models.diffusion.protocol",
        "models.networks.bad imports nodes",
    ]
    path = tmp_path / "models" / "emolat" / "bad.py"
    path.parent.mkdir(parents=True)
    path.write_text("from ..muse import EmotionTokens\nfrom ..muse.tokens import check_width\nfrom ..errors import x\n")
    assert against_the_arrows(path) == ["models.emolat.bad imports models.muse.tokens"]


def a_cycle(graph: dict[str, set[str]]) -> list[str]:
    """The names of one cycle, its first also last; none where there is no cycle."""
    done: set[str] = set()

    def visit(name: str, way: list[str]) -> list[str]:
        if name in way:
            return [*way[way.index(name) :], name]
        if name in done:
            return []
        cycle = next(filter(None, (visit(target, [*way, name]) for target in sorted(graph[name]))), [])
        done.add(name)
        return cycle

    return next(filter(None, (visit(name, []) for name in sorted(graph))), [])


def test_a_cycle_is_found():
    assert a_cycle({"a": {"b", "c"}, "b": {"d"}, "c": {"d"}, "d": set()}) == []
    assert a_cycle({"a": {"b"}, "b": {"c"}, "c": {"d"}, "d": {"b"}}) == ["b", "c", "d", "b"]


def test_no_module_of_models_imports_itself_by_way_of_others():
    """Within a room a type may point back: nothing is imported for it while the program runs."""
    graph = {
        ".".join(name): {".".join(t) for t in imports(path, types=False) if t in MODULES and t != name}
        for name, path in MODULES.items()
    }
    assert a_cycle(graph) == []


def test_comfyui_is_imported_in_its_engine_and_by_the_host_alone():
    own = {ROOT / "models" / "host.py", *package_files("models/diffusion/comfy")}
    wrong = [
        f"{path.relative_to(ROOT)} imports {target[1]}"
        for folder in ("models", "nodes", "training")
        for path in package_files(folder)
        for target in imports(path)
        if target[0] == "/" and target[1] in COMFYUI and path not in own
    ]
    assert wrong == []


def test_training_knows_no_node():
    wrong = [path for path in package_files("training") if any(t[0] in ("nodes", "workflows") for t in imports(path))]
    assert wrong == []


def test_nodes_take_their_choices_from_models():
    """`choice` is given names that models/ define, never names that are spelled out once more."""
    spelled = [
        f"{path.name}:{node.lineno}"
        for path in package_files("nodes")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "choice"
        if isinstance(node.args[0], (ast.List, ast.Tuple, ast.Set))
    ]
    assert spelled == []


@pytest.mark.parametrize("folder", ["models", "nodes"])
def test_files_and_functions_are_short(folder):
    files, functions = [], set()
    for path in package_files(folder):
        source = path.read_text(encoding="utf-8")
        if source.count("\n") > LONGEST_FILE:
            files.append(str(path.relative_to(ROOT)))
        for node in ast.walk(ast.parse(source)):
            is_function = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
            if is_function and node.end_lineno - node.lineno + 1 > LONGEST_FUNCTION:
                functions.add(f"{path.relative_to(ROOT).as_posix()}:{node.name}")
    assert files == []
    assert functions == {name for name in KNOWN_LONG if name.startswith(f"{folder}/")}
