"""Motion of pixels: frames moved along a flow, the motion of the whole picture that a camera makes, and what it leaves behind.

Surroundings are a frame with a margin of its height and half its width on each side: what has left the picture, where it would
be seen now. A camera that turns back finds it there. (A mosaic, as sprite coding keeps it: Irani and Anandan 1998.) Beside its
colours every pixel says whether it was ever seen (1) or is only the border that goes on (0). Beyond the picture pixels stand for
more and more: whoever tips a camera up by 45 degrees moves the ground by five pictures, magnified as it goes.

Dimension keys: F frames, H x W pixels, Y x X pixels with their margin, N tokens, D width, C channels of the frame condition,
A action dimensions, M numbers of a map.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STILL_PIXELS = 0.25
"""Flows shorter than this count as none, so that a pixel that stays can stay to the bit, frame after frame."""

CAMERA_HIDDEN = 128
"""Hidden units of the network that says how the camera moves."""

CAMERA_SCALE = 0.5
"""Change of a number of the map per unit of output: one optimiser step then moves the picture visibly, and no further."""

SURROUNDING_CHANNELS = 4
"""Of surroundings: red, green, blue, and whether they were seen."""

VIEW_NUMBERS = 9
"""Numbers of a view: a 3 x 3 matrix of (y, x, 1) with determinant 1, less the identity."""

SQUEEZE = 1.25
"""How fast pixels of surroundings grow with their way v from the picture, in halves of it: by cosh(`SQUEEZE` v)."""

STILL_VIEW = 1 / 32
"""A map whose numbers together are less leaves views and surroundings as they were: it moves no pixel by more than 1/64 of the height, or of the width."""

SAME_VIEW = 1 / 8
"""Two views are one if the numbers of the map between them are together no more."""

LEAST_AREA = 0.25
"""Least determinant of a map that is taken as it is: less would be a picture that is turned inside out."""

BLANK = 0.005
"""Contrast (`shows`) up to which a picture shows nothing: the sky has .004, all of a scene .1. From twice as much on it shows enough."""

NEAREST = 0.25
"""Least depth of a map: beyond, pixels would come from behind the camera."""


def warp(frame_FYXc: Tensor, flow_FHW2: Tensor) -> Tensor:
    """Fetch every pixel from ``flow`` (down, right; in pixels) away; the border pixel stands for outside.

    The frame may be surroundings (F, Y, X, c) of the pixels that are moved: then these come from there too.

    Bicubic, because a dream resamples its frames again and again: bilinear interpolation would blur a little each time.
    Limited to the range of the 3 x 3 pixels around the place (as in the limiters of MacCormack advection, Selle et al.
    2008), because overshoot would grow with each time.
    """
    places = _places(flow_FHW2, *frame_FYXc.shape[1:3])
    image = frame_FYXc.permute(0, 3, 1, 2).contiguous()
    moved = F.grid_sample(image, places, mode="bicubic", padding_mode="border", align_corners=False)
    bordered = F.pad(image, (1, 1, 1, 1), mode="replicate")
    extremes = torch.cat([_largest(bordered), -_largest(-bordered)], dim=1)
    extremes = F.grid_sample(extremes, places, mode="nearest", padding_mode="border", align_corners=False)
    most, least = extremes.chunk(2, dim=1)
    return moved.minimum(most).maximum(least).permute(0, 2, 3, 1)


def warp_blurred(frame_FYXc: Tensor, flow_FHW2: Tensor) -> Tensor:
    """Fetch every pixel as `warp` does, of frames with an even height and width that are blurred first.

    Two box filters of six pixels, at half the resolution: a thin line some five pixels away is found by following the slope.
    """
    image = F.avg_pool2d(frame_FYXc.permute(0, 3, 1, 2), 2)  # then three of these are six of the picture's pixels
    for _ in range(2):
        image = F.avg_pool2d(image, 3, 1, 1, count_include_pad=False)
    places = _places(flow_FHW2, *frame_FYXc.shape[1:3])
    moved = F.grid_sample(image, places, mode="bilinear", padding_mode="border", align_corners=False)
    return moved.permute(0, 2, 3, 1)


def _largest(image: Tensor) -> Tensor:
    """Return the largest of the 3 x 3 values around each but the border's; far faster than to pool, on a CPU."""
    rows = torch.maximum(torch.maximum(image[..., :-2, :], image[..., 1:-1, :]), image[..., 2:, :])
    return torch.maximum(torch.maximum(rows[..., :-2], rows[..., 1:-1]), rows[..., 2:])


