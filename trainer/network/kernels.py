"""Triton kernels of the step on a GPU: the two norms each way, centring, and the paper's update.

Images are read as rows of maps: element ``row * width + map``, which is how torch keeps [N, maps, H, W] with the maps
innermost. Everything is computed in float32, whatever the tensors hold.
"""

# Triton's own language has no types to check.
# mypy: ignore-errors

import triton
import triton.language as tl


@triton.jit
def _root(scale, BETA: tl.constexpr):
    """What :func:`_powers` takes: ``scale ^ -1/4`` for the paper's 0.75, ``scale`` itself for others."""
    return tl.sqrt(tl.rsqrt(scale)) if BETA == 0.75 else scale


@triton.jit
def _powers(root, BETA: tl.constexpr):
    """``scale ^ -BETA`` and ``scale ^ -(BETA + 1)``; from the paper's root by products alone."""
    if BETA == 0.75:
        power = root * root * root
        return power, power * power * root
    power = tl.exp2(-BETA * tl.log2(root))
    return power, power / root


@triton.jit
def _value(pointer, mask, RELU: tl.constexpr):
    """Float32 values, 0 where ``mask`` is false, and where they are negative if a ReLU comes first."""
    value = tl.load(pointer, mask=mask, other=0.0).to(tl.float32)
    return tl.maximum(value, 0.0) if RELU else value


@triton.jit
def _beside(maps, DISTANCE: tl.constexpr, COLUMN: tl.constexpr):
    """Where the map DISTANCE away belongs to the same column of COLUMN maps."""
    there = maps % COLUMN + DISTANCE
    return (there >= 0) & (there < COLUMN)


@triton.jit
def _root_at(
    AT: tl.constexpr, a, maps, mask, k, alpha,
    BETA: tl.constexpr, REACH: tl.constexpr, COLUMN: tl.constexpr, RELU: tl.constexpr,
):  # fmt: skip
    """The root of ``k + alpha * S``, S the squares' sum over the maps at most REACH away from the one that is AT away.

    A map's address and mask are written the same way whatever window it is in, so that it is loaded once.
    """
    total = tl.zeros(mask.shape, tl.float32)
    for distance in tl.static_range(-REACH, REACH + 1):
        value = _value(a + (AT + distance), mask & _beside(maps, AT + distance, COLUMN), RELU)
        total += value * value
    return _root(k + alpha * total, BETA)


