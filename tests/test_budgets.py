"""The house's budgets: small enough to see, each exception with its reason, and nothing said twice."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "qwenops"
LONGEST_FUNCTION, LONGEST_MODULE, MOST_PARAMETERS = 60, 600, 8
EXCEPTION = re.compile(r"#\s*(noqa|type:\s*ignore)")
WITH_REASON = re.compile(r"#\s*(noqa: [A-Z0-9, ]+ -- \S|type: ignore\[[a-z, -]+\]\s*#\s*\S)")

Function = ast.FunctionDef | ast.AsyncFunctionDef
FILES = [
    path
    for folder in (SOURCE, ROOT / "benchmarks", ROOT / "tools", ROOT / "tests")
    for path in sorted(folder.rglob("*.py"))
]


def functions(text: str) -> Iterator[Function]:
    yield from (node for node in ast.walk(ast.parse(text)) if isinstance(node, Function))


def num_parameters(function: Function) -> int:
    positional = [*function.args.posonlyargs, *function.args.args]
    bound = bool(positional) and positional[0].arg in {"self", "cls"}
    return len(positional) - bound + len(function.args.kwonlyargs)


def over_budget(text: str) -> list[str]:
    """Return what is larger than it may be and does not say why where it begins."""
    lines = text.splitlines()
    found = [f"the module has {len(lines)} lines"] if len(lines) > LONGEST_MODULE else []
    for each in functions(text):
        long = (each.end_lineno or each.lineno) - each.lineno + 1
        reason = "  # " in lines[each.lineno - 1]
        if long > LONGEST_FUNCTION and not reason:
            found.append(f"{each.name} has {long} lines")
        if num_parameters(each) > MOST_PARAMETERS and not reason:
            found.append(f"{each.name} has {num_parameters(each)} parameters")
    return found


def without_reason(text: str) -> list[str]:
    """Return the lines that switch a check off and do not say why."""
    lines = [line for line in text.splitlines() if EXCEPTION.search(line)]
    return [line.strip() for line in lines if not WITH_REASON.search(line)]


def body_of(function: Function) -> str | None:
    """Return what a function does, if that is more than a line or two."""
    documented = isinstance(function.body[0], ast.Expr) and isinstance(function.body[0].value, ast.Constant)
    body = function.body[documented:]
    if not body or (function.end_lineno or 0) - body[0].lineno < 2:
        return None
    return ast.dump(ast.Module(body=body, type_ignores=[]))


def said_twice(texts: dict[str, str]) -> list[str]:
    """Return what stands in two modules: equal functions, and constants of equal name and value that are no numbers."""
    places: dict[str, set[str]] = defaultdict(set)
    names: dict[str, str] = {}
    for module, text in texts.items():
        for each in functions(text):
            if (body := body_of(each)) is not None:
                places[body].add(module)
                names[body] = each.name
        for node in ast.parse(text).body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                value = node.value
                small = isinstance(value, ast.Constant) and not isinstance(value.value, str)
                if not small and not isinstance(value, ast.Call | ast.BinOp):
                    places[ast.dump(node)].add(module)
                    names[ast.dump(node)] = node.targets[0].id
    return [f"{names[what]}: {', '.join(sorted(modules))}" for what, modules in places.items() if len(modules) > 1]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_its_functions_and_their_parameters_are_within_the_budget(path: Path) -> None:
    assert over_budget(path.read_text("utf-8")) == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_who_switches_a_check_off_says_why(path: Path) -> None:
    assert without_reason(path.read_text("utf-8")) == []


def test_nothing_stands_in_two_modules() -> None:
    texts = {str(path.relative_to(SOURCE)): path.read_text("utf-8") for path in FILES if SOURCE in path.parents}
    assert said_twice(texts) == []


def test_the_budgets_find_what_is_too_large_or_has_no_reason() -> None:
    long = "def f():\n" + "    x = 1\n" * 60
    assert over_budget(long) == ["f has 61 lines"]
    assert over_budget(long.replace("def f():", "def f():  # one table, which is read as a whole")) == []
    many = ", ".join(f"a{number}" for number in range(9))
    assert over_budget(f"def f({many}): ...") == ["f has 9 parameters"]
    assert over_budget(f"class A:\n    def f(self, {many[4:]}): ...") == []
    assert over_budget("x = 1\n" * 601) == ["the module has 601 lines"]
    bare, ignored = "# no" + "qa: S101", "# type: " + "ignore[misc]"
    assert without_reason(f"x  {bare}\ny  {ignored}\n") == [f"x  {bare}", f"y  {ignored}"]
    assert without_reason(f"x  {bare} -- it is a test\ny  {ignored}  # it is a test\n") == []
    twice = "NAMES = ('a', 'b')\nPAUSE_S = 1.0\ndef f(x):\n    y = x\n    y += 1\n    return y\n"
    assert said_twice({"one": twice, "two": twice}) == ["f: one, two", "NAMES: one, two"]
