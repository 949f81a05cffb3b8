"""The analyser never raises, and its work is bounded, whatever it is given."""

from __future__ import annotations

import ast
from typing import Any

import pytest
from hardening_samples import BAD, GOOD
from hypothesis import given, settings
from hypothesis import strategies as st

from solo_trio.hardening import FINDINGS_MAX, RULES, analyse, analyse_tree
from solo_trio.hardening.analysing import ANALYSED_BYTES_MAX, NODES_MAX

SETTINGS = settings(deadline=None, print_blob=True, max_examples=200)
PIECES = [
    piece
    for samples in (BAD, GOOD)
    for sources in samples.values()
    for source in sources
    if len(source) < 500
    for piece in source.split()
]


@SETTINGS
@given(st.text() | st.binary() | st.text(alphabet="()[]{}:=\\'\"\n\tif1x.,@*# \x0c\r"))
def test_any_text(source: str | bytes) -> None:
    assert len(analyse(source)) <= FINDINGS_MAX + 1


@SETTINGS
@given(st.lists(st.sampled_from([*PIECES, "\n", "\n    ", "\n        "]), max_size=60).map(" ".join))
def test_any_pieces_of_python(source: str) -> None:
    assert len(analyse(source)) <= FINDINGS_MAX + 1


# -- arbitrary trees: each field of a node is of the kind that the grammar says, and nothing else is sure

NAMES = st.sampled_from(
    [
        "os",
        "system",
        "eval",
        "trio",
        "open_nursery",
        "f",
        "ctx",
        "call",
        "token",
        "getattr",
        "contextlib",
        "suppress",
        "é",
    ]
)
CONSTANTS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=30)
    | st.binary(max_size=30)
    | st.just(...)
    | st.complex_numbers()
)
CONTEXTS = st.sampled_from([ast.Load(), ast.Store(), ast.Del()])


