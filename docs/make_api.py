"""docs/api.md, from the docstrings of the library: `python docs/make_api.py docs/api.md` (without a file: prints it).

Read by griffe, so that nothing is imported: neither Keras nor MLX has to be installed.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import griffe

ROOT = Path(__file__).resolve().parent.parent
OPENING = """\
# API reference of the library

<!-- made by python docs/make_api.py docs/api.md; edit the docstrings instead -->

What the names of [library.md](library.md) take and give, from their docstrings. Axes: `*` any leading axes, `B` batch,
`S` streams, `C` width, `W` width of a stream (`C`, unless segments divide it) or an image, `H` height, `N` positions.
A wrong shape or value raises a `ValueError` that says what is right, a variant or key that is not there
`mhc_exp.config.build.ConfigError`, a model that cannot be split `CannotInject`.

"""
PACKAGES = {
    "PyTorch": ("mhc_exp.torch", "mhc_exp.torch.library"),
    "MLX": ("mhc_exp.mlx", "mhc_exp.mlx.library"),
    "Keras": ("mhc_exp.keras", "mhc_exp.keras"),
    "Lightning": ("mhc_exp.torch.library.lightning", "mhc_exp.torch.library.lightning"),
    "Trainer of transformers": ("mhc_exp.torch.library.transformers", "mhc_exp.torch.library.transformers"),
}
"""Title -> where a user imports from, and the module whose `__all__` or own classes these names are."""
PLAIN = {"extra_repr", "build", "compute_output_shape", "get_config", "from_config"}
"""Methods that a framework calls."""


def document() -> str:
    """All of the page."""
    loader = griffe.GriffeLoader(search_paths=[ROOT], allow_inspection=False)
    parts = [OPENING]
    chapters = {title: (taken, _names(loader, module)) for title, (taken, module) in PACKAGES.items()}
    for title, (taken, names) in chapters.items():
        links = ", ".join(f"[{name}](#{_anchor(title, name)})" for name in names)
        parts.append(f"- **{title}**, `{taken}`: {links}\n")
    for title, (taken, names) in chapters.items():
        parts.append(f"\n## {title}\n\n`from {taken} import ...`\n")
        for name, found in names.items():
            parts.append(f'\n<a id="{_anchor(title, name)}"></a>\n\n### {name}\n\n{_described(found)}')
    return "".join(parts)


def _names(loader: griffe.GriffeLoader, module: str) -> dict[str, griffe.Class | griffe.Function]:
    """Public classes and functions of a module, by name."""
    own = loader.load(module)
    loader.resolve_aliases(external=False)
    names = own.exports or [name for name, one in own.members.items() if isinstance(one, griffe.Class)]
    found = {str(name): own.members[str(name)] for name in names}
    return {name: one.final_target if isinstance(one, griffe.Alias) else one for name, one in sorted(found.items())}  # type: ignore[misc]


def _anchor(title: str, name: str) -> str:
    return f"{title.split()[0].lower()}-{name}"


def _described(found: griffe.Class | griffe.Function) -> str:
    """Signature and docstring; of a class those of its arguments and public methods too."""
    if isinstance(found, griffe.Function):
        return _code(_signature(found, found.name)) + _text(found)
    error = not found.parameters and found.bases
    parts = [_code(f"class {found.name}({found.bases[0]})" if error else _signature(found, found.name)), _text(found)]
    documented = [one for one in found.parameters if one.name in found.members and found.members[one.name].docstring]
    if documented:  # the fields of a dataclass or NamedTuple
        parts += ["\n", *(f"- `{one.name}`: {_text(found.members[one.name])}" for one in documented)]
    for method in _methods(found):
        called = method.name in ("__call__", "forward", "call")
        title = found.name + ("(...)" if called else f".{method.name}")
        parts += ["\n", _code(_signature(method, title)), _text(method)]
    return "".join(parts)


def _methods(found: griffe.Class) -> list[griffe.Function]:
    """Its public methods that say something, those of bases in the same module included."""
    called = [one for one in _members(found).values() if isinstance(one, griffe.Function)]
    shown = [one for one in called if one.name == "__call__" or not one.name.startswith("_")]
    return [one for one in shown if one.docstring and one.name not in PLAIN]


def _members(found: griffe.Class) -> dict[str, griffe.Object | griffe.Alias]:
    members: dict[str, griffe.Object | griffe.Alias] = {}
    for base in reversed(found.bases):
        inherited = found.module.members.get(str(base))
        members |= _members(inherited) if isinstance(inherited, griffe.Class) else {}
    return members | dict(found.members)


def _signature(found: griffe.Class | griffe.Function, title: str) -> str:
    """As written, a parameter per line where one line is too long."""
    words = list(_parameters(found))
    returned = f" -> {found.returns}" if isinstance(found, griffe.Function) and found.returns else ""
    line = f"{title}({', '.join(words)}){returned}"
    if len(line) <= 110:
        return line
    return f"{title}(\n" + "".join(f"    {word},\n" for word in words) + f"){returned}"


def _parameters(found: griffe.Class | griffe.Function) -> Iterator[str]:
    star = False
    for one in found.parameters:
        if one.name in ("self", "cls"):
            continue
        if one.kind is griffe.ParameterKind.keyword_only and not star:
            yield "*"
            star = True
        star |= one.kind is griffe.ParameterKind.var_positional
        sign = {griffe.ParameterKind.var_positional: "*", griffe.ParameterKind.var_keyword: "**"}.get(one.kind, "")
        kind = f": {one.annotation}" if one.annotation else ""
        value = f"{' = ' if kind else '='}{one.default}" if one.default is not None and not sign else ""
        yield f"{sign}{one.name}{kind}{value}".replace("'", '"')


def _code(text: str) -> str:
    return f"```py\n{text}\n```\n\n"


def _text(found: griffe.Object) -> str:
    """The docstring: the asterisks of shapes are kept from becoming emphasis, what is indented becomes a block."""
    if found.docstring is None:
        raise ValueError(f"{found.path} is public and has no docstring; write one ({found.filepath}:{found.lineno})")
    paragraphs = found.docstring.value.split("\n\n")
    return "\n\n".join(_block(one) if one.startswith("    ") else _escaped(one) for one in paragraphs) + "\n"


def _block(text: str) -> str:
    return _code(textwrap.dedent(text)).rstrip()


def _escaped(text: str) -> str:
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else re.sub(r"([*_])", r"\\\1", part) for part in parts)


if __name__ == "__main__":
    page = document()
    for file in sys.argv[1:]:
        Path(file).write_text(page, encoding="utf-8")
    if not sys.argv[1:]:
        print(page, end="")
