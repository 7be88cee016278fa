"""SceneSpec: one Arena scene as plain numbers, and the MuJoCo model built from it. Knows no time, action, task or pixel.

World frame: the floor is the square |x|, |y| <= `HALF_FLOOR` at z = 0, z points up, SI units, angles of a spec in
degrees. Everything but the bodies is grey, so chroma in a frame is identity. What is seen (geom group 0) and what
collides (group 3) are separate geoms: bodies slide on two joints and never turn, so their collisions are those of
discs and axis-aligned squares, all at one height.
"""

# MuJoCo's bindings carry no type stubs:
# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from worldsim.errors import UsageError

if TYPE_CHECKING:
    import mujoco

PALETTE = {  # the six colours, in slot order; every colour at most once in a scene
    "red": (0.85, 0.10, 0.10),
    "green": (0.10, 0.65, 0.15),
    "blue": (0.10, 0.20, 0.85),
    "yellow": (0.90, 0.80, 0.10),
    "magenta": (0.80, 0.10, 0.75),
    "cyan": (0.10, 0.75, 0.80),
}
COLOURS = tuple(PALETTE)
SHAPES = ("sphere", "box", "cylinder")
POST_SHAPES = ("cylinder", "barrier")

HALF_FLOOR = 0.72
WALL_HEIGHT = 0.07
PUSHER_RADIUS = 0.07
PUSHER_HEIGHT = 0.17
POST_HEIGHT = 0.22
CURTAIN_HEIGHT = 0.60
CURTAIN_HALF_THICKNESS = 0.05  # when lowered, its top is all that says where it will stand: more than a pixel
PHYSICS_DT_S = 0.002
SHADOW_MAP_SIZE = 256  # pixels a side; drawing time grows with its area

COLLISION_HEIGHT = 0.09  # all collision geoms are centred here, so that every contact normal is horizontal
WALLS = ("wall_east", "wall_north", "wall_west", "wall_south")
WALL_GREYS = (0.90, 0.40, 0.68, 0.24)
ENTITY_NAMES = ("sky", "floor", *WALLS, "pusher", "curtain", "post_0", "post_1", *COLOURS)  # ids of masks and contacts

_CURTAIN_GREY = 0.17
_POST_GREY = 0.36
_TILE_GREYS = (0.60, 0.74)
_SKY_GREYS = (0.56, 0.92)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Body:
    """A coloured body at the start of the lead-in: place (m), velocity (m/s), radius = half its width (m), mass (kg)."""

    colour: str
    shape: str
    x: float
    y: float
    vx: float = 0.0
    vy: float = 0.0
    radius: float = 0.09
    mass: float = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Post:
    """A grey obstacle fixed to the floor: a cylinder (``half_x`` = ``half_y`` = its radius) or a turned barrier (m)."""

    shape: str
    x: float
    y: float
    half_x: float
    half_y: float
    angle: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class SceneSpec:
    """Everything that is fixed when an episode begins; angles in degrees, lengths in m, damping in 1/s.

    ``curtain_height`` and the camera's azimuth are initial values. ``light_strength`` is the diffuse level in [0, 1].
    """

    bodies: tuple[Body, ...]
    posts: tuple[Post, ...]
    pusher_x: float
    pusher_y: float
    damping: float
    friction: float
    curtain_x: float
    curtain_y: float
    curtain_half_width: float
    curtain_angle: float
    curtain_height: float
    camera_azimuth: float
    camera_elevation: float
    light_azimuth: float
    light_elevation: float
    light_strength: float

    def to_json(self) -> dict[str, Any]:
        """Return the scene as a JSON-able dictionary."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SceneSpec:
        """Rebuild a scene from `to_json`; UsageError names keys that are missing or unknown."""
        _check_keys(cls, data)
        for kind, entries in ((Body, data["bodies"]), (Post, data["posts"])):
            for entry in entries:
                _check_keys(kind, entry)
        bodies = tuple(Body(**body) for body in data["bodies"])
        posts = tuple(Post(**post) for post in data["posts"])
        return cls(**{**data, "bodies": bodies, "posts": posts})


def _check_keys(kind: type, data: Mapping[str, Any]) -> None:
    wanted = {field.name for field in dataclasses.fields(kind)}
    if set(data) != wanted:
        raise UsageError(
            "scene of a saved state",
            got=f"missing {sorted(wanted - set(data))}, unknown {sorted(set(data) - wanted)}",
            allowed=f"exactly the fields of {kind.__name__}",
            fix="give back what save_state() returned, unchanged",
        )


def build_model(scene: SceneSpec, *, height: int, width: int, shadows: bool) -> mujoco.MjModel:
    """Compile the scene for frames of ``height`` x ``width`` pixels (the size of the off-screen buffer)."""
    import mujoco  # here, so that the scene's constants can be had without it

    return mujoco.MjModel.from_xml_string(scene_xml(scene, height=height, width=width, shadows=shadows))


def scene_xml(scene: SceneSpec, *, height: int, width: int, shadows: bool) -> str:
    """Return the MJCF text of the scene. Geoms are named ``<entity>`` or ``<entity>/<part>`` after `ENTITY_NAMES`."""
    actuators = "".join(
        f'<velocity name="pusher_{axis}" joint="pusher/{axis}" kv="60" forcelimited="true" forcerange="-40 40"/>'
        for axis in "xy"
    )
    return f"""
