"""The code that a result depends on: every definition that a function can reach, read from the source.

A list of files kept by hand goes stale without a message: a file that is moved drops out of it, and a file that is
added never gets in. Here a benchmark names the functions that make its results, and the rest follows from the names
that these use. A function that moves to another file, a file that is split, a new comment, docstring, import or type
of an argument changes nothing; a changed line in any function that is reached changes the digest.

What is followed: names of functions, classes and constants at a module's top level, imports (also those inside
functions) of this package, and attributes of imported modules. A module that is passed around as an object counts as
a whole. Statements of a reached module that bind no name (a table that is filled) count always. What is not followed:
other packages (the fingerprint has their versions) and names that are made up at run time (`getattr` on a module).
"""

from __future__ import annotations

import ast
import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from ..models.errors import UserError

PACKAGE = Path(__file__).parent.parent


class _Bare(ast.NodeTransformer):
    """Code without what changes no result: docstrings, imports, and the types of arguments and local variables.
    Types of a class's fields stay, because configurations are read by them."""

    def visit_Import(self, node: ast.AST) -> None:
        return None

    visit_ImportFrom = visit_Import

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        is_text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if is_text else self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.AST:
        node.returns = None
        for inner in ast.walk(node):
            if isinstance(inner, ast.arg):
                inner.annotation = None
            elif isinstance(inner, ast.AnnAssign):
                inner.annotation = ast.Constant(None)
        return self.generic_visit(node)

    visit_AsyncFunctionDef = visit_FunctionDef


class _Module:
    """One file: its top-level definitions by name, the statements that bind no name, and what it imports from this
    package as local name -> (file, name in it; "" for the module itself)."""

    def __init__(self, path: Path):
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
        self.path = path
        self.imports: dict[str, list[tuple[Path, str]]] = defaultdict(list)
        for local, file, name in _imports(tree, path):
            self.imports[local].append((file, name))
        self.definitions: dict[str, list[ast.stmt]] = defaultdict(list)
        self.always: list[ast.stmt] = []
        for statement in _Bare().visit(tree).body:
            if isinstance(statement, ast.If) and not statement.body and not statement.orelse:
                continue  # `if TYPE_CHECKING:` with imports alone
            names = _bound(statement)
            if not names:
                self.always.append(statement)
            for name in names:
                self.definitions[name].append(statement)


def _bound(statement: ast.stmt) -> set[str]:
    """The names that a top-level statement binds."""
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return {statement.name}
    names = {n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    inside = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)  # of a try or an if
    return names | {n.name for n in ast.walk(statement) if isinstance(n, inside)}


def _file(parts: Sequence[str]) -> Path | None:
    """The file of a module of this package."""
    folder = PACKAGE.joinpath(*parts)
    return next((p for p in (folder.with_name(f"{folder.name}.py"), folder / "__init__.py") if p.is_file()), None)


def _imports(tree: ast.AST, path: Path) -> Iterator[tuple[str, Path, str]]:
    """(local name, file, name in it) of each relative import. UserError where there is no such file."""
    package = path.relative_to(PACKAGE).parts[:-1]
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        base = package[: len(package) + 1 - node.level] + tuple(node.module.split(".") if node.module else ())
        for alias in node.names:
            own = _file((*base, alias.name))
            module = own or _file(base)
            if module is None:
                raise UserError(
                    f"{path.relative_to(PACKAGE)}, line {node.lineno}, imports {alias.name} from {'.'.join(base)}, "
                    "which is not a module of this package: correct the import."
                )
            yield alias.asname or alias.name, module, "" if own else alias.name


@lru_cache(maxsize=512)
def _module(path: Path) -> _Module:
    return _Module(path)


def _used(module: _Module, statement: ast.stmt) -> Iterator[tuple[Path, str]]:
    """What a statement mentions, as (file, name); "" means the whole module."""
    attributes: dict[int, str] = {
        id(node.value): node.attr for node in ast.walk(statement) if isinstance(node, ast.Attribute)
    }
    for node in ast.walk(statement):
        if not isinstance(node, ast.Name):
            continue
        if node.id in module.definitions:
            yield module.path, node.id
        for file, name in module.imports.get(node.id, ()):
            yield file, name or attributes.get(id(node), "")


def _next(file: Path, name: str) -> Iterable[tuple[Path, str]]:
    """Where a name of a module comes from, if the module does not define it itself: an import, or a module of the
    folder."""
    module = _module(file)
    if name in module.imports:
        return module.imports[name]
    inner = _file((*file.relative_to(PACKAGE).parts[:-1], name)) if file.name == "__init__.py" else None
    return [(inner, "")] if inner else []


def _start(root: str) -> tuple[Path, str]:
    """A root as (file, name). UserError where there is no such module, or no such name in it."""
    where, _, name = root.partition(":")
    file = _file(where.split("."))
    if file is None:
        raise UserError(
            f"A benchmark depends on '{root}', but this package has no module {where}. It was moved or renamed: "
            "name it as it is called now, or results of old code pass for new ones."
        )
    if name and name not in _module(file).definitions and not _next(file, name):
        raise UserError(
            f"A benchmark depends on '{root}', but {file.relative_to(PACKAGE)} defines no {name}. It was moved or "
            "renamed: name it as it is called now, or results of old code pass for new ones."
        )
    return file, name


def reached(roots: Iterable[str]) -> set[tuple[str, str]]:
    """(file, name) of every top-level definition that the roots can reach; the name is "" for statements that bind
    none.

    roots  "models.gram:transfer" (a definition) or "models.gram" (everything in that module), below the package
    """
    return {(file.relative_to(PACKAGE).as_posix(), name) for file, name, _ in _statements(roots)}


def _statements(roots: Iterable[str]) -> Iterator[tuple[Path, str, ast.stmt]]:
    todo = [_start(root) for root in roots]
    seen: set[tuple[Path, str]] = set()
    entered: set[Path] = set()
    while todo:
        file, name = todo.pop()
        if (file, name) in seen:
            continue
        seen.add((file, name))
        module = _module(file)
        statements = [(name, s) for s in module.definitions.get(name, ())]
        if not name:
            todo += [(file, each) for each in module.definitions]
            if file.name == "__init__.py":  # what it offers is what it imports
                todo += [target for targets in module.imports.values() for target in targets]
        elif not statements:
            todo += _next(file, name)
        if file not in entered:
            entered.add(file)
            statements += [("", s) for s in module.always]
        for own, statement in statements:
            yield file, own, statement
            todo += _used(module, statement)


def digest(roots: Iterable[str]) -> bytes:
    """SHA-256 over the definitions that the roots can reach, whatever their files and order."""
    parts = {hashlib.sha256(ast.dump(statement).encode()).digest() for _, _, statement in _statements(roots)}
    return hashlib.sha256(b"".join(sorted(parts))).digest()
