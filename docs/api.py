"""API pages from the modules: signatures, docstrings, and the comments behind parameters (docments)."""

import ast
import dataclasses
import functools
import importlib
import inspect
import re
import sys
import types

from fastcore.docments import docments


def prose(text: str | None) -> str:
    "A docstring or comment as Markdown: what is code stays code, and no other character has a meaning."
    if not text:
        return ""
    parts = re.split(r"(`+[^`]+`+)", inspect.cleandoc(text))
    for i in range(0, len(parts), 2):
        parts[i] = re.sub(r"([\\*_\[\]<>$#|{}~^])", r"\\\1", parts[i])
    return "".join(parts)


def cell(text: str) -> str:
    "Text in one cell of a table."
    return re.sub(r"\s*\n\s*", " ", text).replace(r"\\|", r"\|")


def code(text: str) -> str:
    text = re.sub(r"\s+", " ", text)
    return f"`` {text} ``" if "`" in text else f"`{text}`"


@functools.cache
def _parsed(module: str) -> tuple:
    "(lines, tree, definitions by first line) of a module, read once."
    source = inspect.getsource(sys.modules[module])
    tree = ast.parse(source)
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    first = {
        min([n.lineno, *(d.lineno for d in n.decorator_list)]): n
        for n in ast.walk(tree)
        if isinstance(n, kinds)
    }
    return source.splitlines(), tree, first


def _tree(thing):
    "The syntax of a function or class of ours; nothing for what comes from elsewhere."
    if not getattr(thing, "__module__", "").startswith("mvnb"):
        return None
    _, tree, first = _parsed(thing.__module__)
    if inspect.isclass(thing):
        return next((n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == thing.__name__), None)
    return first.get(thing.__code__.co_firstlineno) if hasattr(thing, "__code__") else None


def _arguments(function) -> list[tuple]:
    "(shown name, bare name, type, default) of a function, as its source has them."
    node = _tree(inspect.unwrap(function))
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return [(n, n, "", "") for n in inspect.signature(function).parameters]
    a, out = node.args, []
    plain = [*a.posonlyargs, *a.args]
    defaults = [None] * (len(plain) - len(a.defaults)) + list(a.defaults)
    text = lambda n: ast.unparse(n) if n is not None else ""
    for arg, default in zip(plain, defaults):
        out.append((arg.arg, arg.arg, text(arg.annotation), text(default)))
    if a.vararg:
        out.append(("*" + a.vararg.arg, a.vararg.arg, text(a.vararg.annotation), ""))
    elif a.kwonlyargs:
        out.append(("*", "", "", ""))
    for arg, default in zip(a.kwonlyargs, a.kw_defaults):
        out.append((arg.arg, arg.arg, text(arg.annotation), text(default)))
    if a.kwarg:
        out.append(("**" + a.kwarg.arg, a.kwarg.arg, text(a.kwarg.annotation), ""))
    return out


def _fields(cls) -> tuple[list[tuple], dict]:
    "Fields of a dataclass or named tuple as its source has them, and the comments behind them."
    node, lines = _tree(cls), _parsed(cls.__module__)[0]
    text = lambda n: ast.unparse(n) if n is not None else ""
    fields = [n for n in node.body if isinstance(n, ast.AnnAssign)] if node else []
    behind = {
        n.target.id: re.search(r"#\s*(.+)$", lines[n.end_lineno - 1].encode()[n.end_col_offset :].decode())
        for n in fields
    }
    return [(n.target.id, n.target.id, text(n.annotation), text(n.value)) for n in fields], {
        k: m[1] for k, m in behind.items() if m
    }


def _comments(function) -> dict:
    "Meaning of each parameter, and of what is returned."
    return docments(function) if _tree(inspect.unwrap(function)) else {}  # docments needs source


def _signature(arguments) -> str:
    return ", ".join(shown + (f"={default}" if default else "") for shown, _, _, default in arguments)


def _short(default: str) -> str:
    return default if len(default) <= 60 else default[:57] + "…"


