"""The product of a few rows by a packed matrix, written in LLVM's intermediate language for the vectors of a processor.

    y_v = x_v w_v,   v = 1..V,   x [V, M, K], w [V, K, N] in panels of P columns: packed [V, ⌈N/P⌉, K, P], y [V, M, N]

all of them float32; V is 1 unless each run of a sweep has a matrix of its own.

A *tile* is R rows by P columns of y, whose sums stay in registers for all of K: at each k it reads P numbers of a
panel and one of each row. *panels* walks over the tiles of a range of panels. *work* takes such ranges from a *job*
until none is left: the calling thread and XLA's own threads each run it, so the calling thread never waits for one that
has not begun.

Source: the blocking into panels and register tiles is that of Goto & van de Geijn 2008, "Anatomy of high-performance
matrix multiplication".
"""

import string
from typing import NamedTuple


class Shape(NamedTuple):
    """The tile that fits a processor's vector registers.

    Attributes:
        lanes: float32 numbers of one vector.
        rows: rows of a tile: rows · VECTORS sums, VECTORS of a panel and one number of x are in registers at once.
    """

    lanes: int
    rows: int

    @property
    def columns(self) -> int:
        """P, the columns of a panel."""
        return self.lanes * VECTORS


VECTORS = 2


def source(shape: Shape) -> str:
    """The program in LLVM's language."""
    names = {
        "LANES": shape.lanes,
        "COLUMNS": shape.columns,
        "ROWS": shape.rows,
        "BITS": 32 * shape.lanes,
        "TILES": ", ".join(f"ptr @tile{rows}" for rows in range(1, shape.rows + 1)),
        "SCRATCH": shape.rows * shape.columns,
    }
    tiles = [tile(shape, rows) for rows in range(1, shape.rows + 1)]
    return "\n".join([*tiles, CALLS, string.Template(_PROGRAM).substitute(names)])


def tile(shape: Shape, rows: int) -> str:
    """@tile{rows}: y[:rows, :P] = x[:rows] panel, the sums in registers."""
    vector = f"<{shape.lanes} x float>"
    lanes = shape.lanes
    cells = [(row, part) for row in range(rows) for part in range(VECTORS)]
    lines = [
        f"define internal void @tile{rows}"
        "(ptr noalias %x, i64 %depth, ptr noalias %panel, ptr noalias %y, i64 %columns) #0 {",
        "entry:",
    ]
    for row in range(rows):
        lines += [
            f"  %offset{row} = mul i64 %depth, {row}",
            f"  %x{row} = getelementptr float, ptr %x, i64 %offset{row}",
        ]
    lines += ["  br label %step", "step:", "  %k = phi i64 [0, %entry], [%next, %step]"]
    lines += [
        f"  %sum{row}.{part} = phi {vector} [zeroinitializer, %entry], [%new{row}.{part}, %step]" for row, part in cells
    ]
    lines += [f"  %at = mul i64 %k, {shape.columns}", "  %w = getelementptr float, ptr %panel, i64 %at"]
    for part in range(VECTORS):
        lines += [
            f"  %w{part}.at = getelementptr float, ptr %w, i64 {part * lanes}",
            f"  %w{part} = load {vector}, ptr %w{part}.at, align 4",
        ]
    for row in range(rows):
        lines += [
            f"  %number{row}.at = getelementptr float, ptr %x{row}, i64 %k",
            f"  %number{row} = load float, ptr %number{row}.at, align 4",
            f"  %lane{row} = insertelement {vector} poison, float %number{row}, i32 0",
            f"  %spread{row} = shufflevector {vector} %lane{row}, {vector} poison, <{lanes} x i32> zeroinitializer",
        ]
    lines += [
        f"  %new{row}.{part} = call {vector} @llvm.fma.v{lanes}f32({vector} %spread{row}, {vector} %w{part}, "
        f"{vector} %sum{row}.{part})"
        for row, part in cells
    ]
    lines += [
        "  %next = add nuw i64 %k, 1",
        "  %more = icmp ult i64 %next, %depth",
        "  br i1 %more, label %step, label %store",
        "store:",
    ]
    for row in range(rows):
        lines += [f"  %line{row} = mul i64 %columns, {row}", f"  %y{row} = getelementptr float, ptr %y, i64 %line{row}"]
    for row, part in cells:
        lines += [
            f"  %y{row}.{part} = getelementptr float, ptr %y{row}, i64 {part * lanes}",
            f"  store {vector} %new{row}.{part}, ptr %y{row}.{part}, align 4",
        ]
    return "\n".join([*lines, "  ret void", "}"])


