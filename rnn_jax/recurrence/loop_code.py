"""A whole loop over time in LLVM's intermediate language, from the plan of its body.

Each phase of a step (`rnn_jax.recurrence.step_graph`) is a function of one *block*. Where a phase has products, a block
is a panel of P columns for some rows: tile by tile, the products' sums go to a few lines of scratch, and the nodes that
need them are computed while they are there. Where it has none, a block is some rows with all their columns.

The blocks of all steps are numbered through, and threads (the caller and XLA's own) take the next one until none is
left; before it starts a block, a thread waits until all blocks of earlier phases are done. Blocks are taken in order,
so that those waited for are always being worked on: no thread needs to have begun, and none is waited for that has not.
"""

import math
import sys

from rnn_jax.recurrence.machine_code import CALLS, Shape, tile
from rnn_jax.recurrence.step_graph import Buffer, Leaf, Phase, Plan, Product, is_truth
from rnn_jax.recurrence.vector_code import Writer, mathematics

# From so many multiplications a step on, threads share it.
SHARED = 250_000
# What a node costs beside a multiplication of a product, roughly.
NODE = 20
# The numbers of a block without products, and the multiplications of one with products, at least; the blocks with
# products at most, unless there are more panels.
BLOCK = 2048
BLOCK_PRODUCTS = 100_000
BLOCKS = 64
# How often a thread looks whether it may go on before it offers its core to others.
LOOKS = 20_000
# Words of a job (see `rnn_jax.recurrence.machine_code`): the next block, the blocks done, the arrays' addresses.
NEXT, DONE, ARRAYS = 16, 24, 32

# `@wait(done, least)`: until so many blocks are done.
_YIELDS = sys.platform != "win32"
_WAIT = f"""
{"declare i32 @sched_yield()" if _YIELDS else ""}
define internal void @wait(ptr %done, i64 %least) #0 {{
entry:
  br label %look
look:
  %looks = phi i64 [0, %entry], [%more, %again]
  %finished = load atomic volatile i64, ptr %done acquire, align 8
  %ready = icmp sge i64 %finished, %least
  br i1 %ready, label %end, label %not
not:
  %more = add i64 %looks, 1
  %long = icmp sgt i64 %more, {LOOKS}
  br i1 %long, label %offer, label %again
offer:
  {"%offered = call i32 @sched_yield()" if _YIELDS else ""}
  br label %again
again:
  br label %look
end:
  ret void
}}
"""