def table(arguments, comments, types_, head="parameter") -> str:
    "Parameters with type, default and meaning, as a Markdown table."
    rows = []
    for shown, bare, kind, default in arguments:
        if not bare or bare in ("self", "cls"):
            continue
        about = prose(comments.get(bare))
        kind = types_(kind) if kind else ""
        rows.append((code(shown), kind, code(_short(default)) if default else "", cell(about)))
    if not rows or not any(k or d or m for _, k, d, m in rows):
        return ""
    keep = [
        i for i, _ in enumerate(("name", "type", "default", "meaning")) if i == 0 or any(r[i] for r in rows)
    ]
    names = (head, "type", "default", "meaning")
    line = lambda values: (
        "| " + " | ".join(v.replace("|", r"\|") if "`" in v and r"\|" not in v else v for v in values) + " |"
    )
    return "\n".join(
        [
            line([names[i] for i in keep]),
            line(["---"] * len(keep)),
            *(line([r[i] for i in keep]) for r in rows),
        ]
    )


def split_raises(doc: str | None) -> tuple[str, str]:
    "A docstring without its sentences on errors, and those."
    if not doc:
        return "", ""
    sentences = re.split(r"(?<=[.!?;])\s+(?=[A-Z`])", inspect.cleandoc(doc))
    raised = [s for s in sentences if re.match(r"Raises\b", s)]
    return " ".join(s for s in sentences if s not in raised) if raised else inspect.cleandoc(doc), " ".join(
        raised
    )