def _places(flow_FHW2: Tensor, rows: int, columns: int) -> Tensor:
    """Return where (right, down) pixels are fetched in an image of so many pixels, or surroundings, -1 .. 1 from edge to edge."""
    _, h, w, _ = flow_FHW2.shape
    y, x = _grid(h, w, flow_FHW2.device)
    return _within(y + flow_FHW2[..., 0] * (2 / h), x + flow_FHW2[..., 1] * (2 / w), rows / h, columns / w)


def _within(y: Tensor, x: Tensor, rows: float, columns: float) -> Tensor:
    """Return where (right, down) places of the plane are in surroundings so many times as large as the picture, which is -1 .. 1."""
    y, x = (_squeezed(place) if times > 1 else place for place, times in ((y, rows), (x, columns)))
    return torch.stack([x / columns, y / rows], dim=-1)


def _squeezed(place: Tensor) -> Tensor:
    """Return where a place of the plane lies in surroundings: the picture, -1 .. 1, is as it is, and what is beyond closer to it."""
    beyond = SQUEEZE * F.relu(place.abs() - 1)
    squared = beyond.square()  # asinh x = log1p(x + x^2 / (1 + sqrt(1 + x^2))), in a fifth of its time on a CPU
    squeezed = torch.log1p(beyond + squared / (1 + (1 + squared).sqrt())) / SQUEEZE
    return place.clamp(-1, 1) + place.sign() * squeezed


def _spread(place: Tensor) -> Tensor:
    """Undo `_squeezed`."""
    return place.clamp(-1, 1) + place.sign() * torch.sinh(SQUEEZE * F.relu(place.abs() - 1)) / SQUEEZE


def settle(flow_FHW2: Tensor) -> Tensor:
    """Set flows shorter than `STILL_PIXELS` to nothing; gradients pass as if that had not been done."""
    settled = flow_FHW2 * (flow_FHW2.norm(dim=-1, keepdim=True) >= STILL_PIXELS)
    return flow_FHW2 + (settled - flow_FHW2).detach()


def projective_flow(maps_FM: Tensor, height: int, width: int, heights_FHW1: Tensor | None = None) -> Tensor:
    """Return the flow (F, H, W, 2) of maps of the plane, in pixels: where each pixel is fetched, less where it is.

    A map takes (y, x), each -1 .. 1 from edge to edge, to ((1 + a) y + b x + c, d y + (1 + e) x + f) / (1 + g y + h x), as a
    camera does that turns anywhere or sees something flat (Hartley and Zisserman 2004, section 8.4). All zeros: nothing moves.
    What stands off the plane has a height (over its depth): so many times the last three of a map's eleven numbers are added to
    the numerators and to the denominator (plane and parallax, Irani and Anandan 1996). It is the scene's, however the camera moves.
    """
    return _mapped(maps_FM, *_grid(height, width, maps_FM.device), heights_FHW1) * maps_FM.new_tensor(
        [height / 2, width / 2]
    )