class LoopCode:
    """The program of a loop.

    Args:
        plan: its body.
        shape: the tile for this processor.
        length: T.
        reverse: whether the last step comes first.

    Attributes:
        arguments: the arrays that the program is given, in their order. Of the kind "panels": the packed columns of the
            product of that number.
        results: the arrays that it fills. Of the kind "turns": the carry of that number after each step, two by turns.
    """

    def __init__(self, plan: Plan, shape: Shape, length: int, reverse: bool) -> None:
        self.plan, self.shape, self.length, self.reverse = plan, shape, length, reverse
        changed = [buffer for buffer in plan.written if buffer.kind == "carry"]
        self.arguments = [
            *(buffer for buffer in plan.read if buffer.kind in ("const", "x")),
            *(Buffer("panels", number) for number in range(len(plan.products))),
            *sorted({buffer for buffer in plan.read if buffer.kind == "carry"} | set(changed)),
        ]
        self.results = [*plan.written, *(Buffer("turns", buffer.number) for buffer in changed)]

    def result_shape(self, buffer: Buffer) -> tuple[int, ...]:
        """The shape of an array that the program fills."""
        kind = "carry" if buffer.kind == "turns" else buffer.kind
        leading = {"y": (self.length,), "turns": (2,)}.get(buffer.kind, ())
        return (*leading, self.plan.rows, self.plan.written[Buffer(kind, buffer.number)])

    @property
    def panels(self) -> int:
        """The panels of W columns."""
        return -(-self.plan.width // self.shape.columns)

    @property
    def rows_of_block(self) -> int:
        """The rows of a block without products."""
        return max(1, min(self.plan.rows, BLOCK // self.plan.width))

    def rows_of_part(self, phase: Phase) -> int:
        """The rows of a block with products: whole tiles, all of them unless there are few panels."""
        depth = sum(product.depth * len(product.pieces) for product in self.products(phase))
        tiles = -(-self.plan.rows // self.shape.rows)
        least = -(-BLOCK_PRODUCTS // max(1, depth * self.shape.rows * self.shape.columns))
        return self.shape.rows * max(least, -(-tiles * self.panels // BLOCKS))

    def products(self, phase: Phase) -> list[Product]:
        """The products of a phase."""
        return [self.plan.products[number] for number in phase.products]

    def blocks(self, phase: Phase) -> int:
        """The number of blocks of a phase."""
        if not phase.products:
            return -(-self.plan.rows // self.rows_of_block)
        return self.panels * -(-self.plan.rows // self.rows_of_part(phase))

    def shared(self) -> bool:
        """Whether a step is long enough for threads to share it."""
        depth = sum(product.depth * len(product.pieces) for product in self.plan.products)
        return self.plan.rows * self.plan.width * (depth + NODE * len(self.plan.nodes)) >= SHARED

    def source(self) -> str:
        """The program."""
        heights = self._heights()
        tiles = [f"ptr @tile{rows}" if rows in heights else "ptr null" for rows in range(1, self.shape.rows + 1)]
        bits = 32 * self.shape.lanes
        return "\n".join(
            [
                CALLS,
                *(tile(self.shape, rows) for rows in sorted(heights)),
                f"@tiles = internal constant [{len(tiles)} x ptr] [{', '.join(tiles)}]",
                mathematics(self.shape.lanes),
                *(_PhaseCode(self, index, phase).source() for index, phase in enumerate(self.plan.phases)),
                _WAIT,
                self._work(),
                self._handler(),
                f'attributes #0 = {{ nounwind "min-legal-vector-width"="{bits}" "prefer-vector-width"="{bits}" }}',
            ]
        )

    def _heights(self) -> set[int]:
        """The rows that tiles have."""
        found = set()
        for phase in self.plan.phases:
            if phase.products:
                part = self.rows_of_part(phase)
                for rows in {min(part, self.plan.rows), self.plan.rows % part} - {0}:
                    count = -(-rows // self.shape.rows)
                    found |= {rows // count, -(-rows // count)}
        return found

    def _work(self) -> str:
        """`@work(job)`: take blocks until none is left."""
        each = [self.blocks(phase) for phase in self.plan.phases]
        total = sum(each)
        lines = [
            "define internal void @work(ptr %job) #0 {",
            "entry:",
            f"  %arrays = getelementptr i64, ptr %job, i64 {ARRAYS}",
            f"  %next = getelementptr i64, ptr %job, i64 {NEXT}",
            f"  %done = getelementptr i64, ptr %job, i64 {DONE}",
            "  br label %take",
            "take:",
            "  %taken = atomicrmw add ptr %next, i64 1 monotonic",
            f"  %some = icmp slt i64 %taken, {self.length * total}",
            "  br i1 %some, label %find, label %end",
            "find:",
            f"  %s = udiv i64 %taken, {total}",
            f"  %of.step = urem i64 %taken, {total}",
            f"  %before.step = mul i64 %s, {total}",
        ]
        first = 0
        for index, blocks in enumerate(each):
            lines += [
                f"  %is{index} = icmp slt i64 %of.step, {first + blocks}",
                f"  br i1 %is{index}, label %start{index}, label %not{index}",
                f"start{index}:",
                f"  %before{index} = add i64 %before.step, {first}",
                f"  %block{index} = sub i64 %of.step, {first}",
                f"  call void @wait(ptr %done, i64 %before{index})",
                f"  call void @phase{index}(ptr %arrays, i64 %s, i64 %block{index})",
                "  br label %did",
                f"not{index}:",
            ]
            first += blocks
        lines += [
            "  unreachable",
            "did:",
            "  %was = atomicrmw add ptr %done, i64 1 release",
            "  br label %take",
            "end:",
            "  ret void",
            "}",
        ]
        return "\n".join(lines)

    def _handler(self) -> str:
        """`@handler(frame)`: what XLA calls."""
        blocks = [self.blocks(phase) for phase in self.plan.phases]
        arrays = [(9, index) for index in range(len(self.arguments))]
        arrays += [(14, index) for index in range(len(self.results))]
        lines = [
            "define ptr @handler(ptr %frame) {",
            "entry:",
            "  %answered = call i1 @answer(ptr %frame)",
            "  br i1 %answered, label %end, label %execute",
            "execute:",
            f"  %job = call ptr @malloc(i64 {8 * (ARRAYS + len(arrays))})",
            "  %all9 = call ptr @address(ptr %frame, i64 9)",
            "  %all14 = call ptr @address(ptr %frame, i64 14)",
        ]
        for place, (kind, index) in enumerate(arrays):
            lines += [
                f"  %buffer{place} = call ptr @address(ptr %all{kind}, i64 {index})",
                f"  %data{place} = call ptr @address(ptr %buffer{place}, i64 3)",
                f"  call void @put_address(ptr %job, i64 {ARRAYS + place}, ptr %data{place})",
            ]
        lines += [
            "  call void @put(ptr %job, i64 0, i64 1)",
            f"  call void @put(ptr %job, i64 {NEXT}, i64 0)",
            f"  call void @put(ptr %job, i64 {DONE}, i64 0)",
        ]
        if self.shared():
            lines += [
                f"  %threads = call i64 @threads(ptr %frame, ptr %job, i64 {max(blocks)})",
                "  call void @schedule(ptr %frame, ptr %job, i64 %threads)",
            ]
        lines += [
            "  call void @work(ptr %job)",
            f"  %done.at = getelementptr i64, ptr %job, i64 {DONE}",
            f"  call void @wait(ptr %done.at, i64 {self.length * sum(blocks)})",
            "  call void @leave(ptr %job)",
            "  br label %end",
            "end:",
            "  ret ptr null",
            "}",
        ]
        return "\n".join(lines)


class _PhaseCode:
    """`@phase{index}(arrays, s, block)`: one block of a phase in the s-th step from the loop's beginning."""

    def __init__(self, code: LoopCode, index: int, phase: Phase) -> None:
        self.code, self.plan, self.index, self.phase = code, code.plan, index, phase
        self.write = Writer(code.shape.lanes)
        self.here = {store.node for store in phase.stores if store.buffer == self.plan.spilled.get(store.node)}
        self.nodes = self._nodes()
        # Where arrays begin, at this step.
        self.read: dict[Buffer, str] = {}
        self.written: dict[Buffer, str] = {}
        # Where a product's piece begins in the tile's scratch.
        pieces = [(number, first) for number in phase.products for first in self.plan.products[number].pieces]
        self.slots = {piece: slot * code.shape.rows * code.shape.columns for slot, piece in enumerate(pieces)}
        self.scratch = ""
        self.loops = 0

    def source(self) -> str:
        """The function."""
        write = self.write
        write.add(f"define internal void @phase{self.index}(ptr %arrays, i64 %s, i64 %block) #0 {{", "entry:")
        self._find_arrays()
        if self.phase.products:
            self._panel()
        else:
            self._rows()
        write.add("  ret void", "}")
        return "\n".join(write.lines)

    def _is_stored(self, number: int) -> bool:
        """Whether an earlier phase has computed and stored a node."""
        return number in self.plan.spilled and number not in self.here

    def _nodes(self) -> list[int]:
        """The nodes of the phase, arguments first."""
        found: dict[int, None] = {}

        def visit(number: int) -> None:
            if number not in found:
                for arg in () if self._is_stored(number) else self.plan.nodes[number].args:
                    visit(arg)
                found[number] = None

        for store in self.phase.stores:
            visit(store.node)
        return list(found)

    # Arrays.

    def _find_arrays(self) -> None:
        write, nodes = self.write, self.plan.nodes
        time = write.integer("sub", self.code.length - 1, "%s") if self.code.reverse else "%s"
        read = {nodes[number].at.buffer for number in self.nodes if nodes[number].op == "leaf"}
        read |= {self.plan.spilled[number] for number in self.nodes if self._is_stored(number)}
        read |= {product.operand for product in self.code.products(self.phase)}
        for buffer in sorted(read):
            self.read[buffer] = self._address(buffer, time, written=False)
        for number in self.phase.products:
            self.read[Buffer("panels", number)] = self._given(Buffer("panels", number))
        for buffer in sorted({store.buffer for store in self.phase.stores}):
            self.written[buffer] = self._address(buffer, time, written=True)

    def _given(self, buffer: Buffer) -> str:
        return self._array(self.code.arguments.index(buffer))

    def _filled(self, buffer: Buffer) -> str:
        return self._array(len(self.code.arguments) + self.code.results.index(buffer))

    def _array(self, place: int) -> str:
        return self.write.new(f"load ptr, ptr {self.write.new(f'getelementptr ptr, ptr %arrays, i64 {place}')}")

    def _address(self, buffer: Buffer, time: str, *, written: bool) -> str:
        """Where an array begins, or the part of it that is this step's."""
        write, plan = self.write, self.plan
        if buffer.kind == "x":
            step = plan.read[buffer]
            return write.byte_at(self._given(buffer), time, math.prod(step.shape) * step.dtype.itemsize)
        if buffer.kind == "scratch":
            return self._filled(buffer)
        if buffer not in plan.written:
            return self._given(buffer)
        size = plan.rows * plan.written[buffer]
        if buffer.kind == "y":
            return write.at(self._filled(buffer), (time, size))
        odd = write.integer("and", "%s", 1)
        turn = write.integer("sub", 1, odd) if written else odd
        place = write.at(self._filled(Buffer("turns", buffer.number)), (turn, size))
        at_edge = write.new(f"icmp eq i64 %s, {self.code.length - 1 if written else 0}")
        edge = self._filled(buffer) if written else self._given(buffer)
        return write.new(f"select i1 {at_edge}, ptr {edge}, ptr {place}")

    # Blocks.

    def _rows(self) -> None:
        """A block of some rows, with all their columns."""
        write, size = self.write, self.code.rows_of_block
        first = write.integer("mul", "%block", size)
        last = write.least(write.integer("add", first, size), self.plan.rows)
        whole, rest = divmod(self.plan.width, self.code.shape.columns)

        def row(r: str) -> None:
            if whole:
                write.loop("panel", 0, whole, lambda panel: self._numbers(r, panel, "", self.code.shape.columns))
            if rest:
                self._numbers(r, whole, "", rest)

        write.loop("row", first, last, row)

    def _panel(self) -> None:
        """A block of a panel's columns, for some rows, tile by tile."""
        write, shape = self.write, self.code.shape
        self.scratch = write.new(f"alloca [{len(self.slots) * shape.rows * shape.columns} x float], align 64")
        part = self.code.rows_of_part(self.phase)
        panel = write.integer("urem", "%block", self.code.panels)
        top = write.integer("mul", write.integer("udiv", "%block", self.code.panels), part)
        height = write.least(write.integer("sub", self.plan.rows, top), part)
        # Tiles as equal in height as can be, the first ones a row longer.
        count = write.integer("udiv", write.integer("add", height, shape.rows - 1), shape.rows)
        base, longer = write.integer("udiv", height, count), write.integer("urem", height, count)

        def one(index: str) -> None:
            before = write.integer("add", write.integer("mul", index, base), write.least(index, longer))
            is_longer = write.new(f"zext i1 {write.new(f'icmp slt i64 {index}, {longer}')} to i64")
            row, rows = write.integer("add", top, before), write.integer("add", base, is_longer)
            self._multiply(panel, row, rows)
            self._tile(panel, row, rows)

        write.loop("tile", 0, count, one)

    def _multiply(self, panel: str, row: str, rows: str) -> None:
        """The products' sums of a tile, into its scratch."""
        write, columns = self.write, self.code.shape.columns
        entry = write.new(f"getelementptr ptr, ptr @tiles, i64 {write.integer('sub', rows, 1)}")
        tile_code = write.new(f"load ptr, ptr {entry}")
        for (number, first), slot in self.slots.items():
            product = self.plan.products[number]
            index = write.integer("add", panel, product.pieces.index(first) * self.code.panels)
            w = write.at(self.read[Buffer("panels", number)], (index, product.depth * columns))
            x, y = write.at(self.read[product.operand], (row, product.depth)), write.at(self.scratch, (slot, 1))
            write.add(f"  call void {tile_code}(ptr {x}, i64 {product.depth}, ptr {w}, ptr {y}, i64 {columns})")

    def _tile(self, panel: str, row: str, rows: str) -> None:
        """What is computed from a tile's products, of a panel that is whole or the last."""
        write = self.write
        whole, rest = divmod(self.plan.width, self.code.shape.columns)

        def some(label: str, columns: int) -> None:
            def one(inside: str) -> None:
                self._numbers(write.integer("add", row, inside), panel, inside, columns)

            write.loop(label, 0, rows, one)

        if not (whole and rest):
            some("row", rest or self.code.shape.columns)
            return
        is_last = write.new(f"icmp eq i64 {panel}, {whole}")
        write.add(f"  br i1 {is_last}, label %last, label %whole", "last:")
        some("row.of.last", rest)
        write.add("  br label %both", "whole:")
        some("row", self.code.shape.columns)
        write.add("  br label %both", "both:")

    # Nodes.

    def _numbers(self, row: str, panel: str | int, inside: str, columns: int) -> None:
        """Compute and store the phase's nodes at one row and the first `columns` columns of a panel.

        `inside` is the row's number in the tile whose products are at hand.
        """
        write, lanes = self.write, self.write.lanes
        left = write.integer("mul", panel, self.code.shape.columns)
        whole, rest = divmod(columns, lanes)

        def vector(index: str | int, width: int = lanes) -> None:
            self._vector(row, left, write.integer("mul", index, lanes), inside, width)

        # A loop, though of few turns: each copy of the nodes is as much again to compile.
        if whole > 1:
            self.loops += 1
            write.loop(f"vector{self.loops}", 0, whole, vector)
        elif whole:
            vector(0)
        if rest:
            vector(whole, rest)

    def _vector(self, row: str, left: str, start: str, inside: str, width: int) -> None:
        """Compute and store the nodes of `width` columns, from the column `left` + `start` on."""
        write, column = self.write, self.write.integer("add", left, start)
        values: dict[int, str] = {}
        for number in self.nodes:
            values[number] = self._value(number, values, row, column, inside, start, width)
        for store in self.phase.stores:
            place = (row, self.plan.written[store.buffer]), (column, 1), (store.first, 1)
            write.store(values[store.node], write.at(self.written[store.buffer], *place), width)

    def _value(
        self, number: int, values: dict[int, str], row: str, column: str, inside: str, start: str, width: int
    ) -> str:
        """The vector of a node."""
        write, node = self.write, self.plan.nodes[number]
        if self._is_stored(number):
            buffer = self.plan.spilled[number]
            return write.load(write.at(self.read[buffer], (row, self.plan.width), (column, 1)), width)
        if node.op == "constant":
            return write.same(node.at)
        if node.op == "piece":
            place = (inside, self.code.shape.columns), (self.slots[node.at.product, node.at.first], 1), (start, 1)
            return write.load(write.at(self.scratch, *place), write.lanes)
        if node.op == "leaf":
            return self._leaf(node.at, row, column, width)
        truths = self._is_truth(node.args[0])
        return write.operation(node.op, [values[arg] for arg in node.args], exponent=node.at, truths=truths)

    def _is_truth(self, number: int) -> bool:
        """Whether a node is a condition."""
        node = self.plan.nodes[number]
        if node.op == "leaf":
            return self.plan.read[node.at.buffer].dtype == bool
        return is_truth(node)

    def _leaf(self, leaf: Leaf, row: str, column: str, width: int) -> str:
        """The vector of an array's numbers, or conditions, which have a byte each."""
        write, array, base = self.write, self.plan.read[leaf.buffer], self.read[leaf.buffer]
        truths = array.dtype == bool
        columns = array.shape[-1] if leaf.column else 1
        offsets = [(row, columns)] * leaf.row + [(column, 1), (leaf.first, 1)] * leaf.column
        for index, factor in offsets:
            base = write.byte_at(base, index, factor) if truths else write.at(base, (index, factor))
        if leaf.column:
            loaded = write.load(base, width, "i8", 1) if truths else write.load(base, width)
            return write.new(f"icmp ne <{write.lanes} x i8> {loaded}, zeroinitializer") if truths else loaded
        if truths:
            return write.spread(write.new(f"icmp ne i8 {write.new(f'load i8, ptr {base}')}, 0"), "i1")
        return write.spread(write.new(f"load float, ptr {base}, align 4"))
