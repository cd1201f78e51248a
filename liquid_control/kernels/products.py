"""Products of a recurrent kernel: small matrices times lanes at every step, and the gradients of those matrices.

Sums of a few rows stay in registers while a matrix runs past them, so what limits a product is how fast weights are
read. They are laid out in the order of use once (:func:`into_tiles`), and read once for two blocks of sequences where
there are two (:func:`add_products`).

Gradients are summed over steps and sequences. :func:`outer_products` sums over the lanes last, which suits small
matrices. For large ones the numbers of a step are turned around first (:func:`turn`), so that lanes are columns of the
matrix (:func:`add_gradients`): a product of two long matrices as BLAS has it, at half again the speed.
"""

from __future__ import annotations

from numba import uint64

from liquid_control.kernels.fast_math import kernel_part
from liquid_control.kernels.simd import LANES, WIDE, fill, load, store, total, transpose

TILE = 6
"""Rows of a matrix whose sums are in registers at the same time: with sixteen lanes of AVX2, twelve of its sixteen."""

CHUNK = 4
"""Steps after which gradients are best added up by :func:`add_gradients`."""

STRIP = 96
"""Rows of a gradient that are summed side by side: what leads to them stays in a near cache for all columns."""


@kernel_part
def tiled_size(rows, columns):
    """Numbers in a matrix that :func:`into_tiles` has laid out."""
    return -(-rows // TILE) * TILE * columns


@kernel_part
def into_tiles(matrix, begin, row_stride, column_stride, rows, columns, tiles, place):
    """Lays matrix[begin + r·row_stride + c·column_stride] out in tiles from ``place`` on: column after column of
    :data:`TILE` rows, then those of the next rows; zeros where the last tile has no row. Returns the place after it.
    """
    for row in range(0, rows, TILE):
        for column in range(columns):
            at = begin + row * row_stride + column * column_stride
            for below in range(TILE):
                tiles[place + below] = matrix[at + below * row_stride] if row + below < rows else 0
            place += TILE
    return place


@kernel_part
def add_product(tiles, place, rows, columns, values, first_value, sums, first_sum):
    """sums[first_sum + r] += Σ_c matrix[r, c] · values[first_value + c] in lanes, the matrix from :func:`into_tiles`.

    Sums of a tile stay in registers, and its weights are read one after another. Up to TILE - 1 sums after the last
    row are read and written too; they get zeros added. Returns the place after the matrix.
    """
    for row in range(first_sum, first_sum + rows, TILE):
        a, b, c = load(sums, row), load(sums, row + 1), load(sums, row + 2)
        d, e, f = load(sums, row + 3), load(sums, row + 4), load(sums, row + 5)
        # A slice of its own, from 0 on: indices that might be negative cost Numba a comparison for each weight.
        tile = tiles[place : place + TILE * columns]
        for column in range(columns):
            value, at = load(values, first_value + column), TILE * column
            a += tile[at] * value
            b += tile[at + 1] * value
            c += tile[at + 2] * value
            d += tile[at + 3] * value
            e += tile[at + 4] * value
            f += tile[at + 5] * value
        place += TILE * columns
        store(sums, row, a)
        store(sums, row + 1, b)
        store(sums, row + 2, c)
        store(sums, row + 3, d)
        store(sums, row + 4, e)
        store(sums, row + 5, f)
    return place


@kernel_part
def add_products(tiles, place, rows, columns, values, first_value, sums, first_sum, pair):
    """:func:`add_product` of values[0] to sums[0], and of values[1] to sums[1] too if ``pair``.

    With AVX-512 each weight of a pair is read once for two products: reading them is what limits a single one. Half a
    tile at a time, so that its sums need no more registers. That is one register more than AVX2 has, where sums then
    go through memory: it takes one product after the other.
    """
    if not pair or not WIDE:
        after = add_product(tiles, place, rows, columns, values[0], first_value, sums[0], first_sum)
        if pair:
            add_product(tiles, place, rows, columns, values[1], first_value, sums[1], first_sum)
        return after
    values_0, values_1, sums_0, sums_1 = values[0], values[1], sums[0], sums[1]
    for first_row in range(first_sum, first_sum + rows, TILE):
        for half in range(0, TILE, TILE // 2):
            row, tile = first_row + half, tiles[place + half : place + TILE * columns]
            a_0, b_0, c_0 = load(sums_0, row), load(sums_0, row + 1), load(sums_0, row + 2)
            a_1, b_1, c_1 = load(sums_1, row), load(sums_1, row + 1), load(sums_1, row + 2)
            for column in range(columns):
                value_0, value_1 = load(values_0, first_value + column), load(values_1, first_value + column)
                at = TILE * column
                a_0 += tile[at] * value_0
                a_1 += tile[at] * value_1
                b_0 += tile[at + 1] * value_0
                b_1 += tile[at + 1] * value_1
                c_0 += tile[at + 2] * value_0
                c_1 += tile[at + 2] * value_1
            store(sums_0, row, a_0)
            store(sums_0, row + 1, b_0)
            store(sums_0, row + 2, c_0)
            store(sums_1, row, a_1)
            store(sums_1, row + 1, b_1)
            store(sums_1, row + 2, c_1)
        place += TILE * columns
    return place


@kernel_part
def row_stride(steps):
    """Sixteens from one row to the next of (rows, T, 16): odd, lest a step of all rows share one set of the cache."""
    return steps + 1 - steps % 2


@kernel_part
def outer_products(left, first_left, rows, right, first_right, columns, stride, count, sums, begin):
    """sums[begin + r·columns + c] = Σ_k left[first_left + r·stride + k] · right[first_right + c·stride + k], k < count.

    Lanes are summed too. A product of matrices whose inner dimension is the whole sequence, where BLAS is slower. Past
    the last row or column a tile repeats it: what is computed twice is stored twice.
    """
    zero = fill(sums.dtype.type(0))
    for row in range(0, rows, 3):
        row_1, row_2 = min(row + 1, rows - 1), min(row + 2, rows - 1)
        a, b, c = first_left + row * stride, first_left + row_1 * stride, first_left + row_2 * stride
        for column in range(0, columns, 2):
            column_1 = min(column + 1, columns - 1)
            x, y = first_right + column * stride, first_right + column_1 * stride
            # Six sums are twelve registers of AVX2, which has sixteen: eight ran at a third of the speed.
            ax, bx, cx = zero, zero, zero
            ay, by, cy = zero, zero, zero
            for k in range(count):
                x_k, y_k = load(right, x + k), load(right, y + k)
                a_k, b_k, c_k = load(left, a + k), load(left, b + k), load(left, c + k)
                ax += a_k * x_k
                ay += a_k * y_k
                bx += b_k * x_k
                by += b_k * y_k
                cx += c_k * x_k
                cy += c_k * y_k
            sums[begin + row * columns + column], sums[begin + row * columns + column_1] = total(ax), total(ay)
            sums[begin + row_1 * columns + column], sums[begin + row_1 * columns + column_1] = total(bx), total(by)
            sums[begin + row_2 * columns + column], sums[begin + row_2 * columns + column_1] = total(cx), total(cy)


@kernel_part
def turn(values, first, count, turned):
    """Turns the sixteens first to first + count - 1 of values around, sixteen at a time and in place.

    Sixteen rows of sixteen sequences become sixteen sequences of sixteen rows. ``count`` is a multiple of sixteen;
    ``turned`` is memory for sixteen sixteens.
    """
    for place in range(first, first + count, LANES):
        transpose(values, place * LANES, LANES, turned, 0, LANES)
        for row in range(LANES):
            store(values, place + row, load(turned, row))


@kernel_part
def add_gradients(
    left, first_left, left_apart, rows, right, first_right, right_apart, columns, steps, sums, begin, width
):  # fmt: skip
    """sums[begin + r·width + c] += Σ left[k, r] · right[k, c] over ``steps`` steps k of sixteen sequences each.

    What :func:`turn` has turned of step k begins at the sixteen first_left + k · left_apart, and likewise on the right.
    Columns are computed up to a whole sixteen, so their numbers must be finite there.

    Args:
        left: flat.
        first_left: see above.
        left_apart: the same.
        rows: of the sums.
        right: flat.
        first_right: see above.
        right_apart: the same.
        columns: of the sums.
        steps: few, so that what they hold of sixteen columns stays in the nearest cache.
        sums: flat.
        begin: of the sums, a multiple of sixteen.
        width: of a row of the sums, a multiple of sixteen.
    """
    zero, across = fill(sums.dtype.type(0)), width // LANES
    for strip in range(0, rows, STRIP):
        for column in range(0, columns, LANES):
            for row in range(strip, min(strip + STRIP, rows), TILE):
                # Unsigned: indices that might be negative cost Numba a comparison for each number.
                at_a, at_b, at_c = _turned(row, rows), _turned(row + 1, rows), _turned(row + 2, rows)
                at_d, at_e, at_f = _turned(row + 3, rows), _turned(row + 4, rows), _turned(row + 5, rows)
                a, b, c, d, e, f = zero, zero, zero, zero, zero, zero
                for step in range(steps):
                    at = uint64((first_left + step * left_apart) * LANES)
                    value_at = first_right + step * right_apart + column
                    for sequence in range(LANES):
                        value = load(right, value_at + sequence)
                        a += left[at + at_a] * value
                        b += left[at + at_b] * value
                        c += left[at + at_c] * value
                        d += left[at + at_d] * value
                        e += left[at + at_e] * value
                        f += left[at + at_f] * value
                        at += uint64(LANES)
                place = (begin + row * width + column) // LANES
                store(sums, place, load(sums, place) + a)
                if row + 1 < rows:
                    store(sums, place + across, load(sums, place + across) + b)
                if row + 2 < rows:
                    store(sums, place + 2 * across, load(sums, place + 2 * across) + c)
                if row + 3 < rows:
                    store(sums, place + 3 * across, load(sums, place + 3 * across) + d)
                if row + 4 < rows:
                    store(sums, place + 4 * across, load(sums, place + 4 * across) + e)
                if row + 5 < rows:
                    store(sums, place + 5 * across, load(sums, place + 5 * across) + f)


@kernel_part
def _turned(row, rows):
    """Where a row, or the last one, begins among numbers that are turned around."""
    row = min(row, rows - 1)
    return uint64(row // LANES * LANES * LANES + row % LANES)