def _grid(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return where the middles of pixels are, down (H, 1) and right (W,), -1 .. 1 from edge to edge."""
    y = (torch.arange(height, device=device)[:, None] + 0.5) * (2 / height) - 1
    return y, (torch.arange(width, device=device) + 0.5) * (2 / width) - 1


def _mapped(maps_FM: Tensor, y: Tensor, x: Tensor, heights_FHW1: Tensor | None = None) -> Tensor:
    """Return by how much maps move places (F, H, W, 2), down and right."""
    a, b, c, d, e, f, g, h, down, right, away = (number[:, None, None] for number in maps_FM.float().unbind(-1))
    off = 0.0 if heights_FHW1 is None else heights_FHW1[..., 0].float()
    depth = (1 + g * y + h * x + off * away).clamp(min=NEAREST)
    to_y = ((1 + a) * y + b * x + c + off * down) / depth
    to_x = (d * y + (1 + e) * x + f + off * right) / depth
    return torch.stack([to_y - y, to_x - x], dim=-1)


def margin_of(height: int, width: int) -> tuple[int, int]:
    """Return the rows and columns that surroundings have on each side of a frame.

    Whoever looks up at the sky moves the ground by more than half a picture.
    """
    return height, width // 2


def size_around(height: int, width: int) -> tuple[int, int]:
    """Return height and width of the surroundings of a frame."""
    rows, columns = margin_of(height, width)
    return height + 2 * rows, width + 2 * columns


def surround(frame_FHWc: Tensor) -> Tensor:
    """Return the surroundings (F, Y, X, 4) of frames (F, H, W, 3) when nothing else was seen yet: their border goes on."""
    rows, columns = margin_of(*frame_FHWc.shape[1:3])
    margin = (columns, columns, rows, rows)
    colours = F.pad(frame_FHWc.permute(0, 3, 1, 2), margin, mode="replicate")
    seen = F.pad(torch.ones_like(colours[:, :1, rows:-rows, columns:-columns]), margin)
    return torch.cat([colours, seen], dim=1).permute(0, 2, 3, 1)


def middle(around_FYXc: Tensor, height: int, width: int) -> Tensor:
    """Return the frame (F, H, W, 3) in the middle of its surroundings, or the frame itself where it has none."""
    rows, columns = (around_FYXc.shape[1] - height) // 2, (around_FYXc.shape[2] - width) // 2
    return around_FYXc[:, rows : rows + height, columns : columns + width, :3]


def go_on(around_FYXc: Tensor, maps_FM: Tensor, frame_FHWc: Tensor) -> Tensor:
    """Return the surroundings of the next frame: the last ones, moved as its camera was, with the frame in their middle.

    What a camera that stands has beside its picture stays as it is, to the bit.
    """
    height, width = frame_FHWc.shape[1:3]
    rows, columns = margin_of(height, width)
    stir = stirred(maps_FM)
    if torch.compiler.is_exporting():  # a graph cannot do with fewer rows
        after = torch.where(stir[:, None, None, None], _carried(around_FYXc, maps_FM, (height, width)), around_FYXc)
    else:
        rest = stir.nonzero()[:, 0]
        after = around_FYXc.index_copy(0, rest, _carried(around_FYXc[rest], maps_FM[rest], (height, width)))
    after[:, rows : rows + height, columns : columns + width] = F.pad(frame_FHWc, (0, 1), value=1.0)
    return after


def _carried(around_FYXc: Tensor, maps_FM: Tensor, size: tuple[int, int]) -> Tensor:
    """Return surroundings of frames of this ``size``, moved along maps."""
    larger = around_FYXc.shape[1] / size[0], around_FYXc.shape[2] / size[1]
    y, x = _grid(around_FYXc.shape[1], around_FYXc.shape[2], maps_FM.device)
    y, x = _spread(y * larger[0]), _spread(x * larger[1])
    sides = maps_FM.new_tensor([size[0] / 2, size[1] / 2])
    way = settle(_mapped(maps_FM, y, x) * sides) / sides
    places = _within(y + way[..., 0], x + way[..., 1], *larger)
    inside = places.abs().amax(dim=-1, keepdim=True) <= 1
    image = around_FYXc.permute(0, 3, 1, 2)  # bilinear: a third of the time, and most of it is never seen again
    image = F.grid_sample(image, places, mode="bilinear", padding_mode="border", align_corners=False)
    moved = image.permute(0, 2, 3, 1)
    moved[..., 3:] *= inside
    return moved


def stirred(maps_FM: Tensor) -> Tensor:
    """Tell which maps (..., M) move the picture at all: those of a camera that stands say a little, too."""
    return maps_FM[..., :8].float().abs().sum(dim=-1) > STILL_VIEW


@torch.no_grad()
def surroundings(shown_BTHWc: Tensor, maps_BTM: Tensor) -> Tensor:
    """Return the surroundings (B, T, Y, X, 4) of frames of clips, frame after frame; the maps into the first are not heeded."""
    shown = shown_BTHWc.float()
    around = [surround(shown[:, 0])]
    for now, maps in zip(shown.unbind(1)[1:], maps_BTM.unbind(1)[1:], strict=True):
        around.append(go_on(around[-1], maps, now))
    return torch.stack(around, dim=1)


def turned(view_FV: Tensor, maps_FM: Tensor) -> Tensor:
    """Return the views (..., V) after a step with these maps (..., M).

    A view is the map of the plane from the present frame to an earlier one: nothing for a camera that has turned there and back.
    """
    identity = torch.eye(3, device=maps_FM.device)
    plane = maps_FM[..., :8].float()
    plane = plane + (plane * stirred(maps_FM)[..., None] - plane).detach()
    step = F.pad(plane, (0, 1)).unflatten(-1, (3, 3)) + identity
    step = step / _determinant(step).clamp(min=LEAST_AREA)[..., None, None] ** (1 / 3)
    before = view_FV.unflatten(-1, (3, 3)) + identity
    after = (before[..., None] * step[..., None, :, :]).sum(-2)  # no matrix product, which autocast would round
    return (after - identity).flatten(-2)


def _determinant(matrix: Tensor) -> Tensor:
    """Return the determinants of matrices (..., 3, 3): of many at once, which libraries take one by one."""
    a, b, c, d, e, f, g, h, i = matrix.flatten(-2).unbind(-1)
    return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)


def seen_from(view_FV: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return the flow (F, H, W, 2) that fetches pixels of a view from the first frame, and which of them (F, H, W, 1) it showed."""
    matrix = view_FV.unflatten(-1, (3, 3)) + torch.eye(3, device=view_FV.device)
    depth = matrix[:, 2:, 2:]
    numbers = (matrix / depth.clamp(min=NEAREST) - torch.eye(3, device=view_FV.device)).flatten(-2)[:, :8]
    flow = projective_flow(F.pad(numbers, (0, 3)), height, width)
    inside = _places(flow, height, width).abs().amax(dim=-1, keepdim=True) <= 1
    return flow, inside & (depth[..., None] > NEAREST)


def views_after(maps_BTM: Tensor) -> Tensor:
    """Return from where frames s of clips were seen, as frame t has it (B, T, S, V), from the maps into each; nothing for s > t.

    The maps into the first frame are not heeded.
    """
    frames = maps_BTM.shape[1]
    views = [maps_BTM.new_zeros(len(maps_BTM), frames, VIEW_NUMBERS, dtype=torch.float32)]
    for t, maps in enumerate(maps_BTM.unbind(1)[1:], start=1):
        views.append(F.pad(turned(views[-1][:, :t], maps[:, None]), (0, 0, 0, frames - t)))
    return torch.stack(views, dim=1)


def elsewhere(view_FV: Tensor) -> Tensor:
    """Tell which frames were seen from elsewhere: what they show is not in its place. Of views without numbers: none."""
    return view_FV.abs().sum(dim=-1) > SAME_VIEW


def comes_back(around_FYXc: Tensor, flow_FHW2: Tensor) -> Tensor:
    """Tell of which pixels (F, H, W, 1) the flow leads over the border of the picture, to what was seen there before."""
    places = _places(flow_FHW2, *around_FYXc.shape[1:3])
    seen = around_FYXc[..., 3:].permute(0, 3, 1, 2)
    seen = F.grid_sample(seen, places, mode="nearest", padding_mode="zeros", align_corners=False).permute(0, 2, 3, 1)
    border = places.new_tensor([flow_FHW2.shape[2] / around_FYXc.shape[2], flow_FHW2.shape[1] / around_FYXc.shape[1]])
    return (seen > 0.5) & (places.abs() > border).any(dim=-1, keepdim=True)


def shows(frame_FHWc: Tensor) -> Tensor:
    """Return how far frames (F, H, W, 3), -1 .. 1, show how a camera moves (F, 1): 0 of one that shows nothing, 1 of most.

    By their contrast: the mean difference between a pixel and the next on its right, and between it and the next below, together.
    """
    grey = frame_FHWc.float().mean(-1)
    contrast = grey.diff(dim=-1).abs().mean((-1, -2)) + grey.diff(dim=-2).abs().mean((-1, -2))
    return (contrast[..., None] / BLANK - 1).clamp(0, 1)


class CameraMotion(nn.Module):
    """Says how the whole picture moves: a `projective_flow` whose eleven numbers come from the mean token and the condition.

    As local flows do, they have a free part and one that is linear in the action. (A global motion beside others: Finn et al.
    2016; learnt maps of a picture: spatial transformers, Jaderberg et al. 2015.) At first nothing moves.
    """

    def __init__(self, width: int, cond_dim: int, action_dim: int) -> None:
        super().__init__()
        self.action_dim = action_dim
        self.hidden = nn.Linear(width + cond_dim, CAMERA_HIDDEN)
        # map of the plane, that per action, parallax, that per action
        self.parts = [8, 8 * action_dim, 3, 3 * action_dim]
        self.out = nn.Linear(CAMERA_HIDDEN, sum(self.parts))
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, tokens_FND: Tensor, cond_FC: Tensor, before_FHWc: Tensor) -> Tensor:
        """Return the maps (F, 11) of `projective_flow`, from normalised tokens and the condition that ends in the action.

        After a frame ``before`` that shows nothing, they are what the action alone tells.
        """
        seen = torch.cat([tokens_FND.mean(1), cond_FC.to(tokens_FND.dtype)], dim=-1)
        free, steering = self._numbers(self.out(F.silu(self.hidden(seen))))
        steered = (steering @ cond_FC[:, -self.action_dim :, None].to(steering.dtype))[..., 0]
        return torch.lerp(self.blind(cond_FC), CAMERA_SCALE * (free + steered).float(), shows(before_FHWc))

    def blind(self, cond_FC: Tensor) -> Tensor:
        """Return the part of the maps (..., 11) that the action alone tells, the same whatever is seen."""
        _, steering = self._numbers(self.out.bias)
        return CAMERA_SCALE * (cond_FC[..., None, -self.action_dim :].float() * steering.float()).sum(-1)

    def _numbers(self, said: Tensor) -> tuple[Tensor, Tensor]:
        """Return the free numbers of maps (..., 11) and those per action (..., 11, A)."""
        plane, plane_steering, parallax, parallax_steering = said.split(self.parts, dim=-1)
        steering = torch.cat([plane_steering, parallax_steering], dim=-1).unflatten(-1, (11, self.action_dim))
        return torch.cat([plane, parallax], dim=-1), steering
