"""Worlds to step, real and imagined, behind one Gymnasium contract. Import names: ``worldsim.envs``."""
