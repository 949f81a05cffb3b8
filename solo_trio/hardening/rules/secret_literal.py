"""Rule `secret_literal`. Owns: what looks like a secret in the source. Never: shows it.

Forms of tokens are those that their makers publish so that they can be found (GitHub's list of secret scanning patterns).
"""

from __future__ import annotations

import ast
import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Final

from solo_trio.hardening.finding import Found, Rule, shown
from solo_trio.hardening.module import Module

TEXT_CHARACTERS_MAX: Final = 4_096
"""Of a text, as much is looked at; a secret is shorter, or begins early."""
LENGTH_MIN: Final = 8
ENTROPY_LENGTH_MIN: Final = 16
ENTROPY_BITS_MIN: Final = 3.0
"""In a character: English words have less, keys drawn at random more."""

_FORMS: Final = {
    "a private key": r"-----BEGIN (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY",
    "a token of Solo": r"\bAgEEc29sb[A-Za-z0-9_-]{40}",
    "a token of GitHub": r"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{22})",
    "a token of GitLab": r"\bglpat-[A-Za-z0-9_-]{20}",
    "a key of AWS": r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    "a key of Google": r"\bAIza[A-Za-z0-9_-]{35}",
    "a token of Slack": r"\bxox[abeoprs]-[A-Za-z0-9-]{10}",
    "a key of Stripe": r"\b[rs]k_(?:live|test)_[A-Za-z0-9]{16}",
    "a key of a model's API": r"\bsk-(?:ant-|proj-|or-)?[A-Za-z0-9_-]{20}",
    "a token of Hugging Face": r"\bhf_[A-Za-z0-9]{30}",
    "a token of PyPI": r"\bpypi-AgEIcHlwaS5vcmc[A-Za-z0-9_-]{20}",
    "a token of npm": r"\bnpm_[A-Za-z0-9]{36}",
    "a key of SendGrid": r"\bSG\.[A-Za-z0-9_-]{16,32}\.[A-Za-z0-9_-]{16}",
    "a JSON web token": r"\beyJ[A-Za-z0-9_-]{10,1024}\.eyJ[A-Za-z0-9_-]{10}",
    "a password in a URL": r"\b[a-z][a-z0-9+.-]{1,20}://[^\s/:@{}<>]{0,64}:[^\s/:@{}<>*]{3,128}@[^\s{}]",
}
_FORM: Final = {what: re.compile(form, re.ASCII) for what, form in _FORMS.items()}
_NAMED: Final = re.compile(
    r"(?:^|_)(?:passwords?|passwd|passphrase|pwd|secrets?|tokens?|bearer|credentials?|(?:api|access|private|secret|auth|signing"
    r"|encryption|master|client)_?keys?|apikey|authorization)(?:$|_)",
    re.ASCII,
)
_NO_SECRET: Final = re.compile(
    r"[<{]|%[s(]|\$[A-Z(]|^[A-Z][A-Z0-9_]*$|^[a-z_]+$|^[a-z]+(?:[-./:][a-z]+)*$"
    r"|example|placeholder|change-?me|your[-_ ]|xxx|\.\.\.|\*\*\*"
)
"""Templates, names of variables, plain words, and what stands in the place of a secret."""
_WORDS: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
"""Between the words of a camelCase name."""
_ABOUT_ONE: Final = re.compile(
    r"_(?:url|uri|name|id|file|path|type|length|size|count|ttl|expiry|expires|env|header|field|prefix)s?$"
)


def _look(module: Module) -> Iterator[Found]:
    told: set[int] = set()
    for place in module.nodes:
        node = place.node
        if isinstance(node, ast.Constant):
            what = _form_of(_text(node))
            if what is not None:
                told.add(id(node))
                yield Found(node, "error", f"{what} is written here")
    for place in module.nodes:
        for name, value in _named(place.node):
            text = _text(value)
            if id(value) in told or not text or not _is_secret_name(name) or not _may_be_secret(text):
                continue
            told.add(id(value))
            if len(text) >= ENTROPY_LENGTH_MIN and entropy_bits(text) >= ENTROPY_BITS_MIN:
                yield Found(value, "error", f"the value of {shown(name)} looks like a secret")
            else:
                yield Found(value, "warning", f"the value of {shown(name)} may be a secret")


def _named(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """Names, and the expressions that they stand for."""
    if isinstance(node, ast.Assign):
        for target in node.targets:
            yield _name_of(target), node.value
    elif isinstance(node, ast.AnnAssign | ast.NamedExpr):
        if node.value is not None:
            yield _name_of(node.target), node.value
    elif isinstance(node, ast.keyword):
        yield node.arg or "", node.value
    elif isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values, strict=False):
            if isinstance(key, ast.Constant):
                yield _text(key), value
    elif isinstance(node, ast.Compare) and len(node.comparators) == 1:
        yield _name_of(node.left), node.comparators[0]
        yield _name_of(node.comparators[0]), node.left
    elif isinstance(node, ast.arguments):
        plain = [*node.posonlyargs, *node.args]
        with_default = plain[len(plain) - len(node.defaults) :]
        for each, default in (
            *zip(with_default, node.defaults, strict=False),
            *zip(node.kwonlyargs, node.kw_defaults, strict=False),
        ):
            if default is not None:
                yield each.arg, default


def _name_of(target: ast.expr) -> str:
    if isinstance(target, ast.Name):
        return target.id
    if isinstance(target, ast.Attribute):
        return target.attr
    if isinstance(target, ast.Subscript) and isinstance(target.slice, ast.Constant):
        return _text(target.slice)
    return ""


def _text(node: ast.expr) -> str:
    """The text, or bytes as text, that is written there; empty if it is anything else."""
    value = node.value if isinstance(node, ast.Constant) else None
    if isinstance(value, bytes):
        return value[:TEXT_CHARACTERS_MAX].decode("latin-1")
    return value[:TEXT_CHARACTERS_MAX] if isinstance(value, str) else ""


def _form_of(text: str) -> str | None:
    if len(text) < ENTROPY_LENGTH_MIN:
        return None
    return next((what for what, form in _FORM.items() if form.search(text)), None)


def _is_secret_name(name: str) -> bool:
    words = _WORDS.sub("_", name[:128]).replace("-", "_").lower()
    return _NAMED.search(words) is not None and _ABOUT_ONE.search(words) is None


def _may_be_secret(text: str) -> bool:
    return len(text) >= LENGTH_MIN and not any(each.isspace() for each in text) and _NO_SECRET.search(text) is None


def entropy_bits(text: str) -> float:
    """Shannon's, of one character."""
    counts = Counter(text).values()
    return -sum(count / len(text) * math.log2(count / len(text)) for count in counts)


SECRET_LITERAL: Final = Rule(
    id="secret_literal",
    levels=("error", "warning"),
    title="A secret is written into the source",
    why="The source of every version is kept, and shown to whoever may see the service's versions.",
    remedy="Revoke it, for it was sent; set the new one as a secret, list it in the deployment, and use ctx.secret.",
    example='API_KEY = "q8Zr2mVt0LxN4cYw"\n\n\nasync def ask(question):\n    return [API_KEY, question]\n',
    better=(
        "async def main(ctx):\n    global CTX\n    CTX = ctx\n\n\n"
        'async def ask(question):\n    return [await CTX.secret("api_key"), question]\n'
    ),
    look=_look,
)