def many(of: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(of, max_size=3)


def some(of: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | of


def expressions(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    build = st.builds
    comprehension = build(
        ast.comprehension, target=inner, iter=inner, ifs=many(inner), is_async=st.sampled_from([0, 1])
    )
    keyword = build(ast.keyword, arg=some(NAMES), value=inner)
    return st.one_of(
        build(ast.Attribute, value=inner, attr=NAMES | st.just("__globals__"), ctx=CONTEXTS),
        build(ast.Call, func=inner, args=many(inner), keywords=many(keyword)),
        build(ast.Subscript, value=inner, slice=inner, ctx=CONTEXTS),
        build(ast.Await, value=inner),
        build(ast.Dict, keys=many(some(inner)), values=many(inner)),
        build(ast.Compare, left=inner, ops=many(st.just(ast.Eq())), comparators=many(inner)),
        build(ast.Lambda, args=arguments(inner), body=inner),
        build(ast.ListComp, elt=inner, generators=many(comprehension)),
        build(ast.NamedExpr, target=inner, value=inner),
        build(ast.Tuple, elts=many(inner), ctx=CONTEXTS),
        build(ast.JoinedStr, values=many(inner)),
        build(ast.Yield, value=some(inner)),
    )


def arguments(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    arg = st.builds(ast.arg, arg=NAMES, annotation=some(inner))
    return st.builds(
        ast.arguments,
        posonlyargs=many(arg),
        args=many(arg),
        vararg=some(arg),
        kwonlyargs=many(arg),
        kw_defaults=many(some(inner)),
        kwarg=some(arg),
        defaults=many(inner),
    )


EXPRESSIONS = st.recursive(
    st.builds(ast.Name, id=NAMES, ctx=CONTEXTS) | st.builds(ast.Constant, value=CONSTANTS), expressions, max_leaves=12
)


def statements(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    build, body = st.builds, many(inner)
    expr = EXPRESSIONS
    alias = build(ast.alias, name=NAMES | st.sampled_from(["*", "os.path", "a.b.c"]), asname=some(NAMES))
    handler = build(ast.ExceptHandler, type=some(expr), name=some(NAMES), body=body)
    item = build(ast.withitem, context_expr=expr, optional_vars=some(expr))
    function = {
        "name": NAMES,
        "args": arguments(expr),
        "body": body,
        "decorator_list": many(expr),
        "returns": some(expr),
    }
    return st.one_of(
        build(ast.Import, names=many(alias)),
        build(ast.ImportFrom, module=some(NAMES), names=many(alias), level=st.integers(0, 2)),
        build(ast.Assign, targets=many(expr), value=expr),
        build(ast.AnnAssign, target=expr, annotation=expr, value=some(expr), simple=st.just(1)),
        build(ast.Expr, value=expr),
        build(ast.Return, value=some(expr)),
        build(ast.Raise, exc=some(expr), cause=some(expr)),
        st.sampled_from([ast.Pass(), ast.Break(), ast.Continue()]),
        build(ast.While, test=expr, body=body, orelse=body),
        build(ast.For, target=expr, iter=expr, body=body, orelse=body),
        build(ast.AsyncFor, target=expr, iter=expr, body=body, orelse=body),
        build(ast.With, items=many(item), body=body),
        build(ast.AsyncWith, items=many(item), body=body),
        build(ast.Try, body=body, handlers=many(handler), orelse=body, finalbody=body),
        build(ast.TryStar, body=body, handlers=many(handler), orelse=body, finalbody=body),
        build(ast.FunctionDef, **function),
        build(ast.AsyncFunctionDef, **function),
        build(ast.ClassDef, name=NAMES, bases=many(expr), keywords=st.just([]), body=body, decorator_list=many(expr)),
    )


STATEMENTS = st.recursive(st.builds(ast.Expr, value=EXPRESSIONS), statements, max_leaves=12)


@settings(SETTINGS, max_examples=80)  # trees take long to make
@given(st.lists(STATEMENTS, max_size=5))
def test_any_tree(body: list[Any]) -> None:
    tree = ast.Module(body=body, type_ignores=[])
    known = {rule.id for rule in RULES}
    for each in (*analyse_tree(tree), *analyse_tree(ast.fix_missing_locations(tree))):
        assert each.rule in known


@pytest.mark.parametrize(
    "source",
    [
        "x = " + "(" * 5_000,
        "x = " + "-" * 40_000 + "1",
        "a" + ".b" * 40_000,
        "a" + "()" * 40_000,
        "x = " + "1+" * 50_000 + "1",
        "x = " + "not " * 30_000 + "1",
        "x = " + "lambda: " * 15_000 + "1",
        "".join("    " * depth + "if 1:\n" for depth in range(200)),
        "".join(" " * depth + "try:\n" for depth in range(90)) + " " * 90 + "pass\n",
        "a = " * 30_000 + "1",
        "\n".join(f"a{n} = a{n + 1}" for n in range(8_000)) + "\na0.system()",
        "f'" + "{f'" * 50,
        "x = '" + "eyJ-" * 30_000 + "'",
        "x = '" + "a://" * 30_000 + "'",
    ],
)
def test_sources_that_are_made_to_hurt(source: str) -> None:
    assert len(source) < ANALYSED_BYTES_MAX
    assert len(analyse(source)) <= FINDINGS_MAX + 1


def test_a_tree_deeper_than_the_interpreters_stack() -> None:
    part: Any = ast.Name(id="os", ctx=ast.Load())
    for _ in range(50_000):
        part = ast.UnaryOp(op=ast.Not(), operand=part)
    assert analyse_tree(ast.Module(body=[ast.Expr(value=part)], type_ignores=[])) == []
    while isinstance(part, ast.UnaryOp):  # piece by piece: older interpreters give a chain back by recursion
        part = part.operand


def test_more_than_is_looked_at_is_one_finding() -> None:
    assert [each.rule for each in analyse("#" * (ANALYSED_BYTES_MAX + 1))] == ["too_large"]
    assert analyse("#" * ANALYSED_BYTES_MAX) == []
    tree = ast.Module(body=[ast.Expr(value=ast.Constant(value=1))] * NODES_MAX, type_ignores=[])
    assert [(each.rule, each.level) for each in analyse_tree(tree)] == [("too_large", "error")]
