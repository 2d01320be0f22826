"""Draws a picture of a figure at one moment, with numpy alone: the renderer of page.html in Python, for videos.

Coordinates are the world's (metres, y up), the view's (metres; x right, y up, z towards the eye) and the screen's
(pixels, with a depth in metres). Sizes and colours are those of the page, in its light or dark theme.
"""

from dataclasses import dataclass

import numpy as np

from motion_llm.motion.skeleton import Motion
from motion_llm.viewer.figure import Figure, place

FIELD_OF_VIEW, YAW, PITCH = np.radians([26, 29, 11])
TRAIL_SECONDS = 3
BLEND, DARK_RADII = (0.03, 0.0015), (0.02, 0.1)  # metres, of a person of 1.7 m; BLEND: trunk, limbs
NORMAL, COLOUR, ALPHA = slice(0, 3), slice(3, 6), 6  # channels of the surface buffer


@dataclass(frozen=True)
class Look:
    """A theme. Colours are red, green, blue from 0 to 255; body: one for each side; the floats are shares of light."""

    back: tuple  # behind the figure
    panel: tuple  # behind the caption
    text: tuple
    muted: tuple
    line: tuple
    trail: tuple
    shadow: tuple
    body: tuple
    lines: float  # strength of the grid's lines
    floor: float
    sky: float
    key: float
    gloss: float
    rim: float
    dark: float


LOOKS = {
    "light": Look((240, 242, 246), (251, 251, 253), (29, 35, 48), (98, 108, 125), (70, 84, 110), (47, 111, 222),
                  (24, 32, 54), ((206, 211, 221), (76, 145, 232), (242, 146, 72)),
                  0.34, 0.32, 0.30, 0.52, 0.14, 0.0, 0.1),
    "dark": Look((32, 37, 46), (22, 26, 33), (234, 237, 243), (151, 161, 179), (165, 182, 215), (110, 163, 255),
                 (0, 0, 0), ((190, 197, 211), (80, 148, 238), (240, 146, 76)),
                 0.26, 0.24, 0.28, 0.56, 0.12, 0.2, 0.1),
}


@dataclass(frozen=True)
class View:
    """A camera. centre (3,): the point it looks at, from `distance` metres; right, up, back (3,): its axes."""

    centre: np.ndarray
    distance: float
    width: int
    height: int
    right: np.ndarray
    up: np.ndarray
    back: np.ndarray

    @property
    def focal(self) -> float:
        return self.height / 2 / np.tan(FIELD_OF_VIEW / 2)

    def project(self, points: np.ndarray) -> np.ndarray:
        """World points (..., 3) to screen points (..., 3): column, row, depth in metres."""
        x, y, z = np.moveaxis((points - self.centre) @ np.stack([self.right, self.up, self.back], -1), -1, 0)
        depth = self.distance - z
        scale = self.focal / np.maximum(depth, 0.02 * self.distance)
        return np.stack([self.width / 2 + scale * x, self.height / 2 - scale * y, depth], -1)

    def ground(self, floor: float, step: int = 1) -> np.ndarray:
        """(H, W, 2): x and z of the floor at every pixel, or every `step`th; nan above the horizon."""
        x = (np.arange(0, self.width, step) + 0.5 - self.width / 2)[None, :, None]
        y = (np.arange(0, self.height, step) + 0.5 - self.height / 2)[:, None, None]
        ray = x * self.right - y * self.up - self.focal * self.back
        eye = self.centre + self.distance * self.back
        with np.errstate(divide="ignore"):
            distance = (floor - eye[1]) / ray[..., 1:2]
        return np.where(distance > 0, eye[[0, 2]] + distance * ray[..., [0, 2]], np.nan)


def view_of(figure: Figure, centre: np.ndarray, width: int, height: int) -> View:
    tan = np.tan(FIELD_OF_VIEW / 2)
    wide = 1.04 * figure.reach / (tan * width / height)
    distance = max(0.54 * figure.height / tan, wide) + 0.55 * figure.reach
    yaw = figure.heading + YAW
    (sy, cy), (sp, cp) = ((np.sin(angle), np.cos(angle)) for angle in (yaw, PITCH))
    return View(centre, distance, width, height, np.array([cy, 0, -sy]), np.array([-sy * sp, cp, -cy * sp]),
                np.array([sy * cp, sp, cy * cp]))


def between(frames: np.ndarray, at: float) -> np.ndarray:
    """Frames (T, ...) at the fractional index `at`, interpolated linearly."""
    first = min(int(at), len(frames) - 1)
    after = min(first + 1, len(frames) - 1)
    return frames[first] + (at - first) * (frames[after] - frames[first])


