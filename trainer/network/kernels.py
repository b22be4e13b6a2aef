"""Triton kernels of the step on a GPU: the two norms each way, centring, and the paper's update.

Images are read as rows of maps: element ``row * width + map``, which is how torch keeps [N, maps, H, W] with the maps
innermost. Everything is computed in float32, whatever the tensors hold.
"""

# Triton's own language has no types to check.
# mypy: ignore-errors

import triton
import triton.language as tl


@triton.jit
def _power(s, beta):
    """``s ^ -beta``; the paper's 0.75 by two square roots."""
    if beta == 0.75:
        root = 1.0 / tl.sqrt(s)
        return root * tl.sqrt(root)
    return tl.exp2(-beta * tl.log2(s))


@triton.jit
def _value(pointer, mask, RELU: tl.constexpr):
    """Float32 values, 0 where ``mask`` is false, and where they are negative if a ReLU comes first."""
    value = tl.load(pointer, mask=mask, other=0.0).to(tl.float32)
    return tl.maximum(value, 0.0) if RELU else value


@triton.jit
def _scale(a, place, maps, k, alpha, mask, REACH: tl.constexpr, COLUMN: tl.constexpr, RELU: tl.constexpr):
    """``k + alpha * S`` at ``maps``; S sums squares over the maps at most REACH away in the same column of COLUMN."""
    total = tl.zeros(place.shape, tl.float32)
    for distance in tl.static_range(-REACH, REACH + 1):
        near = (
            mask & (maps + distance >= maps // COLUMN * COLUMN) & (maps + distance < maps // COLUMN * COLUMN + COLUMN)
        )
        value = _value(a + place + distance, near, RELU)
        total += value * value
    return k + alpha * total


@triton.jit
def cross_map_forward(
    a, b, num_rows, k, alpha,
    BETA: tl.constexpr, REACH: tl.constexpr, COLUMN: tl.constexpr, WIDTH: tl.constexpr, RELU: tl.constexpr,
    ROWS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """``b = a / (k + alpha * S) ^ BETA``; see trainer.network.lrn."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    maps = tl.arange(0, LANES)[None, :]
    mask = (rows < num_rows) & (maps < WIDTH)
    place = rows * WIDTH + maps
    power = _power(_scale(a, place, maps, k, alpha, mask, REACH, COLUMN, RELU), BETA)
    tl.store(b + place, _value(a + place, mask, RELU) * power, mask=mask)


@triton.jit
def cross_map_backward(
    a, gradient, result, num_rows, k, alpha,
    BETA: tl.constexpr, REACH: tl.constexpr, COLUMN: tl.constexpr, WIDTH: tl.constexpr, RELU: tl.constexpr,
    ROWS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """``db_j/da_i = p_i [i = j] - 2 alpha BETA a_i a_j p_j / s_j``, with s the scale and p = s ^ -BETA, made again."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    maps = tl.arange(0, LANES)[None, :]
    mask = (rows < num_rows) & (maps < WIDTH)
    place = rows * WIDTH + maps
    direct = tl.zeros(place.shape, tl.float32)
    through = tl.zeros(place.shape, tl.float32)
    for distance in tl.static_range(-REACH, REACH + 1):
        near = (
            mask & (maps + distance >= maps // COLUMN * COLUMN) & (maps + distance < maps // COLUMN * COLUMN + COLUMN)
        )
        s = _scale(a, place + distance, maps + distance, k, alpha, near, REACH, COLUMN, RELU)
        flow = tl.load(gradient + place + distance, mask=near, other=0.0).to(tl.float32) * _power(s, BETA)
        if distance == 0:
            direct = flow
        through += flow * _value(a + place + distance, near, RELU) / s
    value = _value(a + place, mask, RELU)
    total = direct - 2.0 * alpha * BETA * value * through
    if RELU:
        total = tl.where(value > 0.0, total, 0.0)
    tl.store(result + place, total, mask=mask)


@triton.jit
def within_map_forward(
    a, b, s, num_rows, alpha,
    BETA: tl.constexpr, REACH: tl.constexpr, HEIGHT: tl.constexpr, BREADTH: tl.constexpr, WIDTH: tl.constexpr,
    ROWS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """``b = a / s ^ BETA``, ``s = 1 + alpha * S``: S sums squares of the same map at most REACH away each way."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    maps = tl.program_id(1) * LANES + tl.arange(0, LANES)[None, :]
    mask = (rows < num_rows) & (maps < WIDTH)
    place = rows * WIDTH + maps
    x, y = rows % BREADTH, rows // BREADTH % HEIGHT
    total = tl.zeros(place.shape, tl.float32)
    for down in tl.static_range(-REACH, REACH + 1):
        for right in tl.static_range(-REACH, REACH + 1):
            near = mask & (y + down >= 0) & (y + down < HEIGHT) & (x + right >= 0) & (x + right < BREADTH)
            value = tl.load(a + place + (down * BREADTH + right) * WIDTH, mask=near, other=0.0).to(tl.float32)
            total += value * value
    scale = 1.0 + alpha * total
    tl.store(s + place, scale, mask=mask)
    tl.store(b + place, tl.load(a + place, mask=mask, other=0.0).to(tl.float32) * _power(scale, BETA), mask=mask)


@triton.jit
def within_map_backward(
    a, s, gradient, result, num_rows, alpha,
    BETA: tl.constexpr, REACH: tl.constexpr, HEIGHT: tl.constexpr, BREADTH: tl.constexpr, WIDTH: tl.constexpr,
    ROWS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """The derivative as in :func:`cross_map_backward`, over the window within the map, from the scale kept."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    maps = tl.program_id(1) * LANES + tl.arange(0, LANES)[None, :]
    mask = (rows < num_rows) & (maps < WIDTH)
    place = rows * WIDTH + maps
    x, y = rows % BREADTH, rows // BREADTH % HEIGHT
    through = tl.zeros(place.shape, tl.float32)
    for down in tl.static_range(-REACH, REACH + 1):
        for right in tl.static_range(-REACH, REACH + 1):
            near = mask & (y + down >= 0) & (y + down < HEIGHT) & (x + right >= 0) & (x + right < BREADTH)
            other = place + (down * BREADTH + right) * WIDTH
            scale = tl.load(s + other, mask=near, other=1.0)
            value = tl.load(a + other, mask=near, other=0.0).to(tl.float32)
            flow = tl.load(gradient + other, mask=near, other=0.0).to(tl.float32)
            through += flow * value * _power(scale, BETA) / scale
    value = tl.load(a + place, mask=mask, other=0.0).to(tl.float32)
    flow = tl.load(gradient + place, mask=mask, other=0.0).to(tl.float32)
    power = _power(tl.load(s + place, mask=mask, other=1.0), BETA)
    tl.store(result + place, flow * power - 2.0 * alpha * BETA * value * through, mask=mask)


@triton.jit
def centre(
    pixels, mean, shifts, divisor, result, num_values, PER_IMAGE: tl.constexpr, VALUES: tl.constexpr
):  # fmt: skip
    """``(pixel - mean + shift) / divisor`` of uint8 [N, H, W, 3], into a tensor with the maps innermost."""
    place = tl.program_id(0).to(tl.int64) * VALUES + tl.arange(0, VALUES)
    mask = place < num_values
    value = tl.load(pixels + place, mask=mask, other=0).to(tl.float32)
    value -= tl.load(mean + place % PER_IMAGE, mask=mask, other=0.0)
    value += tl.load(shifts + place // PER_IMAGE * 3 + place % 3, mask=mask, other=0.0)
    tl.store(result + place, value / tl.load(divisor), mask=mask)


@triton.jit
def update(
    weight, velocity, gradient, working, num_values, rate, momentum, decay, VALUES: tl.constexpr
):  # fmt: skip
    """``v <- momentum v - decay rate w - rate g``, ``w <- w + v``, and ``working`` a copy of w in its own precision."""
    place = tl.program_id(0).to(tl.int64) * VALUES + tl.arange(0, VALUES)
    mask = place < num_values
    rate_now = tl.load(rate)
    w = tl.load(weight + place, mask=mask, other=0.0)
    v = tl.load(velocity + place, mask=mask, other=0.0) * momentum
    v -= decay * rate_now * w
    v -= rate_now * tl.load(gradient + place, mask=mask, other=0.0).to(tl.float32)
    w += v
    tl.store(velocity + place, v, mask=mask)
    tl.store(weight + place, w, mask=mask)
    tl.store(working + place, w, mask=mask)
