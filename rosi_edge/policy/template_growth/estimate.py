"""How large the texts of a chat template can grow, estimated from its syntax tree.

Each statement is looked at once, in the order of the document. A value is a length that is known, plus how
often it holds what is not known yet: what a macro is given, or what a loop's last round left behind. So a
macro or the body of a loop is read once, whoever calls it and however often it goes round. These are
estimates: what cannot be known (messages, tools) counts as one character.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from jinja2 import nodes

from rosi_edge.policy.template_growth.bound import (
    AMOUNT,
    ENDLESS,
    Bound,
    TooInvolvedError,
    amount,
    as_text,
    copied,
    either,
    listed,
    most,
    names_in,
    plus,
    power,
    product,
    repeated,
    sum_of,
)
from rosi_edge.policy.template_growth.filters import escaped, filtered, formatted
from rosi_edge.policy.template_growth.macro_body import MacroBody
from rosi_edge.policy.template_growth.names import Names
from rosi_edge.policy.template_growth.scope import Scope
from rosi_edge.policy.template_growth.strongly_connected import strongly_connected
from rosi_edge.policy.template_growth.syntax import (
    arguments_of,
    constant_text,
    is_number,
    namespace_made,
    parts_of,
    walk,
)

LARGEST_TEXT = 10_000_000
"""Characters, or items of a list."""
MOST_ROUNDS = 2_000_000
"""Of all loops, inner ones counted each time."""

_MOST_STEPS = 3_000_000
"""A real template takes a few thousand."""
_ONCE = 1.001
_TOO_INVOLVED = "its texts are put together in too involved a way to be followed"
_CALLER = "caller()"

Bounds = dict[int, Bound]
"""By the identity of the node whose value it is."""


@dataclass
class MacroSummary:
    """What calling a macro comes to.

    Attributes:
        effects: what it leaves in namespaces.
        rounds: of the loops in it.
    """

    output: Bound
    effects: dict[str, Bound]
    rounds: float


def growth_problems(tree: nodes.Template) -> list[tuple[int, str]]:
    """Lines and what grows there beyond measure."""
    growth = _Growth(tree)
    try:
        growth.look()
    except TooInvolvedError:
        growth.say(tree, _TOO_INVOLVED)
    except RecursionError:
        growth.say(tree, "it is nested too deep to be read")
    except Exception:
        # A fault of the estimate must not be a way past it: whatever it trips over is not called safe.
        growth.say(tree, _TOO_INVOLVED)
    return growth.found


class _Growth:
    def __init__(self, tree: nodes.Template) -> None:
        self.found: list[tuple[int, str]] = []
        self._tree = tree
        self._names = Names(tree)
        self._steps = 0
        self._rounds = 0.0
        self._calls = 0.0
        self._summaries: dict[str, MacroSummary] = {}
        self._group: dict[str, int] = {}
        self._inside: MacroBody | None = None
        self._given: dict[str, Bound] = {}

    def say(self, node: nodes.Node, words: str) -> None:
        self.found.append((getattr(node, "lineno", None) or 1, words))

    def look(self) -> None:
        calls = {name: self._names.calls_of(name) for name in self._names.macros}
        self._group, order = strongly_connected(calls)
        for name in order:
            self._summarise(
                name, recursive=any(self._group[each] == self._group[name] for each in calls[name])
            )
        self._check(self._given, self._tree, "a macro makes what it hands to itself longer and longer")
        output = self._body(self._tree.body, Scope(None))
        if output.size > LARGEST_TEXT:
            self.say(self._tree, "it makes an enormous text")
        if self._rounds > MOST_ROUNDS:
            self.say(self._tree, "its loops go round more than a million times")

    # --- macros ----------------------------------------------------------------------------------------

    def _summarise(self, name: str, *, recursive: bool) -> None:
        output, effects, rounds = Bound.text(0.0), dict[str, Bound](), 0.0
        for macro in self._names.macros[name]:
            self._inside = MacroBody.of(name, macro)
            self._rounds = self._calls = 0.0
            scope = Scope(None, lambda key: True)
            for argument in macro.args:
                scope.values[argument.name] = Bound.unknown(_parameter(name, argument.name))
            output = most(output, self._body(macro.body, scope))
            rounds = max(rounds, self._rounds)
            effects |= {
                key: value
                for key, value in scope.values.items()
                if "." in key and not self._names.is_own(macro, key)
            }
            if self._calls >= 2:
                self.say(macro, "a macro calls itself more than once, counting down")
            if recursive:
                self._check(effects, macro, "a macro that calls itself makes a text longer and longer")
                self._check({_result(name): output}, macro, "a macro makes its own result longer and longer")
        self._rounds, self._inside = 0.0, None
        self._summaries[name] = MacroSummary(output, effects, rounds)

    def _call_of_macro(self, name: str, node: nodes.Call, values: Bounds, scope: Scope) -> Bound:
        handed = self._handed(name, node, values, scope)
        inside = self._inside
        if inside is not None and self._group[name] == self._group[inside.name]:
            if inside.descends(node):
                return Bound()
            self._calls += inside.computes(node)
            for key, value in handed.items():
                self._given[key] = most(self._given[key], value) if key in self._given else copied(value)
            return Bound.unknown(_result(name))
        summary = self._summaries[name]

        def find(key: str) -> Bound:
            return copied(handed[key]) if key in handed else scope.find(key)

        output = self._filled(summary.output, find)
        scope.values |= {key: self._filled(value, find) for key, value in summary.effects.items()}
        self._rounds = min(self._rounds + summary.rounds, ENDLESS)
        return output

    def _handed(self, name: str, node: nodes.Call, values: Bounds, scope: Scope) -> dict[str, Bound]:
        handed: dict[str, Bound] = {}
        for macro in self._names.macros[name]:
            names = [argument.name for argument in macro.args]
            for missing, default in zip(names[::-1], macro.defaults[::-1], strict=False):
                handed[_parameter(name, missing)] = self._value(default, scope)
            for parameter, argument in zip(names, node.args, strict=False):
                handed[_parameter(name, parameter)] = copied(values[id(argument)])
            for keyword in node.kwargs:
                handed[_parameter(name, keyword.key)] = copied(values[id(keyword.value)])
            # What the macro has no names for, it can still reach.
            for rest, extra in (("varargs", node.args[len(names) :]), ("kwargs", node.kwargs)):
                handed[rest] = sum_of(
                    copied(values[id(each.value if isinstance(each, nodes.Keyword) else each)])
                    for each in extra
                )
        return handed

    def _filled(self, value: Bound, find: Callable[[str], Bound]) -> Bound:
        """What was not known in a macro or loop, by what is known where that is used."""
        result, largest = Bound(value.size, value.count, value.is_number, largest=value.largest), 0.0
        for key, often in value.uses.items():
            known = find(key) if key[0] != AMOUNT else self._multiplied(key, find)
            self._step(1 + len(known.uses))
            if known.is_number and not value.is_number and key[0] != AMOUNT:
                known = as_text(known)
            largest = max(largest, known.total)
            result = plus(result, repeated(known, often))
        result.is_number = value.is_number
        result.total = min(result.total, value.total * largest)
        return result

    def _multiplied(self, key: str, find: Callable[[str], Bound]) -> Bound:
        known = Bound.number(1.0)
        for name in names_in(key):
            known = product(known, find(name))
        return known

    def _check(self, left: Mapping[str, Bound], node: nodes.Node, words: str) -> None:
        """Whether what is left behind each time holds what was there before more than once."""
        graph = {
            key: [name for use in value.uses for name in names_in(use) if name in left]
            for key, value in left.items()
        }
        group, _ = strongly_connected(graph)
        for key, value in left.items():
            again = sum(
                often
                for use, often in value.uses.items()
                if any(name in left and group[name] == group[key] for name in names_in(use))
            )
            if min(again, value.total) > _ONCE:
                self.say(node, words)
                return

    # --- statements ------------------------------------------------------------------------------------

    def _body(self, statements: Iterable[nodes.Node], scope: Scope) -> Bound:
        """What these write, one after the other."""
        output = Bound.text(0.0)
        for statement in statements:
            self._step(1)
            output = plus(output, as_text(self._statement(statement, scope)))
        return output

    def _statement(self, node: nodes.Node, scope: Scope) -> Bound:
        if isinstance(node, nodes.Output):
            output = Bound.text(0.0)
            for each in node.nodes:
                output = plus(output, as_text(self._judged(each, scope)))
            return output
        if isinstance(node, nodes.Assign):
            self._assign(node.target, self._judged(node.node, scope), scope)
            if made := namespace_made(node):
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
        return Bound.text(0.0)

    def _inner(self, body: Iterable[nodes.Node], scope: Scope, inner: Scope | None = None) -> Bound:
        """A body whose names end with it; namespaces go on."""
        inner = inner or Scope(scope)
        output = self._body(body, inner)
        scope.values |= {key: value for key, value in inner.values.items() if "." in key}
        return output

    def _judged(self, node: nodes.Node, scope: Scope) -> Bound:
        value = self._value(node, scope)
        if value.is_number and value.size >= ENDLESS:
            self.say(node, "it makes an enormous number")
        elif not value.is_number and value.size > LARGEST_TEXT:
            self.say(node, "it makes an enormous text")
        return value

    def _assign(self, target: nodes.Node, value: Bound, scope: Scope) -> None:
        if isinstance(target, nodes.Name):
            scope.values[target.name] = value
        elif isinstance(target, nodes.NSRef):
            scope.values[self._names.key(target.name, target.attr)] = value
        elif isinstance(target, nodes.Tuple):
            for each in target.items:
                self._assign(each, copied(value), scope)

    def _fill_namespace(self, name: str, node: nodes.Call, scope: Scope) -> None:
        for keyword in node.kwargs:
            key, value = self._names.key(name, keyword.key), self._value(keyword.value, scope)
            scope.values[key] = most(value, scope.find(key)) if self._names.shared else value

    def _with(self, node: nodes.With, scope: Scope) -> Bound:
        inner = Scope(scope)
        for target, value in zip(node.targets, node.values, strict=True):
            self._assign(target, self._judged(value, scope), inner)
        return self._inner(node.body, scope, inner)

    def _call_block(self, node: nodes.CallBlock, scope: Scope) -> Bound:
        inner = Scope(scope)
        result = self._inner(node.body, scope, inner)
        called = Scope(scope)
        called.values[_CALLER] = result
        output = self._judged(node.call, called)
        scope.values |= {key: value for key, value in called.values.items() if "." in key}
        return output

    def _choice(self, node: nodes.If, scope: Scope) -> Bound:
        """The most of what any branch does; only one of them is run."""
        self._value(node.test, scope)
        for other in node.elif_:
            self._value(other.test, scope)
        output, calls, rounds = Bound.text(0.0), self._calls, self._rounds
        most_calls, most_rounds, changed = calls, rounds, dict[str, Bound]()
        for body in (node.body, *(other.body for other in node.elif_), node.else_):
            branch = Scope(scope)
            self._calls, self._rounds = calls, rounds
            output = most(output, self._body(body, branch))
            most_calls, most_rounds = max(most_calls, self._calls), max(most_rounds, self._rounds)
            for key, value in branch.values.items():
                self._step(1 + len(value.uses))
                changed[key] = most(changed[key] if key in changed else scope.find(key), value)
        self._calls, self._rounds = most_calls, most_rounds
        scope.values |= changed
        return output

    def _loop(self, node: nodes.For, scope: Scope) -> Bound:
        over = self._judged(node.iter, scope)
        times = max(over.size if over.is_number else over.count, 1.0)
        carried = self._names.set_in(node)
        if any(isinstance(each, nodes.Call) for each in walk(node)):
            carried = carried | self._names.set_by_macros
        inner = Scope(scope, carried.__contains__)
        body = Scope(inner)
        self._assign(node.target, over, inner)
        calls, rounds = self._calls, self._rounds
        self._calls = self._rounds = 0.0
        output = self._body(node.body, body)
        self._calls = calls + 2 * self._calls
        self._rounds = min(rounds + times * (1.0 + self._rounds), ENDLESS)
        left = {key: value for key, value in body.values.items() if "." in key}
        self._check(left, node, "a text grows longer and longer in a loop")
        self._after(left, times, scope)
        result = repeated(self._filled(output, scope.find), times)
        return most(result, self._inner(node.else_, scope))

    def _after(self, left: Mapping[str, Bound], times: float, scope: Scope) -> None:
        """What namespaces hold when a loop is over: what they held, and what each round has added."""
        before = {key: scope.find(key) for key in left}
        scope.values |= {
            key: most(scope.find(key), self._filled(value, scope.find)) for key, value in left.items()
        }
        for key, value in left.items():
            if key in value.uses:
                added = copied(value)
                added.total = max(0.0, added.total - added.uses.pop(key))
                more = repeated(self._filled(added, scope.find), times)
                scope.values[key] = plus(copied(before[key]), more)

    # --- expressions -----------------------------------------------------------------------------------

    def _value(self, node: nodes.Node, scope: Scope, given: Bound | None = None) -> Bound:
        """Of an expression, its parts first, without recursion.

        Args:
            given: what a filter around a block is applied to.
        """
        order, waiting = [], [node]
        while waiting:
            current = waiting.pop()
            order.append(current)
            waiting += parts_of(current)
        values: Bounds = {}
        for current in reversed(order):
            value = self._combined(current, values, scope, given)
            self._step(1 + len(value.uses) // 8)
            values[id(current)] = value
        return values[id(node)]

    def _combined(self, node: nodes.Node, values: Bounds, scope: Scope, given: Bound | None) -> Bound:
        if isinstance(node, nodes.Const):
            return Bound.number(node.value) if is_number(node) else Bound.text(len(str(node.value)))
        if isinstance(node, nodes.TemplateData):
            return Bound.text(len(node.data))
        if isinstance(node, nodes.Name):
            return scope.find(node.name)
        if isinstance(node, (nodes.Compare, nodes.Not, nodes.Test)):
            return Bound.number(1.0)
        parts = [values[id(each)] for each in parts_of(node)]
        if isinstance(node, (nodes.Add, nodes.Sub)):
            return plus(*parts) if isinstance(node, nodes.Add) or parts[0].is_number else parts[0]
        if isinstance(node, nodes.Concat):
            return sum_of(escaped(each, part) for each, part in zip(node.nodes, parts, strict=True))
        if isinstance(node, nodes.Mul):
            return product(*parts)
        if isinstance(node, nodes.Pow):
            return power(*parts)
        if isinstance(node, nodes.Pair):
            return listed(parts)
        if isinstance(node, nodes.Mod):
            return formatted(node.left, *parts)
        if isinstance(node, (nodes.And, nodes.Or, nodes.CondExpr)):
            return either(parts[isinstance(node, nodes.CondExpr) :])
        if isinstance(node, (nodes.List, nodes.Tuple, nodes.Dict)):
            return listed(parts)
        if isinstance(node, (nodes.Getattr, nodes.Getitem)):
            return self._part_of(node, parts[0], scope)
        if isinstance(node, nodes.Filter):
            inner = given if node.node is None else values[id(node.node)]
            return self._changed(node.name, inner or Bound(), node, values, scope)
        if isinstance(node, nodes.Call):
            return self._called(node, values, scope)
        return parts[0] if parts else Bound()

    def _part_of(self, node: nodes.Getattr | nodes.Getitem, whole: Bound, scope: Scope) -> Bound:
        name = node.attr if isinstance(node, nodes.Getattr) else constant_text(node.arg)
        if name is not None:
            return self._attribute(node.node, name, whole, scope)
        return whole

    def _attribute(self, owner: nodes.Node, name: str, whole: Bound, scope: Scope) -> Bound:
        if isinstance(owner, nodes.Name) and owner.name in self._names.namespaces:
            return scope.find(self._names.key(owner.name, name))
        # The fields of what a macro was given, or of messages, are smaller than the whole: nothing is known
        # of them.
        whole.uses = {key: often for key, often in whole.uses.items() if "." in key}
        return whole

    def _called(self, node: nodes.Call, values: Bounds, scope: Scope) -> Bound:
        target = node.node
        if isinstance(target, nodes.Name):
            name = self._names.meant_by(target.name)
            if name in self._names.macros:
                return self._call_of_macro(name, node, values, scope)
            if name == "range":
                last = max((amount(values[id(each)]) for each in node.args), default=1.0)
                return Bound(1.0, last, largest=last)
            if name == "caller":
                return scope.find(_CALLER)
            if name in ("namespace", "dict"):
                return listed([values[id(each.value)] for each in node.kwargs] or [Bound.text(0.0)])
        if self._inside is not None and self._inside.may_call_itself(target):
            self._calls += self._inside.computes(node) and not self._inside.descends(node)
        if isinstance(target, nodes.Getattr):
            return self._changed(target.attr, values[id(target.node)], node, values, scope)
        return sum_of(copied(values[id(each)]) for each in node.args)

    def _changed(
        self, name: str, value: Bound, node: nodes.Filter | nodes.Call, values: Bounds, scope: Scope
    ) -> Bound:
        """By a filter, or by a method of the same name; ``map`` with a filter's name is that filter."""
        arguments = arguments_of(node)
        if name == "map" and arguments and (inner := constant_text(arguments[0])) is not None:
            name, arguments = inner, arguments[1:]
        if name == "attr" and arguments and isinstance(node, nodes.Filter) and node.node is not None:
            return self._attribute(node.node, constant_text(arguments[0]) or "", value, scope)
        return filtered(name, value, node, [values[id(each)] for each in arguments])

    def _step(self, number: int) -> None:
        self._steps += number
        if self._steps > _MOST_STEPS:
            raise TooInvolvedError


def _parameter(macro: str, name: str) -> str:
    return f"{macro}({name}"


def _result(macro: str) -> str:
    return f"{macro}()"