def picture(motion: Motion, figure: Figure, seconds: float, width: int, height: int, look: Look) -> np.ndarray:
    """Picture (height, width, 3), uint8, of the motion `seconds` after its start."""
    at = min(seconds * motion.fps, len(motion) - 1)
    x, z = between(figure.target, at)
    view = view_of(figure, np.array([x, figure.floor + figure.height / 2, z]), width, height)
    pose = between(motion.joints, at)
    shapes = [(*place(capsule, pose), capsule) for capsule in figure.capsules]
    image = np.empty((height, width, 3))
    image[:] = look.back
    draw_grid(image, view, figure, look)
    draw_trail(image, view, motion, figure, at, look)
    draw_shadow(image, view, figure, shapes, look)
    draw_figure(image, view, figure, shapes, look)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


# Ground


def mix(image: np.ndarray, colour, alpha: np.ndarray) -> None:
    """Lay `colour` over image (H, W, 3) with alpha (H, W)."""
    image += alpha[..., None] * (np.asarray(colour, float) - image)


def draw_grid(image: np.ndarray, view: View, figure: Figure, look: Look) -> None:
    radius = max(1.9 * figure.height, 1.5 * figure.reach + 0.8 * figure.height)
    cell = nice_step(0.3 * figure.height)
    ground = view.ground(figure.floor)
    far = np.linalg.norm(ground - view.centre[[0, 2]], axis=-1) / radius
    fade = np.nan_to_num(np.clip(1 - far, 0, 1) ** 1.5)
    distance = np.abs(ground / cell - np.rint(ground / cell)) * cell  # metres from the nearest line
    rows, columns = np.gradient(ground, axis=(0, 1))
    pixel = np.sqrt(rows**2 + columns**2) + 1e-9  # metres from one pixel to the next
    cover = np.nan_to_num(np.clip(1 - distance / pixel, 0, 1)).max(-1)
    mix(image, look.line, look.lines * cover * fade)


def nice_step(size: float) -> float:
    """1, 2 or 5 times a power of ten."""
    power = 10.0 ** np.floor(np.log10(size))
    return float(power * (1 if size < 1.5 * power else 2 if size < 3.5 * power else 5))


def draw_trail(image, view: View, motion: Motion, figure: Figure, at: float, look: Look) -> None:
    """The root's path on the floor: all of it faintly, the last TRAIL_SECONDS strongly."""
    step, pixel = max(1, round(motion.fps / 20)), max(1.0, view.height / 500)
    path = motion.joints[::step, figure.root].astype(float)
    now = int(at / step)
    path[:, 1] = figure.floor
    here = between(motion.joints[:, figure.root], at) * [1, 0, 1] + [0, figure.floor, 0]
    faint = np.zeros(image.shape[:2])
    points = view.project(path)
    for a, b in zip(points, points[1:], strict=False):
        add_line(faint, a, b, pixel, 0.16)
    mix(image, look.trail, faint)
    bright = np.zeros(image.shape[:2])
    points = view.project(np.append(path[:now + 1], here[None], 0))
    for i in range(len(points) - 1):
        share = 1 - (at - i * step) / motion.fps / TRAIL_SECONDS
        if share > 0:
            add_line(bright, points[i], points[i + 1], 1.75 * pixel, 0.8 * share)
    mix(image, look.trail, bright)


def add_line(alpha: np.ndarray, a: np.ndarray, b: np.ndarray, half: float, strength: float) -> None:
    """Draws a line from pixel a to b, `half` pixels to each side, into alpha (H, W) as a maximum."""
    box = box_of(np.minimum(a, b)[:2] - half - 1, np.maximum(a, b)[:2] + half + 1, alpha.shape)
    y, x = np.mgrid[box]
    along = b[:2] - a[:2]
    share = np.clip(((x - a[0]) * along[0] + (y - a[1]) * along[1]) / max(along @ along, 1e-9), 0, 1)
    distance = np.hypot(x - a[0] - share * along[0], y - a[1] - share * along[1])
    alpha[box] = np.maximum(alpha[box], strength * np.clip(half + 0.5 - distance, 0, 1))


def box_of(least, most, shape) -> tuple[slice, slice]:
    """Rows and columns of an image of `shape` from the (x, y) `least` to `most`; empty outside of it."""
    left, top = np.clip(np.floor(least), 0, [shape[1], shape[0]]).astype(int)
    right, bottom = np.clip(np.ceil(most) + 1, 0, [shape[1], shape[0]]).astype(int)
    return slice(top, max(top, bottom)), slice(left, max(left, right))


