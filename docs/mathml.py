"""Formulas as MathML, which browsers draw themselves: no script, no font file, no network.

docutils converts the TeX. A formula that it does not understand is a warning, and so the build fails.
"""

import html
import re

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util import logging

log = logging.getLogger(__name__)


def plain(tex: str) -> str:
    "TeX for docutils: one digit is one argument (`\\frac12`), `\\Big(` and `\\operatorname*` are known."
    tex = re.sub(r"\\([dt]?frac)\s*(\d)", r"\\\1{\2}", tex)
    tex = re.sub(r"(\\[dt]?frac\{[^{}]*\})\s*(\d)", r"\1{\2}", tex)
    tex = re.sub(r"(\\sqrt|[_^])\s*(\d)(?=\d)", r"\1{\2}", tex)
    tex = re.sub(r"\\(big|Big|bigg|Bigg)(?![A-Za-z])", r"\\\1l", tex)
    return tex.replace(r"\operatorname*", r"\operatorname")


def convert(tex: str, block: bool) -> str:
    "MathML of a formula, its TeX kept as a tooltip for copying. Raises MathError."
    markup = tex2mathml(plain(tex), as_block=block)
    return markup.replace("<math ", f'<math title="{html.escape(tex.strip())}" ', 1)


def _visit(self, node, block):
    tex = node.astext()
    try:
        markup = convert(tex, block)
    except MathError as problem:
        log.warning("formula %r cannot be converted to MathML: %s", tex, problem, location=node)
        markup = f"<code>{html.escape(tex)}</code>"
    anchor = "".join(f'<span id="{i}"></span>' for i in node.get("ids", ()))
    self.body.append(f'{anchor}<div class="formula">{markup}</div>' if block else f"{anchor}{markup}")
    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer(
        "mathml",
        (lambda self, node: _visit(self, node, False), None),
        (lambda self, node: _visit(self, node, True), None),
    )
    return {"parallel_read_safe": True, "parallel_write_safe": True}
