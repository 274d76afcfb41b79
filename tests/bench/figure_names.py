"""The names that the benches' modules give to figures are read from their text: what they spell out, up to the first
gap."""

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

Function = ast.FunctionDef | ast.AsyncFunctionDef
Printers = dict[str, tuple[int, str]]  # function -> the place of the argument that names a figure, and its word


@dataclass(frozen=True)
class Module:
    """A file under the benches' folder; `parts` are room, folders and name."""

    parts: tuple[str, ...]
    tree: ast.Module = field(compare=False)

    def __str__(self) -> str:
        return ".".join(self.parts)


@dataclass(frozen=True)
class Naming:
    """An expression that names a figure, in the function (none: the module's body) that passes it to a printer."""

    name: ast.expr
    function: Function | None


def read_modules(folder: Path) -> list[Module]:
    """Reads the modules in the benches' folders. What runs inside other servers is not ours."""
    paths = [path for path in sorted(folder.rglob("*.py")) if "inside" not in path.parts]
    relative = [(path, path.relative_to(folder).with_suffix("").parts) for path in paths]
    return [Module(parts, ast.parse(path.read_text(encoding="utf-8"))) for path, parts in relative if len(parts) > 1]


def find_names(modules: Sequence[Module]) -> dict[Module, set[str]]:
    """Returns what each module spells. A name that is an argument counts for the callers. Raises ValueError for a name
    that spells nothing."""
    printers: Printers = {"print_figure": (0, "name")}
    found = dict[Module, set[str]]()
    size = 0
    while len(printers) > size:  # until no further function is found that passes its argument on
        size = len(printers)
        found = {module: set(_names_of(module, printers)) for module in modules}
    return found


def _names_of(module: Module, printers: Printers) -> Iterator[str]:
    """Returns what it spells; functions that pass an argument on are added to the printers."""
    for naming in list(_namings(module, printers)):
        spelt = _spell(naming.name, naming.function)
        if isinstance(spelt, str):
            yield spelt
        elif spelt is None or naming.function is None:
            raise ValueError(f"{module}, line {naming.name.lineno}: the figure's name cannot be read")
        else:
            words = [argument.arg for argument in naming.function.args.args]
            printers[naming.function.name] = (words.index(spelt.arg), spelt.arg)


def _namings(module: Module, printers: Printers) -> Iterator[Naming]:
    functions = [node for node in ast.walk(module.tree) if isinstance(node, Function)]
    inside = {call: function for function in functions for call in ast.walk(function) if isinstance(call, ast.Call)}
    for call in (node for node in ast.walk(module.tree) if isinstance(node, ast.Call)):
        called = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        if called in printers:
            place, word = printers[called]
            given = {keyword.arg: keyword.value for keyword in call.keywords}
            yield Naming(given[word] if word in given else call.args[place], inside.get(call))


def _spell(name: ast.expr, function: Function | None) -> str | ast.arg | None:
    """Returns the beginning of a name or the argument that it comes from; None where neither is known."""
    match name:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=[ast.Constant(value=str(text)), *_]):
            return text
        case ast.JoinedStr(values=[ast.FormattedValue(value=begin), *_]):
            return _spell(begin, function)
        case ast.Name(id=word) if function is not None:
            assigned = list(_assigned(function, word))
            arguments = [argument for argument in function.args.args if argument.arg == word]
            if len(assigned) == 1 and not arguments:
                return _spell(assigned[0], function)
            return arguments[0] if arguments and not assigned else None
    return None


def _assigned(function: Function, word: str) -> Iterator[ast.expr]:
    """Returns what a variable of the function stands for, once for each assignment."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assign):
            yield from (node.value for one in node.targets if isinstance(one, ast.Name) and one.id == word)