def draw_shadow(image, view: View, figure: Figure, shapes, look: Look) -> None:
    """Shadows of light from straight above: dark inside a capsule's outline on the floor, with a soft edge that is
    wider the higher the limb is. Computed at every fourth pixel."""
    ground = view.ground(figure.floor, 4)
    x, z = np.moveaxis(ground, -1, 0)
    darkness = np.zeros(x.shape)
    for a, b, capsule in shapes:
        along = (b - a)[[0, 2]]
        share = np.clip(((x - a[0]) * along[0] + (z - a[2]) * along[1]) / max(along @ along, 1e-9), 0, 1)
        radius = capsule.near_radius + share * (capsule.far_radius - capsule.near_radius)
        height = np.maximum(0, a[1] + share * (b[1] - a[1]) - figure.floor)
        distance = np.hypot(x - a[0] - share * along[0], z - a[2] - share * along[1]) - 0.9 * radius
        edge = 0.015 * figure.size / 1.7 + 0.15 * height
        darkness = np.fmax(darkness, np.clip((1 - distance / edge) / 1.8, 0, 1))  # fmax: nan above the horizon
    mix(image, look.shadow, enlarged(1 - 0.6 ** darkness, 4, image.shape[:2]))


def enlarged(values: np.ndarray, step: int, shape) -> np.ndarray:
    """Values (h, w) at every `step`th pixel, interpolated linearly to every pixel of `shape`."""
    for axis in (0, 1):
        at = np.minimum(np.arange(shape[axis]) / step, values.shape[axis] - 1)
        first = np.minimum(at.astype(int), max(values.shape[axis] - 2, 0))
        share = np.expand_dims(at - first, 1 - axis)
        after = np.minimum(first + 1, values.shape[axis] - 1)
        values = values.take(first, axis) * (1 - share) + values.take(after, axis) * share
    return values


# Figure


def draw_figure(image, view: View, figure: Figure, shapes, look: Look) -> None:
    """Draws capsules into a buffer of normals, colours and depths, then lights it and lays it over the image."""
    surface, depths = np.zeros((*image.shape[:2], 7)), np.full(image.shape[:2], 1e9)
    ends = [(view.project(a), view.project(b), capsule) for a, b, capsule in shapes]
    for p, q, capsule in sorted(ends, key=lambda end: -end[0][2] - end[1][2]):  # the furthest first
        radii = capsule.near_radius * view.focal / p[2], capsule.far_radius * view.focal / q[2]
        scale = view.focal * (1 / p[2] + 1 / q[2]) / 2
        add_capsule(surface, depths, p, q, *radii, scale, look.body[capsule.side], capsule.side, figure.size / 1.7)
    rows, columns = (np.flatnonzero(surface[..., ALPHA].any(axis)) for axis in (1, 0))
    if len(rows):
        box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        lit = light(surface[box], depths[box], view, figure.size / 1.7, look)
        image[box] += surface[box][..., ALPHA:] * (lit - image[box])


def add_capsule(surface, depths, p, q, rp, rq, scale, colour, side, size) -> None:
    """Draws a round cone, the hull of two balls at p and q (pixels, and depth in metres) with radii rp and rq in
    pixels. Surfaces of the trunk that are close to each other are blended; limbs meet with a visible edge."""
    widest = max(rp, rq) + 1
    box = box_of(np.minimum(p, q)[:2] - widest, np.maximum(p, q)[:2] + widest, depths.shape)
    y, x = np.mgrid[box]
    if not x.size:
        return
    flat, taper = float(np.hypot(*(q - p)[:2])), rp - rq
    px, py = x + 0.5 - p[0], y + 0.5 - p[1]
    if flat <= abs(taper) + 0.01:  # on the screen the larger ball hides the other
        if rq > rp:
            px, py, p, rp = px + p[0] - q[0], py + p[1] - q[1], q, rq
        distance, normal = np.hypot(px, py) - rp, ball_normal(px, py, rp)
        depth = p[2] - normal[..., 2] * rp / scale
    else:
        ux, uy = (q - p)[:2] / flat
        s, e = px * ux + py * uy, py * ux - px * uy  # along and across
        edge = taper / flat
        slope = np.sqrt(1 - edge**2)
        turn = s * slope - np.abs(e) * edge
        distance = np.where(turn < 0, np.hypot(px, py) - rp, np.where(
            turn > slope * flat, np.hypot(s - flat, e) - rq, np.abs(e) * slope + s * edge - rp))
        normal, depth = round_cone(px, py, s, e, flat, (ux, uy), p, q, rp, rq, scale)
    cover = np.clip(0.5 - distance, 0, 1)
    old, old_depth = surface[box], depths[box]
    blend = size * np.where((side == 0) & (old[..., 3] == colour[0]), BLEND[0], BLEND[1])
    front = np.clip(0.5 + 0.5 * (old_depth - depth) / blend, 0, 1)  # 1: well in front of the old surface
    share = np.where(old[..., ALPHA] > 0, front * cover, cover > 0)[..., None]
    old[..., NORMAL] += share * (normal * [1, -1, 1] - old[..., NORMAL])  # rows grow downwards, normals up
    old[..., COLOUR] += share * (np.asarray(colour) - old[..., COLOUR])
    old[..., ALPHA] += cover * (1 - old[..., ALPHA])
    blended = old_depth + front * (depth - old_depth) - blend * front * (1 - front)
    depths[box] = np.where(cover > 0.5, blended, old_depth)