class Api:
    "Writes one page per module and an index of them."

    def __init__(self, site):
        self.site, self.types = site, {}
        self.modules = {name: importlib.import_module(f"mvnb.{name}") for name in site.modules}
        for name, module in self.modules.items():
            for public in module.__all__:
                if inspect.isclass(getattr(module, public)):
                    self.types.setdefault(public, f"mvnb.{name}.{public}")

    def type(self, text: str) -> str:
        "A type, with a link where it is one of ours."
        text = re.sub(r"^['\"](.*)['\"]$", r"\1", text)
        bare = text.split(".")[-1]
        return f"{{py:obj}}`{text} <{self.types[bare]}>`" if bare in self.types else code(text)

    def write(self):
        for name, module in self.modules.items():
            self.site.write(f"api/{name}.md", self.page(name, module))
        rows = [
            f"- **[mvnb.{n}](#api-{n})**: {cell(prose(inspect.getdoc(m)))}\\\n  {self.names(n, m)}"
            for n, m in self.modules.items()
        ]
        self.site.write(
            "api/index.md",
            "\n".join(
                [
                    "(api)=",
                    "# API",
                    "",
                    "> Every public name of the library, with its parameters, shapes and units.",
                    "",
                    "Written from the source at build time. Each module is exported from a notebook of [the "
                    "library](../library/index.md), and every entry links to the cell that defines it. "
                    "Shapes: clips are `[C,T,H,W]`, batches `[B,C,T,H,W]`.",
                    "",
                    *rows,
                    "",
                    "```{toctree}",
                    ":hidden:",
                    "",
                    *self.modules,
                    "```",
                    "",
                ]
            ),
        )

    def names(self, name, module):
        found = [n for n in module.__all__ if callable(getattr(module, n))]
        return ", ".join(f"{{py:obj}}`{n} <mvnb.{name}.{n}>`" for n in found)

    def page(self, name, module):
        notebook = self.site.modules[name]
        lines = _positions(module)
        ordered = sorted(module.__all__, key=lambda n: (lines.get(n, 10**6), n))
        entries = [self.entry(name, module, n, lines) for n in ordered]
        return (
            "\n\n".join(
                [
                    f"(api-{name})=",
                    f"# mvnb.{name}",
                    f"> {cell(prose(inspect.getdoc(module)))}",
                    f"Defined in the notebook [{self.site.titles[notebook]}](../{notebook}).",
                    f"```{{py:module}} mvnb.{name}\n```",
                    *entries,
                ]
            )
            + "\n"
        )

    def lesson(self, module, *names) -> str:
        for n in names:
            if label := self.site.cells.get(f"{module}.{n}"):
                return f"[{{octicon}}`code` source in the notebook](#{label}){{.source}}"
        return ""

    def entry(self, name, module, public, lines):
        thing = getattr(module, public)
        if inspect.isclass(thing):
            return self.cls(name, public, thing)
        if isinstance(inspect.unwrap(thing) if callable(thing) else thing, types.FunctionType):
            return directive(
                "function",
                f"{public}({_signature(_arguments(thing))})",
                self.function(thing),
                self.lesson(name, public),
            )
        comment, value = _assignment(module, public)
        body = "\n\n".join(t for t in (prose(comment), f"```python\n{value}\n```" if value else "") if t)
        return directive("data", public, body, self.lesson(name, public))

    def function(self, thing) -> str:
        about, raised = split_raises(thing.__doc__)
        comments, arguments = _comments(thing), _arguments(thing)
        parts = [prose(about), table(arguments, comments, self.type)]
        node = _tree(inspect.unwrap(thing))
        kind = ast.unparse(node.returns) if getattr(node, "returns", None) is not None else ""
        back = comments.get("return")
        if (kind and kind != "None") or back:
            parts.append(
                "**Returns** "
                + " — ".join(t for t in (self.type(kind) if kind else "", cell(prose(back))) if t)
            )
        if raised:
            parts.append("**Raises** " + prose(re.sub(r"^Raises\s+", "", raised)))
        return "\n\n".join(p for p in parts if p)

    def cls(self, name, public, thing):
        about, raised = split_raises(thing.__doc__ if "__doc__" in vars(thing) else "")
        if about.startswith(f"{public}("):
            about = ""  # written by dataclass or namedtuple
        record = dataclasses.is_dataclass(thing) or (issubclass(thing, tuple) and hasattr(thing, "_fields"))
        own_init = "__init__" in vars(thing) and not record
        arguments, comments = _fields(thing) if record else ([], {})
        if own_init:
            arguments, comments = (
                [a for a in _arguments(thing.__init__) if a[1] != "self"],
                _comments(thing.__init__),
            )
        parts = [prose(about), table(arguments, comments, self.type, "field" if record else "parameter")]
        if raised:
            parts.append("**Raises** " + prose(re.sub(r"^Raises\s+", "", raised)))
        parts.append(self.lesson(name, public))
        for member, value in vars(thing).items():
            if member.startswith("_") or (
                record and member in getattr(thing, "__dataclass_fields__", getattr(thing, "_fields", ()))
            ):
                continue
            if text := self.member(name, member, value):
                parts.append(text)
        bases = [b.__name__ for b in thing.__bases__ if b not in (object, tuple)]
        if bases and not record:
            parts.insert(1, "A kind of " + ", ".join(self.type(b) for b in bases) + ".")
        kind = "exception" if issubclass(thing, BaseException) else "class"
        shown = f"{public}({_signature(arguments)})" if arguments else public
        return directive(kind, shown, "\n\n".join(p for p in parts if p), colons=4)

    def member(self, name, member, value):
        inner = value.__func__ if isinstance(value, classmethod | staticmethod) else value
        if isinstance(value, property):
            node, comments = _tree(value.fget), _comments(value.fget)
            kind = ast.unparse(node.returns) if getattr(node, "returns", None) is not None else ""
            back = comments.get("return")
            about = " — ".join(
                t
                for t in (self.type(kind) if kind else "", cell(prose(value.__doc__)), cell(prose(back)))
                if t
            )
            return directive("property", member, about, self.lesson(name, value.fget.__name__))
        if isinstance(inner, types.FunctionType):
            arguments = [a for a in _arguments(inner) if a[1] not in ("self", "cls")]
            kind = (
                "staticmethod"
                if isinstance(value, staticmethod)
                else "classmethod"
                if isinstance(value, classmethod)
                else "method"
            )
            return directive(
                kind,
                f"{member}({_signature(arguments)})",
                self.function(inner),
                self.lesson(name, inner.__name__),
            )
        return ""


def directive(kind, signature, body, link="", colons=3):
    fence = ":" * colons
    return (
        f"{fence}{{py:{kind}}} {signature}\n\n{body}\n\n{link}\n{fence}"
        if body or link
        else f"{fence}{{py:{kind}}} {signature}\n{fence}"
    )


def _positions(module) -> dict:
    "Line on which each name of a module is defined."
    out = {}
    for node in _parsed(module.__name__)[1].body:
        for name in _names(node):
            out.setdefault(name, node.lineno)
    return out


def _names(node) -> list[str]:
    if isinstance(node, ast.Assign | ast.AnnAssign):
        return [n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
    return [node.name] if hasattr(node, "name") else []


def _assignment(module, name) -> tuple[str, str]:
    "Comment and source of a constant; a long source is left to the notebook."
    lines, tree, _ = _parsed(module.__name__)
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and name in _names(node):
            source = "\n".join(lines[node.lineno - 1 : node.end_lineno])
            last = lines[node.end_lineno - 1].encode()[node.end_col_offset :].decode()
            comment = re.search(r"#\s*(.+)$", last)
            if comment:
                source = source.removesuffix(last).rstrip()
            return (comment[1] if comment else ""), source if len(source) <= 400 else ""
    return "", ""
