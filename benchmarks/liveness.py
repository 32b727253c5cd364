"""How much memory a program that is lowered and not compiled will want beside its state.

Only a compiler assigns buffers, and XLA's for CUDA wants a GPU. What can be said without one is how
many bytes of what a module computes are alive at once, if it is computed in the order in which it
is written. Two figures of that lie apart by what XLA does with operations that go element by
element, and that broadcast, slice and reorder: "unfused" gives each result a buffer of its own,
"fused" gives none to those. Both let in-place updates, loops and calls reuse the buffers of what
nobody reads afterwards, and count a loop's body once. XLA may order operations otherwise, copies
where layouts differ, and the libraries that it calls take scratch of their own: neither is a bound.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

# Operations whose result is written whatever is fused. All others go element by element.
_WRITTEN = (
    *("dot_general", "dot", "convolution", "reduce", "reduce_window", "select_and_scatter"),
    *("sort", "scatter", "dynamic_update_slice", "custom_call", "while", "case", "if"),
    *("cholesky", "triangular_solve", "fft", "rng_bit_generator", "all_reduce", "all_gather"),
)
_ALIASED = re.compile(r"output_tuple_indices = \[(\d*)\],\s*operand_index = (\d+)")


@dataclass
class _Block:
    """What a block of operations came to.

    Attributes:
        peak: most bytes of its own values at once.
        returned: of each value that it returns, the bytes of its own, and the value from outside
            whose buffer it is in, if it is.
    """

    peak: int
    returned: list[tuple[int, Any]]


@dataclass
class _Walk:
    functions: dict[str, Any]
    fused: bool
    found: dict[str, _Block] = field(default_factory=dict)

    def function(self, name: str) -> _Block:
        if name not in self.found:
            self.found[name] = self.block(self.functions[name].regions[0].blocks[0])
        return self.found[name]

    def block(self, block: Any) -> _Block:
        operations = [op.operation for op in block.operations]
        last = _last_uses(operations)
        # Bytes of the values that are alive, and whose buffer from outside another one is in.
        sizes: dict[Any, int] = {}
        outer: dict[Any, Any] = {}
        live = peak = 0

        def origin(value: Any) -> Any:
            """The value from outside in whose buffer one is; None of the block's own."""
            return outer.get(value) if value in sizes else value

        for place, op in enumerate(operations[:-1]):
            inner, owed = self._inside(op)
            fresh, results = 0, [*op.results]
            for result, (own, source) in zip(results, owed, strict=True):
                old = origin(source) if source is not None else None
                here = source is not None and last.get(source) == place
                if here and (old is not None or sizes.get(source)):
                    sizes[result] = sizes.get(source, 0) if source in sizes else 0
                    if source in sizes:
                        sizes[source] = 0
                    outer[result] = old
                else:
                    sizes[result], outer[result] = own, None
                    fresh += own
            calls = op.name in ("func.call", "stablehlo.case", "stablehlo.if")
            peak = max(peak, live + (max(inner, fresh) if calls else inner + fresh))
            live += fresh
            for value in {*op.operands, *results}:
                if value in sizes and last.get(value, place) <= place:
                    live -= sizes[value]
                    sizes[value] = 0
        ends = operations[-1].operands if operations else ()
        returned = [(sizes.get(value, 0), origin(value)) for value in ends]
        return _Block(peak, returned)

    def _inside(self, op: Any) -> tuple[int, list[tuple[int, Any]]]:
        """Peak of what an operation computes within; of each result its bytes and its source.

        The source is an operand, or a value around it, in whose buffer it can be.
        """
        name, operands = op.name.removeprefix("stablehlo."), [*op.operands]
        results = [*op.results]
        if name == "func.call":
            called = re.sub(r'[@"]', "", str(op.attributes["callee"]))
            body = self.function(called)
            arguments = [*self.functions[called].regions[0].blocks[0].arguments]
            given = dict(zip(arguments, operands, strict=True))
            owed = [
                (size, None) if value is None else (bytes_of(str(result.type)), given.get(value))
                for result, (size, value) in zip(results, body.returned, strict=True)
            ]
            return body.peak, owed
        blocks = [self.block(region.blocks[0]) for region in op.regions if len(region.blocks)]
        inner = max((each.peak for each in blocks), default=0)
        if name in ("case", "if"):
            each = zip(*(b.returned for b in blocks), strict=True)
            return inner, [_agreed(*of) for of in zip(results, each, strict=True)]
        # A constant is part of the program.
        written = name in _WRITTEN or (not self.fused and name != "constant")
        sizes = [bytes_of(str(result.type)) if written else 0 for result in results]
        return inner, list(zip(sizes, _sources(name, op, operands, results), strict=True))


def peak_bytes(module: Any, *, fused: bool) -> int:
    """Most bytes that a StableHLO module's `main` has alive at once, its arguments left out."""
    return _Walk(_functions(module), fused).function("main").peak


def _functions(module: Any) -> dict[str, Any]:
    found = [op for op in module.body.operations if op.operation.name == "func.func"]
    return {op.name.value: op for op in found}


def values_by_size(module: Any) -> list[tuple[int, str]]:
    """Bytes and type of each kind of array that is computed, the largest first."""
    kinds: set[str] = set()
    for function in _functions(module).values():
        for block in function.regions[0].blocks:
            kinds.update(str(result.type) for op in _all(block) for result in op.results)
    return sorted(((bytes_of(kind), kind) for kind in kinds), reverse=True)


_TENSOR = re.compile(r"tensor<((?:\d+x)*)([a-z]+\w*)>")


def bytes_of(kind: str) -> int:
    """Bytes of an array by its MLIR type, "tensor<4x3xf32>"; 0 of what is none."""
    found = _TENSOR.fullmatch(kind)
    if found is None:
        return 0
    shape, element = found.groups()
    bits = re.search(r"\d+", element)
    each = max(int(bits[0]) // 8, 1) if bits else 0
    return each * math.prod(int(n) for n in shape.split("x") if n)


def _sources(name: str, op: Any, operands: Sequence[Any], results: Sequence[Any]) -> list[Any]:
    """Of each result of an operation the operand in whose place it can be, None where in none."""
    if name in ("while", "optimization_barrier"):
        return [*operands]
    if name in ("dynamic_update_slice", "scatter"):
        return [*operands[: len(results)]]
    found: list[Any] = [None] * len(results)
    if name == "custom_call" and "output_operand_aliases" in op.attributes:
        for place, operand in _ALIASED.findall(str(op.attributes["output_operand_aliases"])):
            found[int(place or 0)] = operands[int(operand)]
    return found


def _agreed(result: Any, ends: Sequence[tuple[int, Any]]) -> tuple[int, Any]:
    """What a result is where any branch may have been taken."""
    sources = {source for _, source in ends}
    if sources == {None}:
        return max(size for size, _ in ends), None
    return bytes_of(str(result.type)), sources.pop() if len(sources) == 1 else None


def _last_uses(operations: Sequence[Any]) -> dict[Any, int]:
    """The place of the operation that is the last to read a value, in it or in its regions."""
    last: dict[Any, int] = {}
    for place, op in enumerate(operations):
        for each in (op, *(inner for r in op.regions for b in r.blocks for inner in _all(b))):
            for value in each.operands:
                last[value] = place
    return last


def _all(block: Any) -> Iterator[Any]:
    """All operations of a block, those within others too."""
    for op in block.operations:
        yield op.operation
        for region in op.operation.regions:
            for inner in region.blocks:
                yield from _all(inner)
