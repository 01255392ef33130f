"""Draws scenes with Pillow; the pixels of an object span exactly its box."""

from __future__ import annotations

from functools import cache

from PIL import Image, ImageDraw

from reground.tinyworld.scenes.world import SIZE, Background, Scene, SceneObject

_MARK_COLOUR = (255, 0, 0)
_STRIPE = 8  # pixels from one stripe of the background to the next


def draw(scene: Scene) -> Image.Image:
    """The scene as an RGB image of ``SIZE`` x ``SIZE``."""
    image = _ground(scene.background)
    pen = ImageDraw.Draw(image)
    for each in scene.objects:
        _draw_object(pen, each)
    if scene.mark is not None:
        x1, y1, x2, y2 = scene.mark.xyxy
        pen.rectangle((x1 - 2, y1 - 2, x2 + 1, y2 + 1), outline=_MARK_COLOUR)
    return image


def _ground(background: Background) -> Image.Image:
    image = Image.new("RGB", (SIZE, SIZE), background.base)
    if background.style == "gradient":
        image.paste(background.other, (0, 0), _ramp(background.horizontal))
    elif background.style == "stripes":
        for start in range(0, SIZE, _STRIPE):
            end = start + _STRIPE // 2
            lies = (0, start, SIZE, end)
            stands = (start, 0, end, SIZE)
            image.paste(background.other, lies if background.horizontal else stands)
    return image


@cache
def _ramp(horizontal: bool) -> Image.Image:
    ramp = Image.linear_gradient("L")  # 256 x 256, from black at the top to white at the bottom
    turned = ramp.transpose(Image.Transpose.ROTATE_90) if horizontal else ramp
    return turned.resize((SIZE, SIZE))


def _draw_object(pen: ImageDraw.ImageDraw, scene_object: SceneObject) -> None:
    box, fill = scene_object.box, scene_object.rgb
    left, top, right, bottom = int(box.x1), int(box.y1), int(box.x2) - 1, int(box.y2) - 1
    edges = (left, top, right, bottom)  # Pillow includes the last pixel
    middle_x, middle_y = (left + right) / 2, (top + bottom) / 2
    match scene_object.kind.shape:
        case "circle":
            pen.ellipse(edges, fill=fill)
        case "square":
            pen.rectangle(edges, fill=fill)
        case "triangle":
            pen.polygon([(middle_x, top), (left, bottom), (right, bottom)], fill=fill)
        case "cross":
            arm_x, arm_y = round(box.width / 3), round(box.height / 3)
            pen.rectangle((left + arm_x, top, right - arm_x, bottom), fill=fill)
            pen.rectangle((left, top + arm_y, right, bottom - arm_y), fill=fill)
        case "diamond":
            corners = [(middle_x, top), (right, middle_y), (middle_x, bottom), (left, middle_y)]
            pen.polygon(corners, fill=fill)
        case "ring":
            thickness = round(min(box.width, box.height) / 4.5)
            pen.ellipse(edges, outline=fill, width=thickness)
        case shape:
            raise ValueError(f"no way to draw {shape!r}")
