"""Chooses the mutations of a module: cosmic-ray's own ones that matter here, and removed calls."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

from cosmic_ray.ast import ast_nodes, get_ast_from_path
from cosmic_ray.operators.operator import Example, Operator
from cosmic_ray.plugins import get_operator, operator_names
from cosmic_ray.work_item import MutationSpec, WorkItem
from parso.python.tree import Keyword
from parso.tree import search_ancestor

ARITHMETIC = "Add_Sub|Sub_Add|Mul_Div|Div_Mul|FloorDiv_Div|Mod_FloorDiv|Pow_Mul"
COMPARISONS = "Lt_LtE|Lt_GtE|LtE_Lt|Gt_GtE|Gt_LtE|GtE_Gt|Eq_NotEq|NotEq_Eq|Is_IsNot|IsNot_Is"
KEPT = re.compile(
    rf"core/(ReplaceBinaryOperator_({ARITHMETIC})|ReplaceComparisonOperator_({COMPARISONS})|"
    "ReplaceUnaryOperator_Delete_(Not|USub)|ReplaceTrueWithFalse|ReplaceFalseWithTrue|"
    "ReplaceAndWithOr|ReplaceOrWithAnd|ReplaceBreakWithContinue|ReplaceContinueWithBreak|"
    "NumberReplacer|AddNot|ZeroIterationForLoop)"
)
"""The operators of cosmic-ray that are used. The others, such as `<<` in the place of `*`, mostly
raise an error, which any test notices, or remove a cache, which none should notice."""
REMOVE_CALL = "own/RemoveCall"
"""Name of `RemoveCall` in a session."""


class RemoveCall(Operator):  # type: ignore[misc]  # cosmic-ray has no types
    """Replaces a call that stands as a statement by `pass`: a step that is left out."""

    def mutation_positions(self, node: Any) -> Iterator[tuple[Any, Any]]:
        """Yields the start and end of the call if the node is such a statement."""
        if node.type != "simple_stmt":
            return
        call = node.children[0]
        if call.type in ("atom_expr", "power") and call.children[-1].type == "trailer":
            yield call.start_pos, call.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        """Returns the node without its call; `index` is 0."""
        call = node.children[0]
        node.children[0] = Keyword("pass", call.start_pos, call.get_first_leaf().prefix)
        return node

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        """Returns a mutation, as cosmic-ray asks of every operator."""
        return (Example("work()\nrest = 1\n", "pass\nrest = 1\n"),)


def operator_of(name: str) -> Operator:
    """Returns the operator of this name."""
    return RemoveCall() if name == REMOVE_CALL else get_operator(name)()


def mutations(root: Path, modules: Iterable[Path]) -> Iterator[WorkItem]:
    """Yields the mutations of modules, one a work item.

    Args:
        root: of the checkout.
        modules: relative to `root`.
    """
    names = [name for name in operator_names() if KEPT.fullmatch(name)]
    for module in modules:
        tree = get_ast_from_path(root / module)
        for name in [REMOVE_CALL, *names]:
            operator = operator_of(name)
            places = (
                (node, place)
                for node in ast_nodes(tree)
                for place in operator.mutation_positions(node)
            )
            for occurrence, (node, (start, end)) in enumerate(places):
                if search_ancestor(node, "decorator"):  # the size of a cache changes no result
                    continue
                spec = MutationSpec(str(module), name, occurrence, start, end)
                yield WorkItem.single(uuid4().hex, spec)
