"""What the Arena's five actions are and do. Constants only: knows no MuJoCo and no scene.

All actions are rates in [-1, 1], so zero changes nothing but lets physics go on. Push is relative to the camera.
"""

from __future__ import annotations

ACTION_NAMES = ("push_right", "push_forward", "orbit", "tilt", "curtain")
CONTROL_DT_S = 0.1
PUSH_SPEED = 0.6  # m/s at full push
ORBIT_STEP = 15.0  # deg a step
TILT_STEP = 15.0  # deg a step
CURTAIN_STEP = 0.25  # share of the curtain's full height a step
CONTEXT_STEPS = 10  # control steps of the lead-in that every reset plays