def ball_normal(x, y, radius) -> np.ndarray:
    """Normals (H, W, 3) of a ball at pixels x, y from its centre; outside of it, those of its edge."""
    x, y = x / radius, y / radius
    out = np.maximum(1, np.hypot(x, y))
    return np.stack([x / out, y / out, np.sqrt(np.maximum(0, 1 - (x**2 + y**2) / out**2))], -1)


def round_cone(px, py, s, e, flat, axis, p, q, rp, rq, scale) -> tuple[np.ndarray, np.ndarray]:
    """Normals (H, W, 3) and depths (H, W) of the visible surface: of the side, whose position along the axis (0 to 1)
    depends on the radius there and takes two iterations, or of one of the balls."""
    (ux, uy), taper, rise = axis, rp - rq, (p[2] - q[2]) * scale
    length = max(np.hypot(flat, rise), abs(taper) + 0.01)
    cos, sin, lean = flat / length, rise / length, taper / length  # the axis leans to the eye, its normal to it
    along = np.clip(s / flat, 0, 1)
    for _ in range(2):
        radius = rp - np.clip(along, 0, 1) * taper
        w = np.sqrt(np.maximum(0, radius**2 * (1 - lean**2) - e**2))
        along = (s + w * sin - radius * lean * cos) / flat
    a = lean * cos - w / radius * sin
    side = np.stack([a * ux - e / radius * uy, a * uy + e / radius * ux, lean * sin + w / radius * cos], -1)
    start, end = ball_normal(px, py, rp), ball_normal(px - flat * ux, py - flat * uy, rq)
    low, high = along < 0, along > 1
    normal = np.where(low[..., None], start, np.where(high[..., None], end, side))
    radius = np.where(low, rp, np.where(high, rq, radius))
    return normal, p[2] + np.clip(along, 0, 1) * (q[2] - p[2]) - normal[..., 2] * radius / scale


def light(surface, depths, view: View, size: float, look: Look) -> np.ndarray:
    """Colours (H, W, 3) under lamp, sky and gloss; darker where other parts of the body are close in front."""
    normal = surface[..., NORMAL] / np.maximum(np.linalg.norm(surface[..., NORMAL], axis=-1, keepdims=True), 0.85)
    up = np.array([0, view.up[1], view.back[1]])
    lamp = unit(np.array([-0.45, 0.8 * up[1], 0.8 * up[2] + 0.62]))
    half = unit(lamp + [0, 0, 1])
    sky = 0.5 + 0.5 * normal @ up
    open_ = 1 - np.minimum(0.62, look.dark * closeness(normal, depths, view.focal / view.distance, size))
    shade = (look.floor + look.sky * sky + look.key * np.maximum(0, normal @ lamp)) * open_
    glow = look.gloss * np.maximum(0, normal @ half) ** 32 * open_ + look.rim * (1 - normal[..., 2]) ** 3 * sky
    return np.clip(surface[..., COLOUR] * shade[..., None] + 255 * glow[..., None], 0, 255)


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def closeness(normal, depths, scale: float, size: float) -> np.ndarray:
    """Ambient occlusion (H, W): how much of the body is close in front of each pixel, at 18 points of a spiral."""
    limit, (height, width) = (DARK_RADII[1] * size * 1.6) ** 2, depths.shape
    reach = int(DARK_RADII[1] * size * scale) + 2
    padded, occlusion = np.pad(depths, reach, constant_values=1e9), np.zeros(depths.shape)
    for k, radius in enumerate(np.linspace(*DARK_RADII, 18)):
        vx, vy = np.array([np.cos(2.4 * k), np.sin(2.4 * k)]) * radius * size
        row, column = reach - round(vy * scale), reach + round(vx * scale)
        vz = depths - padded[row:row + height, column:column + width]
        square = vx**2 + vy**2 + vz**2
        facing = (normal @ [vx, vy, 0] + normal[..., 2] * vz) / np.sqrt(square) - 0.12
        occlusion += np.where((facing > 0) & (square < 4 * limit), facing * limit / (limit + square), 0)
    return occlusion
