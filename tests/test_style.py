"""How the notebooks' code is written: short cells, short lines, one statement a line, whole classes."""

import ast
import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "docs"))

from lessons import lessons  # noqa: E402

LONGEST_CELL, LONGEST_LINE = 40, 110  # lines, characters
NOTEBOOKS = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def code_cells(path):
    "(exported, source) of each code cell; directives and magics are left out of the source."
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] != "code":
            continue
        lines = "".join(cell["source"]).splitlines()
        exported = any(line.startswith("#|") and "export" in line for line in lines)
        yield exported, "\n".join(line for line in lines if not line.startswith(("#|", "%", "!")))


def is_stacked(tree):
    "Lines that hold more than one statement, or a statement behind a colon."
    for node in ast.walk(tree):
        for name in ("body", "orelse", "finalbody"):
            block = getattr(node, name, None)
            if not isinstance(block, list):
                continue
            starts = [statement.lineno for statement in block]
            yield from (line for line in starts if starts.count(line) > 1)
            if not isinstance(node, ast.Module) and starts and starts[0] == getattr(node, "lineno", None):
                yield starts[0]


def tuple_assignments(tree):
    "Lines on which three names or more are given a tuple of as many values."
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple) and len(node.value.elts) > 2:
            if isinstance(node.targets[0], ast.Tuple):
                yield node.lineno


def deep_comprehensions(tree):
    "Lines of comprehensions that hold one that holds another."
    for outer in ast.walk(tree):
        if not isinstance(outer, COMPREHENSIONS):
            continue
        for middle in ast.walk(outer):
            if middle is outer or not isinstance(middle, COMPREHENSIONS):
                continue
            if any(inner is not middle and isinstance(inner, COMPREHENSIONS) for inner in ast.walk(middle)):
                yield outer.lineno


def pieced_classes(tree):
    "Lines at the top level that give a class, or an imported module, an attribute afterwards."
    for node in tree.body:
        if not isinstance(node, ast.Assign):
            continue
        targets = [t for target in node.targets for t in getattr(target, "elts", [target])]
        if any(isinstance(t, ast.Attribute) and isinstance(t.value, ast.Name) for t in targets):
            yield node.lineno


RULES = {
    "more than one statement in a line": is_stacked,
    "three names or more assigned from a tuple": tuple_assignments,
    "comprehensions three deep": deep_comprehensions,
    "an attribute given to a class afterwards (use @patch, or write the class whole)": pieced_classes,
}


def faults(path):
    "Everything in a notebook that the house does not want, as `cell n: what`."
    found = []
    for number, (exported, source) in enumerate(code_cells(path), 1):
        lines = source.splitlines()
        if exported and len(lines) > LONGEST_CELL:
            found.append(f"code cell {number}: {len(lines)} lines, {LONGEST_CELL} at most")
        for line in lines:
            if len(line) > LONGEST_LINE:
                found.append(f"code cell {number}: {len(line)} characters: {line.strip()[:60]}…")
        tree = ast.parse(source)
        for what, rule in RULES.items():
            if what.startswith("an attribute") and not exported:
                continue
            found += [
                f"code cell {number}, line {line}: {what}: {lines[line - 1].strip()[:60]}"
                for line in rule(tree)
            ]
    return found


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.relative_to(ROOT / "nbs").as_posix())
def test_code_reads_well(path):
    found = faults(path)
    assert not found, "\n".join([path.name, *found])


@pytest.mark.parametrize(
    "source,what",
    [
        ("#| export\nif x: y = 1", "more than one statement"),
        ("#| export\na = 1; b = 2", "more than one statement"),
        ("#| export\na, b, c = 1, 2, 3", "three names"),
        ("#| export\n[[[a for a in b] for b in c] for c in d]", "three deep"),
        ("#| export\nA.run = run", "an attribute given"),
        ("#| export\n" + "x = 1\n" * 41, "41 lines"),
        ("x = " + "1" * 120, "124 characters"),
    ],
)
def test_the_rules_find_what_they_are_for(tmp_path, source, what):
    cell = {"cell_type": "code", "source": source, "metadata": {}, "outputs": [], "execution_count": None}
    (tmp_path / "bad.ipynb").write_text(json.dumps({"cells": [cell]}))
    assert any(what in fault for fault in faults(tmp_path / "bad.ipynb"))


# ---------------------------------------------------------------- what lessons show

VALUES = (ast.Name, ast.Attribute, ast.Subscript, ast.BinOp, ast.Tuple, ast.JoinedStr, ast.List, ast.Dict)


def silent(path):
    "Cells that end in a value, are seen by readers, and hold no output: they were never executed."
    for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"], 1):
        source = "".join(cell["source"])
        unseen = re.search(r"^#\| *(export|hide)", source, re.M)
        if cell["cell_type"] != "code" or cell["outputs"] or unseen or source.startswith("%"):
            continue
        *_, last = ast.parse(source).body or [None]
        if isinstance(last, ast.Expr) and isinstance(last.value, VALUES):
            yield f"cell {number}: {ast.unparse(last)}"


@pytest.mark.parametrize("path", lessons(), ids=lambda p: p.relative_to(ROOT / "nbs").as_posix())
def test_lessons_show_their_values(path):
    found = list(silent(path))
    assert not found, f"execute it with docs/lessons.py: {found}"


@pytest.mark.parametrize(
    "source,outputs,found",
    [
        ("a = 1\na", [], 1),
        ("a.mean(), 2", [], 1),
        ("a = 1\na", [{"output_type": "stream"}], 0),
        ("#| hide\na", [], 0),
        ("a = 1", [], 0),
        ("a.close()", [], 0),
    ],
)
def test_a_value_that_is_not_shown_is_found(tmp_path, source, outputs, found):
    cell = {"cell_type": "code", "source": source, "metadata": {}, "outputs": outputs}
    (tmp_path / "a.ipynb").write_text(json.dumps({"cells": [cell]}))
    assert len(list(silent(tmp_path / "a.ipynb"))) == found
