"""Compares worlds; may see everything, is seen by nothing. Import name: ``worldsim.eval``.

`worldsim.eval.quality` measures a checkpoint on unseen scenes, `worldsim.eval.demo` shows it beside the truth,
`worldsim.eval.bench` measures speed. Beneath them: `trials` (scripted scenes, simulated and dreamt), `pixels`,
`colours`, `gaps` and `longrun` (what is measured), `statistics` (estimates with intervals), `strips` and `figures`.
"""
