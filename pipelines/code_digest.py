"""Code digests: of a stage's own file and of every first-party file that it imports, directly or not.

The digest changes when the program could behave otherwise. It is taken from the syntax tree in an encoding of our own,
so comments, formatting, type-checking blocks, line numbers and the minor version of Python do not count; docstrings do
not either, except in a file that reads ``__doc__``. Imports inside functions and under conditions are followed: what
may run, counts. A first-party module whose name is computed cannot be followed, and is an error.

BOUNDARY names the modules that carry a step without being able to change its result: they are not followed, so a
change of the engine does not make everything run again.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pipelines.stage import BadInput

ENCODING = 1
ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("llava", "pipelines", "infra", "jobs")
BOUNDARY = (  # modules and packages of pipelines/ that only carry, keep or show what a stage makes
    "stage", "settings", "schema", "faults",  # the contract with a stage, and where the services are
    "store", "record", "artifact", "appendlog", "observations", "journal",  # where things are kept
    "keys", "code_digest", "identity", "sources", "spec",  # what a key stands for: its content enters by itself
    "dag", "pipeline", "recipe", "recipes", "plan", "history", "champions",  # what is to be done
    "drive", "engine", "attend", "work", "resources", "runners", "runs",  # when and where a step runs
    "attempt", "attempt_guard", "attempt_inputs", "attempt_log", "outcome",
    "display", "cli", "tracking", "spool", "mlflow_api", "mlflow_runs", "registry", "registry_mirror",  # what is shown
)
IMPORTERS = ("import_module", "__import__")


@dataclass(frozen=True, kw_only=True, slots=True)
class CodeDigest:
    """digest: of all nodes. nodes: file, relative to the repository -> its own digest."""

    digest: str
    nodes: Mapping[str, str]


def code_digest(entry_file: Path, package_data: Sequence[str] = (), root: Path = ROOT) -> CodeDigest:
    """Digest of the code that starts in ``entry_file``, and of the data files that it declares.

    package_data: globs from ``root``. Raises BadInput for a glob without a file, a syntax error, or a computed import.
    """
    entry_file = entry_file.resolve()
    nodes: dict[str, str] = {}
    todo = [(_name(entry_file, root), entry_file)]
    if (parts := _name(entry_file, root).split("/"))[0] in PACKAGES:
        todo += [(_name(f, root), f) for f in _files(".".join(parts[:-1]), root)]
    while todo:
        name, file = todo.pop()
        if name in nodes:
            continue
        nodes[name], imports = _read(file, root)
        for module in imports:
            todo += [(_name(f, root), f) for f in _files(module, root)]
    for glob in package_data:
        found = sorted(p for p in root.glob(glob) if p.is_file())
        if not found:
            raise BadInput(f"{_name(entry_file, root)}: package_data {glob!r} matches no file under {root}")
        for file in found:
            nodes[_name(file, root)] = hashlib.sha256(file.read_bytes()).hexdigest()
    listed = "".join(f"{name}\0{digest}\n" for name, digest in sorted(nodes.items()))
    return CodeDigest(digest=hashlib.sha256(listed.encode()).hexdigest(), nodes=dict(sorted(nodes.items())))


def is_boundary(module: str) -> bool:
    package, _, rest = module.partition(".")
    return package == "pipelines" and rest.partition(".")[0] in BOUNDARY


def _name(file: Path, root: Path) -> str:
    return file.relative_to(root).as_posix() if file.is_relative_to(root) else file.name


def _files(module: str, root: Path) -> Iterator[Path]:
    """The files that importing the module runs: each package on the way, and the module itself if there is one."""
    path = root
    for part in module.split("."):
        path = path / part
        if (path / "__init__.py").is_file():
            yield path / "__init__.py"
        elif path.with_suffix(".py").is_file():
            yield path.with_suffix(".py")
            return
        elif not path.is_dir():
            return


def _read(file: Path, root: Path) -> tuple[str, tuple[str, ...]]:
    package = _name(file, root).removesuffix(".py").split("/")[:-1]
    try:
        return _digest_and_imports(file.read_bytes(), ".".join(package), _name(file, root))
    except SyntaxError as error:
        raise BadInput(f"{file}:{error.lineno}: {error.msg}") from None


@lru_cache(maxsize=4096)
def _digest_and_imports(source: bytes, package: str, name: str) -> tuple[str, tuple[str, ...]]:
    tree = ast.parse(source)
    keep_docstrings = any(
        (isinstance(n, ast.Attribute) and n.attr == "__doc__") or (isinstance(n, ast.Name) and n.id == "__doc__")
        for n in ast.walk(tree))
    _Reduce(keep_docstrings).visit(tree)
    digest = hashlib.sha256(f"{ENCODING}\n".encode())
    for piece in _encode(tree):
        digest.update(piece.encode("utf-8", "surrogatepass"))
    return digest.hexdigest(), tuple(dict.fromkeys(_imports(tree, package, name)))


class _Reduce(ast.NodeTransformer):
    """Takes away what cannot change behaviour."""

    def __init__(self, keep_docstrings: bool) -> None:
        self.keep_docstrings = keep_docstrings

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        self.generic_visit(node)
        return node.orelse if _is_type_checking(node.test) else node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        """Pythons differ in how they cut the constant text of an f-string."""
        self.generic_visit(node)
        values: list[ast.expr] = []
        for value in node.values:
            last = values[-1] if values else None
            if isinstance(value, ast.Constant) and isinstance(last, ast.Constant):
                values[-1] = ast.Constant(value=f"{last.value}{value.value}")
            elif not (isinstance(value, ast.Constant) and value.value == ""):
                values.append(value)
        node.values = values
        return node

    def generic_visit(self, node: ast.AST) -> ast.AST:
        body = getattr(node, "body", None)
        if (isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and body
                and not self.keep_docstrings and isinstance(body[0], ast.Expr)
                and isinstance(body[0].value, ast.Constant) and isinstance(body[0].value.value, str)):
            node.body = body[1:]
        return super().generic_visit(node)


def _is_type_checking(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING")


def _encode(node: object) -> Iterator[str]:
    """Every field that says something, by name: fields that a newer Python adds are empty here and so do not count."""
    if isinstance(node, ast.Constant):
        yield f"={type(node.value).__name__}:{node.value!a};"  # repr of text depends on Python's Unicode tables
    elif isinstance(node, ast.AST):
        yield f"({type(node).__name__}"
        for field, value in sorted(ast.iter_fields(node)):
            if value is None or value == [] or field in ("ctx", "type_comment", "kind", "type_ignores"):
                continue
            yield f" {field}"
            yield from _encode(value)
        yield ")"
    elif isinstance(node, list):
        yield "["
        for item in node:
            yield from _encode(item)
        yield "]"
    else:
        yield f"={type(node).__name__}:{node!a};"


def _imports(tree: ast.AST, package: str, name: str) -> Iterator[str]:
    """First-party modules that the file imports, boundary modules left out."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node.module or "", node.level, package)
            modules = [base, *(f"{base}.{alias.name}" for alias in node.names if alias.name != "*")]
        elif isinstance(node, ast.Call) and _called(node) in IMPORTERS:
            modules = _dynamic(node, package, name)
        else:
            continue
        yield from (m for m in modules if m.partition(".")[0] in PACKAGES and not is_boundary(m))


def _absolute(module: str, level: int, package: str) -> str:
    if not level:
        return module
    parts = package.split(".")
    return ".".join([*parts[:len(parts) - level + 1], *([module] if module else [])])


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def _dynamic(node: ast.Call, package: str, name: str) -> list[str]:
    argument = node.args[0] if node.args else next((k.value for k in node.keywords if k.arg == "name"), None)
    if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
        level = len(argument.value) - len(argument.value.lstrip("."))
        return [_absolute(argument.value.lstrip("."), level, package)]
    head = argument.values[0] if isinstance(argument, ast.JoinedStr) and argument.values else None
    first, dot, _ = str(head.value).partition(".") if isinstance(head, ast.Constant) else ("", "", "")
    if first and dot and first not in PACKAGES:
        return []
    raise BadInput(f"{name}:{node.lineno}: {_called(node)} of a computed name: what it imports cannot enter the step's "
                   f"key; import the module by its name")