<mujoco model="arena">
  <compiler angle="degree" autolimits="true"/>
  <option timestep="{PHYSICS_DT_S}" integrator="implicitfast" gravity="0 0 0" cone="pyramidal"/>
  <size memory="8M"/>
  <statistic center="0 0 0.1" extent="1.2" meansize="0.1"/>
  <visual>
    <global offwidth="{width}" offheight="{height}"/>
    <quality shadowsize="{SHADOW_MAP_SIZE if shadows else 0}" offsamples="0" numslices="16" numstacks="10" numquads="1"/>
    <map znear="0.2" zfar="8" shadowclip="1.1" shadowscale="0.9"/>
    <headlight ambient="0.48 0.48 0.48" diffuse="0.10 0.10 0.10" specular="0 0 0"/>
  </visual>
  <default>
    <geom contype="0" conaffinity="0" group="0" mass="0"/>
    <default class="collide">
      <geom contype="1" conaffinity="1" condim="1" group="3" solref="-20000 -4" rgba="0 0 0 0"/>
    </default>
    <default class="soft">
      <geom contype="1" conaffinity="1" condim="1" group="3" solref="0.01 1" priority="1" rgba="0 0 0 0"/>
    </default>
  </default>
  <asset>
    <texture name="sky" type="skybox" builtin="gradient" rgb1="{_grey(_SKY_GREYS[0])}" rgb2="{_grey(_SKY_GREYS[1])}"
             width="64" height="384"/>
    <texture name="tiles" type="2d" builtin="checker" rgb1="{_grey(_TILE_GREYS[0])}" rgb2="{_grey(_TILE_GREYS[1])}"
             width="128" height="128"/>
    <material name="tiles" texture="tiles" texrepeat="2 2" texuniform="false" specular="0" shininess="0"/>
    <material name="matt" specular="0" shininess="0"/>
  </asset>
  <worldbody>
    {_light_xml(scene, shadows)}
    <camera name="main" mode="fixed" fovy="45" pos="0 -3 2"/>
    <geom name="floor" type="box" size="{HALF_FLOOR} {HALF_FLOOR} 0.03" pos="0 0 -0.03" material="tiles"/>
    {_walls_xml()}
    {_curtain_xml(scene)}
    {"".join(_post_xml(index, post) for index, post in enumerate(scene.posts))}
    {_pusher_xml(scene)}
    {"".join(_body_xml(body, scene.damping) for body in scene.bodies)}
  </worldbody>
  <actuator>{actuators}</actuator>
</mujoco>"""


def _grey(level: float) -> str:
    return f"{level} {level} {level}"


def _rgba(rgb: tuple[float, float, float]) -> str:
    return " ".join(str(level) for level in rgb) + " 1"


def _light_xml(scene: SceneSpec, shadows: bool) -> str:
    azimuth, elevation = math.radians(scene.light_azimuth), math.radians(scene.light_elevation)
    direction = (math.cos(azimuth) * math.cos(elevation), math.sin(azimuth) * math.cos(elevation), math.sin(elevation))
    place = " ".join(str(3.0 * part) for part in direction)
    ray = " ".join(str(-part) for part in direction)
    return (
        f'<light name="sun" type="directional" pos="{place}" dir="{ray}" diffuse="{_grey(scene.light_strength)}" '
        f'ambient="0 0 0" specular="0 0 0" castshadow="{"true" if shadows else "false"}"/>'
    )


def _walls_xml() -> str:
    """Return four visible walls outside the floor's edge, each with a colliding plane in its inner face."""
    thick = 0.015
    parts = []
    for index, (name, grey) in enumerate(zip(WALLS, WALL_GREYS, strict=True)):
        turn = 90 * index
        across = HALF_FLOOR + thick
        place = [(across, 0), (0, across), (-across, 0), (0, -across)][index]
        inner = [(HALF_FLOOR, 0), (0, HALF_FLOOR), (-HALF_FLOOR, 0), (0, -HALF_FLOOR)][index]
        normal = [(-1, 0), (0, -1), (1, 0), (0, 1)][index]
        parts.append(
            f'<geom name="{name}" type="box" size="{thick} {HALF_FLOOR + 2 * thick} {WALL_HEIGHT / 2 + 0.03}" '
            f'pos="{place[0]} {place[1]} {WALL_HEIGHT / 2 - 0.03}" euler="0 0 {turn}" '
            f'material="matt" rgba="{_grey(grey)} 1"/>'
            f'<geom name="{name}/hit" class="collide" type="plane" size="1 1 .1" pos="{inner[0]} {inner[1]} 0" '
            f'zaxis="{normal[0]} {normal[1]} 0"/>'
        )
    return "".join(parts)


