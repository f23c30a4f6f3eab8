"""How large the texts of a chat template can grow, estimated from its syntax tree.

Each statement is looked at once, in the order of the document. A value is a length that is known, plus how
often it holds what is not known yet: what a macro is given, or what a loop's last round left behind. So a
macro or the body of a loop is read once, whoever calls it and however often it goes round. These are
estimates: what cannot be known (messages, tools) counts as one character.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from jinja2 import nodes

LARGEST_TEXT = 10_000_000
"""Characters, or items of a list."""
MOST_ROUNDS = 2_000_000
"""Of all loops, inner ones counted each time."""

_MOST_STEPS = 3_000_000
"""A real template takes a few thousand."""
_DIGITS = 20
"""Characters of a number that is written out."""
_ENDLESS = 1e18
"""Stands for everything above, so that no product becomes infinite."""
_ONCE = 1.001
_CALLER = "caller()"
_TIMES = "*"
_MOST_PRODUCTS = 1000
_MOST_FACTORS = 8
_AMOUNT = "#"
"""Before the name of what is not known: its amount counts, not its digits."""
_SHRINKS = frozenset({"length", "count", "int", "float", "abs", "round", "wordcount", "sum"})
_CHOOSES = frozenset({"default", "d", "get", "setdefault", "pop"})
_PADS = frozenset({"center", "ljust", "rjust", "zfill", "slice", "batch"})
_INDENTS = frozenset({"indent", "tojson", "expandtabs"})
_ESCAPES = frozenset({"tojson", "pprint", "urlize"})
"""Applied again and again, these double: an escaped quote is escaped anew with its backslash."""
_METHODS = frozenset(
    {"split", "strip", "lstrip", "rstrip", "replace", "join", "removeprefix", "removesuffix"}
)
_ARITHMETIC = (nodes.Add, nodes.Sub, nodes.Mul, nodes.Div, nodes.FloorDiv, nodes.Mod, nodes.Pow, nodes.Slice)
_COMPUTES = (*_ARITHMETIC, nodes.Filter, nodes.Call)
_COUNTS_BACK = (nodes.Sub, nodes.Div, nodes.FloorDiv, nodes.Slice)


class _TooInvolvedError(Exception):
    pass


@dataclass
class _Value:
    """An upper bound.

    Attributes:
        size: characters, or of a number its amount.
        count: rounds of a loop over it; of a text its characters.
        uses: how often it holds each thing that is not known yet.
        total: how many such things it holds in any one case; less than the sum where only one of several is
            chosen.
    """

    size: float = 1.0
    count: float = 1.0
    number: bool = False
    uses: dict[str, float] = field(default_factory=dict)
    total: float = 0.0


def _text(size: float) -> _Value:
    return _Value(min(size, _ENDLESS), min(size, _ENDLESS))


def _number(size: float) -> _Value:
    return _Value(min(abs(size), _ENDLESS), 1.0, number=True)


def _unknown(key: str) -> _Value:
    return _Value(0.0, 1.0, uses={key: 1.0}, total=1.0)


def _copy(value: _Value) -> _Value:
    return _Value(value.size, value.count, value.number, dict(value.uses), value.total)


def _written(value: _Value) -> _Value:
    """The same as a text."""
    if value.number:
        value.size, value.number = min(value.size, _DIGITS), False
    value.count = value.size
    return value


def _times(value: _Value, factor: float) -> _Value:
    if factor == 1.0:
        return value
    value.size, value.count = min(value.size * factor, _ENDLESS), min(value.count * factor, _ENDLESS)
    value.uses = {key: min(often * factor, _ENDLESS) for key, often in value.uses.items()}
    value.total = min(value.total * factor, _ENDLESS)
    return value


def _most(one: _Value, other: _Value) -> _Value:
    """Either of two."""
    one.size, one.count = max(one.size, other.size), max(one.count, other.count)
    one.number = one.number and other.number
    for key, often in other.uses.items():
        one.uses[key] = max(one.uses.get(key, 0.0), often)
    one.total = max(one.total, other.total)
    return one


def _plus(one: _Value, other: _Value) -> _Value:
    if len(one.uses) < len(other.uses):
        one, other = other, one
    one.size, one.count = min(one.size + other.size, _ENDLESS), min(one.count + other.count, _ENDLESS)
    one.number = one.number or other.number
    for key, often in other.uses.items():
        one.uses[key] = min(one.uses.get(key, 0.0) + often, _ENDLESS)
    one.total = min(one.total + other.total, _ENDLESS)
    return one


class _Scope:
    """What names stand for; ``unknown`` says of which ones only what is known inside counts."""

    def __init__(self, parent: _Scope | None, unknown: Callable[[str], bool] | None = None) -> None:
        self.parent = parent
        self.unknown = unknown
        self.values: dict[str, _Value] = {}

    def find(self, key: str) -> _Value:
        scope: _Scope | None = self
        while scope is not None:
            if (value := scope.values.get(key)) is not None:
                return _copy(value)
            if scope.unknown is not None and scope.unknown(key):
                return _unknown(key)
            scope = scope.parent
        return _Value()


@dataclass
class _Summary:
    """What calling a macro comes to.

    Attributes:
        effects: what it leaves in namespaces.
        rounds: of the loops in it.
    """

    output: _Value
    effects: dict[str, _Value]
    rounds: float


def growth_problems(tree: nodes.Template) -> list[tuple[int, str]]:
    """Lines and what grows there beyond measure."""
    growth = _Growth(tree)
    try:
        growth.look()
    except _TooInvolvedError:
        growth.say(tree, "its texts are put together in too involved a way to be followed")
    except RecursionError:
        growth.say(tree, "it is nested too deep to be read")
    return growth.found


class _Growth:
    def __init__(self, tree: nodes.Template) -> None:
        self.found: list[tuple[int, str]] = []
        self._tree = tree
        self._steps = 0
        self._rounds = 0.0
        self._calls = 0.0
        self._macros: dict[str, list[nodes.Macro]] = {}
        self._aliases: dict[str, str] = {}
        self._summaries: dict[str, _Summary] = {}
        self._group: dict[str, int] = {}
        self._inside: _Inside | None = None
        self._given: dict[str, _Value] = {}
        self._namespaces: set[str] = set()
        self._shared = False
        self._set_by_macros: set[str] = set()
        self._collect()

    def say(self, node: nodes.Node, words: str) -> None:
        self.found.append((getattr(node, "lineno", None) or 1, words))

    def look(self) -> None:
        calls = {name: self._calls_of(name) for name in self._macros}
        self._group, order = _groups(calls)
        for name in order:
            self._summarise(
                name, recursive=any(self._group[each] == self._group[name] for each in calls[name])
            )
        self._check(self._given, self._tree, "a macro makes what it hands to itself longer and longer")
        output = self._body(self._tree.body, _Scope(None))
        if output.size > LARGEST_TEXT:
            self.say(self._tree, "it makes an enormous text")
        if self._rounds > MOST_ROUNDS:
            self.say(self._tree, "its loops go round more than a million times")

    # --- who is who ------------------------------------------------------------------------------------

    def _collect(self) -> None:
        bare = set()
        for node in _walk(self._tree):
            if isinstance(node, nodes.Macro):
                self._macros.setdefault(node.name, []).append(node)
            elif isinstance(node, nodes.NSRef):
                self._namespaces.add(node.name)
            elif isinstance(node, nodes.Assign) and isinstance(node.target, nodes.Name):
                if isinstance(node.node, nodes.Name):
                    self._aliases[node.target.name] = node.node.name
                    bare.add(node.node.name)
                elif _namespace_made(node):
                    self._namespaces.add(node.target.name)
            elif isinstance(node, (nodes.Call, nodes.List, nodes.Tuple, nodes.Dict, nodes.For)):
                bare.update(each.name for each in _parts(node) if isinstance(each, nodes.Name))
        # A namespace under several names: what any of them sets, all of them see.
        self._shared = bool(bare & self._namespaces)
        self._namespaces |= {name for name in self._aliases if self._alias(name) in self._namespaces}
        self._set_by_macros = {
            key
            for bodies in self._macros.values()
            for body in bodies
            for key in self._sets(body)
            if not self._is_own(body, key)
        }

    def _alias(self, name: str) -> str:
        for _ in range(20):
            if name in self._macros or name not in self._aliases:
                break
            name = self._aliases[name]
        return name

    def _sets(self, node: nodes.Node) -> set[str]:
        return {self._key(each.name, each.attr) for each in _walk(node) if isinstance(each, nodes.NSRef)}

    def _is_own(self, macro: nodes.Macro, key: str) -> bool:
        """Whether a namespace is made by the macro anew, so that nothing is left in it for the next call."""
        name = key.partition(".")[0]
        return any((made := _namespace_made(each)) and made[0] == name for each in macro.body)

    def _key(self, name: str, attribute: str) -> str:
        return f"{'' if self._shared else name}.{attribute}"

    def _calls_of(self, name: str) -> list[str]:
        found = set()
        for node in (each for body in self._macros[name] for each in _walk(body)):
            called = self._alias(_called(node) or "")
            if called in self._macros:
                found.add(called)
        return sorted(found)

    # --- macros ----------------------------------------------------------------------------------------

    def _summarise(self, name: str, *, recursive: bool) -> None:
        output, effects, rounds = _text(0.0), dict[str, _Value](), 0.0
        for macro in self._macros[name]:
            self._inside = _Inside.of(name, macro)
            self._rounds = self._calls = 0.0
            scope = _Scope(None, lambda key: True)
            for argument in macro.args:
                scope.values[argument.name] = _unknown(_parameter(name, argument.name))
            output = _most(output, self._body(macro.body, scope))
            rounds = max(rounds, self._rounds)
            effects |= {
                key: value
                for key, value in scope.values.items()
                if "." in key and not self._is_own(macro, key)
            }
            if self._calls >= 2:
                self.say(macro, "a macro calls itself more than once, counting down")
            if recursive:
                self._check(effects, macro, "a macro that calls itself makes a text longer and longer")
                self._check({_result(name): output}, macro, "a macro makes its own result longer and longer")
        self._rounds, self._inside = 0.0, None
        self._summaries[name] = _Summary(output, effects, rounds)

    def _call_of_macro(self, name: str, node: nodes.Call, values: _Values, scope: _Scope) -> _Value:
        handed = self._handed(name, node, values, scope)
        inside = self._inside
        if inside is not None and self._group[name] == self._group[inside.name]:
            if inside.descends(node):
                return _Value()
            self._calls += inside.computes(node)
            for key, value in handed.items():
                self._given[key] = _most(self._given[key], value) if key in self._given else _copy(value)
            return _unknown(_result(name))
        summary = self._summaries[name]

        def find(key: str) -> _Value:
            return _copy(handed[key]) if key in handed else scope.find(key)

        output = self._filled(summary.output, find)
        scope.values |= {key: self._filled(value, find) for key, value in summary.effects.items()}
        self._rounds = min(self._rounds + summary.rounds, _ENDLESS)
        return output

    def _handed(self, name: str, node: nodes.Call, values: _Values, scope: _Scope) -> dict[str, _Value]:
        handed: dict[str, _Value] = {}
        for macro in self._macros[name]:
            names = [argument.name for argument in macro.args]
            for missing, default in zip(names[::-1], macro.defaults[::-1], strict=False):
                handed[_parameter(name, missing)] = self._value(default, scope)
            for parameter, argument in zip(names, node.args, strict=False):
                handed[_parameter(name, parameter)] = _copy(values[id(argument)])
            for keyword in node.kwargs:
                handed[_parameter(name, keyword.key)] = _copy(values[id(keyword.value)])
            # What the macro has no names for, it can still reach.
            for rest, extra in (("varargs", node.args[len(names) :]), ("kwargs", node.kwargs)):
                handed[rest] = _sum(
                    _copy(values[id(each.value if isinstance(each, nodes.Keyword) else each)])
                    for each in extra
                )
        return handed

    def _filled(self, value: _Value, find: Callable[[str], _Value]) -> _Value:
        """What was not known in a macro or loop, by what is known where that is used."""
        result, largest = _Value(value.size, value.count, value.number), 0.0
        for key, often in value.uses.items():
            known = find(key) if key[0] != _AMOUNT else self._multiplied(key, find)
            self._step(1 + len(known.uses))
            if known.number and not value.number and key[0] != _AMOUNT:
                known = _written(known)
            largest = max(largest, known.total)
            result = _plus(result, _times(known, often))
        result.number = value.number
        result.total = min(result.total, value.total * largest)
        return result

    def _multiplied(self, key: str, find: Callable[[str], _Value]) -> _Value:
        known = _number(1.0)
        for name in _names_in(key):
            known = _product(known, find(name))
        return known

    def _check(self, left: Mapping[str, _Value], node: nodes.Node, words: str) -> None:
        """Whether what is left behind each time holds what was there before more than once."""
        graph = {
            key: [name for use in value.uses for name in _names_in(use) if name in left]
            for key, value in left.items()
        }
        group, _ = _groups(graph)
        for key, value in left.items():
            again = sum(
                often
                for use, often in value.uses.items()
                if any(name in left and group[name] == group[key] for name in _names_in(use))
            )
            if min(again, value.total) > _ONCE:
                self.say(node, words)
                return

    # --- statements ------------------------------------------------------------------------------------

    def _body(self, statements: Iterable[nodes.Node], scope: _Scope) -> _Value:
        """What these write, one after the other."""
        output = _text(0.0)
        for statement in statements:
            self._step(1)
            output = _plus(output, _written(self._statement(statement, scope)))
        return output

    def _statement(self, node: nodes.Node, scope: _Scope) -> _Value:
        if isinstance(node, nodes.Output):
            output = _text(0.0)
            for each in node.nodes:
                output = _plus(output, _written(self._judged(each, scope)))
            return output
        if isinstance(node, nodes.Assign):
            self._assign(node.target, self._judged(node.node, scope), scope)
            if made := _namespace_made(node):
                self._fill_namespace(*made, scope)
        elif isinstance(node, nodes.AssignBlock):
            captured = self._inner(node.body, scope)
            if node.filter is not None:
                captured = self._value(node.filter, scope, captured)
            self._assign(node.target, captured, scope)
        elif isinstance(node, nodes.For):
            return self._loop(node, scope)
        elif isinstance(node, nodes.If):
            return self._choice(node, scope)
        elif isinstance(node, nodes.CallBlock):
            return self._call_block(node, scope)
        elif isinstance(node, nodes.FilterBlock):
            return self._value(node.filter, scope, self._inner(node.body, scope))
        elif isinstance(node, nodes.With):
            return self._with(node, scope)
        elif isinstance(node, nodes.ExprStmt):
            self._judged(node.node, scope)
        elif isinstance(node, (nodes.Scope, nodes.Block)):
            return self._inner(node.body, scope)
        return _text(0.0)

    def _inner(self, body: Iterable[nodes.Node], scope: _Scope, inner: _Scope | None = None) -> _Value:
        """A body whose names end with it; namespaces go on."""
        inner = inner or _Scope(scope)
        output = self._body(body, inner)
        scope.values |= {key: value for key, value in inner.values.items() if "." in key}
        return output

    def _judged(self, node: nodes.Node, scope: _Scope) -> _Value:
        value = self._value(node, scope)
        if not value.number and value.size > LARGEST_TEXT:
            self.say(node, "it makes an enormous text")
        return value

    def _assign(self, target: nodes.Node, value: _Value, scope: _Scope) -> None:
        if isinstance(target, nodes.Name):
            scope.values[target.name] = value
        elif isinstance(target, nodes.NSRef):
            scope.values[self._key(target.name, target.attr)] = value
        elif isinstance(target, nodes.Tuple):
            for each in target.items:
                self._assign(each, _copy(value), scope)

    def _fill_namespace(self, name: str, node: nodes.Call, scope: _Scope) -> None:
        for keyword in node.kwargs:
            key, value = self._key(name, keyword.key), self._value(keyword.value, scope)
            scope.values[key] = _most(value, scope.find(key)) if self._shared else value

    def _with(self, node: nodes.With, scope: _Scope) -> _Value:
        inner = _Scope(scope)
        for target, value in zip(node.targets, node.values, strict=True):
            self._assign(target, self._judged(value, scope), inner)
        return self._inner(node.body, scope, inner)

    def _call_block(self, node: nodes.CallBlock, scope: _Scope) -> _Value:
        inner = _Scope(scope)
        written = self._inner(node.body, scope, inner)
        called = _Scope(scope)
        called.values[_CALLER] = written
        output = self._judged(node.call, called)
        scope.values |= {key: value for key, value in called.values.items() if "." in key}
        return output

    def _choice(self, node: nodes.If, scope: _Scope) -> _Value:
        """The most of what any branch does; only one of them is run."""
        self._value(node.test, scope)
        for other in node.elif_:
            self._value(other.test, scope)
        output, calls, rounds = _text(0.0), self._calls, self._rounds
        most_calls, most_rounds, changed = calls, rounds, dict[str, _Value]()
        for body in (node.body, *(other.body for other in node.elif_), node.else_):
            branch = _Scope(scope)
            self._calls, self._rounds = calls, rounds
            output = _most(output, self._body(body, branch))
            most_calls, most_rounds = max(most_calls, self._calls), max(most_rounds, self._rounds)
            for key, value in branch.values.items():
                self._step(1 + len(value.uses))
                changed[key] = _most(changed[key] if key in changed else scope.find(key), value)
        self._calls, self._rounds = most_calls, most_rounds
        scope.values |= changed
        return output

    def _loop(self, node: nodes.For, scope: _Scope) -> _Value:
        over = self._judged(node.iter, scope)
        times = max(over.size if over.number else over.count, 1.0)
        carried = self._sets(node)
        if any(isinstance(each, nodes.Call) for each in _walk(node)):
            carried = carried | self._set_by_macros
        inner = _Scope(scope, carried.__contains__)
        body = _Scope(inner)
        self._assign(node.target, over, inner)
        calls, rounds = self._calls, self._rounds
        self._calls = self._rounds = 0.0
        output = self._body(node.body, body)
        self._calls = calls + 2 * self._calls
        self._rounds = min(rounds + times * (1.0 + self._rounds), _ENDLESS)
        left = {key: value for key, value in body.values.items() if "." in key}
        self._check(left, node, "a text grows longer and longer in a loop")
        self._after(left, times, scope)
        written = _times(self._filled(output, scope.find), times)
        return _most(written, self._inner(node.else_, scope))

    def _after(self, left: Mapping[str, _Value], times: float, scope: _Scope) -> None:
        """What namespaces hold when a loop is over: what they held, and what each round has added."""
        before = {key: scope.find(key) for key in left}
        scope.values |= {
            key: _most(scope.find(key), self._filled(value, scope.find)) for key, value in left.items()
        }
        for key, value in left.items():
            if key in value.uses:
                added = _copy(value)
                added.total = max(0.0, added.total - added.uses.pop(key))
                more = _times(self._filled(added, scope.find), times)
                scope.values[key] = _plus(_copy(before[key]), more)

    # --- expressions -----------------------------------------------------------------------------------

    def _value(self, node: nodes.Node, scope: _Scope, given: _Value | None = None) -> _Value:
        """Of an expression, its parts first, without recursion.

        Args:
            given: what a filter around a block is applied to.
        """
        order, waiting = [], [node]
        while waiting:
            current = waiting.pop()
            order.append(current)
            waiting += _parts(current)
        values: _Values = {}
        for current in reversed(order):
            value = self._combined(current, values, scope, given)
            self._step(1 + len(value.uses) // 8)
            values[id(current)] = value
        return values[id(node)]

    def _combined(self, node: nodes.Node, values: _Values, scope: _Scope, given: _Value | None) -> _Value:
        if isinstance(node, nodes.Const):
            return _number(node.value) if _is_number(node) else _text(len(str(node.value)))
        if isinstance(node, nodes.TemplateData):
            return _text(len(node.data))
        if isinstance(node, nodes.Name):
            return scope.find(node.name)
        if isinstance(node, (nodes.Compare, nodes.Not, nodes.Test)):
            return _number(1.0)
        parts = [values[id(each)] for each in _parts(node)]
        if isinstance(node, (nodes.Add, nodes.Sub)):
            return _plus(*parts) if isinstance(node, nodes.Add) or parts[0].number else parts[0]
        if isinstance(node, nodes.Concat):
            return _sum(_escaped(each, part) for each, part in zip(node.nodes, parts, strict=True))
        if isinstance(node, nodes.Mul):
            return _product(*parts)
        if isinstance(node, nodes.Mod):
            return _formatted(node.left, *parts)
        if isinstance(node, (nodes.And, nodes.Or, nodes.CondExpr)):
            return _either(parts[isinstance(node, nodes.CondExpr) :])
        if isinstance(node, (nodes.List, nodes.Tuple, nodes.Dict)):
            return _several(parts)
        if isinstance(node, (nodes.Getattr, nodes.Getitem)):
            return self._part_of(node, parts[0], scope)
        if isinstance(node, nodes.Filter):
            inner = given if node.node is None else values[id(node.node)]
            return self._changed(node.name, inner or _Value(), node, values, scope)
        if isinstance(node, nodes.Call):
            return self._called(node, values, scope)
        return parts[0] if parts else _Value()

    def _part_of(self, node: nodes.Getattr | nodes.Getitem, whole: _Value, scope: _Scope) -> _Value:
        name = node.attr if isinstance(node, nodes.Getattr) else _constant(node.arg)
        if name is not None:
            return self._attribute(node.node, name, whole, scope)
        return whole

    def _attribute(self, owner: nodes.Node, name: str, whole: _Value, scope: _Scope) -> _Value:
        if isinstance(owner, nodes.Name) and owner.name in self._namespaces:
            return scope.find(self._key(owner.name, name))
        # The fields of what a macro was given, or of messages, are smaller than the whole: nothing is known
        # of them.
        whole.uses = {key: often for key, often in whole.uses.items() if "." in key}
        return whole

    def _called(self, node: nodes.Call, values: _Values, scope: _Scope) -> _Value:
        target = node.node
        if isinstance(target, nodes.Name):
            name = self._alias(target.name)
            if name in self._macros:
                return self._call_of_macro(name, node, values, scope)
            if name == "range":
                return _Value(1.0, max((_amount(values[id(each)]) for each in node.args), default=1.0))
            if name == "caller":
                return scope.find(_CALLER)
            if name in ("namespace", "dict"):
                return _several([values[id(each.value)] for each in node.kwargs] or [_text(0.0)])
        if self._inside is not None and self._inside.may_call_itself(target):
            self._calls += self._inside.computes(node) and not self._inside.descends(node)
        if isinstance(target, nodes.Getattr):
            return self._changed(target.attr, values[id(target.node)], node, values, scope)
        return _sum(_copy(values[id(each)]) for each in node.args)

    def _changed(
        self, name: str, value: _Value, node: nodes.Filter | nodes.Call, values: _Values, scope: _Scope
    ) -> _Value:
        """By a filter, or by a method of the same name."""
        arguments = [*node.args, *(keyword.value for keyword in node.kwargs)]
        given = [values[id(each)] for each in arguments]
        if name == "map" and arguments and (inner := _constant(arguments[0])) is not None:
            name, arguments, given = inner, arguments[1:], given[1:]
        if name == "attr" and arguments and isinstance(node, nodes.Filter) and node.node is not None:
            return self._attribute(node.node, _constant(arguments[0]) or "", value, scope)
        if name in _SHRINKS:
            return _number(_measure(name, value, node))
        if name in _CHOOSES:
            return _either([value, *given])
        if name == "replace" and len(given) >= 2:
            return _replaced(value, given[0], given[1])
        if name == "join":
            return self._joined(value, given, node)
        if name == "format":
            return _sum([value, *given])
        if name in _PADS:
            width = max((_amount(each) for each in given), default=0.0)
            return _plus(value, _text(width))
        if name in _INDENTS and (width := max((_amount(each) for each in given), default=0.0)) > 16:
            value = _times(value, width)
        if name == "wordwrap" and len(arguments) > 2:
            value = _replaced(value, _text(1.0), given[-1])
        if name in _ESCAPES:
            value = _times(_written(value), 2.0)
        if name == "string":
            value = _escaped(node.node, value) if node.node is not None else _written(value)
        return value

    def _joined(self, value: _Value, given: list[_Value], node: nodes.Filter | nodes.Call) -> _Value:
        """As a filter the list comes first, as a method the separator."""
        if not given:
            return _written(value)
        items, between = (given[0], value) if isinstance(node, nodes.Call) else (value, given[0])
        times = max(items.count, 1.0)
        return _written(_plus(items, _times(_copy(between), times)))

    def _step(self, number: int) -> None:
        self._steps += number
        if self._steps > _MOST_STEPS:
            raise _TooInvolvedError


_Values = dict[int, _Value]


@dataclass
class _Inside:
    """The macro that is being read, and what tells counting down from going down into data.

    Attributes:
        parts: names that stand for the items of what it is given.
        computed: names that are the result of arithmetic.
    """

    name: str
    parameters: set[str]
    parts: set[str]
    computed: set[str]
    counts_back: bool

    @classmethod
    def of(cls, name: str, macro: nodes.Macro) -> _Inside:
        inside = cls(name, {argument.name for argument in macro.args}, set(), set(), False)
        for node in _walk(macro):
            if isinstance(node, nodes.For) and _called(node.iter) != "range" and not _is_literal(node.iter):
                inside.parts |= {each.name for each in _walk(node.target) if isinstance(each, nodes.Name)}
            elif isinstance(node, nodes.Assign) and any(
                isinstance(each, _COMPUTES) for each in _walk(node.node)
            ):
                if isinstance(node.target, nodes.Name):
                    inside.computed.add(node.target.name)
                elif isinstance(node.target, nodes.NSRef):
                    # A counter that is not handed on must be set back, so that the next branch finds it.
                    inside.counts_back |= any(isinstance(each, _COUNTS_BACK) for each in _walk(node.node))
        return inside

    def computes(self, node: nodes.Call) -> bool:
        """Whether a call goes on by arithmetic."""
        return self.counts_back or any(
            isinstance(part, _COMPUTES) or (isinstance(part, nodes.Name) and part.name in self.computed)
            for argument in _arguments(node)
            for part in _walk(argument)
        )

    def descends(self, node: nodes.Call) -> bool:
        """Whether a call goes on with a field or an item of data, which come to an end by themselves."""
        return any(self._is_part(argument) for argument in _arguments(node))

    def _is_part(self, argument: nodes.Node) -> bool:
        within = list(_walk(argument))
        if any(isinstance(each, _ARITHMETIC) for each in within):
            return False
        return any(
            (isinstance(each, nodes.Getattr) and each.attr not in _METHODS)
            or (isinstance(each, nodes.Getitem) and _constant(each.arg) is not None)
            or (isinstance(each, nodes.Name) and each.name in self.parts)
            for each in within
        )

    def may_call_itself(self, target: nodes.Node) -> bool:
        """Macros can be handed on and called under another name."""
        return isinstance(target, nodes.Getitem) or (
            isinstance(target, nodes.Name) and target.name in self.parameters
        )


def _arguments(node: nodes.Call) -> list[nodes.Node]:
    return [*node.args, *(keyword.value for keyword in node.kwargs)]


def _parameter(macro: str, name: str) -> str:
    return f"{macro}({name}"


def _result(macro: str) -> str:
    return f"{macro}()"


def _called(node: nodes.Node) -> str | None:
    return node.node.name if isinstance(node, nodes.Call) and isinstance(node.node, nodes.Name) else None


def _namespace_made(node: nodes.Node) -> tuple[str, nodes.Call] | None:
    """The name of a new namespace and what is put into it, where a statement makes one."""
    if (
        isinstance(node, nodes.Assign)
        and isinstance(node.target, nodes.Name)
        and isinstance(node.node, nodes.Call)
        and _called(node.node) == "namespace"
    ):
        return node.target.name, node.node
    return None


def _walk(node: nodes.Node) -> Iterator[nodes.Node]:
    """Every node, without recursion."""
    waiting = [node]
    while waiting:
        current = waiting.pop()
        yield current
        waiting += current.iter_child_nodes()


def _parts(node: nodes.Node) -> list[nodes.Node]:
    """Of an expression, in the order in which they are written."""
    return [each for each in node.iter_child_nodes() if isinstance(each, (nodes.Expr, nodes.Helper))]


def _constant(node: nodes.Node) -> str | None:
    return node.value if isinstance(node, nodes.Const) and isinstance(node.value, str) else None


def _is_number(node: nodes.Const) -> bool:
    return isinstance(node.value, (int, float)) and not isinstance(node.value, bool)


def _is_literal(node: nodes.Node) -> bool:
    return isinstance(node, (nodes.List, nodes.Tuple, nodes.Const, nodes.BinExpr))


def _amount(value: _Value) -> float:
    return value.size if value.number else 1.0


def _measure(name: str, value: _Value, node: nodes.Filter | nodes.Call) -> float:
    if name in ("length", "count"):
        return value.count
    if name == "int" and isinstance(node, nodes.Filter) and node.node is not None:
        digits = (_constant(node.node) or "").strip()
        if digits.isdigit():
            return float(digits[:18])
    return value.size if value.number else 1.0


def _sum(values: Iterable[_Value]) -> _Value:
    total = _text(0.0)
    for value in values:
        total = _plus(total, _written(value))
    return total


def _either(values: list[_Value]) -> _Value:
    result = values[0]
    for value in values[1:]:
        result = _most(result, value)
    return result


def _several(values: list[_Value]) -> _Value:
    """A list of these."""
    result = _sum(values)
    result.size += len(values)
    result.count = float(len(values))
    return result


def _product(one: _Value, other: _Value) -> _Value:
    size = min(one.size * other.size, _ENDLESS)
    count = min(_times_over(one) * _times_over(other), _ENDLESS)
    if len(one.uses) * len(other.uses) > _MOST_PRODUCTS:
        raise _TooInvolvedError
    uses = {_amount_of(key): often * other.size for key, often in one.uses.items()}
    for key, often in other.uses.items():
        uses[_amount_of(key)] = uses.get(_amount_of(key), 0.0) + often * one.size
    for mine, often in one.uses.items():
        for theirs, again in other.uses.items():
            both = _TIMES.join(sorted((_amount_of(mine), _amount_of(theirs))))
            if both.count(_TIMES) > _MOST_FACTORS:
                raise _TooInvolvedError
            uses[both] = uses.get(both, 0.0) + 2 * often * again
    uses = {key: min(often, _ENDLESS) for key, often in uses.items() if often}
    return _Value(size, count, one.number and other.number, uses, min(sum(uses.values()), _ENDLESS))


def _amount_of(key: str) -> str:
    return key if key.startswith(_AMOUNT) else _AMOUNT + key


def _names_in(key: str) -> list[str]:
    """What a use is of: one thing, or several that are multiplied."""
    return [each.removeprefix(_AMOUNT) for each in key.split(_TIMES)]


def _times_over(value: _Value) -> float:
    return value.size if value.number else value.count


def _replaced(value: _Value, old: _Value, new: _Value) -> _Value:
    """Each ``old`` by ``new``; an empty ``old`` is found before each character."""
    factor = max(1.0, new.size / old.size) if old.size else 1.0 + new.size
    held = _copy(new)
    held.size = held.count = 0.0
    return _written(_plus(_times(value, factor), held))


def _formatted(pattern: nodes.Node, value: _Value, given: _Value) -> _Value:
    """``%`` with a text on its left puts things into it, padded; otherwise it is what is left over."""
    text = _constant(pattern)
    if text is None:
        return value if value.number else _plus(value, given)
    widths = sum(float(width[:18]) for width in re.findall(r"\d{3,}", text))
    if "*" in text:
        widths += given.size
    return _plus(_plus(value, _text(widths)), _times(_written(given), 2.0 if "%r" in text else 1.0))


def _escaped(node: nodes.Node, value: _Value) -> _Value:
    """A list that is written out has its quotes escaped, again and again if that is repeated."""
    factor = 2.0 if isinstance(node, (nodes.List, nodes.Tuple, nodes.Dict)) else 1.0
    return _times(_written(value), factor)


def _groups(graph: Mapping[str, Iterable[str]]) -> tuple[dict[str, int], list[str]]:
    """Which ones can reach each other (a number for each group), and an order in which what is reached comes
    first; Kosaraju's method, without recursion."""
    order: list[str] = []
    seen: set[str] = set()
    for start in graph:
        if start in seen:
            continue
        seen.add(start)
        path = [(start, iter(graph[start]))]
        while path:
            name, rest = path[-1]
            for reached in rest:
                if reached not in seen:
                    seen.add(reached)
                    path.append((reached, iter(graph[reached])))
                    break
            else:
                order.append(name)
                path.pop()
    backwards: dict[str, list[str]] = {name: [] for name in graph}
    for name, targets in graph.items():
        for reached in targets:
            backwards[reached].append(name)
    group: dict[str, int] = {}
    for number, start in enumerate(reversed(order)):
        waiting = [start]
        while waiting:
            name = waiting.pop()
            if name not in group:
                group[name] = number
                waiting += backwards[name]
    return group, order