# The structures of XLA's foreign function interface (xla/ffi/api/c_api.h, version 0.3), in words of 8 bytes:
#   call frame 0 size, 1 extensions, 2 api, 3 context, 4 stage, 5-9 arguments {size, extensions, count, types, array},
#              10-14 results {the same}
#   buffer     0 size, 1 extensions, 2 dtype, 3 data, 4 rank, 5 shape
#   extension  0 size, 1 kind (1: asks for metadata), 2 next, 3 metadata
#   metadata   0 size, 1-2 version {size, extensions}, 3 major and minor (4 bytes each), 4 traits
#   api        17 ThreadPool_Schedule, 18 ThreadPool_NumThreads
#   job        0 threads that may still read it, 1 number of threads, 2-5 and 6-10 arguments of the api's functions;
#              of a product 11 x, 12 packed, 13 y, 14 M, 15 K, 16 N, 17 panels in all, 18 panels of one matrix,
#              19 panels taken at once, 20 next panel, 21 panels done
CALLS = """
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)
declare i64 @llvm.smin.i64(i64, i64)
declare i64 @llvm.smax.i64(i64, i64)
declare ptr @malloc(i64)
declare void @free(ptr)

define internal i64 @word(ptr %from, i64 %index) alwaysinline {
  %at = getelementptr i64, ptr %from, i64 %index
  %value = load i64, ptr %at
  ret i64 %value
}

define internal ptr @address(ptr %from, i64 %index) alwaysinline {
  %at = getelementptr ptr, ptr %from, i64 %index
  %value = load ptr, ptr %at
  ret ptr %value
}

define internal void @put(ptr %to, i64 %index, i64 %value) alwaysinline {
  %at = getelementptr i64, ptr %to, i64 %index
  store i64 %value, ptr %at
  ret void
}

define internal void @put_address(ptr %to, i64 %index, ptr %value) alwaysinline {
  %at = getelementptr ptr, ptr %to, i64 %index
  store ptr %value, ptr %at
  ret void
}

; Whether XLA asks only what it would call, and the answer.
define internal i1 @answer(ptr %frame) {
  %extension = call ptr @address(ptr %frame, i64 1)
  %plain = icmp eq ptr %extension, null
  br i1 %plain, label %no, label %extended
extended:
  %kind.at = getelementptr i32, ptr %extension, i64 2
  %kind = load i32, ptr %kind.at
  %asked = icmp eq i32 %kind, 1
  br i1 %asked, label %tell, label %no
tell:
  %metadata = call ptr @address(ptr %extension, i64 3)
  %major = getelementptr i32, ptr %metadata, i64 6
  store i32 0, ptr %major
  %minor = getelementptr i32, ptr %metadata, i64 7
  store i32 3, ptr %minor
  %traits = getelementptr i32, ptr %metadata, i64 8
  store i32 0, ptr %traits
  ret i1 1
no:
  ret i1 0
}

; How many threads may work on a job that has parts for `most`; all of them are counted as its readers.
define internal i64 @threads(ptr %frame, ptr %job, i64 %most) {
  %api = call ptr @address(ptr %frame, i64 2)
  %context = call ptr @address(ptr %frame, i64 3)
  call void @put(ptr %job, i64 1, i64 1)
  %found.at = getelementptr i64, ptr %job, i64 1
  %ask = getelementptr i64, ptr %job, i64 2
  call void @put(ptr %ask, i64 0, i64 32)
  call void @put(ptr %ask, i64 1, i64 0)
  call void @put_address(ptr %ask, i64 2, ptr %context)
  call void @put_address(ptr %ask, i64 3, ptr %found.at)
  %threads.of = call ptr @address(ptr %api, i64 18)
  %unknown = call ptr %threads.of(ptr %ask)
  %found = call i64 @word(ptr %job, i64 1)
  %some = call i64 @llvm.smin.i64(i64 %found, i64 %most)
  %threads = call i64 @llvm.smax.i64(i64 %some, i64 1)
  call void @put(ptr %job, i64 0, i64 %threads)
  ret i64 %threads
}

define internal void @leave(ptr %job) {
  %readers = getelementptr i64, ptr %job, i64 10
  %before = atomicrmw sub ptr %job, i64 1 acq_rel
  %last = icmp eq i64 %before, 1
  br i1 %last, label %drop, label %end
drop:
  call void @free(ptr %job)
  br label %end
end:
  ret void
}

define internal void @task(ptr %job) {
  call void @work(ptr %job)
  call void @leave(ptr %job)
  ret void
}

; Ask XLA for all threads but this one.
define internal void @schedule(ptr %frame, ptr %job, i64 %threads) {
entry:
  %api = call ptr @address(ptr %frame, i64 2)
  %context = call ptr @address(ptr %frame, i64 3)
  %order = getelementptr i64, ptr %job, i64 6
  call void @put(ptr %order, i64 0, i64 40)
  call void @put(ptr %order, i64 1, i64 0)
  call void @put_address(ptr %order, i64 2, ptr %context)
  call void @put_address(ptr %order, i64 3, ptr @task)
  call void @put_address(ptr %order, i64 4, ptr %job)
  %schedule = call ptr @address(ptr %api, i64 17)
  br label %more
more:
  %asked = phi i64 [1, %entry], [%asked.next, %one]
  %again = icmp slt i64 %asked, %threads
  br i1 %again, label %one, label %end
one:
  %refused = call ptr %schedule(ptr %order)
  %asked.next = add i64 %asked, 1
  br label %more
end:
  ret void
}
"""
_PROGRAM = """
declare <$LANES x float> @llvm.fma.v${LANES}f32(<$LANES x float>, <$LANES x float>, <$LANES x float>)

@tiles = internal constant [$ROWS x ptr] [$TILES]

; Panels [first, last) of one matrix. Rows are taken 240 at a time, so that those of x stay in the second cache while
; all panels pass by.
define internal void @panels(ptr %x, ptr %packed, ptr %y, i64 %M, i64 %K, i64 %N, i64 %first, i64 %last) #0 {
entry:
  %scratch = alloca [$SCRATCH x float], align 64
  br label %block
block:
  %top = phi i64 [0, %entry], [%top.next, %block.end]
  %below = sub i64 %M, %top
  %height = call i64 @llvm.smin.i64(i64 %below, i64 240)
  %height.up = add i64 %height, ${ROWS}
  %height.less = sub i64 %height.up, 1
  %count = sdiv i64 %height.less, $ROWS
  %base = sdiv i64 %height, %count
  %longer = srem i64 %height, %count
  br label %panel
panel:
  %p = phi i64 [%first, %block], [%p.next, %panel.end]
  %size = mul i64 %K, $COLUMNS
  %from = mul i64 %p, %size
  %w = getelementptr float, ptr %packed, i64 %from
  %column = mul i64 %p, $COLUMNS
  %right = sub i64 %N, %column
  %whole = icmp sge i64 %right, $COLUMNS
  br label %tile
tile:
  %t = phi i64 [0, %panel], [%t.next, %tile.end]
  %row = phi i64 [%top, %panel], [%row.next, %tile.end]
  %is.longer = icmp slt i64 %t, %longer
  %one = zext i1 %is.longer to i64
  %rows = add i64 %base, %one
  %index = sub i64 %rows, 1
  %entry.at = getelementptr ptr, ptr @tiles, i64 %index
  %code = load ptr, ptr %entry.at
  %x.offset = mul i64 %row, %K
  %x.row = getelementptr float, ptr %x, i64 %x.offset
  %y.offset = mul i64 %row, %N
  %y.row = getelementptr float, ptr %y, i64 %y.offset
  %y.tile = getelementptr float, ptr %y.row, i64 %column
  br i1 %whole, label %in.place, label %in.part
in.place:
  call void %code(ptr %x.row, i64 %K, ptr %w, ptr %y.tile, i64 %N)
  br label %tile.end
in.part:
  call void %code(ptr %x.row, i64 %K, ptr %w, ptr %scratch, i64 $COLUMNS)
  %bytes = mul i64 %right, 4
  br label %copy
copy:
  %r = phi i64 [0, %in.part], [%r.next, %copy]
  %scratch.offset = mul i64 %r, $COLUMNS
  %scratch.row = getelementptr float, ptr %scratch, i64 %scratch.offset
  %r.offset = mul i64 %r, %N
  %y.part = getelementptr float, ptr %y.tile, i64 %r.offset
  call void @llvm.memcpy.p0.p0.i64(ptr %y.part, ptr %scratch.row, i64 %bytes, i1 false)
  %r.next = add i64 %r, 1
  %r.more = icmp slt i64 %r.next, %rows
  br i1 %r.more, label %copy, label %tile.end
tile.end:
  %row.next = add i64 %row, %rows
  %t.next = add i64 %t, 1
  %t.more = icmp slt i64 %t.next, %count
  br i1 %t.more, label %tile, label %panel.end
panel.end:
  %p.next = add i64 %p, 1
  %p.more = icmp slt i64 %p.next, %last
  br i1 %p.more, label %panel, label %block.end
block.end:
  %top.next = add i64 %top, %height
  %top.more = icmp slt i64 %top.next, %M
  br i1 %top.more, label %block, label %end
end:
  ret void
}

; Panels [first, last) of all V matrices, numbered through.
define internal void @range(ptr %x, ptr %packed, ptr %y, i64 %M, i64 %K, i64 %N, i64 %each, i64 %first, i64 %last) #0 {
entry:
  %MK = mul i64 %M, %K
  %MN = mul i64 %M, %N
  %panel = mul i64 %K, $COLUMNS
  %matrix = mul i64 %panel, %each
  br label %take
take:
  %at = phi i64 [%first, %entry], [%at.next, %take]
  %v = udiv i64 %at, %each
  %from = urem i64 %at, %each
  %left = sub i64 %last, %at
  %beyond = add i64 %from, %left
  %to = call i64 @llvm.smin.i64(i64 %beyond, i64 %each)
  %x.offset = mul i64 %v, %MK
  %x.v = getelementptr float, ptr %x, i64 %x.offset
  %packed.offset = mul i64 %v, %matrix
  %packed.v = getelementptr float, ptr %packed, i64 %packed.offset
  %y.offset = mul i64 %v, %MN
  %y.v = getelementptr float, ptr %y, i64 %y.offset
  call void @panels(ptr %x.v, ptr %packed.v, ptr %y.v, i64 %M, i64 %K, i64 %N, i64 %from, i64 %to)
  %taken = sub i64 %to, %from
  %at.next = add i64 %at, %taken
  %more = icmp slt i64 %at.next, %last
  br i1 %more, label %take, label %end
end:
  ret void
}

define internal void @work(ptr %job) #0 {
entry:
  %x = call ptr @address(ptr %job, i64 11)
  %packed = call ptr @address(ptr %job, i64 12)
  %y = call ptr @address(ptr %job, i64 13)
  %M = call i64 @word(ptr %job, i64 14)
  %K = call i64 @word(ptr %job, i64 15)
  %N = call i64 @word(ptr %job, i64 16)
  %count = call i64 @word(ptr %job, i64 17)
  %each = call i64 @word(ptr %job, i64 18)
  %chunk = call i64 @word(ptr %job, i64 19)
  %next = getelementptr i64, ptr %job, i64 20
  %done = getelementptr i64, ptr %job, i64 21
  br label %take
take:
  %first = atomicrmw add ptr %next, i64 %chunk monotonic
  %some = icmp slt i64 %first, %count
  br i1 %some, label %run, label %end
run:
  %beyond = add i64 %first, %chunk
  %last = call i64 @llvm.smin.i64(i64 %beyond, i64 %count)
  call void @range(ptr %x, ptr %packed, ptr %y, i64 %M, i64 %K, i64 %N, i64 %each, i64 %first, i64 %last)
  %taken = sub i64 %last, %first
  %before = atomicrmw add ptr %done, i64 %taken release
  br label %take
end:
  ret void
}

define ptr @handler(ptr %frame) {
entry:
  %answered = call i1 @answer(ptr %frame)
  br i1 %answered, label %end, label %execute
end:
  ret ptr null
execute:
  %arguments = call ptr @address(ptr %frame, i64 9)
  %results = call ptr @address(ptr %frame, i64 14)
  %x.buffer = call ptr @address(ptr %arguments, i64 0)
  %w.buffer = call ptr @address(ptr %arguments, i64 1)
  %y.buffer = call ptr @address(ptr %results, i64 0)
  %x.shape = call ptr @address(ptr %x.buffer, i64 5)
  %w.shape = call ptr @address(ptr %w.buffer, i64 5)
  %y.shape = call ptr @address(ptr %y.buffer, i64 5)
  %V = call i64 @word(ptr %x.shape, i64 0)
  %M = call i64 @word(ptr %x.shape, i64 1)
  %K = call i64 @word(ptr %x.shape, i64 2)
  %N = call i64 @word(ptr %y.shape, i64 2)
  %each = call i64 @word(ptr %w.shape, i64 1)
  %count = mul i64 %V, %each
  %x = call ptr @address(ptr %x.buffer, i64 3)
  %packed = call ptr @address(ptr %w.buffer, i64 3)
  %y = call ptr @address(ptr %y.buffer, i64 3)
  %MK = mul i64 %M, %K
  %MKN = mul i64 %MK, %N
  %all = mul i64 %MKN, %V
  %small = icmp slt i64 %all, 750000
  br i1 %small, label %alone, label %together
alone:
  call void @range(ptr %x, ptr %packed, ptr %y, i64 %M, i64 %K, i64 %N, i64 %each, i64 0, i64 %count)
  ret ptr null
together:
  %job = call ptr @malloc(i64 176)
  call void @put_address(ptr %job, i64 11, ptr %x)
  call void @put_address(ptr %job, i64 12, ptr %packed)
  call void @put_address(ptr %job, i64 13, ptr %y)
  call void @put(ptr %job, i64 14, i64 %M)
  call void @put(ptr %job, i64 15, i64 %K)
  call void @put(ptr %job, i64 16, i64 %N)
  call void @put(ptr %job, i64 17, i64 %count)
  call void @put(ptr %job, i64 18, i64 %each)
  call void @put(ptr %job, i64 20, i64 0)
  call void @put(ptr %job, i64 21, i64 0)
  %threads = call i64 @threads(ptr %frame, ptr %job, i64 %count)
  %ranges = mul i64 %threads, 8
  %share = sdiv i64 %count, %ranges
  %chunk = call i64 @llvm.smax.i64(i64 %share, i64 1)
  call void @put(ptr %job, i64 19, i64 %chunk)
  call void @schedule(ptr %frame, ptr %job, i64 %threads)
  call void @work(ptr %job)
  %done.at = getelementptr i64, ptr %job, i64 21
  br label %wait
wait:
  %done = load atomic volatile i64, ptr %done.at acquire, align 8
  %waiting = icmp slt i64 %done, %count
  br i1 %waiting, label %wait, label %finished
finished:
  call void @leave(ptr %job)
  ret ptr null
}

attributes #0 = { nounwind "min-legal-vector-width"="$BITS" "prefer-vector-width"="$BITS" }
"""