@triton.jit
def cross_map_forward(
    a, b, num_rows, k, alpha,
    BETA: tl.constexpr, REACH: tl.constexpr, COLUMN: tl.constexpr, WIDTH: tl.constexpr, RELU: tl.constexpr,
    ROWS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """``b = a / (k + alpha * S) ^ BETA``; see trainer.network.lrn."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    maps = tl.arange(0, LANES)[None, :]
    mask = (rows < num_rows) & (maps < WIDTH)
    place = rows.to(tl.int64) * WIDTH + maps
    power, _ = _powers(_root_at(0, a + place, maps, mask, k, alpha, BETA, REACH, COLUMN, RELU), BETA)
    tl.store(b + place, _value(a + place, mask, RELU) * power, mask=mask)


@triton.jit
def cross_map_backward(
    a, gradient, result, num_rows, k, alpha,
    BETA: tl.constexpr, REACH: tl.constexpr, COLUMN: tl.constexpr, WIDTH: tl.constexpr, RELU: tl.constexpr,
    ROWS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """``db_j/da_i = p_i [i = j] - 2 alpha BETA a_i a_j p_j / s_j``, with s the scale and p = s ^ -BETA, made again."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    maps = tl.arange(0, LANES)[None, :]
    mask = (rows < num_rows) & (maps < WIDTH)
    place = rows.to(tl.int64) * WIDTH + maps
    direct = tl.zeros(mask.shape, tl.float32)
    through = tl.zeros(mask.shape, tl.float32)
    for distance in tl.static_range(-REACH, REACH + 1):
        near = mask & _beside(maps, distance, COLUMN)
        flow = tl.load(gradient + place + distance, mask=near, other=0.0).to(tl.float32)
        root = _root_at(distance, a + place, maps, mask, k, alpha, BETA, REACH, COLUMN, RELU)
        power, steeper = _powers(root, BETA)
        if distance == 0:
            direct = flow * power
        through += flow * _value(a + place + distance, near, RELU) * steeper
    value = _value(a + place, mask, RELU)
    total = direct - 2.0 * alpha * BETA * value * through
    if RELU:
        total = tl.where(value > 0.0, total, 0.0)
    tl.store(result + place, total, mask=mask)


@triton.jit
def _within(x, y, right, down, HEIGHT: tl.constexpr, BREADTH: tl.constexpr):
    """Where the pixel so far to the right and down is one of the same map."""
    return (x + right >= 0) & (x + right < BREADTH) & (y + down >= 0) & (y + down < HEIGHT)


@triton.jit
def within_map_forward(
    a, b, roots, num_rows, alpha,
    BETA: tl.constexpr, REACH: tl.constexpr, HEIGHT: tl.constexpr, BREADTH: tl.constexpr, WIDTH: tl.constexpr,
    ROWS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """``b = a / s ^ BETA``, ``s = 1 + alpha * S``: S sums squares of the same map at most REACH away each way."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    maps = tl.program_id(1) * LANES + tl.arange(0, LANES)[None, :]
    mask = (rows < num_rows) & (maps < WIDTH)
    place = rows.to(tl.int64) * WIDTH + maps
    x, y = rows % BREADTH, rows // BREADTH % HEIGHT
    total = tl.zeros(mask.shape, tl.float32)
    for down in range(-REACH, REACH + 1):
        for right in tl.static_range(-REACH, REACH + 1):
            near = mask & _within(x, y, right, down, HEIGHT, BREADTH)
            value = _value(a + place + (down * BREADTH + right) * WIDTH, near, False)
            total += value * value
    root = _root(1.0 + alpha * total, BETA)
    power, _ = _powers(root, BETA)
    tl.store(roots + place, root, mask=mask)
    tl.store(b + place, _value(a + place, mask, False) * power, mask=mask)


@triton.jit
def within_map_backward(
    a, roots, gradient, result, num_rows, alpha,
    BETA: tl.constexpr, REACH: tl.constexpr, HEIGHT: tl.constexpr, BREADTH: tl.constexpr, WIDTH: tl.constexpr,
    ROWS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """The derivative as in :func:`cross_map_backward`, over the window within the map, from the roots kept."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    maps = tl.program_id(1) * LANES + tl.arange(0, LANES)[None, :]
    mask = (rows < num_rows) & (maps < WIDTH)
    place = rows.to(tl.int64) * WIDTH + maps
    x, y = rows % BREADTH, rows // BREADTH % HEIGHT
    through = tl.zeros(mask.shape, tl.float32)
    for down in range(-REACH, REACH + 1):
        for right in tl.static_range(-REACH, REACH + 1):
            near = mask & _within(x, y, right, down, HEIGHT, BREADTH)
            other = place + (down * BREADTH + right) * WIDTH
            _, steeper = _powers(tl.load(roots + other, mask=near, other=1.0), BETA)
            through += _value(gradient + other, near, False) * _value(a + other, near, False) * steeper
    power, _ = _powers(tl.load(roots + place, mask=mask, other=1.0), BETA)
    direct = _value(gradient + place, mask, False) * power
    tl.store(result + place, direct - 2.0 * alpha * BETA * _value(a + place, mask, False) * through, mask=mask)


@triton.jit
def centre(
    pixels, mean, shifts, divisor, result, PER_IMAGE: tl.constexpr, VALUES: tl.constexpr
):  # fmt: skip
    """``(pixel - mean + shift) / divisor`` of uint8 [N, H, W, 3], into a tensor with the maps innermost."""
    image, within = tl.program_id(0).to(tl.int64), tl.program_id(1) * VALUES + tl.arange(0, VALUES)
    place, mask = image * PER_IMAGE + within, within < PER_IMAGE
    value = tl.load(pixels + place, mask=mask, other=0).to(tl.float32)
    value -= tl.load(mean + within, mask=mask, other=0.0)
    value += tl.load(shifts + image * 3 + within % 3, mask=mask, other=0.0)
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