def _curtain_xml(scene: SceneSpec) -> str:
    """Return the curtain at full height; the environment sets its height frame by frame."""
    return (
        f'<geom name="curtain" type="box" euler="0 0 {scene.curtain_angle}" material="matt" rgba="{_grey(_CURTAIN_GREY)} 1" '
        f'size="{scene.curtain_half_width} {CURTAIN_HALF_THICKNESS} {CURTAIN_HEIGHT / 2}" '
        f'pos="{scene.curtain_x} {scene.curtain_y} {CURTAIN_HEIGHT / 2}"/>'
    )


def _post_xml(index: int, post: Post) -> str:
    name = f"post_{index}"
    half = POST_HEIGHT / 2
    place = f'pos="{post.x} {post.y} {half}"'
    hit_place = f'pos="{post.x} {post.y} {COLLISION_HEIGHT}"'
    look = f'material="matt" rgba="{_grey(_POST_GREY)} 1"'
    if post.shape == "cylinder":
        return (
            f'<geom name="{name}" type="cylinder" size="{post.half_x} {half}" {place} {look}/>'
            f'<geom name="{name}/hit" class="collide" type="sphere" size="{post.half_x}" {hit_place}/>'
        )
    turn = f'euler="0 0 {post.angle}"'
    return (
        f'<geom name="{name}" type="box" size="{post.half_x} {post.half_y} {half}" {place} {turn} {look}/>'
        f'<geom name="{name}/hit" class="collide" type="box" size="{post.half_x} {post.half_y} {half}" {hit_place} {turn}/>'
    )


def _pusher_xml(scene: SceneSpec) -> str:
    half, ring = PUSHER_HEIGHT / 2, 0.024
    return (
        f'<body name="pusher" pos="{scene.pusher_x} {scene.pusher_y} 0">{_slides("pusher", 0.0)}'
        f'<inertial pos="0 0 0" mass="1.5" diaginertia="0.01 0.01 0.01"/>'
        f'<geom name="pusher" type="cylinder" size="{PUSHER_RADIUS} {half}" pos="0 0 {half}" '
        f'material="matt" rgba="{_grey(0.04)} 1"/>'
        f'<geom name="pusher/ring" type="cylinder" size="{PUSHER_RADIUS + 0.006} {ring}" pos="0 0 {half + 0.025}" '
        f'material="matt" rgba="1 1 1 1"/>'
        f'<geom name="pusher/hit" class="soft" type="sphere" size="{PUSHER_RADIUS}" pos="0 0 {COLLISION_HEIGHT}"/>'
        f"</body>"
    )


def _body_xml(body: Body, damping: float) -> str:
    """Return a body whose joints lose speed at ``damping`` (1/s) whatever its mass."""
    radius, name = body.radius, body.colour
    size = {"sphere": f"{radius}", "box": f"{radius} {radius} {radius}", "cylinder": f"{radius} {radius}"}[body.shape]
    hit = f'type="box" size="{size}"' if body.shape == "box" else f'type="sphere" size="{radius}"'
    return (
        f'<body name="{name}" pos="{body.x} {body.y} 0">{_slides(name, damping * body.mass)}'
        f'<inertial pos="0 0 0" mass="{body.mass}" diaginertia="0.01 0.01 0.01"/>'
        f'<geom name="{name}" type="{body.shape}" size="{size}" pos="0 0 {radius}" material="matt" '
        f'rgba="{_rgba(PALETTE[name])}"/>'
        f'<geom name="{name}/hit" class="collide" {hit} pos="0 0 {COLLISION_HEIGHT}"/>'
        f"</body>"
    )


def _slides(name: str, damping: float) -> str:
    axes = (("x", "1 0 0"), ("y", "0 1 0"))
    return "".join(f'<joint name="{name}/{axis}" type="slide" axis="{way}" damping="{damping}"/>' for axis, way in axes)
